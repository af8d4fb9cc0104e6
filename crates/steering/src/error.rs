//! What can be wrong with a direction's file.

use std::path::{Path, PathBuf};

/// `std::result::Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can be wrong with directions and their files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read, written, or read as JSON.
    #[error(transparent)]
    Run(#[from] realign_run::Error),
    /// A file of arrays is damaged, or holds what is no array.
    #[error(transparent)]
    Arrays(#[from] realign_arrays::Error),
    /// The operating system refused to read a file.
    #[error("could not read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A file is not in its format.
    #[error("{}: {problem}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A path at which there is no direction of a known format.
    #[error("{}: no direction here: expected {expected}, found {found}", path.display())]
    NoDirection {
        /// The path.
        path: PathBuf,
        /// What was looked for.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// A file's directions do not include the one that is asked for, or it does not say which one is meant.
    #[error("{}: {problem}", path.display())]
    Choice {
        /// The file.
        path: PathBuf,
        /// What it holds, and what is to be said.
        problem: String,
    },
    /// A field of a file does not fit.
    #[error("{}: `{field}`: expected {expected}, found {found}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The key or the tensor.
        field: String,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
}

impl Error {
    pub(crate) fn format(path: &Path, problem: impl Into<String>) -> Self {
        Self::Format {
            path: path.to_owned(),
            problem: problem.into(),
        }
    }

    pub(crate) fn field(
        path: &Path,
        field: impl Into<String>,
        expected: impl Into<String>,
        found: impl ToString,
    ) -> Self {
        Self::Field {
            path: path.to_owned(),
            field: field.into(),
            expected: expected.into(),
            found: found.to_string(),
        }
    }
}
