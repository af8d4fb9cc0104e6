//! The GGUF container: typed metadata and a table of tensors, nothing else.
//!
//! Everything is checked before it is believed: counts against the bytes that are left, lengths
//! against the file, products for overflow, tensors for overlap.

use crate::{Error, FileBytes, GgmlType, Result};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;

const MAX_DIMS: u32 = 4;
const MAX_ALIGNMENT: u32 = 1 << 16;
/// Far above any published model. An entry takes several times its bytes in memory, so that more of them could take more
/// than the file justifies.
const MAX_ENTRIES: u64 = 1 << 16;

/// A GGUF file, versions 2 and 3, little-endian.
#[derive(Debug)]
pub struct Gguf {
    bytes: FileBytes,
    version: u32,
    metadata: BTreeMap<String, Entry>,
    tensors: BTreeMap<String, GgufTensor>,
}

/// Where a GGUF tensor lies and how it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GgufTensor {
    /// Row-major shape, outermost axis first (a GGUF lists the innermost first).
    pub shape: Vec<usize>,
    /// How elements are stored.
    pub kind: GgmlType,
    /// Its bytes in the file.
    pub range: Range<usize>,
}

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
enum Entry {
    Scalar { kind: ValueKind, at: usize },
    Text(Range<usize>),
    Array { kind: ValueKind, at: usize, len: usize },
    Texts(Vec<Range<usize>>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ValueKind {
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
    /// Reads the header of a GGUF file; tensors stay where they are until they are asked for.
    ///
    /// # Errors
    /// Names the key or tensor, what was expected and what was found. Metadata arrays of arrays,
    /// tensor types other than [`GgmlType::ALL`], version 1 and big-endian files are refused.
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

        let mut metadata = BTreeMap::new();
        for index in 0..n_keys {
            let key = reader.name(&format!("metadata key {index}"))?;
            let value = reader.entry(&key)?;
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

    /// A tensor's elements as `f32`; row `r` of the result is row `source(r)` of the file.
    ///
    /// # Panics
    /// When `source` leaves the tensor's rows.
    pub fn dequantise(&self, tensor: &GgufTensor, source: impl Fn(usize) -> usize) -> Vec<f32> {
        let rows = self.rows(tensor, source);
        let mut values = vec![0.0; tensor.shape.iter().product()];
        values
            .par_chunks_mut(tensor.width())
            .zip(rows)
            .with_min_len(64)
            .for_each(|(out, row)| tensor.kind.dequantise(row, out));
        values
    }

    /// A tensor's rows as they are stored; row `r` of the result is row `source(r)` of the file.
    pub(crate) fn rows(&self, tensor: &GgufTensor, source: impl Fn(usize) -> usize) -> Vec<&[u8]> {
        let row_bytes = tensor.width() / tensor.kind.block_len() * tensor.kind.block_bytes();
        let bytes = self.tensor_bytes(tensor);
        let count = tensor.shape.iter().product::<usize>() / tensor.width();
        let row = |row| &bytes[source(row) * row_bytes..][..row_bytes];
        (0..count).map(row).collect()
    }

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

    fn resolve(&self, entry: &Entry) -> GgufValue<'_> {
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

impl GgufTensor {
    /// Elements in one row: the innermost axis.
    pub fn width(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
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
    fn from_id(id: u32) -> Option<Self> {
        use ValueKind::*;
        let all = [U8, I8, U16, I16, U32, I32, F32, Bool, Text, Array, U64, I64, F64];
        all.get(id as usize).copied()
    }

    /// Bytes in the file; for texts and arrays, the least that one takes.
    fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::Text => 8,
            Self::Array => 12,
        }
    }
}

/// A cursor that never leaves the file.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    path: &'a Path,
}

/// A tensor before its offset is known to be good.
struct Described {
    shape: Vec<usize>,
    kind: GgmlType,
    size: usize,
    offset: u64,
}

impl Reader<'_> {
    fn fail<T>(&self, field: &str, expected: &str, found: impl Into<String>) -> Result<T> {
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

    fn u32(&mut self, field: &str) -> Result<u32> {
        let range = self.take(4, field)?;
        let mut word = [0; 4];
        word.copy_from_slice(&self.bytes[range]);
        Ok(u32::from_le_bytes(word))
    }

    fn u64(&mut self, field: &str) -> Result<u64> {
        let range = self.take(8, field)?;
        let mut word = [0; 8];
        word.copy_from_slice(&self.bytes[range]);
        Ok(u64::from_le_bytes(word))
    }

    fn magic(&mut self) -> Result<u32> {
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
    fn count(&self, field: &str, count: u64, least: usize) -> Result<usize> {
        match usize::try_from(count) {
            Ok(n) if n <= self.left() / least => Ok(n),
            _ => {
                let most = format!("at most {} (bytes left / {least})", self.left() / least);
                self.fail(field, &most, count.to_string())
            }
        }
    }

    fn entries(&self, field: &str, count: u64, least: usize) -> Result<()> {
        if count > MAX_ENTRIES {
            return self.fail(field, &format!("at most {MAX_ENTRIES}"), count.to_string());
        }
        self.count(field, count, least).map(drop)
    }

    fn name(&mut self, field: &str) -> Result<String> {
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

    fn entry(&mut self, key: &str) -> Result<Entry> {
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

    fn tensor(&mut self, name: &str) -> Result<Described> {
        let n_dims = self.u32(name)?;
        if n_dims == 0 || n_dims > MAX_DIMS {
            return self.fail(name, "1 to 4 dimensions", n_dims.to_string());
        }
        let mut shape = Vec::new();
        for _ in 0..n_dims {
            let dim = self.u64(name)?;
            match usize::try_from(dim) {
                Ok(dim) if dim > 0 => shape.push(dim),
                _ => return self.fail(name, "a dimension of at least 1", dim.to_string()),
            }
        }
        shape.reverse();
        let id = self.u32(name)?;
        let Some(kind) = GgmlType::from_id(id) else {
            let known: Vec<_> = GgmlType::ALL.iter().map(|kind| format!("{kind:?}")).collect();
            let expected = format!("a tensor type of {}", known.join(", "));
            return self.fail(name, &expected, format!("type {id} ({})", type_name(id)));
        };
        let width = shape[shape.len() - 1];
        if !width.is_multiple_of(kind.block_len()) {
            let expected = format!("rows of a multiple of {} ({kind:?})", kind.block_len());
            return self.fail(name, &expected, width.to_string());
        }
        let elements = shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim));
        let size = elements.and_then(|n| (n / kind.block_len()).checked_mul(kind.block_bytes()));
        let Some(size) = size.filter(|&size| size <= self.bytes.len()) else {
            return self.fail(name, "a shape that fits into the file", format!("{shape:?}"));
        };
        let offset = self.u64(name)?;
        Ok(Described {
            shape,
            kind,
            size,
            offset,
        })
    }
}

fn alignment(metadata: &BTreeMap<String, Entry>, reader: &Reader<'_>) -> Result<usize> {
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

/// Turns offsets into ranges of the file, refusing what is unaligned, outside, or overlapping.
fn place(
    described: BTreeMap<String, Described>,
    data: usize,
    alignment: usize,
    reader: &Reader<'_>,
) -> Result<BTreeMap<String, GgufTensor>> {
    let mut tensors = BTreeMap::new();
    for (
        name,
        Described {
            shape,
            kind,
            size,
            offset,
        },
    ) in described
    {
        let start = usize::try_from(offset).ok().and_then(|offset| data.checked_add(offset));
        let range = start.and_then(|start| Some(start..start.checked_add(size)?));
        if !offset.is_multiple_of(alignment as u64) {
            let expected = format!("an offset that is a multiple of {alignment}");
            return reader.fail(&name, &expected, offset.to_string());
        }
        match range.filter(|range| range.end <= reader.bytes.len()) {
            Some(range) => tensors.insert(name, GgufTensor { shape, kind, range }),
            None => {
                let expected = format!("{size} bytes inside the file's {}", reader.bytes.len());
                return reader.fail(&name, &expected, format!("data {data} + offset {offset}"));
            }
        };
    }
    let mut order: Vec<_> = tensors.iter().collect();
    order.sort_by_key(|(_, tensor)| tensor.range.start);
    for pair in order.windows(2) {
        let [(before, first), (name, second)] = [pair[0], pair[1]];
        if first.range.end > second.range.start {
            return reader.fail(name, "bytes of its own", format!("bytes shared with {before}"));
        }
    }
    Ok(tensors)
}

fn type_name(id: u32) -> &'static str {
    match id {
        4 | 5 => "Q4_2 or Q4_3, removed from the format",
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        15 => "Q8_K",
        16..=23 | 29 => "an IQ type",
        24..=27 => "an integer type",
        28 => "F64",
        34 | 35 => "a ternary type",
        39 => "MXFP4",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf_writer::{GgufWriter, Meta};

    fn parse(bytes: Vec<u8>) -> Result<Gguf> {
        Gguf::parse(FileBytes::from_vec("test.gguf", bytes))
    }

    fn refused(bytes: Vec<u8>) -> String {
        parse(bytes).unwrap_err().to_string()
    }

    /// A file of raw parts: version 3, the two counts, then `rest`.
    fn raw(tensors: u64, keys: u64, rest: &[&[u8]]) -> Vec<u8> {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(keys.to_le_bytes());
        rest.iter().for_each(|part| bytes.extend_from_slice(part));
        bytes
    }

    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
    }

    fn tensor(name: &str, dims: &[u64], kind: u32, offset: u64) -> Vec<u8> {
        let mut bytes = text(name);
        bytes.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|dim| bytes.extend(dim.to_le_bytes()));
        bytes.extend(kind.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        bytes
    }

    fn with_tensor(tensor: Vec<u8>) -> Vec<u8> {
        let mut bytes = raw(1, 0, &[&tensor]);
        bytes.resize(bytes.len().next_multiple_of(32) + 4096, 0);
        bytes
    }

    fn small() -> Vec<u8> {
        GgufWriter::new()
            .meta("a.number", Meta::U32(7))
            .meta("a.text", Meta::Text("hello"))
            .meta("a.list", Meta::Texts(vec![b"one".to_vec(), vec![0xff]]))
            .meta("a.kinds", Meta::I32s(vec![1, -3]))
            .tensor_f32("m", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
            .tensor_f16("h", &[4], &[0.5, -1.0, 2.0, 0.0])
            .tensor_q8_0("q", &[2, 32], &[0.25; 64])
            .finish()
    }

    #[test]
    fn what_was_written_is_read() {
        let gguf = parse(small()).unwrap();
        assert_eq!(gguf.integer("a.number").unwrap(), Some(7));
        assert_eq!(gguf.text("a.text").unwrap(), Some("hello"));
        assert_eq!(gguf.texts("a.list").unwrap().unwrap(), [&b"one"[..], &[0xff]]);
        assert_eq!(gguf.integers("a.kinds").unwrap().unwrap(), [1, -3]);
        let m = gguf.tensor("m").unwrap();
        assert_eq!(m.shape, [2, 3]);
        assert_eq!(gguf.dequantise(m, |row| 1 - row), [4.0, 5.0, 6.0, 1.0, 2.0, 3.0]);
        assert_eq!(
            gguf.dequantise(gguf.tensor("h").unwrap(), |row| row),
            [0.5, -1.0, 2.0, 0.0]
        );
        for value in gguf.dequantise(gguf.tensor("q").unwrap(), |row| row) {
            assert!((value - 0.25).abs() < 1e-3);
        }
        let error = gguf.text("a.number").unwrap_err().to_string();
        assert_eq!(error, "test.gguf: a.number: expected text, found 7");
    }

    #[test]
    fn what_is_no_gguf_says_so() {
        for bytes in [&b""[..], b"G", b"text file", b"\x1f\x8b\x08\0GGUF and more, gzipped"] {
            assert!(refused(bytes.to_vec()).contains("magic: expected `GGUF`"), "{bytes:?}");
        }
        for len in [4, 7, 23] {
            let cut = raw(0, 0, &[])[..len].to_vec();
            assert!(refused(cut).contains("more bytes"), "{len} bytes");
        }
    }

    #[test]
    fn other_versions_are_named() {
        for version in [0u32, 1, 4] {
            let mut bytes = raw(0, 0, &[]);
            bytes[4..8].copy_from_slice(&version.to_le_bytes());
            let error = refused(bytes);
            assert!(error.contains(&format!("expected 2 or 3, found {version}")), "{error}");
        }
        let mut bytes = raw(0, 0, &[]);
        bytes[4..8].copy_from_slice(&3u32.to_be_bytes());
        assert!(refused(bytes).contains("big-endian"));
    }

    #[test]
    fn counts_beyond_the_file_are_refused_before_anything_is_allocated() {
        assert!(refused(raw(1 << 63, 0, &[])).contains("tensor_count"));
        assert!(refused(raw(0, 1 << 63, &[])).contains("metadata_kv_count"));
        let long_key = raw(0, 1, &[&u64::MAX.to_le_bytes(), &[0; 64]]);
        assert!(refused(long_key).contains("metadata key 0"));
        let huge = [
            &text("k")[..],
            &9u32.to_le_bytes(),
            &8u32.to_le_bytes(),
            &(1u64 << 30).to_le_bytes(),
        ];
        assert!(refused(raw(0, 1, &huge)).contains("k: expected at most"));
        let one_past = [&text("k")[..], &8u32.to_le_bytes(), &5u64.to_le_bytes(), b"four"];
        assert!(refused(raw(0, 1, &one_past)).contains("k: expected 5 more bytes"));
    }

    #[test]
    fn nested_arrays_and_unknown_values_are_refused() {
        let mut nested = text("k");
        for _ in 0..10_000 {
            nested.extend(9u32.to_le_bytes());
            nested.extend(1u64.to_le_bytes());
        }
        assert!(refused(raw(0, 1, &[&nested, &[0; 64]])).contains("k: "));
        let thirteen = [&text("k")[..], &13u32.to_le_bytes(), &[0; 16]];
        assert!(refused(raw(0, 1, &thirteen)).contains("value type from 0 to 12, found 13"));
        let two = [&text("k")[..], &7u32.to_le_bytes(), &[2]];
        assert!(refused(raw(0, 1, &two)).contains("a bool of 0 or 1, found 2"));
        let key = [&3u64.to_le_bytes()[..], &[0xff, 0xfe, 0xfd], &7u32.to_le_bytes(), &[1]];
        assert!(refused(raw(0, 1, &key)).contains("UTF-8 name"));
    }

    #[test]
    fn an_alignment_is_a_power_of_two() {
        for value in [0u32, 3, 1 << 31] {
            let bytes = GgufWriter::new().meta("general.alignment", Meta::U32(value)).finish();
            assert!(refused(bytes).contains("general.alignment"), "{value}");
        }
        let bytes = GgufWriter::new().meta("general.alignment", Meta::Text("32")).finish();
        assert!(refused(bytes).contains("general.alignment"));
    }

    #[test]
    fn names_are_unique() {
        let twice = GgufWriter::new()
            .meta("k", Meta::U32(1))
            .meta("k", Meta::U32(2))
            .finish();
        assert!(refused(twice).contains("the key twice"));
        let twice = GgufWriter::new()
            .tensor_f32("t", &[1], &[1.0])
            .tensor_f32("t", &[1], &[1.0])
            .finish();
        assert!(refused(twice).contains("the name twice"));
    }

    #[test]
    fn impossible_tensors_are_refused_by_name() {
        for (bad, word) in [
            (tensor("t", &[], 0, 0), "1 to 4 dimensions, found 0"),
            (tensor("t", &[1; 5], 0, 0), "1 to 4 dimensions, found 5"),
            (tensor("t", &[0], 0, 0), "at least 1"),
            (tensor("t", &[1 << 40, 1 << 40], 0, 0), "fits into the file"),
            (tensor("t", &[1 << 63], 0, 0), "fits into the file"),
            (tensor("t", &[255], 12, 0), "multiple of 256"),
            (tensor("t", &[32], 4, 0), "removed"),
            (tensor("t", &[32], 5, 0), "removed"),
            (tensor("t", &[32], 99, 0), "type 99"),
            (tensor("t", &[256], 10, 0), "Q2_K"),
            (tensor("t", &[4], 0, 8), "multiple of 32"),
            (tensor("t", &[4], 0, 8192), "inside the file"),
            (tensor("t", &[4], 0, u64::MAX - 31), "inside the file"),
        ] {
            let error = refused(with_tensor(bad));
            assert!(
                error.contains("test.gguf: t: ") && error.contains(word),
                "{word}: {error}"
            );
        }
        let mut n_dims = text("t");
        n_dims.extend(u32::MAX.to_le_bytes());
        n_dims.extend([0; 64]);
        assert!(refused(raw(1, 0, &[&n_dims])).contains("1 to 4 dimensions"));
        let pair = [tensor("a", &[16], 0, 0), tensor("b", &[16], 0, 32)].concat();
        let mut bytes = raw(2, 0, &[&pair]);
        bytes.resize(bytes.len().next_multiple_of(32) + 4096, 0);
        assert!(refused(bytes).contains("b: expected bytes of its own, found bytes shared with a"));
    }

    #[test]
    fn a_file_cut_at_any_byte_is_an_error() {
        let whole = small();
        let end = parse(whole.clone())
            .unwrap()
            .tensors
            .values()
            .map(|t| t.range.end)
            .max();
        for len in 0..whole.len() {
            let result = parse(whole[..len].to_vec());
            // What lies behind the last tensor is padding.
            assert_eq!(result.is_ok(), Some(len) >= end, "cut at {len}");
        }
    }

    proptest::proptest! {
        #[test]
        fn flipped_bytes_never_panic(flips in proptest::collection::vec((0usize..4096, 0u8..), 1..8)) {
            let mut bytes = small();
            for (at, value) in flips {
                let len = bytes.len();
                bytes[at % len] = value;
            }
            if let Ok(gguf) = parse(bytes) {
                for (_, tensor) in gguf.tensors() {
                    gguf.dequantise(tensor, |row| row);
                }
                for (key, _) in gguf.metadata() {
                    drop((gguf.texts(key), gguf.integers(key), gguf.text(key)));
                }
            }
        }
    }
}
