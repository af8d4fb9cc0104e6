//! A GGUF's metadata: typed values by key, still as bytes of the file.

use std::fmt;
use std::ops::Range;

use super::Gguf;
use crate::{Error, Result};

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum GgufValue<'a> {
    /// Any unsigned integer.
    Unsigned(u64),
    /// Any signed integer.
    Signed(i64),
    /// Either floating-point type.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// Text, as the bytes of the file.
    Text(&'a [u8]),
    /// This many elements; see [`Gguf::texts`] and [`Gguf::integers`].
    Array(usize),
}

/// A metadata value, still as bytes of the file.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    Scalar { kind: ValueKind, at: usize },
    Text(Range<usize>),
    Array { kind: ValueKind, at: usize, len: usize },
    Texts(Vec<Range<usize>>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ValueKind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    Array,
    U64,
    I64,
    F64,
}

impl Gguf {
    /// The value of a metadata key.
    pub fn get(&self, key: &str) -> Option<GgufValue<'_>> {
        self.metadata.get(key).map(|entry| self.resolve(entry))
    }

    /// A non-negative integer, if the key is there.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn integer(&self, key: &str) -> Result<Option<u64>> {
        match self.get(key) {
            None => Ok(None),
            Some(GgufValue::Unsigned(value)) => Ok(Some(value)),
            Some(GgufValue::Signed(value)) if value >= 0 => Ok(Some(value as u64)),
            Some(other) => Err(self.mismatch(key, "a non-negative integer", &other)),
        }
    }

    /// A number, if the key is there.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        match self.get(key) {
            None => Ok(None),
            Some(GgufValue::Float(value)) => Ok(Some(value)),
            Some(GgufValue::Unsigned(value)) => Ok(Some(value as f64)),
            Some(GgufValue::Signed(value)) => Ok(Some(value as f64)),
            Some(other) => Err(self.mismatch(key, "a number", &other)),
        }
    }

    /// A truth value, if the key is there.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(GgufValue::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(self.mismatch(key, "true or false", &other)),
        }
    }

    /// Text, if the key is there.
    ///
    /// # Errors
    /// When the value is something else, or not UTF-8.
    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.get(key) {
            None => Ok(None),
            Some(GgufValue::Text(bytes)) => std::str::from_utf8(bytes)
                .map(Some)
                .map_err(|e| Error::format(self.path(), key, "UTF-8 text", e.to_string())),
            Some(other) => Err(self.mismatch(key, "text", &other)),
        }
    }

    /// An array of texts, if the key is there. Each is the bytes of the file: a token need not be
    /// UTF-8.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&[u8]>>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Entry::Texts(ranges)) => Ok(Some(ranges.iter().map(|range| &self.bytes[range.clone()]).collect())),
            Some(Entry::Array { len: 0, .. }) => Ok(Some(Vec::new())),
            Some(entry) => Err(self.mismatch(key, "an array of texts", &self.resolve(entry))),
        }
    }

    /// An array of integers, if the key is there.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn integers(&self, key: &str) -> Result<Option<Vec<i64>>> {
        let entry = match self.metadata.get(key) {
            None => return Ok(None),
            Some(entry) => entry,
        };
        if let Entry::Array { kind, at, len } = *entry {
            let whole = |index: usize| match self.scalar(kind, at + index * kind.size()) {
                GgufValue::Unsigned(value) => i64::try_from(value).ok(),
                GgufValue::Signed(value) => Some(value),
                _ => None,
            };
            if let Some(values) = (0..len).map(whole).collect() {
                return Ok(Some(values));
            }
        }
        Err(self.mismatch(key, "an array of integers", &self.resolve(entry)))
    }

    /// An array of numbers, if the key is there.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let entry = match self.metadata.get(key) {
            None => return Ok(None),
            Some(entry) => entry,
        };
        if let Entry::Array { kind, at, len } = *entry {
            let number = |index: usize| match self.scalar(kind, at + index * kind.size()) {
                GgufValue::Unsigned(value) => Some(value as f64),
                GgufValue::Signed(value) => Some(value as f64),
                GgufValue::Float(value) => Some(value),
                _ => None,
            };
            if let Some(values) = (0..len).map(number).collect() {
                return Ok(Some(values));
            }
        }
        Err(self.mismatch(key, "an array of numbers", &self.resolve(entry)))
    }

    pub(super) fn resolve(&self, entry: &Entry) -> GgufValue<'_> {
        match entry {
            Entry::Scalar { kind, at } => self.scalar(*kind, *at),
            Entry::Text(range) => GgufValue::Text(&self.bytes[range.clone()]),
            Entry::Array { len, .. } => GgufValue::Array(*len),
            Entry::Texts(ranges) => GgufValue::Array(ranges.len()),
        }
    }

    fn scalar(&self, kind: ValueKind, at: usize) -> GgufValue<'static> {
        let bytes = &self.bytes[at..at + kind.size()];
        // One zero-extended word serves every width.
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        let word = u64::from_le_bytes(word);
        match kind {
            ValueKind::U8 | ValueKind::U16 | ValueKind::U32 | ValueKind::U64 => GgufValue::Unsigned(word),
            ValueKind::I8 => GgufValue::Signed(i64::from(word as i8)),
            ValueKind::I16 => GgufValue::Signed(i64::from(word as i16)),
            ValueKind::I32 => GgufValue::Signed(i64::from(word as i32)),
            ValueKind::I64 => GgufValue::Signed(word as i64),
            ValueKind::F32 => GgufValue::Float(f64::from(f32::from_bits(word as u32))),
            ValueKind::F64 => GgufValue::Float(f64::from_bits(word)),
            ValueKind::Bool => GgufValue::Bool(word == 1),
            ValueKind::Text | ValueKind::Array => unreachable!("no scalar"),
        }
    }

    fn mismatch(&self, key: &str, expected: &str, found: &GgufValue<'_>) -> Error {
        Error::format(self.path(), key, expected, found.to_string())
    }
}

impl fmt::Display for GgufValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned(value) => write!(f, "{value}"),
            Self::Signed(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value}"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Text(bytes) => f.write_str(&String::from_utf8_lossy(bytes)),
            Self::Array(len) => write!(f, "an array of {len}"),
        }
    }
}

impl ValueKind {
    pub(super) fn from_id(id: u32) -> Option<Self> {
        use ValueKind::*;
        let all = [U8, I8, U16, I16, U32, I32, F32, Bool, Text, Array, U64, I64, F64];
        all.get(id as usize).copied()
    }

    /// Bytes in the file; for texts and arrays, the least that one takes.
    pub(super) fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::Text => 8,
            Self::Array => 12,
        }
    }
}
