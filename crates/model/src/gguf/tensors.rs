//! A GGUF's tensors: where they lie, how they are stored, what they hold.

use std::collections::BTreeMap;
use std::ops::Range;

use rayon::prelude::*;

use super::Gguf;
use super::header::Reader;
use crate::{GgmlType, Result};

const MAX_DIMS: u32 = 4;

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

/// A tensor before its offset is known to be good.
pub(super) struct Described {
    shape: Vec<usize>,
    kind: GgmlType,
    size: usize,
    offset: u64,
}

impl GgufTensor {
    /// Elements in one row: the innermost axis.
    pub fn width(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }
}

impl Gguf {
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
}

impl Reader<'_> {
    /// A tensor's description.
    pub(super) fn tensor(&mut self, name: &str) -> Result<Described> {
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

/// Turns offsets into ranges of the file, refusing what is unaligned, outside, or overlapping.
pub(super) fn place(
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
        16..=19 | 21..=23 | 29 => "an IQ type",
        24..=27 => "an integer type",
        28 => "F64",
        34 | 35 => "a ternary type",
        _ => "unknown",
    }
}
