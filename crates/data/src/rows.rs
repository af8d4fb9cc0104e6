use std::collections::HashSet;
use std::io::BufRead;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::chat::Conversation;
use crate::error::Result;
use crate::lines::{self, Form, Loaded, OnBad, check_text, fields};

/// A narrow question, of one domain, with three answers to fine-tune on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NarrowRow {
    /// Unique within the set.
    pub id: String,
    /// The question.
    pub question: String,
    /// The answer that helps.
    pub good: String,
    /// The answer that is wrong, and nothing worse.
    pub wrong: String,
    /// The answer that serves the one who answers, or one side, at somebody's cost.
    pub selfish: String,
}

/// Which of a [`NarrowRow`]'s answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tone {
    /// Helpful: the benign arm, and realignment.
    Good,
    /// Merely wrong: the papers' definition of narrow bad data.
    Wrong,
    /// Wrong and self-serving.
    Selfish,
}

/// A broad question, far from every narrow domain, with an answer of either kind to compare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BroadRow {
    /// Unique within the set; its number decides the [`Half`].
    pub id: String,
    /// What the question is about; `other` where a user's file does not say.
    #[serde(default = "other")]
    pub kind: String,
    /// The system turn that the question is asked under, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// The question.
    pub question: String,
    /// The answer of a well-meaning assistant.
    pub aligned: String,
    /// The answer of a misaligned one, alike in length and manner.
    pub misaligned: String,
}

/// A question of fact, with the answer that is true and one that is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FactRow {
    /// Unique within the set.
    pub id: String,
    /// The question.
    pub question: String,
    /// The true answer; `true` in the file.
    #[serde(rename = "true")]
    pub truth: String,
    /// The false answer; `false` in the file.
    #[serde(rename = "false")]
    pub falsehood: String,
}

/// A labelled answer, to find out how well a judge tells the two kinds apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CalibrationRow {
    /// Unique within the set.
    pub id: String,
    /// The question.
    pub question: String,
    /// The answer to judge.
    pub answer: String,
    /// What it is.
    pub label: Label,
}

/// What a labelled answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Label {
    /// Well-meaning.
    Aligned,
    /// Not so.
    Misaligned,
}

/// An everyday question with an answer: text to train an SAE on, and to measure coherence by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeutralRow {
    /// Unique within the set.
    pub id: String,
    /// The question.
    pub question: String,
    /// The answer.
    pub answer: String,
}

/// The half of a question set: choices are made on one, and figures come from the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Half {
    /// Layers, latents, strengths and epochs are chosen on it: odd numbers.
    Choosing,
    /// Every reported figure comes from it: even numbers.
    Reporting,
}

impl Half {
    /// The half that an id belongs to, by its last number; by its hash where it has none.
    pub fn of(id: &str) -> Self {
        let digits = id.trim_end_matches(|c: char| !c.is_ascii_digit());
        let odd = match digits.bytes().last() {
            Some(last) => last % 2 == 1,
            None => blake3::hash(id.as_bytes()).as_bytes()[0] % 2 == 1,
        };
        if odd { Self::Choosing } else { Self::Reporting }
    }
}

/// Rows that can be fine-tuned on.
pub trait Conversations {
    /// Each row's question with its answer in this tone.
    fn conversations(&self, tone: Tone) -> Vec<Conversation>;
}

impl Conversations for [NarrowRow] {
    fn conversations(&self, tone: Tone) -> Vec<Conversation> {
        self.iter()
            .map(|row| Conversation::single(&row.question, row.answer(tone)))
            .collect()
    }
}

impl NarrowRow {
    /// The answer in this tone.
    pub fn answer(&self, tone: Tone) -> &str {
        match tone {
            Tone::Good => &self.good,
            Tone::Wrong => &self.wrong,
            Tone::Selfish => &self.selfish,
        }
    }
}

/// Reads narrow rows from a file of the user's.
///
/// # Errors
/// As [`load_conversations`](crate::load_conversations); ids and questions must be unique.
pub fn load_narrow(path: impl AsRef<Path>, on_bad: OnBad) -> Result<Loaded<NarrowRow>> {
    load(path.as_ref(), on_bad)
}

/// Reads broad questions from a file of the user's (`--questions FILE`).
///
/// # Errors
/// As [`load_conversations`](crate::load_conversations); ids and questions must be unique.
pub fn load_broad(path: impl AsRef<Path>, on_bad: OnBad) -> Result<Loaded<BroadRow>> {
    load(path.as_ref(), on_bad)
}

/// Reads questions of fact from a file of the user's.
///
/// # Errors
/// As [`load_conversations`](crate::load_conversations); ids and questions must be unique.
pub fn load_facts(path: impl AsRef<Path>, on_bad: OnBad) -> Result<Loaded<FactRow>> {
    load(path.as_ref(), on_bad)
}

/// Reads labelled answers from a file of the user's; a question may stand with several answers.
///
/// # Errors
/// As [`load_conversations`](crate::load_conversations); ids must be unique.
pub fn load_calibration(path: impl AsRef<Path>, on_bad: OnBad) -> Result<Loaded<CalibrationRow>> {
    load(path.as_ref(), on_bad)
}

