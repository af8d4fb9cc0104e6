//! One safetensors file: its table of tensors, checked, over bytes that stay where they are.

use crate::{Error, FileBytes, Result};
use half::{bf16, f16};
use rayon::prelude::*;
use realign_run::tensor_header_problem;
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::ops::Range;

/// One safetensors file.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) bytes: FileBytes,
    pub(crate) tensors: BTreeMap<String, Stored>,
    pub(crate) metadata: BTreeMap<String, String>,
}

/// Where a safetensors tensor lies.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) shape: Vec<usize>,
    dtype: Dtype,
    range: Range<usize>,
}

impl Shard {
    pub(crate) fn parse(bytes: FileBytes) -> Result<Self> {
        let path = bytes.path();
        let fail = |e: String| Error::format(path, "header", "a valid safetensors file", e);
        if let Some(problem) = tensor_header_problem(&bytes) {
            return Err(fail(problem));
        }
        let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| fail(e.to_string()))?;
        let data = header + 8;
        let mut tensors = BTreeMap::new();
        for (name, info) in metadata.tensors() {
            if !matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
                let found = format!("{:?}", info.dtype);
                return Err(Error::format(path, name, "dtype F32, F16 or BF16", found));
            }
            let range = data + info.data_offsets.0..data + info.data_offsets.1;
            tensors.insert(
                name,
                Stored {
                    shape: info.shape.clone(),
                    dtype: info.dtype,
                    range,
                },
            );
        }
        let metadata = metadata.metadata().clone().unwrap_or_default().into_iter().collect();
        Ok(Self {
            bytes,
            tensors,
            metadata,
        })
    }

    pub(crate) fn values(&self, tensor: &Stored) -> Vec<f32> {
        let bytes = &self.bytes[tensor.range.clone()];
        // Elements need not be aligned in the file, so they are put together byte by byte.
        match tensor.dtype {
            Dtype::F32 => widen(bytes, |b: [u8; 4]| f32::from_le_bytes(b)),
            Dtype::F16 => widen(bytes, |b: [u8; 2]| f16::from_le_bytes(b).to_f32()),
            _ => widen(bytes, |b: [u8; 2]| bf16::from_le_bytes(b).to_f32()),
        }
    }
}

fn widen<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> f32 + Sync) -> Vec<f32> {
    let (elements, _) = bytes.as_chunks::<N>();
    elements
        .par_iter()
        .with_min_len(1 << 14)
        .map(|element| read(*element))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Result<Shard> {
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat();
        Shard::parse(FileBytes::from_vec("m.safetensors", bytes))
    }

    fn tensor(name: &str, dtype: &str, shape: &str, from: usize, to: usize) -> String {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    }

    fn refused(tensors: &[String], data: &[u8]) -> String {
        file(&format!("{{{}}}", tensors.join(",")), data)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn half_and_single_precision_become_f32() {
        let header = format!(
            "{{{},{},{}}}",
            tensor("a", "F32", "[1]", 0, 4),
            tensor("b", "F16", "[2,1]", 4, 8),
            tensor("c", "BF16", "[0]", 8, 8)
        );
        let mut data = 1.5f32.to_le_bytes().to_vec();
        data.extend(
            [f16::from_f32(-2.0), f16::from_f32(0.25)]
                .map(f16::to_le_bytes)
                .concat(),
        );
        let shard = file(&header, &data).unwrap();
        assert_eq!(shard.values(&shard.tensors["a"]), [1.5]);
        assert_eq!(shard.values(&shard.tensors["b"]), [-2.0, 0.25]);
        assert_eq!(shard.tensors["b"].shape, [2, 1]);
        assert_eq!(shard.values(&shard.tensors["c"]), [0.0f32; 0]);
    }

    #[test]
    fn hostile_headers_are_errors() {
        let a = |from, to| tensor("a", "F32", "[1]", from, to);
        let b = |from, to| tensor("b", "F32", "[1]", from, to);
        for (tensors, len) in [
            (vec![a(4, 8)], 8),                                             // a hole
            (vec![a(0, 4), b(2, 6)], 6),                                    // an overlap
            (vec![a(4, 0)], 4),                                             // reversed
            (vec![a(0, 4)], 9),                                             // trailing bytes
            (vec![tensor("a", "F32", "[4611686018427387904,4]", 0, 4)], 4), // overflow
            (vec![tensor("a", "U128", "[1]", 0, 4)], 4),                    // unknown
            (vec![tensor("a", "I32", "[1]", 0, 4)], 4),                     // not floats
            (vec![a(0, 4), a(0, 4)], 4),                                    // twice
        ] {
            let error = refused(&tensors, &vec![0; len]);
            assert!(error.starts_with("m.safetensors: "), "{tensors:?}: {error}");
        }
        assert!(refused(&[a(0, 4), a(0, 4)], &[0; 4]).contains("the key `a` twice"));
        assert!(refused(&[tensor("a", "I32", "[1]", 0, 4)], &[0; 4]).contains("a: expected dtype"));
        for header in ["", "[]", "\u{7f}", &"[".repeat(1 << 20)] {
            assert!(file(header, &[]).is_err());
        }
        let too_long = u64::MAX.to_le_bytes().to_vec();
        assert!(Shard::parse(FileBytes::from_vec("m", too_long)).is_err());
        assert!(Shard::parse(FileBytes::from_vec("m", vec![])).is_err());
    }
}
