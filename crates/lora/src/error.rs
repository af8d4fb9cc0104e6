//! What can go wrong with adapters.

use std::path::{Path, PathBuf};

/// `std::result::Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with adapters, their training and their files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A run folder's error: a file that could not be written, or training interrupted by its report.
    #[error(transparent)]
    Run(#[from] realign_run::Error),
    /// The samples hold nothing to train on.
    #[error(transparent)]
    Data(#[from] realign_data::Error),
    /// A field of a configuration is out of its range.
    #[error("{field}: expected {expected}, found {found}")]
    Config {
        /// The field.
        field: &'static str,
        /// What it may be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A file is not in its format.
    #[error("{}: {problem}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// An option of `adapter_config.json` holds something that is wrong or not supported.
    #[error("{}: `{option}`: expected {expected}, found {found}", path.display())]
    Option {
        /// The file.
        path: PathBuf,
        /// The option.
        option: String,
        /// What is supported.
        expected: String,
        /// What was found.
        found: String,
    },
    /// A tensor of an adapter file is missing, unknown, or of the wrong shape, type or value.
    #[error("{}: tensor `{tensor}`: expected {expected}, found {found}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
    /// Training left the finite numbers.
    #[error("step {step}: the {what} is {value}; samples {samples:?}; try a lower learning rate")]
    NotFinite {
        /// The step, counted from 1.
        step: u64,
        /// Loss or gradient norm.
        what: &'static str,
        /// Its value.
        value: f32,
        /// The samples of the step, by index.
        samples: Vec<usize>,
    },
    /// A checkpoint was made by training of another kind.
    #[error("{}: made with another {what}; remove it, or restore the {what}", path.display())]
    Changed {
        /// The checkpoint's folder.
        path: PathBuf,
        /// What differs.
        what: &'static str,
    },
}

impl Error {
    pub(crate) fn config(field: &'static str, expected: impl Into<String>, found: impl ToString) -> Self {
        Self::Config {
            field,
            expected: expected.into(),
            found: found.to_string(),
        }
    }

    pub(crate) fn format(path: &Path, problem: impl Into<String>) -> Self {
        Self::Format {
            path: path.to_owned(),
            problem: problem.into(),
        }
    }

    pub(crate) fn tensor(
        path: &Path,
        tensor: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::Tensor {
            path: path.to_owned(),
            tensor: tensor.into(),
            expected: expected.into(),
            found: found.into().chars().take(200).collect(),
        }
    }
}
