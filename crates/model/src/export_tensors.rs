//! The tensors of a file that a model is written to, and where their numbers come from.

use std::collections::BTreeMap;

use realign_core::{LanguageModel, Rows, Weight};

use crate::weight_names::WeightNames;
use crate::{Checkpoint, DecoderConfig, Error, Result};

/// A tensor to be written: one of the source's own, or made of the model's linear maps.
pub(crate) struct Planned {
    /// Its Hugging Face name; what the source has no such name for keeps its own.
    pub(crate) name: String,
    /// Row-major.
    pub(crate) shape: Vec<usize>,
    /// What the source calls it.
    source: String,
    maps: Vec<Map>,
    transposed: bool,
    /// Added to every number: norms count from one in some files.
    offset: f32,
}

/// A weight of the model, and its rows in the tensor.
#[derive(Clone, Copy)]
struct Map {
    weight: Weight,
    rows: Rows,
}

/// Every tensor of the file that `checkpoint` becomes under the layout of `to`, sorted by name.
pub(crate) fn plan(checkpoint: &Checkpoint, config: &DecoderConfig, to: WeightNames) -> Result<Vec<Planned>> {
    let from = checkpoint.weight_names(config.architecture);
    let root = checkpoint.root(&from);
    let mut maps = maps(config, to, root);
    let mut planned = Vec::new();
    for source in checkpoint.names() {
        let maps = maps.remove(&source).unwrap_or_default();
        let shape = match maps.first() {
            None => checkpoint.shape(&source).unwrap_or_default(),
            Some(Map { weight, rows }) => match d_in(config, *weight) {
                Some(d_in) if to.modules.transposed => vec![d_in, rows.total],
                Some(d_in) => vec![rows.total, d_in],
                None => vec![rows.total],
            },
        };
        let is_norm = source.ends_with("norm.weight");
        let offset = match (from.norms_from_one, to.norms_from_one) {
            (true, false) if is_norm => 1.0,
            (false, true) if is_norm => -1.0,
            _ => 0.0,
        };
        planned.push(Planned {
            name: source.clone(),
            shape,
            source,
            maps,
            transposed: to.modules.transposed,
            offset,
        });
    }
    match maps.keys().next() {
        Some(name) => {
            let found = format!("none among {} tensors", planned.len());
            Err(Error::format(checkpoint.path(), name, "a tensor of this name", found))
        }
        None => Ok(planned),
    }
}

/// The linear maps in each of the tensors that hold some.
fn maps(config: &DecoderConfig, names: WeightNames, root: &str) -> BTreeMap<String, Vec<Map>> {
    let shape = &config.shape;
    let mut maps: BTreeMap<String, Vec<Map>> = BTreeMap::new();
    for layer in 0..shape.n_layers {
        for site in shape.sites.iter() {
            let stem = format!(
                "{root}{}{layer}.{}",
                names.modules.blocks,
                (names.modules.linear)(site).0
            );
            let rows = names.rows(site, shape);
            let weight = Weight::Linear { layer, site };
            maps.entry(format!("{stem}.weight"))
                .or_default()
                .push(Map { weight, rows });
            if config.biases.contains(site) {
                let weight = Weight::Bias { layer, site };
                maps.entry(format!("{stem}.bias"))
                    .or_default()
                    .push(Map { weight, rows });
            }
        }
        for expert in 0..config.experts.map_or(0, |experts| experts.count) {
            let name = format!(
                "{root}{}{layer}.{}{expert}.down_proj.weight",
                names.modules.blocks, names.experts
            );
            let (weight, rows) = (Weight::ExpertDown { layer, expert }, Rows::all(shape.d_model));
            maps.entry(name).or_default().push(Map { weight, rows });
        }
    }
    maps
}

/// How many numbers a map takes; none for a bias.
fn d_in(config: &DecoderConfig, weight: Weight) -> Option<usize> {
    match weight {
        Weight::Linear { site, .. } => Some(config.shape.linear(site)[0]),
        Weight::ExpertDown { .. } => config.experts.map(|experts| config.shape.d_mlp / experts.per_token),
        _ => None,
    }
}

impl Planned {
    /// The tensor's numbers: the model's, or else the source's.
    ///
    /// # Errors
    /// When the source cannot be read.
    pub(crate) fn values(&self, checkpoint: &Checkpoint, model: &dyn LanguageModel) -> Result<Vec<f32>> {
        if !self.maps.is_empty() {
            return Ok(self.of_maps(model));
        }
        let (_, mut numbers) = checkpoint.tensor(&self.source)?;
        if self.offset != 0.0 {
            numbers.iter_mut().for_each(|x| *x += self.offset);
        }
        Ok(numbers)
    }

    /// The linear maps' rows `[out, in]` in their places, or `[in, out]` where the file has it so.
    fn of_maps(&self, model: &dyn LanguageModel) -> Vec<f32> {
        let mut numbers = vec![0.0; self.shape.iter().product()];
        let total = self.maps[0].rows.total;
        let width = numbers.len() / total;
        for map in &self.maps {
            // [in, out]; a bias has one row.
            let Some(weight) = model.weight(map.weight) else {
                continue;
            };
            let n = weight.dims()[1];
            let weight: Vec<f32> = weight.into_data().iter::<f32>().collect();
            for row in 0..n {
                let place = map.rows.source(row);
                for column in 0..width {
                    let at = match self.transposed {
                        true => column * total + place,
                        false => place * width + column,
                    };
                    numbers[at] = weight[column * n + row];
                }
            }
        }
        numbers
    }
}
