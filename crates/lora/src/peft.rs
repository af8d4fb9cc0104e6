//! Adapter folders of Python's PEFT.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::tensor::{Device, Tensor};
use realign_core::{Shape, Site, Weight};
use realign_run::{read_at_most, write_atomic, write_json};

use crate::pattern::module_path;
use crate::peft_config::{self, Asked};
use crate::peft_modules::module;
use crate::{Adapter, Dora, Error, Lora, Result, tensors};

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";

/// What the name of an adapter's magnitudes ends with.
const MAGNITUDE: &str = "lora_magnitude_vector";

/// A configuration is some kilobytes.
const LARGEST_CONFIG: u64 = 1 << 20;

/// Writes adapters as a PEFT folder: `adapter_config.json` and `adapter_model.safetensors`.
///
/// Python's PEFT loads it with `PeftModel.from_pretrained`. `base_model` is the name or path of the model that the
/// adapters belong to.
///
/// # Errors
/// [`Error::Run`] where a file cannot be written.
pub fn save(lora: &Lora, base_model: &str, dir: impl AsRef<Path>) -> Result<()> {
    let dir = dir.as_ref();
    let create = |source| realign_run::Error::Io {
        action: "create",
        path: dir.to_owned(),
        source,
    };
    fs::create_dir_all(dir).map_err(create)?;
    let with_magnitudes = lora.adapters.values().filter(|adapter| adapter.dora.is_some()).count();
    if with_magnitudes != 0 && with_magnitudes != lora.adapters.len() {
        let found = format!("{with_magnitudes} of {} with magnitudes", lora.adapters.len());
        return Err(Error::config(
            "adapters",
            "magnitudes (DoRA) at all places or at none",
            found,
        ));
    }
    let mut named = Vec::new();
    for (&(layer, site), adapter) in &lora.adapters {
        let [a, b, magnitude] = keys(layer, site);
        named.push((a, adapter.a.clone().transpose()));
        named.push((b, adapter.b.clone().transpose()));
        named.extend(
            adapter
                .dora
                .iter()
                .map(|dora| (magnitude.clone(), dora.magnitude.clone())),
        );
    }
    let saved = lora.saved.iter().map(|(weight, w)| {
        let w = w.clone();
        let w = if is_linear(*weight) { w.transpose() } else { w };
        (saved_key(*weight), w)
    });
    named.extend(saved);
    write_atomic(dir.join(TENSORS), &tensors::write(named, is_vector))?;
    // Last, so that a folder with a configuration is a whole one.
    write_json(dir.join(CONFIG), &peft_config::write(lora, base_model))?;
    Ok(())
}

/// Reads a PEFT folder for a model of this shape.
///
/// Every option of the configuration is either followed, or known to change nothing, or refused by name: biases, swapped
/// axes, saved norms, and options that are unknown and not null. An adapter with magnitudes (DoRA) or saved modules is
/// merged, or attached before it is a hook: [`Lora::attach`].
///
/// # Errors
/// [`Error::Run`] where a file is missing or none, [`Error::Format`] where it is damaged, [`Error::Option`] names the option
/// and [`Error::Tensor`] the tensor at fault.
pub fn load(dir: impl AsRef<Path>, shape: &Shape, device: &Device) -> Result<Lora> {
    let path = dir.as_ref().join(CONFIG);
    let text = read_at_most(&path, LARGEST_CONFIG)?;
    let Asked {
        config,
        sizes,
        dora,
        saved,
    } = peft_config::read(&path, &text, shape)?;

    let path = dir.as_ref().join(TENSORS);
    let bytes = read_at_most(&path, u64::MAX)?;
    let mut found = tensors::read(&path, &bytes, is_vector, device)?;
    drop(bytes);
    let mut take = |key: String, expected: [usize; 2], why: &str| {
        let tensor = found
            .remove(&key)
            .ok_or_else(|| Error::tensor(&path, &key, format!("{expected:?}, as {CONFIG} says"), "nothing"))?;
        if tensor.dims() != expected {
            let expected = format!("{expected:?} ({why})");
            return Err(Error::tensor(&path, key, expected, format!("{:?}", tensor.dims())));
        }
        Ok(tensor)
    };
    let mut adapters = BTreeMap::new();
    for ((layer, site), (rank, scale)) in sizes {
        let ([a, b, magnitude], [d_in, d_out]) = (keys(layer, site), shape.linear(site));
        let why = format!("rank {rank} of {CONFIG}, widths of the model");
        let adapter = Adapter {
            a: contiguous(take(a, [rank, d_in], &why)?.transpose()),
            b: contiguous(take(b, [d_out, rank], &why)?.transpose()),
            scale,
            dora: match dora {
                true => Some(Dora::new(take(
                    magnitude,
                    [1, d_out],
                    "a number for each of the map's outputs",
                )?)),
                false => None,
            },
        };
        adapters.insert((layer, site), adapter);
    }
    let saved = saved.into_iter().map(|weight| {
        let why = "the shape of the model's own";
        let w = match weight {
            Weight::Linear { site, .. } => {
                let [d_in, d_out] = shape.linear(site);
                contiguous(take(saved_key(weight), [d_out, d_in], why)?.transpose())
            }
            _ => take(saved_key(weight), [shape.vocab, shape.d_model], why)?,
        };
        Ok((weight, w))
    });
    let saved = saved.collect::<Result<_>>()?;
    if let Some(name) = found.keys().next() {
        let expected = format!("only what {CONFIG} adapts in the model's {} blocks", shape.n_layers);
        return Err(Error::tensor(&path, name, expected, "one more"));
    }
    Ok(Lora {
        config,
        adapters,
        saved,
    })
}

/// Whether the configuration of a PEFT folder asks only for what [`load`] can do, whatever the model.
///
/// # Errors
/// As [`load`].
pub fn check_options(dir: impl AsRef<Path>) -> Result<()> {
    let path = dir.as_ref().join(CONFIG);
    peft_config::check(&path, &read_at_most(&path, LARGEST_CONFIG)?)
}

/// The names of an adapter's `A`, `B` and magnitudes.
fn keys(layer: usize, site: Site) -> [String; 3] {
    ["lora_A.weight", "lora_B.weight", MAGNITUDE]
        .map(|part| format!("base_model.model.{}.{part}", module_path(layer, site)))
}

/// The name of a weight that takes the place of the model's own.
fn saved_key(weight: Weight) -> String {
    format!("base_model.model.{}.weight", module(weight))
}

fn is_linear(weight: Weight) -> bool {
    matches!(weight, Weight::Linear { .. })
}

fn is_vector(key: &str) -> bool {
    key.ends_with(MAGNITUDE)
}

/// The same numbers, laid out in order: the kernels read rows.
fn contiguous(tensor: Tensor<2>) -> Tensor<2> {
    let device = tensor.device();
    Tensor::from_data(tensor.into_data(), &device)
}
