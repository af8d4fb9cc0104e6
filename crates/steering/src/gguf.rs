//! The part of GGUF that control vectors use: key/value metadata and F32 vectors.

use std::path::Path;

use crate::file::finite_f32s;
use crate::{Error, Result};

const MAGIC: &[u8; 4] = b"GGUF";
const VERSION: u32 = 3;
const ALIGNMENT: usize = 32;
const F32: u32 = 0;
/// A control vector has a handful of keys and a vector for each block; more of either would take more memory than the
/// file that they are in.
const MAX_ENTRIES: u64 = 1 << 12;

/// A metadata value: the kinds that a control vector has, and the kind number of any other.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    U32(u32),
    I32(i32),
    String(String),
    Other(u32),
}

/// Metadata and vectors, in the file's order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Gguf {
    pub(crate) metadata: Vec<(String, Value)>,
    pub(crate) vectors: Vec<(String, Vec<f32>)>,
}

impl Gguf {
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.metadata
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value)
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(VERSION.to_le_bytes());
        out.extend((self.vectors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            put_string(&mut out, key);
            match value {
                Value::U32(number) => {
                    out.extend(4_u32.to_le_bytes());
                    out.extend(number.to_le_bytes());
                }
                Value::I32(number) => {
                    out.extend(5_u32.to_le_bytes());
                    out.extend(number.to_le_bytes());
                }
                Value::String(text) => {
                    out.extend(8_u32.to_le_bytes());
                    put_string(&mut out, text);
                }
                Value::Other(kind) => unreachable!("values of kind {kind} are read only"),
            }
        }
        let mut offset = 0;
        for (name, numbers) in &self.vectors {
            put_string(&mut out, name);
            out.extend(1_u32.to_le_bytes());
            out.extend((numbers.len() as u64).to_le_bytes());
            out.extend(F32.to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            offset += (4 * numbers.len()).next_multiple_of(ALIGNMENT);
        }
        for (_, numbers) in &self.vectors {
            out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
            out.extend(numbers.iter().flat_map(|x| x.to_le_bytes()));
        }
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        out
    }

    pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader { path, bytes, at: 0 };
        if reader.take(4)? != MAGIC {
            return Err(Error::format(path, "expected a GGUF file, found other first bytes"));
        }
        let version = reader.u32()?;
        if !(2..=3).contains(&version) {
            return Err(Error::format(
                path,
                format!("expected GGUF version 2 or 3, found {version}"),
            ));
        }
        let (n_vectors, n_metadata) = (reader.u64()?, reader.u64()?);
        for (field, count) in [("tensor_count", n_vectors), ("metadata_kv_count", n_metadata)] {
            if count > MAX_ENTRIES {
                return Err(Error::field(path, field, format!("at most {MAX_ENTRIES}"), count));
            }
        }
        let (mut metadata, mut alignment) = (Vec::new(), ALIGNMENT);
        for _ in 0..n_metadata {
            let key = reader.string()?;
            let kind = reader.u32()?;
            let value = reader.value(kind)?;
            if metadata.iter().any(|(name, _)| *name == key) {
                return Err(Error::field(path, key, "one value", "two"));
            }
            if key == "general.alignment" {
                alignment = match value {
                    Value::U32(n) if n.is_power_of_two() && n <= 1 << 16 => n as usize,
                    _ => {
                        return Err(Error::field(
                            path,
                            key,
                            "a power of two up to 65536",
                            format!("{value:?}"),
                        ));
                    }
                };
            }
            metadata.push((key, value));
        }
        let mut infos = Vec::new();
        for _ in 0..n_vectors {
            let name = reader.string()?;
            let n_dims = reader.u32()?;
            if n_dims != 1 {
                return Err(Error::field(path, name, "a vector (1 axis)", format!("{n_dims} axes")));
            }
            let (length, kind, offset) = (reader.u64()?, reader.u32()?, reader.u64()?);
            if kind != F32 {
                return Err(Error::field(path, name, "type F32 (0)", kind));
            }
            infos.push((name, length, offset));
        }
        let data = &bytes[reader.at.next_multiple_of(alignment).min(bytes.len())..];
        let mut vectors: Vec<(String, Vec<f32>)> = Vec::new();
        let mut read = 0;
        for (name, length, offset) in infos {
            if vectors.iter().any(|(other, _)| *other == name) {
                return Err(Error::field(path, name, "one tensor", "two"));
            }
            let range = || {
                let start = usize::try_from(offset).ok()?;
                let end = usize::try_from(length).ok()?.checked_mul(4)?.checked_add(start)?;
                data.get(start..end)
            };
            let found = range().ok_or_else(|| {
                let expected = format!("{length} numbers at byte {offset} of the data");
                Error::field(path, &name, expected, format!("{} bytes of data", data.len()))
            })?;
            read += found.len();
            if read > data.len() {
                return Err(Error::field(path, name, "tensors that share no bytes", "an overlap"));
            }
            let numbers = finite_f32s(path, &name, found)?;
            vectors.push((name, numbers));
        }
        Ok(Self { metadata, vectors })
    }
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

struct Reader<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(n).filter(|&end| end <= self.bytes.len());
        let Some(end) = end else {
            let (at, len) = (self.at, self.bytes.len());
            return Err(Error::format(
                self.path,
                format!("expected {n} bytes at byte {at}, found the end at {len}"),
            ));
        };
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn u64(&mut self) -> Result<u64> {
        let (low, high) = (self.u32()?, self.u32()?);
        Ok(u64::from(high) << 32 | u64::from(low))
    }

    fn string(&mut self) -> Result<String> {
        let (at, n) = (self.at, self.u64()?);
        let bytes = self.take(usize::try_from(n).unwrap_or(usize::MAX))?;
        let text = std::str::from_utf8(bytes);
        Ok(text
            .map_err(|error| Error::format(self.path, format!("the string at byte {at}: {error}")))?
            .to_owned())
    }

    fn value(&mut self, kind: u32) -> Result<Value> {
        match kind {
            4 => Ok(Value::U32(self.u32()?)),
            5 => Ok(Value::I32(self.u32()? as i32)),
            8 => Ok(Value::String(self.string()?)),
            9 => {
                let (of, n) = (self.u32()?, self.u64()?);
                if of == 9 {
                    return Err(Error::format(
                        self.path,
                        "expected no array of arrays in the metadata, found one",
                    ));
                }
                for _ in 0..n {
                    self.value(of)?;
                }
                Ok(Value::Other(kind))
            }
            _ => {
                let size = match kind {
                    0 | 1 | 7 => 1,
                    2 | 3 => 2,
                    6 => 4,
                    10..=12 => 8,
                    _ => {
                        return Err(Error::format(
                            self.path,
                            format!("expected a value of kind 0 to 12, found {kind}"),
                        ));
                    }
                };
                self.take(size)?;
                Ok(Value::Other(kind))
            }
        }
    }
}
