//! The GGUF container: typed metadata and a table of tensors, nothing else.
//!
//! Everything is checked before it is believed: counts against the bytes that are left, lengths
//! against the file, products for overflow, tensors for overlap.

mod header;
mod metadata;
mod tensors;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use crate::{FileBytes, Result};
use header::{Reader, alignment};
use metadata::Entry;
pub use metadata::GgufValue;
pub use tensors::GgufTensor;
use tensors::place;

/// A GGUF file, versions 2 and 3, little-endian.
#[derive(Debug)]
pub struct Gguf {
    bytes: FileBytes,
    version: u32,
    metadata: BTreeMap<String, Entry>,
    /// Where each key stands with its value, in the file's order.
    spans: Vec<(String, Range<usize>)>,
    tensors: BTreeMap<String, GgufTensor>,
}

impl Gguf {
    /// Reads the header of a GGUF file; tensors stay where they are until they are asked for.
    ///
    /// # Errors
    /// Names the key or tensor, what was expected and what was found. Metadata arrays of arrays,
    /// tensor types other than [`crate::GgmlType::ALL`], version 1 and big-endian files are refused.
    pub fn parse(bytes: FileBytes) -> Result<Self> {
        let mut reader = Reader {
            bytes: &bytes,
            at: 0,
            path: bytes.path(),
        };
        let version = reader.magic()?;
        let n_tensors = reader.u64("tensor_count")?;
        let n_keys = reader.u64("metadata_kv_count")?;
        // The smallest key takes 13 bytes and the smallest tensor 33.
        reader.entries("metadata_kv_count", n_keys, 13)?;
        reader.entries("tensor_count", n_tensors, 33)?;

        let (mut metadata, mut spans) = (BTreeMap::new(), Vec::new());
        for index in 0..n_keys {
            let start = reader.at;
            let key = reader.name(&format!("metadata key {index}"))?;
            let value = reader.entry(&key)?;
            spans.push((key.clone(), start..reader.at));
            if metadata.insert(key.clone(), value).is_some() {
                return reader.fail(&key, "one value for each key", "the key twice");
            }
        }
        let alignment = alignment(&metadata, &reader)?;

        let mut described = BTreeMap::new();
        for index in 0..n_tensors {
            let name = reader.name(&format!("tensor {index}"))?;
            let tensor = reader.tensor(&name)?;
            if described.insert(name.clone(), tensor).is_some() {
                return reader.fail(&name, "one tensor of each name", "the name twice");
            }
        }
        let data = reader.at.next_multiple_of(alignment);
        let tensors = place(described, data, alignment, &reader)?;
        Ok(Self {
            version,
            metadata,
            spans,
            tensors,
            bytes,
        })
    }

    /// The container's version, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The file that it was read from.
    pub fn path(&self) -> &Path {
        self.bytes.path()
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Every metadata key, sorted, with its value.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, GgufValue<'_>)> {
        self.metadata
            .iter()
            .map(|(key, entry)| (key.as_str(), self.resolve(entry)))
    }

    /// Every metadata key with the bytes of the file that hold it and its value, in the file's order.
    pub(crate) fn raw_metadata(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.spans
            .iter()
            .map(|(key, span)| (key.as_str(), &self.bytes[span.clone()]))
    }

    /// Every tensor, sorted by its GGUF name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &GgufTensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The tensor of this GGUF name.
    pub fn tensor(&self, name: &str) -> Option<&GgufTensor> {
        self.tensors.get(name)
    }

    /// A tensor's bytes, in its own blocks.
    pub fn tensor_bytes(&self, tensor: &GgufTensor) -> &[u8] {
        &self.bytes[tensor.range.clone()]
    }
}
