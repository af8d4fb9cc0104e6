//! What `torch.save` writes: a zip archive with a pickle, and a member for each storage.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use crate::array::strided;
use crate::arrays::{Budget, elements};
use crate::error::clip;
use crate::pickle::{HELD, LARGEST, Node, Pickle, TensorView};
use crate::zip::{Archive, Entry};
use crate::{Array, Arrays, Error, Result};

const PICKLE: &str = "data.pkl";

pub(crate) fn read(path: &Path) -> Result<Arrays> {
    let mut archive = Archive::open(path)?;
    let (root, pickle) = pickle(path, &mut archive)?;
    let mut budget = Budget::of(archive.len(), archive.held() + HELD * pickle.len() as u64);
    if let Some(order) = small(path, &mut archive, &format!("{root}byteorder"))?
        && order != b"little"
    {
        return Err(Error::format(
            path,
            "expected little-endian numbers (`byteorder`), found others",
        ));
    }
    let pickle = Pickle::parse(path, &pickle)?;
    let mut arrays = BTreeMap::new();
    for (name, tensor) in named(path, &pickle)? {
        if arrays.contains_key(&*name) {
            return Err(Error::array(path, &name, "one array of this name", "two"));
        }
        let array = array(path, &mut archive, &root, &name, tensor, &mut budget)?;
        arrays.insert(name.into_owned(), array);
    }
    match arrays.is_empty() {
        true => Err(Error::format(
            path,
            "expected a tensor, or a dictionary or list of tensors, found none",
        )),
        false => Ok(Arrays::new(path, arrays)),
    }
}

/// The pickle, and the folder in the archive that it lies in.
fn pickle(path: &Path, archive: &mut Archive) -> Result<(String, Vec<u8>)> {
    let is_pickle = |entry: &&Entry| entry.name == PICKLE || entry.name.ends_with("/data.pkl");
    let entry = archive.entries().iter().find(is_pickle).cloned();
    let entry = entry.ok_or_else(|| Error::format(path, "expected `data.pkl` in the archive, found none"))?;
    let root = entry.name[..entry.name.len() - PICKLE.len()].to_owned();
    if entry.size > LARGEST {
        let what = format!("expected a pickle of at most {LARGEST} bytes, found {}", entry.size);
        return Err(Error::format(path, what));
    }
    Ok((root, bytes(path, archive, &entry)?))
}

fn small(path: &Path, archive: &mut Archive, name: &str) -> Result<Option<Vec<u8>>> {
    let entry = archive.entry(name).filter(|entry| entry.size < 64).cloned();
    entry.map(|entry| bytes(path, archive, &entry)).transpose()
}

fn bytes(path: &Path, archive: &mut Archive, entry: &Entry) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut member = archive.unchecked(entry, 0)?;
    member.read_to_end(&mut bytes).map_err(Error::read(path))?;
    match bytes.len() as u64 == entry.size {
        true => Ok(bytes),
        false => Err(Error::format(
            path,
            format!("member `{}` is cut off", clip(&entry.name)),
        )),
    }
}

/// The tensors of the value, a dictionary's or a list's with their names; whatever else is in there is no array.
fn named<'p, 'a>(path: &Path, pickle: &'p Pickle<'a>) -> Result<Vec<(Cow<'a, str>, &'p TensorView<'a>)>> {
    let mut found = Vec::new();
    let mut add = |name: Cow<'a, str>, node: &'p Node<'a>| match node {
        Node::Tensor(tensor) => {
            found.push((name, tensor));
            Ok(())
        }
        Node::Dict(_) | Node::List(_) | Node::Tuple(_) => {
            let expected = "a tensor or a plain value: nested dictionaries and lists are not read";
            Err(Error::array(path, &name, expected, "one"))
        }
        _ => Ok(()),
    };
    match pickle.top() {
        tensor @ Node::Tensor(_) => add("".into(), tensor)?,
        Node::Dict(items) => {
            for &(key, value) in items {
                let name = match pickle.get(key) {
                    Node::Str(text) => Cow::Borrowed(*text),
                    Node::Int(number) => number.to_string().into(),
                    _ => {
                        return Err(Error::format(
                            path,
                            "expected a dictionary's keys to be text or integers",
                        ));
                    }
                };
                add(name, pickle.get(value))?;
            }
        }
        Node::List(items) | Node::Tuple(items) => {
            for (i, &item) in items.iter().enumerate() {
                add(i.to_string().into(), pickle.get(item))?;
            }
        }
        _ => {}
    }
    Ok(found)
}

fn array(
    path: &Path,
    archive: &mut Archive,
    root: &str,
    name: &str,
    tensor: &TensorView<'_>,
    budget: &mut Budget,
) -> Result<Array> {
    let TensorView {
        storage,
        offset,
        shape,
        strides,
    } = tensor;
    let count = budget.array(path, name, shape)?;
    let wrong = |expected: String, found: String| Error::array(path, name, expected, found);
    if strides.len() != shape.len() {
        return Err(wrong(format!("{} strides", shape.len()), format!("{strides:?}")));
    }
    if shape
        .iter()
        .zip(strides)
        .any(|(&axis, &stride)| axis > 1 && stride == 0)
    {
        let expected = "a view without a stride of 0 (save `tensor.clone()`)".into();
        return Err(wrong(expected, format!("shape {shape:?} with strides {strides:?}")));
    }
    let steps = shape
        .iter()
        .zip(strides)
        .map(|(&axis, &stride)| axis.saturating_sub(1).checked_mul(stride));
    let last = steps.into_iter().try_fold(*offset, |at, step| at.checked_add(step?));
    if count > 0 && (last.is_none_or(|last| last >= storage.numel) || count > storage.numel) {
        let found = format!("shape {shape:?} with strides {strides:?} from {offset}");
        return Err(wrong(
            format!("a view of its storage of {} numbers", storage.numel),
            found,
        ));
    }
    if count == 0 {
        return Ok(Array::new(shape.clone(), Vec::new()));
    }
    let member = format!("{root}data/{}", storage.key);
    let entry = archive.entry(&member).cloned();
    let entry = entry.ok_or_else(|| wrong(format!("its numbers in member `{}`", clip(&member)), "none".into()))?;
    let bytes = (storage.numel as u64).checked_mul(storage.element.size() as u64);
    if bytes != Some(entry.size) || !entry.stored {
        let expected = format!("{} numbers, stored, in member `{}`", storage.numel, clip(&member));
        let how = if entry.stored { "" } else { ", deflated" };
        return Err(wrong(expected, format!("{} bytes{how}", entry.size)));
    }
    // Of the storage only what lies between the view's first number and its last.
    let span = last.map_or(count, |last| last - offset + 1);
    let size = storage.element.size();
    budget.reading(path, name, (span * size) as u64)?;
    let mut numbers = archive.unchecked(&entry, (offset * size) as u64)?;
    let data = elements(path, name, &mut numbers, storage.element, span)?;
    let data = match strides[..] == contiguous(shape)[..] {
        true => data,
        false => strided(&data, shape, 0, strides),
    };
    Ok(Array::new(shape.clone(), data))
}

/// The strides of an array in row-major order, none of whose axes is empty.
fn contiguous(shape: &[usize]) -> Vec<usize> {
    (0..shape.len())
        .map(|axis| shape[axis + 1..].iter().product())
        .collect()
}
