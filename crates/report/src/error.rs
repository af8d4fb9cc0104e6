//! What can go wrong between a results file and a page.

use std::path::PathBuf;

/// The result of this crate's fallible functions.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a results file could not be read or a page could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file could not be opened or read.
    #[error("{}: expected a readable results file: {source}", path.display())]
    Read {
        /// The file that was asked for.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not a results file of schema 1.
    #[error("{name}: field `{field}`: {source}")]
    Parse {
        /// The file, or "results" for text from memory.
        name: String,
        /// The path of the field inside the document.
        field: String,
        /// What was expected and what was found.
        source: serde_json::Error,
    },
    /// The results could not be written as JSON.
    #[error("results: not writable as JSON: {0}")]
    Json(#[source] serde_json::Error),
    /// The page template failed.
    #[error("report.html: {0}")]
    Template(#[from] askama::Error),
}
