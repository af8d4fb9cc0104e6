use std::io;
use std::path::PathBuf;

/// `std::result::Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can be wrong with data.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to open or read a file.
    #[error("could not read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A row of a JSONL, Parquet or CSV file, or a part of such a file, is not what was expected.
    #[error("{place}: {problem}")]
    Row {
        /// File, and line or row.
        place: String,
        /// The field, what was expected, and what was found.
        problem: String,
    },
    /// A file has no usable row.
    #[error("{place}: expected at least one row, found none ({skipped} bad rows were skipped)")]
    Empty {
        /// The file.
        place: String,
        /// Rows that were skipped as bad.
        skipped: usize,
    },
    /// No sample has a token to train on.
    #[error(
        "no token is left to train on: {samples} samples, of which {truncated} were longer than \
         {max_tokens} tokens and cut before their answer began or had none"
    )]
    NothingToTrain {
        /// How many samples there are.
        samples: usize,
        /// How many were cut.
        truncated: usize,
        /// The longest sample allowed.
        max_tokens: usize,
    },
    /// A share that is no share.
    #[error("the share of the second set must be at least 0 and below 1, found {found}")]
    Share {
        /// The number given.
        found: f64,
    },
    /// A set is too small for the share wanted of it.
    #[error("{wanted} rows of the second set are needed, found {found}")]
    TooFew {
        /// Rows needed.
        wanted: usize,
        /// Rows there.
        found: usize,
    },
    /// A name that stands for nothing.
    #[error("unknown {what} `{found}`, expected one of {expected}")]
    Unknown {
        /// What the name is for.
        what: &'static str,
        /// The name given.
        found: String,
        /// The names there are.
        expected: String,
    },
}

impl Error {
    /// A bad row; the problem may hold a stranger's text.
    pub(crate) fn row(place: impl Into<String>, problem: &str) -> Self {
        Self::Row {
            place: place.into(),
            problem: clip(problem),
        }
    }
}

/// A text short enough for a message, and without control characters.
pub(crate) fn clip(text: &str) -> String {
    const LONGEST: usize = 400;
    let mut shown: String = text
        .chars()
        .take(LONGEST)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}
