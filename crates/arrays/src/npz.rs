//! Numpy's `.npz`: a zip archive of `.npy` files.

use std::collections::BTreeMap;
use std::path::Path;

use crate::arrays::Budget;
use crate::error::clip;
use crate::zip::Archive;
use crate::{Arrays, Error, Result, npy};

pub(crate) fn read(path: &Path) -> Result<Arrays> {
    let mut archive = Archive::open(path)?;
    let mut budget = Budget::of(archive.len(), archive.held());
    let mut arrays = BTreeMap::new();
    for entry in archive.entries().to_vec() {
        let Some(name) = entry.name.strip_suffix(".npy") else {
            let what = format!("expected members named *.npy, found `{}`", clip(&entry.name));
            return Err(Error::format(path, what));
        };
        let mut member = archive.member(&entry)?;
        let array = npy::member(path, name, &mut member, entry.size, &mut budget)?;
        if arrays.insert(name.to_owned(), array).is_some() {
            return Err(Error::array(path, name, "one array of this name", "two"));
        }
    }
    Ok(Arrays::new(path, arrays))
}
