use std::path::{Path, PathBuf};

/// What went wrong while a model was found, read, or asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done to it.
        action: &'static str,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file does not say what its format promises.
    #[error("{}: {field}: expected {expected}, found {found}", file.display())]
    Format {
        /// The file.
        file: PathBuf,
        /// The field, key, tensor or byte position inside it.
        field: String,
        /// What would have been right.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A chat template refused its messages, or did something it may not.
    #[error("chat template of {}: {what}", file.display())]
    Template {
        /// Where the template came from.
        file: PathBuf,
        /// The template's own message, or the limit it ran into.
        what: String,
    },
    /// A conversation that cannot be encoded.
    #[error("message {index}: {what}")]
    Message {
        /// Which message of the conversation, from 0.
        index: usize,
        /// What is wrong with it.
        what: String,
    },
    /// A model specification outside of the grammar.
    #[error("model `{text}`: {what}")]
    Spec {
        /// The specification as it was given.
        text: String,
        /// What is wrong, and what would be right.
        what: String,
    },
    /// A model hub could not be used.
    #[error("{url}: {what}")]
    Hub {
        /// The address that was asked.
        url: String,
        /// What happened.
        what: String,
    },
    /// There is no room for a file.
    #[error(transparent)]
    Run(#[from] realign_run::Error),
    /// A progress callback asked to stop.
    #[error("{what}: interrupted; the next call goes on")]
    Interrupted {
        /// What was being fetched.
        what: String,
    },
    /// A known model could not be had from any of its sources.
    #[error(
        "cannot get {name}:{}\ntry: download the model yourself and pass `--model PATH`",
        tried.iter().map(|line| format!("\n  {line}")).collect::<String>()
    )]
    Unavailable {
        /// The model's name.
        name: String,
        /// One line for each source: what was tried and why it failed.
        tried: Vec<String>,
    },
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn format(
        file: &Path,
        field: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::Format {
            file: file.to_path_buf(),
            field: field.into(),
            expected: expected.into(),
            found: clip(&found.into()),
        }
    }

    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, action, source }
    }
}

/// A stranger's text, short enough for an error message and without control characters.
pub(crate) fn clip(text: &str) -> String {
    const LONGEST: usize = 200;
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
