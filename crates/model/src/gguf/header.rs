//! Reading a GGUF's header: everything is checked before it is believed.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use super::metadata::{Entry, ValueKind};
use crate::{Error, Result};

const MAX_ALIGNMENT: u32 = 1 << 16;
/// Far above any published model. An entry takes several times its bytes in memory, so that more of them could take more
/// than the file justifies.
const MAX_ENTRIES: u64 = 1 << 16;

/// A cursor that never leaves the file.
pub(super) struct Reader<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
    pub(super) path: &'a Path,
}

impl Reader<'_> {
    pub(super) fn fail<T>(&self, field: &str, expected: &str, found: impl Into<String>) -> Result<T> {
        Err(Error::format(self.path, crate::error::clip(field), expected, found))
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, len: u64, field: &str) -> Result<Range<usize>> {
        match usize::try_from(len) {
            Ok(len) if len <= self.left() => {
                self.at += len;
                Ok(self.at - len..self.at)
            }
            _ => {
                let found = format!("{} (the file is cut short or lies)", self.left());
                self.fail(field, &format!("{len} more bytes"), found)
            }
        }
    }

    pub(super) fn u32(&mut self, field: &str) -> Result<u32> {
        let range = self.take(4, field)?;
        let mut word = [0; 4];
        word.copy_from_slice(&self.bytes[range]);
        Ok(u32::from_le_bytes(word))
    }

    pub(super) fn u64(&mut self, field: &str) -> Result<u64> {
        let range = self.take(8, field)?;
        let mut word = [0; 8];
        word.copy_from_slice(&self.bytes[range]);
        Ok(u64::from_le_bytes(word))
    }

    pub(super) fn magic(&mut self) -> Result<u32> {
        if !self.bytes.starts_with(b"GGUF") {
            let start = &self.bytes[..self.bytes.len().min(4)];
            let found = match start {
                [] => "an empty file".to_owned(),
                _ => format!("not a GGUF: it begins with {start:02x?}"),
            };
            return self.fail("magic", "`GGUF`", found);
        }
        self.at = 4;
        match self.u32("version")? {
            version @ (2 | 3) => Ok(version),
            version if matches!(version.swap_bytes(), 1..=3) => {
                self.fail("version", "a little-endian file", "a big-endian one")
            }
            version => self.fail("version", "2 or 3", version.to_string()),
        }
    }

    /// Refuses a count that the rest of the file cannot hold, before anything is allocated for it.
    pub(super) fn count(&self, field: &str, count: u64, least: usize) -> Result<usize> {
        match usize::try_from(count) {
            Ok(n) if n <= self.left() / least => Ok(n),
            _ => {
                let most = format!("at most {} (bytes left / {least})", self.left() / least);
                self.fail(field, &most, count.to_string())
            }
        }
    }

    /// [`Reader::count`], for the entries of the header.
    pub(super) fn entries(&self, field: &str, count: u64, least: usize) -> Result<()> {
        if count > MAX_ENTRIES {
            return self.fail(field, &format!("at most {MAX_ENTRIES}"), count.to_string());
        }
        self.count(field, count, least).map(drop)
    }

    pub(super) fn name(&mut self, field: &str) -> Result<String> {
        let len = self.u64(field)?;
        if len == 0 || len > 65_535 {
            return self.fail(field, "a name of 1 to 65535 bytes", format!("{len} bytes"));
        }
        let range = self.take(len, field)?;
        match std::str::from_utf8(&self.bytes[range]) {
            Ok(name) => Ok(name.to_owned()),
            Err(e) => self.fail(field, "a UTF-8 name", e.to_string()),
        }
    }

    fn kind(&mut self, key: &str) -> Result<ValueKind> {
        let id = self.u32(key)?;
        ValueKind::from_id(id).map_or_else(|| self.fail(key, "a value type from 0 to 12", id.to_string()), Ok)
    }

    pub(super) fn entry(&mut self, key: &str) -> Result<Entry> {
        match self.kind(key)? {
            ValueKind::Text => self.text(key).map(Entry::Text),
            ValueKind::Array => {
                let kind = self.kind(key)?;
                let count = self.u64(key)?;
                let len = self.count(key, count, kind.size())?;
                match kind {
                    ValueKind::Array => self.fail(key, "an array of numbers or texts", "an array of arrays"),
                    ValueKind::Text => {
                        let mut ranges = Vec::with_capacity(len);
                        for _ in 0..len {
                            ranges.push(self.text(key)?);
                        }
                        Ok(Entry::Texts(ranges))
                    }
                    kind => {
                        let range = self.take((len * kind.size()) as u64, key)?;
                        self.bools(key, kind, range.clone())?;
                        Ok(Entry::Array {
                            kind,
                            at: range.start,
                            len,
                        })
                    }
                }
            }
            kind => {
                let range = self.take(kind.size() as u64, key)?;
                self.bools(key, kind, range.clone())?;
                Ok(Entry::Scalar { kind, at: range.start })
            }
        }
    }

    fn text(&mut self, key: &str) -> Result<Range<usize>> {
        let len = self.u64(key)?;
        self.take(len, key)
    }

    fn bools(&self, key: &str, kind: ValueKind, range: Range<usize>) -> Result<()> {
        match self.bytes[range].iter().find(|&&byte| byte > 1) {
            Some(byte) if kind == ValueKind::Bool => self.fail(key, "a bool of 0 or 1", byte.to_string()),
            _ => Ok(()),
        }
    }
}

/// Where tensors may begin.
pub(super) fn alignment(metadata: &BTreeMap<String, Entry>, reader: &Reader<'_>) -> Result<usize> {
    const KEY: &str = "general.alignment";
    const EXPECTED: &str = "a power of two up to 65536 as u32";
    match metadata.get(KEY) {
        None => Ok(32),
        Some(&Entry::Scalar {
            kind: ValueKind::U32,
            at,
        }) => {
            let value = Reader { at, ..*reader }.u32(KEY)?;
            if value.is_power_of_two() && value <= MAX_ALIGNMENT {
                Ok(value as usize)
            } else {
                reader.fail(KEY, EXPECTED, value.to_string())
            }
        }
        Some(_) => reader.fail(KEY, EXPECTED, "another type"),
    }
}
