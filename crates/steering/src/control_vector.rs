//! Control-vector files of llama.cpp and repeng.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use realign_arrays::{Array, safetensors};
use realign_core::{HookPoint, Shape};
use realign_run::{read_at_most, write_atomic};

use crate::gguf::{Gguf, Value};
use crate::{Direction, Error, Result, Steer, SteerEach};

const ARCHITECTURE: &str = "general.architecture";
const HINT: &str = "controlvector.model_hint";
const LAYERS: &str = "controlvector.layer_count";

/// A vector for each of some hundred blocks.
const LARGEST: u64 = 256 << 20;

/// One direction a block, as in a control-vector GGUF.
///
/// `directions[&il]` is added to the **output of the 0-based block `il`**, which is what llama.cpp and repeng do with
/// the tensor `direction.{il}`. Block 0 has none: the format has no place for it. (llama.cpp's own
/// `cvector-generator` stores the difference of block `j` as `direction.{j + 1}`, one block late.)
#[derive(Clone, Debug)]
pub struct ControlVector {
    /// The architecture that it is for, as in `general.architecture` of the model: `llama`.
    pub model_hint: String,
    /// The vector `[d_model]` of each block.
    pub directions: BTreeMap<usize, Tensor<1>>,
}

impl ControlVector {
    /// The directions, each at its block's output.
    pub fn directions(&self) -> Vec<Direction> {
        let direction = |(&il, vector): (&usize, &Tensor<1>)| {
            Direction::new(HookPoint::ResidPost(il), vector.clone(), format!("direction.{il}"))
        };
        self.directions.iter().map(direction).collect()
    }

    /// The hook that adds every direction `strength` times.
    ///
    /// Generators write vectors of length 1, which a stream of length 100 hardly notices: a warning is traced where
    /// all of them are.
    pub fn steer(&self, strength: f64) -> SteerEach {
        let directions = self.directions();
        if !directions.is_empty() && directions.iter().all(|direction| (direction.norm() - 1.0).abs() < 1e-3) {
            tracing::warn!("the control vector's directions all have length 1; strength {strength} may do nothing");
        }
        SteerEach(
            directions
                .into_iter()
                .map(|direction| Steer::new(direction, strength))
                .collect(),
        )
    }

