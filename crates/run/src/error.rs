use std::io;
use std::path::{Path, PathBuf};

use crate::manifest::Difference;

/// `std::result::Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// File systems take 255 bytes, of which a temporary sibling needs some.
const LONGEST_NAME: usize = 128;

/// What can go wrong in a run folder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a file operation.
    #[error("could not {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb phrase.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The disk (or the quota, or the largest file allowed) is full.
    #[error("no space left to write {} ({needed} bytes needed): {source}", path.display())]
    NoSpace {
        /// The file that was being written.
        path: PathBuf,
        /// How many bytes were to be written.
        needed: u64,
        /// The operating system's answer.
        source: io::Error,
    },
    /// More will be written than there is room for.
    #[error("{}: {needed} bytes will be written, {free} are free", folder.display())]
    NoRoom {
        /// The folder to be written to.
        folder: PathBuf,
        /// Bytes that will be written.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// A JSON file, or a line of one, does not hold what was expected.
    #[error("{place}: field `{field}`: {source}")]
    Json {
        /// File, or file and line.
        place: String,
        /// Dotted path of the field at fault; `.` is the whole value.
        field: String,
        /// What the parser found and expected.
        source: serde_json::Error,
    },
    /// A value cannot be written as JSON.
    #[error("{place}: the value cannot be written as JSON: {source}")]
    Unwritable {
        /// The file it was meant for.
        place: String,
        /// What the writer said.
        source: serde_json::Error,
    },
    /// A stage's result would not come back from its file, so that a resumed run would fail.
    #[error(
        "stage `{stage}`: the result cannot be read back from JSON at field `{field}`: {source} \
         (numbers that are not finite are written as null)"
    )]
    NotReadable {
        /// The stage's name.
        stage: String,
        /// Dotted path of the field at fault.
        field: String,
        /// What the parser found and expected.
        source: serde_json::Error,
    },
    /// Another process works in the folder.
    #[error("the run folder {} is in use by {holder}", path.display())]
    Locked {
        /// The run folder.
        path: PathBuf,
        /// Process id, host and since when.
        holder: String,
    },
    /// The folder holds a run with another configuration.
    #[error(
        "{} was made with another configuration; restore it, or choose another folder:{}",
        path.display(), list(differences)
    )]
    Changed {
        /// The run folder.
        path: PathBuf,
        /// Every field that differs.
        differences: Vec<Difference>,
    },
    /// Something that is not a folder stands where the run folder should be.
    #[error("{} is {found}, expected a folder or nothing", path.display())]
    InTheWay {
        /// The path at fault.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// A file of the run folder is a symbolic link, which writing would follow out of the folder.
    #[error("{} is a symbolic link, expected a plain file; remove it", path.display())]
    Symlink {
        /// The link.
        path: PathBuf,
    },
    /// The folder has files in it, yet no `run.json`.
    #[error(
        "{} is not a run folder: it holds `{found}` and no run.json; choose an empty folder",
        path.display()
    )]
    NotARun {
        /// The folder.
        path: PathBuf,
        /// One of the files in it.
        found: String,
    },
    /// A checkpoint's file is missing or differs from what was written.
    #[error("{}: expected {expected}, found {found}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Length or checksum as written.
        expected: String,
        /// Length or checksum as found.
        found: String,
    },
    /// Something that is no file, or a file too long to be what belongs there.
    #[error("{}: expected {expected}, found {found}", path.display())]
    Unexpected {
        /// The path.
        path: PathBuf,
        /// What belongs there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A name for a stage or a checkpoint's file that could leave its folder.
    #[error(
        "the name {name:?} of a {what} may hold only letters, digits, `.`, `_` and `-`, at most {LONGEST_NAME} of them, \
         must not begin with `.`, and must not be a device of Windows"
    )]
    Name {
        /// What the name is for.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// The progress callback answered `Break`: the work was put by and can be resumed.
    #[error("{stage} was interrupted after step {done}; run it again to go on from there")]
    Interrupted {
        /// The stage.
        stage: String,
        /// Steps done and kept.
        done: u64,
    },
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// An error while writing `needed` bytes; full disks are told apart from the rest.
    pub(crate) fn write(path: &Path, needed: u64, source: io::Error) -> Self {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        match source.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => Self::NoSpace {
                path: path.to_owned(),
                needed,
                source,
            },
            _ => Self::io("write", path, source),
        }
    }

    pub(crate) fn json(place: impl Into<String>, e: serde_path_to_error::Error<serde_json::Error>) -> Self {
        let field = e.path().to_string();
        Self::Json {
            place: place.into(),
            field,
            source: e.into_inner(),
        }
    }
}

fn list(differences: &[Difference]) -> String {
    differences.iter().map(|d| format!("\n  {d}")).collect()
}

/// Refuses a name that could reach outside its folder or be taken for a temporary file.
pub(crate) fn check_name(what: &'static str, name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty()
        || name.len() > LONGEST_NAME
        || name.starts_with('.')
        || !name.chars().all(allowed)
        || is_device(name)
    {
        return Err(Error::Name {
            what,
            name: name.chars().take(LONGEST_NAME).collect(),
        });
    }
    Ok(())
}

/// Whether Windows takes a file of this name for a device, whatever its extension.
fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default().to_ascii_uppercase();
    let numbered = |kind: &str| {
        stem.strip_prefix(kind)
            .is_some_and(|rest| rest.len() == 1 && rest.bytes().all(|digit| digit.is_ascii_digit()))
    };
    matches!(&*stem, "CON" | "PRN" | "AUX" | "NUL") || numbered("COM") || numbered("LPT")
}
