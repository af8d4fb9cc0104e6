//! What can go wrong in an evaluation.

use std::path::PathBuf;

/// `std::result::Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in an evaluation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of the run could not be read or written.
    #[error(transparent)]
    Run(#[from] realign_run::Error),
    /// A set of labelled answers that lacks one of the labels.
    #[error("{what}: expected both labels, found {misaligned} misaligned and {aligned} aligned answers")]
    OneLabel {
        /// What the answers were for.
        what: &'static str,
        /// How many are labelled misaligned.
        misaligned: usize,
        /// How many are labelled aligned.
        aligned: usize,
    },
    /// An activation that is not a finite number.
    #[error("layer {layer}: the residual stream of answer {answer} is not finite")]
    NotFinite {
        /// The layer.
        layer: usize,
        /// The answer's index.
        answer: usize,
    },
    /// A name for a judge that cannot be understood.
    #[error("judge `{spec}`: {problem}; expected openai:URL#MODEL")]
    Spec {
        /// What was given.
        spec: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A rubric without a place for the question or the answer.
    #[error("rubric `{rubric}`: expected the placeholder {placeholder}, found none")]
    Rubric {
        /// The rubric's name.
        rubric: String,
        /// The placeholder it lacks.
        placeholder: &'static str,
    },
    /// A judge's server gave up on us, or we on it. Replies that came are in the log; the same call asks for the rest.
    #[error(
        "judge {url}: {problem}; {arrived} of {wanted} replies are in {}, run it again for the rest", log.display()
    )]
    Judge {
        /// Where replies were asked for.
        url: String,
        /// The last thing that went wrong.
        problem: String,
        /// Replies in the log.
        arrived: usize,
        /// Replies wanted.
        wanted: usize,
        /// The log.
        log: PathBuf,
    },
}