    /// Writes the GGUF file.
    ///
    /// # Errors
    /// [`Error::Field`] where there is no direction, one is for block 0, zero or not finite, or widths differ;
    /// [`Error::Run`] where the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let vectors = self
            .directions()
            .into_iter()
            .map(|direction| (direction.name.clone(), direction.to_vec()));
        let vectors: Vec<_> = vectors.collect();
        let width = vectors.first().map_or(0, |(_, numbers)| numbers.len());
        check(path, &vectors, width, 1..usize::MAX)?;
        let metadata = vec![
            (ARCHITECTURE.to_owned(), Value::String("controlvector".to_owned())),
            (HINT.to_owned(), Value::String(self.model_hint.clone())),
            (
                LAYERS.to_owned(),
                Value::I32(i32::try_from(vectors.len()).unwrap_or(i32::MAX)),
            ),
        ];
        write_atomic(path, &Gguf { metadata, vectors }.to_bytes())?;
        Ok(())
    }

    /// Writes a safetensors file with the same tensors, `direction.{il}`, which may hold block 0 too, and the model hint
    /// in its metadata.
    ///
    /// # Errors
    /// Those of [`Self::save`].
    pub fn save_safetensors(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let vectors: Vec<(String, Vec<f32>)> = self
            .directions()
            .into_iter()
            .map(|direction| (direction.name.clone(), direction.to_vec()))
            .collect();
        let width = vectors.first().map_or(0, |(_, numbers)| numbers.len());
        check(path, &vectors, width, 0..usize::MAX)?;
        let arrays: Vec<(String, Array)> = vectors
            .into_iter()
            .map(|(name, numbers)| (name, Array::new(vec![width], numbers)))
            .collect();
        let notes = [("model_hint", self.model_hint.clone())];
        write_atomic(
            path,
            &safetensors(arrays.iter().map(|(name, array)| (&name[..], array)), &notes),
        )?;
        Ok(())
    }

    /// Reads a GGUF file for a model of this architecture and shape.
    ///
    /// # Errors
    /// [`Error::Run`] where the file cannot be read, [`Error::Format`] where it is damaged, [`Error::Field`] for
    /// another architecture or width, a block that the model does not have, a zero vector, numbers that are not finite.
    pub fn load(path: impl AsRef<Path>, model_hint: &str, shape: &Shape, device: &Device) -> Result<Self> {
        Self::load_for(path.as_ref(), Some(model_hint), shape, device)
    }

    /// Where the model's architecture is not known, any hint will do.
    pub(crate) fn load_for(path: &Path, model_hint: Option<&str>, shape: &Shape, device: &Device) -> Result<Self> {
        let gguf = Gguf::parse(path, &read_at_most(path, LARGEST)?)?;
        let text = |key: &str, wanted: Option<&str>| match (gguf.get(key), wanted) {
            (Some(Value::String(found)), None) => Ok(found.clone()),
            (Some(Value::String(found)), Some(wanted)) if same_architecture(found, wanted) => Ok(found.clone()),
            (found, wanted) => {
                let expected = wanted.map_or_else(|| "a text".to_owned(), |wanted| format!("{wanted:?}"));
                Err(Error::field(path, key, expected, shown(found)))
            }
        };
        text(ARCHITECTURE, Some("controlvector"))?;
        let hint = text(HINT, model_hint)?;
        match gguf.get(LAYERS) {
            Some(Value::I32(0..) | Value::U32(_)) => {}
            found => return Err(Error::field(path, LAYERS, "a number of layers", shown(found))),
        }
        let blocks = check(path, &gguf.vectors, shape.d_model, 1..shape.n_layers)?;
        let vectors = gguf.vectors.into_iter().map(|(_, numbers)| {
            let n = numbers.len();
            Tensor::from_data(TensorData::new(numbers, [n]), device)
        });
        Ok(Self {
            model_hint: model_hint.map_or(hint, str::to_owned),
            directions: blocks.into_iter().zip(vectors).collect(),
        })
    }
}

/// The block of each tensor `direction.{il}`.
pub(crate) fn check(
    path: &Path,
    vectors: &[(String, Vec<f32>)],
    width: usize,
    blocks: Range<usize>,
) -> Result<Vec<usize>> {
    if vectors.is_empty() {
        return Err(Error::format(
            path,
            "expected at least one tensor `direction.{il}`, found none",
        ));
    }
    let block = |(name, numbers): &(String, Vec<f32>)| {
        let index = name
            .strip_prefix("direction.")
            .and_then(|index| index.parse::<usize>().ok());
        let index = index.filter(|il| blocks.contains(il) && *name == format!("direction.{il}"));
        let Some(index) = index else {
            let Range { start, end } = blocks;
            let expected = if end == usize::MAX {
                format!("`direction.{{il}}` with il at least {start}")
            } else {
                format!("`direction.{{il}}` with il from {start} to {}", end.saturating_sub(1))
            };
            return Err(Error::field(path, name, expected, name));
        };
        if numbers.len() != width {
            return Err(Error::field(path, name, format!("{width} numbers"), numbers.len()));
        }
        if let Some(number) = numbers.iter().find(|number| !number.is_finite()) {
            return Err(Error::field(path, name, "finite numbers", number));
        }
        if numbers.iter().all(|&number| number == 0.0) {
            return Err(Error::field(path, name, "a vector that is not zero", "only zeros"));
        }
        Ok(index)
    };
    vectors.iter().map(block).collect()
}

/// llama.cpp writes its own name of an architecture into a file, repeng Hugging Face's `model_type`.
pub(crate) fn same_architecture(a: &str, b: &str) -> bool {
    let name = |name: &str| match name.to_lowercase().replace(['_', '-'], "").as_str() {
        "mistral" => "llama".to_owned(),
        "gemma3text" => "gemma3".to_owned(),
        other => other.to_owned(),
    };
    name(a) == name(b)
}

fn shown(value: Option<&Value>) -> String {
    value.map_or_else(|| "nothing".to_owned(), |value| format!("{value:?}"))
}
