//! The named arrays of a file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::element::{Element, Unread};
use crate::{Array, Error, Result, npy, npz, safetensors, torch, zip};

/// What a file's first bytes say that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `torch.save`: a zip archive around a pickle.
    Torch,
    /// One numpy array.
    Npy,
    /// A zip archive of numpy arrays.
    Npz,
    /// Safetensors.
    Safetensors,
}

/// The named arrays of a file.
///
/// A reader takes those that it knows, and then calls [`Arrays::finish`]: what nobody took might have changed the
/// numbers.
#[derive(Clone, Debug)]
pub struct Arrays {
    path: PathBuf,
    arrays: BTreeMap<String, Array>,
    notes: BTreeMap<String, String>,
}

impl Kind {
    /// The kind of a file, by its content; none where it is no file of arrays.
    ///
    /// # Errors
    /// [`Error::Read`]; [`Error::Format`] for a zip archive that is damaged or holds something else.
    pub fn of(path: impl AsRef<Path>) -> Result<Option<Self>> {
        let path = path.as_ref();
        let (mut file, len) = open(path)?;
        let mut start = Vec::new();
        file.by_ref()
            .take(9)
            .read_to_end(&mut start)
            .map_err(Error::read(path))?;
        if start.starts_with(npy::MAGIC) {
            return Ok(Some(Self::Npy));
        }
        if start.starts_with(zip::MAGIC) {
            let archive = zip::Archive::open(path)?;
            let any = |end: &str| archive.entries().iter().any(|entry| entry.name.ends_with(end));
            return match (any("data.pkl"), any(".npy")) {
                (true, _) => Ok(Some(Self::Torch)),
                (false, true) => Ok(Some(Self::Npz)),
                _ => Err(Error::format(
                    path,
                    "a zip archive with neither `data.pkl` (torch) nor `.npy` files (numpy)",
                )),
            };
        }
        let header = start.first_chunk::<8>().map(|length| u64::from_le_bytes(*length));
        let safetensors = header.is_some_and(|n| n <= len.saturating_sub(8)) && start.last() == Some(&b'{');
        Ok(safetensors.then_some(Self::Safetensors))
    }
}

impl Arrays {
    /// Every array of a file, whichever [`Kind`] it is.
    ///
    /// A single unnamed array ([`Kind::Npy`], a `.pt` that is one tensor) has the empty name. The arrays of a Python list
    /// are named by their index, those of a dictionary by their key.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Format`], [`Error::Array`], [`Error::Name`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        match Kind::of(path)? {
            Some(Kind::Torch) => torch::read(path),
            Some(Kind::Npy) => npy::read(path),
            Some(Kind::Npz) => npz::read(path),
            Some(Kind::Safetensors) => {
                let (mut file, len) = open(path)?;
                safetensors::read(path, &mut file, len)
            }
            None => Err(Error::format(path, what_it_is_not(path)?)),
        }
    }

    /// The arrays of a safetensors file whose bytes are in memory; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::Format`], [`Error::Array`].
    pub fn from_safetensors(path: impl AsRef<Path>, bytes: &[u8]) -> Result<Self> {
        safetensors::read(path.as_ref(), &mut &*bytes, bytes.len() as u64)
    }

    pub(crate) fn new(path: &Path, arrays: BTreeMap<String, Array>) -> Self {
        Self {
            path: path.to_owned(),
            arrays,
            notes: BTreeMap::new(),
        }
    }

    pub(crate) fn with_notes(self, notes: BTreeMap<String, String>) -> Self {
        Self { notes, ..self }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names in order, each with its shape.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.arrays.iter().map(|(name, array)| (&name[..], &array.shape[..]))
    }

    /// The shape of an array.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.arrays.get(name).map(|array| &array.shape[..])
    }

    /// What a safetensors file's `__metadata__` says.
    pub fn note(&self, key: &str) -> Option<&str> {
        self.notes.get(key).map(String::as_str)
    }

    /// Takes an array out, if it is there.
    pub fn pop(&mut self, name: &str) -> Option<Array> {
        self.arrays.remove(name)
    }

    /// Takes the numbers of an array of this shape out.
    ///
    /// # Errors
    /// [`Error::Array`] where there is none, or it has another shape.
    pub fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let expected = || format!("shape {shape:?}");
        match self.arrays.remove(name) {
            Some(array) if array.shape == shape => Ok(array.data),
            Some(array) => Err(Error::array(&self.path, name, expected(), format!("{:?}", array.shape))),
            None => Err(Error::array(&self.path, name, expected(), self.only())),
        }
    }

    /// What is left is an error.
    ///
    /// # Errors
    /// [`Error::Array`] names the first array that was not taken.
    pub fn finish(self) -> Result<()> {
        match self.arrays.first_key_value() {
            None => Ok(()),
            Some((name, array)) => Err(Error::array(
                &self.path,
                name,
                "no such array",
                format!("one of shape {:?}, which is not understood", array.shape),
            )),
        }
    }

    fn only(&self) -> String {
        let names: Vec<String> = self
            .arrays
            .keys()
            .take(10)
            .map(|name| crate::error::clip(name))
            .collect();
        match names.is_empty() {
            true => "nothing".into(),
            false => format!("only {}", names.join(", ")),
        }
    }
}

