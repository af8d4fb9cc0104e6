//! Files of directions, whatever program wrote them, and the block that each direction belongs to.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use realign_arrays::{Array, Arrays, Kind};
use realign_core::{HookPoint, Shape};

use crate::control_vector::same_architecture;
use crate::file::{DESCRIPTION, TENSORS};
use crate::{ControlVector, Direction, Error, Result};

const LOOKED_FOR: &str = "a folder with direction.json, a control-vector GGUF, torch's .pt, numpy's .npy or .npz, or \
                          safetensors";

/// The directions of a file, each at its hook point.
///
/// | file | which direction belongs where |
/// |---|---|
/// | a folder of [`Direction::save`] | as it says |
/// | control-vector GGUF; `direction.{il}` in safetensors or npz | the output of the 0-based block `il` |
/// | a matrix of `n_layers + 1` rows: persona vectors' `.pt` | row 0: the embeddings; row `L`: the output of block `L - 1` |
/// | a matrix of `n_layers` rows | row `il`: the output of block `il` |
/// | vectors named by integers, as a list or a dictionary in a `.pt` | as the rows of a matrix; some of them: blocks |
/// | one vector | it does not say |
///
/// A row of zeros is no direction, and left out.
#[derive(Clone, Debug)]
pub struct Directions {
    path: PathBuf,
    placed: Vec<Direction>,
    /// The vector of a file that does not say where it belongs.
    unplaced: Option<Tensor<1>>,
    /// Whether they are meant to be added all at once, as llama.cpp and repeng do.
    together: bool,
}

impl Directions {
    /// Reads the directions at `path` for a model of this shape; `model_hint` is its architecture, where that is known.
    ///
    /// # Errors
    /// [`Error::NoDirection`] lists what was looked for; [`Error::Field`] for another architecture or width, a block
    /// that the model does not have, only zeros; [`Error::Arrays`] and [`Error::Format`] for a damaged file.
    pub fn load(path: impl AsRef<Path>, model_hint: Option<&str>, shape: &Shape, device: &Device) -> Result<Self> {
        let path = path.as_ref();
        let read = |placed, together| Self {
            path: path.to_owned(),
            placed,
            unplaced: None,
            together,
        };
        match find(path)? {
            Found::Folder(folder) => {
                let direction = Direction::load(folder, device)?;
                if direction.width() != shape.d_model && has_model_width(direction.at) {
                    let expected = format!("{} numbers", shape.d_model);
                    return Err(Error::field(
                        path,
                        direction.at.to_string(),
                        expected,
                        direction.width(),
                    ));
                }
                if direction.at.layer().is_some_and(|layer| layer >= shape.n_layers) {
                    let expected = format!("a block from 0 to {}", shape.n_layers.saturating_sub(1));
                    return Err(Error::field(path, "hook_name", expected, direction.at));
                }
                Ok(read(vec![direction], false))
            }
            Found::Gguf => {
                let vector = ControlVector::load_for(path, model_hint, shape, device)?;
                Ok(read(vector.directions(), true))
            }
            Found::Arrays => Self::of_arrays(path, model_hint, shape, device),
        }
    }

    fn of_arrays(path: &Path, model_hint: Option<&str>, shape: &Shape, device: &Device) -> Result<Self> {
        let mut arrays = Arrays::read(path)?;
        if let Some((found, wanted)) = arrays.note("model_hint").zip(model_hint)
            && !same_architecture(found, wanted)
        {
            return Err(Error::field(
                path,
                "model_hint",
                format!("{wanted:?}"),
                format!("{found:?}"),
            ));
        }
        let names: Vec<String> = arrays.shapes().map(|(name, _)| name.to_owned()).collect();
        let named = |prefix: &str| -> Option<Vec<usize>> {
            let index = |name: &String| name.strip_prefix(prefix)?.parse().ok();
            let indices: Option<Vec<usize>> = names.iter().map(index).collect();
            // No other spelling of a number: `direction.01` would be a second `direction.1`.
            indices.filter(|all| {
                all.iter()
                    .zip(&names)
                    .all(|(index, name)| *name == format!("{prefix}{index}"))
            })
        };
        let (indices, together) = match (named("direction."), named("")) {
            (Some(blocks), _) => (blocks, true),
            (None, Some(indices)) => (indices, false),
            (None, None) if names.len() == 1 => {
                let array = arrays.pop(&names[0]).expect("a name of the same file");
                return Self::of_array(path, &names[0], array, shape, device);
            }
            (None, None) => {
                let expected = "one array, or vectors named `direction.{il}` or by integers";
                let found = names.iter().take(10).map(String::as_str).collect::<Vec<_>>().join(", ");
                return Err(Error::format(path, format!("expected {expected}, found {found}")));
            }
        };
        let mut rows = BTreeMap::new();
        for (index, name) in indices.into_iter().zip(&names) {
            let numbers = arrays.take(name, &[shape.d_model])?;
            rows.insert(index, numbers);
        }
        // All of them and one more are the hidden states, the embeddings first.
        let hidden_states = !together && rows.keys().copied().eq(0..=shape.n_layers);
        Self::of_rows(path, rows, hidden_states, together, shape, device)
    }

