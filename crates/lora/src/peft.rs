//! Adapter folders of Python's PEFT.

use std::fs;
use std::path::Path;

use burn::tensor::{Device, Tensor};
use realign_core::{Shape, Site};
use realign_run::{read_at_most, write_atomic, write_json};

use crate::{Adapter, Error, Lora, Result, peft_config, tensors};

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";

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
    let named = lora.adapters.iter().flat_map(|(&(layer, site), adapter)| {
        let [a, b] = keys(layer, site);
        [(a, adapter.a.clone().transpose()), (b, adapter.b.clone().transpose())]
    });
    write_atomic(dir.join(TENSORS), &tensors::write(named.collect()))?;
    // Last, so that a folder with a configuration is a whole one.
    write_json(dir.join(CONFIG), &peft_config::write(lora, base_model))?;
    Ok(())
}

/// Reads a PEFT folder for a model of this shape.
///
/// Every option of the configuration is either followed, or known to change nothing, or refused by name: DoRA, biases,
/// saved modules, rank and alpha patterns, and options that are unknown and not null.
///
/// # Errors
/// [`Error::Run`] where a file is missing or none, [`Error::Format`] where it is damaged, [`Error::Option`] names the option
/// and [`Error::Tensor`] the tensor at fault.
pub fn load(dir: impl AsRef<Path>, shape: &Shape, device: &Device) -> Result<Lora> {
    let path = dir.as_ref().join(CONFIG);
    let text = read_at_most(&path, LARGEST_CONFIG)?;
    let (config, places) = peft_config::read(&path, &text, shape)?;

    let path = dir.as_ref().join(TENSORS);
    let bytes = read_at_most(&path, u64::MAX)?;
    let mut found = tensors::read(&path, &bytes, device)?;
    drop(bytes);
    let mut take = |key: String, expected: [usize; 2]| {
        let tensor = found
            .remove(&key)
            .ok_or_else(|| Error::tensor(&path, &key, format!("{expected:?}, as {CONFIG} says"), "nothing"))?;
        if tensor.dims() != expected {
            let expected = format!("{expected:?} (rank {} of {CONFIG}, widths of the model)", config.rank);
            return Err(Error::tensor(&path, key, expected, format!("{:?}", tensor.dims())));
        }
        Ok(contiguous(tensor.transpose()))
    };
    let adapters = places
        .into_iter()
        .map(|(layer, site)| {
            let ([a, b], [d_in, d_out]) = (keys(layer, site), shape.linear(site));
            let adapter = Adapter {
                a: take(a, [config.rank, d_in])?,
                b: take(b, [d_out, config.rank])?,
            };
            Ok(((layer, site), adapter))
        })
        .collect::<Result<_>>()?;
    if let Some(name) = found.keys().next() {
        let expected = format!("only what {CONFIG} adapts in the model's {} blocks", shape.n_layers);
        return Err(Error::tensor(&path, name, expected, "one more"));
    }
    Ok(Lora { config, adapters })
}

/// The names of an adapter's `A` and `B`.
fn keys(layer: usize, site: Site) -> [String; 2] {
    ["lora_A", "lora_B"].map(|factor| format!("base_model.model.model.layers.{layer}.{}.{factor}.weight", site.path()))
}

/// The same numbers, laid out in order: the kernels read rows.
fn contiguous(tensor: Tensor<2>) -> Tensor<2> {
    let device = tensor.device();
    Tensor::from_data(tensor.into_data(), &device)
}