/// Opens a regular file: a pipe would be waited for.
pub(crate) fn open(path: &Path) -> Result<(File, u64)> {
    let about = std::fs::metadata(path).map_err(Error::read(path))?;
    if !about.is_file() {
        return Err(Error::format(path, "expected a file, found a folder or something else"));
    }
    Ok((File::open(path).map_err(Error::read(path))?, about.len()))
}

/// How much all arrays of a file may take, and how much may be read for them: what the file justifies.
pub(crate) struct Budget {
    left: u64,
    unread: u64,
    file: u64,
}

impl Budget {
    /// A megabyte is for the blocks in which a file is read.
    const SLACK: u64 = 63 << 20;

    /// For a file of so many bytes, when what describes its arrays takes `beside` bytes of memory.
    pub(crate) fn of(file: u64, beside: u64) -> Self {
        let justified = file
            .saturating_mul(2)
            .saturating_add(Self::SLACK)
            .saturating_sub(beside);
        Self {
            left: justified,
            unread: justified,
            file,
        }
    }

    /// Counts bytes that are read for an array: views may overlap, and would read the same ones again and again.
    pub(crate) fn reading(&mut self, path: &Path, name: &str, bytes: u64) -> Result<()> {
        self.unread = self.unread.checked_sub(bytes).ok_or_else(|| {
            let expected = format!(
                "views that read a file of {} bytes twice at most (save clones)",
                self.file
            );
            Error::array(path, name, expected, format!("{bytes} bytes more"))
        })?;
        Ok(())
    }

    /// Counts an array in, before anything is allocated for it; the number of its elements.
    pub(crate) fn array(&mut self, path: &Path, name: &str, shape: &[usize]) -> Result<usize> {
        if shape.len() > crate::array::MOST_AXES {
            let found = format!("{} axes", shape.len());
            return Err(Error::array(
                path,
                name,
                format!("at most {} axes", crate::array::MOST_AXES),
                found,
            ));
        }
        let n = crate::array::elements(shape);
        let bytes = n.and_then(|n| (n as u64).checked_mul(4));
        match (n, bytes) {
            (Some(n), Some(bytes)) if bytes <= self.left => {
                self.left -= bytes;
                Ok(n)
            }
            _ => Err(Error::array(
                path,
                name,
                format!(
                    "arrays that a file of {} bytes justifies (twice that and 64 MiB in all)",
                    self.file
                ),
                format!("shape {shape:?}"),
            )),
        }
    }
}

/// Reads an array's elements, with its name in the error.
pub(crate) fn elements(path: &Path, name: &str, from: &mut dyn Read, element: Element, n: usize) -> Result<Vec<f32>> {
    crate::element::read(from, element, n).map_err(|unread| match unread {
        Unread::Io(source) if source.kind() == std::io::ErrorKind::UnexpectedEof => {
            Error::array(path, name, format!("{n} numbers"), "the end of its data")
        }
        Unread::Io(source) => Error::format(path, format!("array `{}`: {source}", crate::error::clip(name))),
        Unread::Number(found) => Error::array(path, name, "finite numbers that f32 holds", found),
    })
}

fn what_it_is_not(path: &Path) -> Result<String> {
    let (file, _) = open(path)?;
    let mut start = Vec::new();
    file.take(2).read_to_end(&mut start).map_err(Error::read(path))?;
    let wanted = "expected torch's, numpy's or a safetensors file";
    Ok(match start[..] {
        [0x80, _] => {
            format!("{wanted}, found a bare pickle, such as torch before 1.6 wrote: load it there and save it again")
        }
        [] => format!("{wanted}, found an empty file"),
        _ => format!("{wanted}, found other first bytes"),
    })
}