    /// A vector or a matrix.
    fn of_array(path: &Path, name: &str, array: Array, shape: &Shape, device: &Device) -> Result<Self> {
        let (d, layers) = (shape.d_model, shape.n_layers);
        let rows = match array.shape[..] {
            [found] if found == d => None,
            // A model of one block is the only one whose matrix has one row.
            [1, found] if found == d && layers > 1 => None,
            [rows, found] if found == d && (rows == layers || rows == layers + 1) => Some(rows),
            _ => {
                let name = if name.is_empty() { "the array" } else { name };
                let expected = format!(
                    "shape [{d}], [{layers}, {d}], or [{}, {d}] with the embeddings",
                    layers + 1
                );
                return Err(Error::field(path, name, expected, format!("{:?}", array.shape)));
            }
        };
        if let Some(rows) = rows {
            let each = array.data.chunks_exact(d).map(<[f32]>::to_vec).enumerate().collect();
            return Self::of_rows(path, each, rows == layers + 1, false, shape, device);
        }
        if array.data.iter().all(|&x| x == 0.0) {
            return Err(Error::format(path, "expected a direction that is not zero, found none"));
        }
        Ok(Self {
            path: path.to_owned(),
            placed: Vec::new(),
            unplaced: Some(Tensor::from_data(TensorData::new(array.data, [d]), device)),
            together: false,
        })
    }

    fn of_rows(
        path: &Path,
        rows: BTreeMap<usize, Vec<f32>>,
        hidden_states: bool,
        together: bool,
        shape: &Shape,
        device: &Device,
    ) -> Result<Self> {
        let mut placed = Vec::new();
        for (index, numbers) in rows {
            let (name, at) = match index.checked_sub(usize::from(hidden_states)) {
                None => ("the embeddings".to_owned(), HookPoint::ResidPre(0)),
                Some(block) if block < shape.n_layers => (format!("direction.{block}"), HookPoint::ResidPost(block)),
                Some(block) => {
                    let expected = format!("blocks from 0 to {}", shape.n_layers.saturating_sub(1));
                    return Err(Error::field(path, format!("index {index}"), expected, block));
                }
            };
            if numbers.iter().any(|&x| x != 0.0) {
                let vector = Tensor::from_data(TensorData::new(numbers, [shape.d_model]), device);
                placed.push(Direction::new(at, vector, name));
            }
        }
        match placed.is_empty() {
            true => Err(Error::format(path, "expected a direction that is not zero, found none")),
            false => Ok(Self {
                path: path.to_owned(),
                placed,
                unplaced: None,
                together,
            }),
        }
    }

    /// Those whose place the file says, in the order of its blocks.
    pub fn placed(&self) -> &[Direction] {
        &self.placed
    }

    /// The directions to use: the one behind this block; without one, what the file means: its only direction, or all of a
    /// control vector's together.
    ///
    /// # Errors
    /// [`Error::Choice`] where there is none behind the block, or the file does not say which one is meant.
    pub fn choose(&self, layer: Option<usize>) -> Result<Vec<Direction>> {
        let wrong = |problem: String| Error::Choice {
            path: self.path.clone(),
            problem,
        };
        match (layer, &self.unplaced) {
            (Some(layer), Some(vector)) => {
                let direction = Direction::new(HookPoint::ResidPost(layer), vector.clone(), self.name());
                Ok(vec![direction])
            }
            (None, Some(_)) => Err(wrong(
                "the vector does not say where it belongs; say behind which layer".into(),
            )),
            (Some(layer), None) => {
                let found = self
                    .placed
                    .iter()
                    .find(|direction| direction.at == HookPoint::ResidPost(layer));
                match found {
                    Some(direction) => Ok(vec![direction.clone()]),
                    None => Err(wrong(format!(
                        "no direction behind layer {layer}; there is one at {}",
                        self.points()
                    ))),
                }
            }
            (None, None) if self.together || self.placed.len() == 1 => Ok(self.placed.clone()),
            (None, None) => Err(wrong(format!(
                "{} directions, of which one is to be chosen by its layer: {}",
                self.placed.len(),
                self.points()
            ))),
        }
    }

    fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or(self.path.as_os_str());
        name.to_string_lossy().into_owned()
    }

    /// Their hook points, not too many.
    fn points(&self) -> String {
        const SHOWN: usize = 4;
        let points: Vec<String> = self.placed.iter().map(|direction| direction.at.to_string()).collect();
        match points.len() {
            n if n > SHOWN => format!("{}, … {}", points[..SHOWN - 1].join(", "), points[n - 1]),
            _ => points.join(", "),
        }
    }
}

/// What lies at a path.
enum Found {
    Folder(PathBuf),
    Gguf,
    Arrays,
}

fn find(path: &Path) -> Result<Found> {
    let none = |found: &str| Error::NoDirection {
        path: path.to_owned(),
        expected: LOOKED_FOR,
        found: found.to_owned(),
    };
    if path.is_dir() {
        return match path.join(DESCRIPTION).is_file() {
            true => Ok(Found::Folder(path.to_owned())),
            false => Err(none("a folder without it")),
        };
    }
    if !path.is_file() {
        return Err(none("no such file or folder"));
    }
    let read = |source| Error::Read {
        path: path.to_owned(),
        source,
    };
    let mut start = Vec::new();
    File::open(path)
        .map_err(read)?
        .take(4)
        .read_to_end(&mut start)
        .map_err(read)?;
    if start == b"GGUF" {
        return Ok(Found::Gguf);
    }
    let beside = path.with_file_name(DESCRIPTION);
    let ours = path
        .file_name()
        .is_some_and(|name| name == DESCRIPTION || name == TENSORS);
    if let Some(folder) = beside.parent().filter(|_| ours && beside.is_file()) {
        return Ok(Found::Folder(folder.to_owned()));
    }
    match Kind::of(path)? {
        Some(_) => Ok(Found::Arrays),
        None => Err(none("another file")),
    }
}

/// Whether activations there are as wide as the residual stream.
fn has_model_width(at: HookPoint) -> bool {
    !matches!(
        at,
        HookPoint::Q(_)
            | HookPoint::K(_)
            | HookPoint::V(_)
            | HookPoint::Z(_)
            | HookPoint::MlpPost(_)
            | HookPoint::LinearIn { .. }
    )
}
