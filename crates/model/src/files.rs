//! Bytes from files that a stranger may have written.

use crate::{Error, Result};
use std::fs::File;
use std::io::Read;
use std::ops::Deref;
use std::path::{Path, PathBuf};

/// How the bytes of a large file are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Mapped into memory: fast, shared with other processes. A file that is shortened by somebody
    /// else *while it is mapped* ends this process with SIGBUS.
    #[default]
    Map,
    /// Read into memory at once: slower, and immune to whatever happens to the file afterwards.
    Read,
}

/// The bytes of one file, mapped or read.
#[derive(Debug)]
pub struct FileBytes {
    path: PathBuf,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    Mapped(memmap2::Mmap),
    Owned(Vec<u8>),
}

impl FileBytes {
    /// The bytes of the regular file at `path`.
    ///
    /// # Errors
    /// When it cannot be opened, or is no regular file (a pipe would wait for ever).
    pub fn open(path: &Path, access: Access) -> Result<Self> {
        let (file, length) = open_regular(path)?;
        let bytes = match access {
            // An empty file cannot be mapped.
            Access::Map if length > 0 => Bytes::Mapped(map(&file, path)?),
            _ => Bytes::Owned(read(file, path, length)?),
        };
        Ok(Self {
            path: path.to_path_buf(),
            bytes,
        })
    }

    /// Bytes that are already in memory; `path` is what error messages will call them.
    pub fn from_vec(path: impl Into<PathBuf>, bytes: Vec<u8>) -> Self {
        Self {
            path: path.into(),
            bytes: Bytes::Owned(bytes),
        }
    }

    /// The file that they came from.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Owned(bytes) => bytes,
        }
    }
}

/// The whole of a small regular file.
///
/// # Errors
/// When it cannot be read, is no regular file, or is longer than `limit` bytes.
pub(crate) fn read_small(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let (file, length) = open_regular(path)?;
    if length > limit {
        let (want, have) = (format!("at most {limit} bytes"), format!("{length} bytes"));
        return Err(Error::format(path, "length", want, have));
    }
    read(file, path, length)
}

/// Says what is wrong with a file name that a repository, an index or a server gave us.
///
/// The *name* is judged, under the rules of both POSIX and Windows on every platform; where the
/// file then lies is not (in the hub's cache each file is a link to `../../blobs/…`).
pub(crate) fn bad_name(name: &str) -> Option<&'static str> {
    if name.is_empty() || name.len() > 512 {
        Some("is empty or longer than 512 bytes")
    } else if name.starts_with('/') {
        Some("is an absolute path")
    } else if name.contains('\\') || name.contains(':') {
        Some("holds a backslash or a colon (a drive, a UNC path, a stream)")
    } else if name.chars().any(char::is_control) {
        Some("holds a control character")
    } else if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        Some("has an empty, `.` or `..` component")
    } else {
        None
    }
}

fn open_regular(path: &Path) -> Result<(File, u64)> {
    // Asked before opening: opening a named pipe blocks until somebody writes to it.
    let about = std::fs::metadata(path).map_err(Error::io(path, "open"))?;
    if !about.is_file() {
        let found = if about.is_dir() {
            "a folder"
        } else {
            "a pipe, socket or device"
        };
        return Err(Error::format(path, "kind", "a regular file", found));
    }
    Ok((File::open(path).map_err(Error::io(path, "open"))?, about.len()))
}

fn read(file: File, path: &Path, length: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    // Never more than was announced, should the file grow meanwhile.
    file.take(length)
        .read_to_end(&mut bytes)
        .map_err(Error::io(path, "read"))?;
    Ok(bytes)
}

#[allow(unsafe_code)]
fn map(file: &File, path: &Path) -> Result<memmap2::Mmap> {
    // SAFETY: the map is read-only and private to `FileBytes`, which hands out `&[u8]` only. That
    // slice is sound as long as nobody changes the file under it; `Access::Map` documents this and
    // `Access::Read` is there for whoever cannot promise it.
    unsafe { memmap2::Mmap::map(file) }.map_err(Error::io(path, "map"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_their_folder_are_refused_on_every_platform() {
        for name in [
            "",
            "/abs",
            "../x",
            "a/../b",
            "a//b",
            "./a",
            "C:\\x",
            "C:x",
            "\\\\host\\x",
            "a\0b",
        ] {
            assert!(bad_name(name).is_some(), "{name:?} was accepted");
        }
        for name in ["model.safetensors", "onnx/model.bin", "..hidden", "a..b"] {
            assert_eq!(bad_name(name), None, "{name:?}");
        }
    }

    #[test]
    fn a_folder_and_an_oversized_file_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = read_small(folder.path(), 10).unwrap_err().to_string();
        assert!(error.contains("expected a regular file, found a folder"), "{error}");
        let file = folder.path().join("big");
        std::fs::write(&file, [0; 11]).unwrap();
        let error = read_small(&file, 10).unwrap_err().to_string();
        assert!(error.contains("at most 10 bytes, found 11 bytes"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_is_refused_without_waiting_for_a_writer() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(
            std::process::Command::new("mkfifo")
                .arg(&pipe)
                .status()
                .unwrap()
                .success()
        );
        let error = read_small(&pipe, 10).unwrap_err().to_string();
        assert!(error.contains("a pipe, socket or device"), "{error}");
    }

    #[test]
    fn mapped_and_read_bytes_are_the_same() {
        let folder = tempfile::tempdir().unwrap();
        for content in [&b""[..], b"realign"] {
            let file = folder.path().join("file");
            std::fs::write(&file, content).unwrap();
            for access in [Access::Map, Access::Read] {
                assert_eq!(&*FileBytes::open(&file, access).unwrap(), content);
            }
        }
    }
}
