//! Whether there is room for what will be written.

use std::path::Path;

use crate::error::{Error, Result};

/// Bytes that this user may still write in a folder, which need not be there yet; none where the system does not tell.
pub fn free_space(folder: impl AsRef<Path>) -> Option<u64> {
    // A relative path ends in the folder that the process is in.
    let here = |path: &Path| {
        if path.as_os_str().is_empty() {
            Path::new(".").into()
        } else {
            path.to_owned()
        }
    };
    let there = folder.as_ref().ancestors().map(here).find(|path| path.exists())?;
    of(&there)
}

#[cfg(unix)]
fn of(folder: &Path) -> Option<u64> {
    let about = rustix::fs::statvfs(folder).ok()?;
    // A file system without blocks does not count them.
    (about.f_blocks > 0).then(|| about.f_bavail.saturating_mul(about.f_frsize))
}

#[cfg(not(unix))]
fn of(_folder: &Path) -> Option<u64> {
    None
}

/// That so many bytes can be written in a folder, before the first of them is.
///
/// # Errors
/// [`Error::NoRoom`] names the folder, the bytes and what is free.
pub fn check_room(folder: impl AsRef<Path>, needed: u64) -> Result<()> {
    let folder = folder.as_ref();
    match free_space(folder) {
        Some(free) if free < needed => Err(Error::NoRoom {
            folder: folder.to_owned(),
            needed,
            free,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn what_is_free_is_told_for_folders_that_are_not_there_yet() {
        let dir = tempfile::tempdir().unwrap();
        for folder in [
            dir.path(),
            &dir.path().join("a/b"),
            Path::new("."),
            Path::new("nowhere/yet"),
            Path::new(""),
        ] {
            assert!(free_space(folder).is_some_and(|free| free > 0), "{}", folder.display());
        }
        assert!(check_room(dir.path(), 1).is_ok());
        let error = check_room(dir.path().join("a"), 1 << 60).unwrap_err();
        assert!(matches!(
            error,
            Error::NoRoom {
                needed: 0x1000_0000_0000_0000,
                ..
            }
        ));
        let folder = dir.path().join("a").display().to_string();
        assert!(error.to_string().starts_with(&folder), "{error}");
    }
}
