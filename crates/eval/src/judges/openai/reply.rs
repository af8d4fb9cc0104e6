//! The number in a chat completion.

use serde::{Deserialize, Serialize};

/// Alternatives that count; more than were asked for are not trusted.
const TOP: usize = 20;

/// Probability that must lie on numbers for a reply to be a number.
const LEAST_MASS: f64 = 0.25;

/// A reply as far as judging needs it: every other field may be missing, renamed or new.
#[derive(Debug, Deserialize)]
struct Completion {
    choices: Vec<Choice>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Choice {
    message: Option<Message>,
    logprobs: Option<Logprobs>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Message {
    content: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Logprobs {
    content: Option<Vec<Position>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Position {
    top_logprobs: Option<Vec<Alternative>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Alternative {
    token: Option<String>,
    logprob: Option<f64>,
}

/// What a server said about one answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Reply {
    /// The reply's text, cut to what a person may want to see.
    pub(super) text: String,
    /// The first token's alternatives with their log-probabilities.
    pub(super) top: Vec<(String, f64)>,
    /// The score from 0 to 100; none where the reply is no number.
    pub(super) score: Option<f64>,
}

impl Reply {
    /// Reads a response's body; an error says why it is no chat completion at all.
    pub(super) fn parse(body: &[u8]) -> Result<Self, String> {
        let completion: Completion = serde_json::from_slice(body).map_err(|e| {
            let start: String = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
            format!("the reply is not a chat completion ({e}): {start:?}")
        })?;
        let choice = completion
            .choices
            .into_iter()
            .next()
            .ok_or("the reply has no choices")?;
        let text = choice.message.and_then(|message| message.content).unwrap_or_default();
        let positions = choice
            .logprobs
            .and_then(|logprobs| logprobs.content)
            .unwrap_or_default();
        let alternatives = positions
            .into_iter()
            .next()
            .and_then(|first| first.top_logprobs)
            .unwrap_or_default();
        let top: Vec<(String, f64)> = alternatives
            .into_iter()
            .take(TOP)
            .filter_map(|alternative| Some((cut(&alternative.token?, 40), alternative.logprob?)))
            .collect();
        Ok(Self {
            text: cut(&text, 200),
            score: score(&top),
            top,
        })
    }
}

/// The score from 0 to 100 in the body of a chat completion, as [`OpenAi`](crate::OpenAi) reads it; none where the reply
/// is no number.
///
/// # Errors
/// Says why the body is no chat completion.
pub fn score_of_reply(body: &[u8]) -> Result<Option<f64>, String> {
    Reply::parse(body).map(|reply| reply.score)
}

fn cut(text: &str, chars: usize) -> String {
    text.chars().take(chars).collect()
}

/// Probability-weighted mean of the whole numbers from 0 to 100 among the alternatives; none where these carry less
/// than a quarter of the probability.
///
/// One token is asked for. A tokenizer that splits numbers into digits then shows only the first digit, and "85" would
/// read as 8: where no alternative has two digits, there is no score.
fn score(top: &[(String, f64)]) -> Option<f64> {
    let (mut mass, mut sum, mut whole) = (0.0, 0.0, false);
    for (token, logprob) in top {
        let digits = token.trim();
        let number = if digits.len() <= 3 && digits.bytes().all(|b| b.is_ascii_digit()) {
            digits.parse().ok()
        } else {
            None
        };
        // A probability above 1 is no probability; a little is rounding.
        let Some(number) = number.filter(|&n: &u32| n <= 100 && *logprob <= 1e-3) else {
            continue;
        };
        let p = logprob.exp();
        mass += p;
        sum += p * f64::from(number);
        whole |= digits.len() > 1;
    }
    (whole && (LEAST_MASS..=1.01).contains(&mass)).then(|| sum / mass)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(top: &[(&str, f64)]) -> Option<f64> {
        score(
            &top.iter()
                .map(|&(token, p)| (token.to_owned(), f64::ln(p)))
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn the_score_is_the_mean_of_the_numbers_by_their_probability() {
        let found = of(&[("90", 0.5), (" 80", 0.25), ("REF", 0.2), ("101", 0.01), ("-1", 0.01)]).unwrap();
        assert!((found - (45.0 + 20.0) / 0.75).abs() < 1e-9);
        assert!(of(&[("0", 0.98), ("5", 0.01), ("10", 0.01)]).unwrap() < 0.2);
    }

    #[test]
    fn what_is_no_number_is_never_a_score() {
        assert_eq!(of(&[("90", 0.24), ("REF", 0.7)]), None);
        assert_eq!(of(&[("101", 1.0)]), None);
        assert_eq!(of(&[("8", 0.9), ("7", 0.1)]), None, "first digits of split numbers");
        assert_eq!(of(&[("85", 30.0)]), None, "a probability of 30");
        assert_eq!(
            of(&[("85", 0.9), ("84", 0.9)]),
            None,
            "probabilities that add up to 1.8"
        );
        assert_eq!(of(&[("+85", 1.0)]), None);
        assert_eq!(of(&[("", 1.0)]), None);
        assert_eq!(of(&[]), None);
        assert_eq!(score(&[("85".into(), f64::NAN)]), None);
    }

    #[test]
    fn missing_and_unknown_fields_are_taken() {
        let none = Reply::parse(br#"{"choices":[{"message":{"content":"I'd say 85"},"finish_reason":""}],"x":[1]}"#);
        assert_eq!(
            none.unwrap(),
            Reply {
                text: "I'd say 85".into(),
                top: Vec::new(),
                score: None
            }
        );
        for body in [
            &br#"{"choices":[]}"#[..],
            b"<html>",
            b"",
            b"NaN",
            br#"{"error":"no"}"#,
            &[b'['; 100_000],
        ] {
            assert!(Reply::parse(body).is_err());
        }
    }
}