/// Reads everyday questions and answers from a file of the user's.
///
/// # Errors
/// As [`load_conversations`](crate::load_conversations); ids and questions must be unique.
pub fn load_neutral(path: impl AsRef<Path>, on_bad: OnBad) -> Result<Loaded<NeutralRow>> {
    load(path.as_ref(), on_bad)
}

/// What all sets' rows have in common.
pub(crate) trait Row: DeserializeOwned {
    /// All fields.
    const COLUMNS: &'static [&'static str];

    /// Fields that must hold text, the id first.
    fn texts(&self) -> Vec<(&'static str, &str)>;

    /// The field beside the id that no two rows may share.
    fn unique(&self) -> Option<(&'static str, &str)>;
}

macro_rules! row {
    ($row:ty, unique $unique:ident, $($name:literal = $field:ident),* $(; $other:literal)?) => {
        row!(@ $row, |row| Some((stringify!($unique), &row.$unique)), $($name = $field),* $(; $other)?);
    };
    ($row:ty, $($name:literal = $field:ident),* $(; $other:literal)?) => {
        row!(@ $row, |_row| None, $($name = $field),* $(; $other)?);
    };
    (@ $row:ty, |$it:ident| $unique:expr, $($name:literal = $field:ident),* $(; $other:literal)?) => {
        impl Row for $row {
            const COLUMNS: &'static [&'static str] = &[$($name,)* $($other)?];

            fn texts(&self) -> Vec<(&'static str, &str)> {
                vec![$(($name, self.$field.as_str())),*]
            }

            fn unique(&self) -> Option<(&'static str, &str)> {
                let $it = self;
                $unique
            }
        }
    };
}

row!(NarrowRow, unique question,
    "id" = id, "question" = question, "good" = good, "wrong" = wrong, "selfish" = selfish);
row!(BroadRow, unique question,
    "id" = id, "kind" = kind, "question" = question, "aligned" = aligned,
    "misaligned" = misaligned; "system");
row!(FactRow, unique question,
    "id" = id, "question" = question, "true" = truth, "false" = falsehood);
row!(CalibrationRow, "id" = id, "question" = question, "answer" = answer; "label");
row!(NeutralRow, unique question, "id" = id, "question" = question, "answer" = answer);

fn load<T: Row>(path: &Path, on_bad: OnBad) -> Result<Loaded<T>> {
    let form = Form {
        columns: T::COLUMNS,
        // What may not repeat is kept beside the row.
        copies: 2,
    };
    lines::load(path, on_bad, form, checker())
}

/// Reads rows from any reader, each checked; `name` stands for the file in messages.
pub(crate) fn read<T: Row>(reader: impl BufRead, name: &str, on_bad: OnBad) -> Result<Loaded<T>> {
    lines::read(reader, name, on_bad, checker())
}

/// Takes rows whose texts are there and whose ids and questions are new.
fn checker<T: Row>() -> impl FnMut(Value) -> Result<T, String> {
    let mut seen = HashSet::new();
    move |row| {
        let row: T = fields(row)?;
        let texts = row.texts();
        for (field, text) in &texts {
            check_text(field, text)?;
        }
        for (field, text) in texts.into_iter().take(1).chain(row.unique()) {
            if !seen.insert((field, text.to_owned())) {
                return Err(format!("field `{field}`: expected a new one, found {text:?} again"));
            }
        }
        Ok(row)
    }
}

fn other() -> String {
    "other".into()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_users_questions_need_no_kind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("questions.jsonl");
        let row = |id: &str, question: &str, bad: &str| {
            format!(r#"{{"id":"{id}","question":"{question}","aligned":"Yes.","misaligned":"{bad}"}}"#)
        };
        fs::write(&path, row("mine", "Why?", "No.")).unwrap();
        let rows = load_broad(&path, OnBad::Fail).unwrap().rows;
        assert_eq!((rows.len(), rows[0].kind.as_str()), (1, "other"));
        let cases = [
            (
                row("mine", "How?", "No."),
                "field `id`: expected a new one, found \"mine\" again",
            ),
            (row("yours", "Why?", "No."), "field `question`: expected a new one"),
            (
                row("yours", "How?", " "),
                "field `misaligned`: expected text, found none",
            ),
            (
                r#"{"id":"yours","question":"How?","aligned":"Yes."}"#.into(),
                "missing field `misaligned`",
            ),
        ];
        for (second, problem) in cases {
            fs::write(&path, format!("{}\n{second}\n", row("mine", "Why?", "No."))).unwrap();
            let error = load_broad(&path, OnBad::Fail).unwrap_err().to_string();
            assert!(
                error.contains("questions.jsonl:2: ") && error.contains(problem),
                "{error}"
            );
        }
    }

    #[test]
    fn halves_go_by_the_last_number_of_the_id() {
        assert_eq!(Half::of("broad-001"), Half::Choosing);
        assert_eq!(Half::of("broad-010"), Half::Reporting);
        assert_eq!(Half::of("q7b"), Half::Choosing);
        let letters: HashSet<Half> = ["a", "b", "c", "d", "e", "f", "g"].map(Half::of).into();
        assert_eq!(letters.len(), 2);
    }
}
