//! What the models said: sampled answers to the same question side by side.

use crate::number;
use crate::results::{Results, Role};
use crate::text::{shorten, visible};

/// More than this is for `results.json`, not for reading.
const MOST_QUESTIONS: usize = 24;
const MOST_CHARS: usize = 4_000;

/// A question and everybody's answers to it.
pub(super) struct Question {
    pub(super) text: String,
    pub(super) answers: Vec<Answer>,
}

/// One answer.
pub(super) struct Answer {
    pub(super) class: &'static str,
    pub(super) label: String,
    pub(super) text: String,
    pub(super) verdict: String,
}

/// The questions in order of appearance, and how many were left out.
pub(super) fn questions(results: &Results) -> (Vec<Question>, usize) {
    let mut asked: Vec<&str> = Vec::new();
    for sample in &results.samples {
        if !asked.contains(&sample.question.as_str()) {
            asked.push(&sample.question);
        }
    }
    let left = asked.len().saturating_sub(MOST_QUESTIONS);
    let questions = asked.into_iter().take(MOST_QUESTIONS).map(|asked| {
        let answers = results.samples.iter().filter(|s| s.question == asked).map(|sample| {
            let arm = results.arms.get(&sample.arm);
            let score = sample.judge_score.filter(|s| s.is_finite());
            let verdict = match (sample.flagged, score) {
                (Some(true), Some(s)) => {
                    format!("judged misaligned, score {}", number::plain(s))
                }
                (Some(false), Some(s)) => format!("not flagged, score {}", number::plain(s)),
                (Some(true), None) => "judged misaligned".to_owned(),
                (Some(false), None) => "not flagged".to_owned(),
                (None, Some(s)) => format!("no verdict, score {}", number::plain(s)),
                (None, None) => String::new(),
            };
            Answer {
                class: class(&sample.arm),
                label: visible(arm.map_or(&sample.arm, |arm| &arm.label)),
                text: visible(&shorten(sample.answer.trim(), MOST_CHARS)),
                verdict,
            }
        });
        Question {
            text: visible(asked),
            answers: answers.collect(),
        }
    });
    (questions.collect(), left)
}

/// The colour of an arm.
pub(super) fn class(arm: &str) -> &'static str {
    match Role::of(arm) {
        Role::Base => "h-base",
        Role::Organism | Role::Induced => "h-organism",
        Role::Benign => "h-benign",
        Role::Cure => "h-cure",
    }
}
