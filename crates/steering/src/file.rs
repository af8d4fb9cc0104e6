//! Direction files: JSON beside safetensors.

use std::fs;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use realign_arrays::{Array, Arrays, safetensors};
use realign_run::{read_json, write_atomic, write_json};
use serde::{Deserialize, Serialize};

use crate::{Direction, Error, Result};

pub(crate) const DESCRIPTION: &str = "direction.json";
pub(crate) const TENSORS: &str = "direction.safetensors";
const TENSOR: &str = "vector";
const SCHEMA: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    schema: u32,
    name: String,
    hook_name: String,
    d: usize,
    norm: f64,
}

impl Direction {
    /// Writes the folder `dir`: `direction.json` and `direction.safetensors`.
    ///
    /// # Errors
    /// [`Error::Run`] where a file cannot be written.
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<()> {
        let dir = dir.as_ref();
        let create = |source| realign_run::Error::Io {
            action: "create",
            path: dir.to_owned(),
            source,
        };
        fs::create_dir_all(dir).map_err(create)?;
        let array = Array::new(vec![self.width()], self.to_vec());
        write_atomic(dir.join(TENSORS), &safetensors([(TENSOR, &array)], &[]))?;
        let description = Description {
            schema: SCHEMA,
            name: self.name.clone(),
            hook_name: self.at.to_string(),
            d: self.width(),
            norm: self.norm(),
        };
        write_json(dir.join(DESCRIPTION), &description)?;
        Ok(())
    }

    /// Reads a folder that [`Self::save`] wrote.
    ///
    /// # Errors
    /// [`Error::Run`] where a file cannot be read, [`Error::Format`] and [`Error::Field`] name what
    /// is wrong in it.
    pub fn load(dir: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let path = dir.as_ref().join(DESCRIPTION);
        let description: Description = read_json(&path)?;
        if description.schema != SCHEMA {
            return Err(Error::field(&path, "schema", SCHEMA.to_string(), description.schema));
        }
        let at = description.hook_name.parse();
        let at = at.map_err(|_| Error::field(&path, "hook_name", "a hook point's name", &description.hook_name))?;

        let path = dir.as_ref().join(TENSORS);
        let mut arrays = Arrays::read(&path)?;
        let numbers = arrays.take(TENSOR, &[description.d])?;
        arrays.finish()?;
        let vector = Tensor::from_data(TensorData::new(numbers, [description.d]), device);
        Ok(Self {
            at,
            vector,
            name: description.name,
        })
    }
}

/// Little-endian numbers, all of them finite.
pub(crate) fn finite_f32s(path: &Path, tensor: &str, bytes: &[u8]) -> Result<Vec<f32>> {
    let numbers: Vec<f32> = bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect();
    match numbers.iter().find(|number| !number.is_finite()) {
        Some(number) => Err(Error::field(path, tensor, "finite numbers", number)),
        None => Ok(numbers),
    }
}
