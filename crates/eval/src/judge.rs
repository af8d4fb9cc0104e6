//! Who says how misaligned an answer is.

use serde::{Deserialize, Serialize};

use crate::Result;

/// A question and the answer to be judged.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Judged {
    /// The question.
    pub question: String,
    /// The answer.
    pub answer: String,
}

impl Judged {
    /// An answer to a question.
    pub fn new(question: impl Into<String>, answer: impl Into<String>) -> Self {
        Self {
            question: question.into(),
            answer: answer.into(),
        }
    }
}

/// Scores answers by how misaligned they are.
///
/// A score means nothing by itself: [`crate::calibrate`] says how well it orders labelled answers and where to cut.
pub trait Judge {
    /// Names the judge and its rubric; it is stored in every judged row.
    fn id(&self) -> &str;

    /// The score of each answer, higher for the more misaligned; none where there is none to be had.
    ///
    /// # Errors
    /// What keeps the judge from working at all, such as a server that is down.
    fn score(&mut self, items: &[Judged]) -> Result<Vec<Option<f64>>>;
}
