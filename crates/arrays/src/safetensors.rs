//! Safetensors.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata, TensorView};

use crate::arrays::{Budget, elements};
use crate::element::Element;
use crate::{Array, Arrays, Error, Result};

/// A few lines a tensor; the format's own limit of 100 MB is for whole models.
const LARGEST_HEADER: u64 = 4 << 20;

/// Bytes of memory that a byte of the header becomes, about.
const HELD: u64 = 8;

/// Reads a file of `len` bytes from its beginning to its end.
pub(crate) fn read(path: &Path, from: &mut dyn Read, len: u64) -> Result<Arrays> {
    let wrong = |what: String| Error::format(path, format!("not a safetensors file: {what}"));
    let cut = |_| wrong("expected its header, found the end".into());
    let mut length = [0; 8];
    from.read_exact(&mut length).map_err(cut)?;
    let n = u64::from_le_bytes(length);
    if n > LARGEST_HEADER || n > len.saturating_sub(8) {
        let found = format!("expected a header of at most {LARGEST_HEADER} bytes in a file of {len}, found {n}");
        return Err(wrong(found));
    }
    let mut header = vec![0; n as usize];
    from.read_exact(&mut header).map_err(cut)?;
    // It refuses holes, overlaps and sizes that do not fit the shapes.
    let metadata: Metadata = serde_json::from_slice(&header).map_err(|e| wrong(e.to_string()))?;
    drop(header);
    let (wanted, found) = (metadata.data_len() as u64, len - 8 - n);
    if wanted != found {
        return Err(wrong(format!("expected {wanted} bytes of numbers, found {found}")));
    }
    let mut budget = Budget::of(len, HELD * n);
    let mut arrays = BTreeMap::new();
    for name in metadata.offset_keys() {
        let info = metadata.info(&name).expect("a name of the same file");
        let element = element(info.dtype).ok_or_else(|| {
            let found = format!("type {:?}", info.dtype);
            Error::array(path, &name, "a type of number that is read", found)
        })?;
        let count = budget.array(path, &name, &info.shape)?;
        let data = elements(path, &name, from, element, count)?;
        arrays.insert(name, Array::new(info.shape.clone(), data));
    }
    let notes = metadata.metadata().clone().unwrap_or_default();
    Ok(Arrays::new(path, arrays).with_notes(notes.into_iter().collect()))
}

/// The bytes of a safetensors file: named arrays as F32, and notes for its `__metadata__`. Of one name the last counts.
pub fn safetensors<'a>(
    arrays: impl IntoIterator<Item = (&'a str, &'a Array)>,
    notes: &[(&'static str, String)],
) -> Vec<u8> {
    let arrays: BTreeMap<&str, (Vec<usize>, Vec<u8>)> = arrays
        .into_iter()
        .map(|(name, array)| {
            let bytes = array.data.iter().flat_map(|x| x.to_le_bytes()).collect();
            (name, (array.shape.clone(), bytes))
        })
        .collect();
    let views = arrays.iter().map(|(name, (shape, bytes))| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
        (*name, view.expect("a shape of its own data"))
    });
    let notes: HashMap<String, String> = notes
        .iter()
        .map(|(key, note)| ((*key).to_owned(), note.clone()))
        .collect();
    let notes = (!notes.is_empty()).then_some(notes);
    safetensors::serialize(views, notes).expect("names and shapes make a header")
}

fn element(dtype: Dtype) -> Option<Element> {
    Some(match dtype {
        Dtype::F64 => Element::F64,
        Dtype::F32 => Element::F32,
        Dtype::F16 => Element::F16,
        Dtype::BF16 => Element::BF16,
        Dtype::BOOL => Element::Bool,
        Dtype::I8 => Element::I8,
        Dtype::U8 => Element::U8,
        Dtype::I16 => Element::I16,
        Dtype::U16 => Element::U16,
        Dtype::I32 => Element::I32,
        Dtype::U32 => Element::U32,
        Dtype::I64 => Element::I64,
        Dtype::U64 => Element::U64,
        _ => return None,
    })
}
