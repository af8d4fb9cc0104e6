//! What can be wrong with a file of arrays.

use std::path::{Path, PathBuf};

/// `std::result::Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can be wrong with a file of arrays.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read a file.
    #[error("could not read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A file is not in its format.
    #[error("{}: {what}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        what: String,
    },
    /// An array that is missing, or has another shape, type or content than is asked for.
    #[error("{}: array `{array}`: expected {expected}, found {found}", path.display())]
    Array {
        /// The file.
        path: PathBuf,
        /// The array's name.
        array: String,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
    /// A pickle that asks for a Python name other than those of tensors.
    #[error(
        "{}: the pickle asks for `{name}`; only tensors are read, and nothing in a file is ever run",
        path.display()
    )]
    Name {
        /// The file.
        path: PathBuf,
        /// Module and name.
        name: String,
    },
}

impl Error {
    pub(crate) fn read(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        |source| Self::Read { path, source }
    }

    pub(crate) fn format(path: &Path, what: impl Into<String>) -> Self {
        Self::Format {
            path: path.to_owned(),
            what: what.into(),
        }
    }

    pub(crate) fn array(path: &Path, array: &str, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::Array {
            path: path.to_owned(),
            array: clip(array),
            expected: expected.into(),
            found: found.into(),
        }
    }
}

/// A stranger's text, short enough for a message and without control characters.
pub(crate) fn clip(text: &str) -> String {
    const LONGEST: usize = 80;
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
