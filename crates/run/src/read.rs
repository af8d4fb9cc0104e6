use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use crate::error::{Error, Result};

/// The longest header of a safetensors file that is read, in bytes. A hundred thousand tensors take that much, and each
/// of them takes several times its entry in memory.
pub const MAX_TENSOR_HEADER: u64 = 8 << 20;

/// The whole of a regular file of at most `limit` bytes that a stranger may have put there.
///
/// # Errors
/// [`Error::Unexpected`] for a longer file and for whatever is no file: a pipe would be waited for, and a device may
/// never end. [`Error::Io`] where it cannot be read.
pub fn read_at_most(path: impl AsRef<Path>, limit: u64) -> Result<Vec<u8>> {
    let path = path.as_ref();
    let unexpected = |expected: String, found: String| Error::Unexpected {
        path: path.to_owned(),
        expected,
        found,
    };
    // Asked before opening: opening a named pipe blocks until somebody writes to it.
    let about = fs::metadata(path).map_err(|e| Error::io("read", path, e))?;
    if !about.is_file() {
        let found = if about.is_dir() {
            "a folder"
        } else {
            "a pipe, socket or device"
        };
        return Err(unexpected("a regular file".into(), found.into()));
    }
    if about.len() > limit {
        return Err(unexpected(
            format!("at most {limit} bytes"),
            format!("{} bytes", about.len()),
        ));
    }
    let mut bytes = Vec::with_capacity(about.len() as usize);
    // Never more than was announced, should the file grow meanwhile.
    File::open(path)
        .and_then(|file| file.take(about.len()).read_to_end(&mut bytes))
        .map_err(|e| Error::io("read", path, e))?;
    Ok(bytes)
}

/// What is wrong with the header of a safetensors file beyond what the format's own reader refuses: one longer than
/// [`MAX_TENSOR_HEADER`], and one that names a tensor twice, of which a JSON map would silently keep the last.
pub fn tensor_header_problem(file: &[u8]) -> Option<String> {
    let (length, rest) = file.split_first_chunk()?;
    let length = u64::from_le_bytes(*length);
    if length > MAX_TENSOR_HEADER {
        return Some(format!(
            "a header of {length} bytes, at most {MAX_TENSOR_HEADER} are read"
        ));
    }
    let header = rest.get(..usize::try_from(length).ok()?)?;
    serde_json::from_slice::<UniqueKeys>(header)
        .err()
        .map(|e| e.to_string())
}

/// An object in which each key stands once.
struct UniqueKeys;

impl<'de> Deserialize<'de> for UniqueKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Self)
    }
}

impl<'de> Visitor<'de> for UniqueKeys {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut seen = BTreeSet::new();
        while let Some((key, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
            if seen.contains(&key) {
                let shown: String = key.chars().take(200).collect();
                return Err(A::Error::custom(format!("the key `{shown}` twice")));
            }
            seen.insert(key);
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(header: &str) -> Option<String> {
        tensor_header_problem(&[&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat())
    }

    #[test]
    fn a_name_that_comes_twice_is_found_however_it_is_spelt() {
        assert_eq!(problem(r#"{"a":{"shape":[1],"shape":[2]},"b":{}}"#), None);
        for header in [r#"{"a":{},"a":{}}"#, r#"{"a":{},"\u0061":{}}"#] {
            assert!(problem(header).unwrap().contains("the key `a` twice"));
        }
        assert!(problem("[]").is_some());
        let long = (MAX_TENSOR_HEADER + 1).to_le_bytes();
        assert!(tensor_header_problem(&long).unwrap().contains("8388609 bytes"));
    }

    #[test]
    fn only_a_file_of_the_expected_length_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "12345").unwrap();
        assert_eq!(read_at_most(&path, 5).unwrap(), b"12345");
        let error = read_at_most(&path, 4).unwrap_err().to_string();
        assert!(
            error.ends_with("file: expected at most 4 bytes, found 5 bytes"),
            "{error}"
        );
        let error = read_at_most(dir.path(), 4).unwrap_err().to_string();
        assert!(error.ends_with("expected a regular file, found a folder"), "{error}");
        assert!(read_at_most(dir.path().join("none"), 4).is_err());
    }
}
