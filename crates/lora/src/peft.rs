//! Adapter folders of Python's PEFT.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::tensor::{Device, Tensor};
use realign_core::{LanguageModel, ModuleNames, Rows, Shape, Site, Weight};
use realign_run::{read_at_most, write_atomic, write_json};

use crate::peft_config::{self, Asked, Size};
use crate::peft_modules::{linear_modules, module};
use crate::{Adapter, Dora, Error, Lora, Result, fused, tensors};

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";

/// What the name of an adapter's magnitudes ends with.
const MAGNITUDE: &str = "lora_magnitude_vector";

/// A configuration is some kilobytes.
const LARGEST_CONFIG: u64 = 1 << 20;

/// Writes adapters as a PEFT folder: `adapter_config.json` and `adapter_model.safetensors`, under the names of a Llama's
/// modules.
///
/// Python's PEFT loads it with `PeftModel.from_pretrained`. `base_model` is the name or path of the model that the
/// adapters belong to.
///
/// # Errors
/// [`Error::Run`] where a file cannot be written.
pub fn save(lora: &Lora, base_model: &str, dir: impl AsRef<Path>) -> Result<()> {
    let names = &ModuleNames::LLAMA;
    let rows = |_, d_out| Rows::all(d_out);
    write(lora, names, &rows, base_model, dir.as_ref())
}

/// [`save`] under the names of this model's own modules, as Python's PEFT needs them.
///
/// Where several linear maps share a module (GPT-2's `c_attn`), their adapters become one: the factors `A` side by side, and
/// each map's `B` in its own rows. Its rank is the sum of theirs; maps that have the same `A`, as those of a fused module that
/// was read have, share it again.
///
/// # Errors
/// As [`save`]; [`Error::Config`] for magnitudes (DoRA) or saved weights of some of the maps of a module only.
pub fn save_for(lora: &Lora, model: &dyn LanguageModel, base_model: &str, dir: impl AsRef<Path>) -> Result<()> {
    let (names, shape) = (model.module_names(), model.shape());
    let rows = |site, _| names.rows(site, shape);
    write(lora, &names, &rows, base_model, dir.as_ref())
}

fn write(
    lora: &Lora,
    names: &ModuleNames,
    rows: &dyn Fn(Site, usize) -> Rows,
    base_model: &str,
    dir: &Path,
) -> Result<()> {
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
    let (mut named, mut sizes) = (Vec::new(), Vec::new());
    for (path, places) in linear_modules(names, lora.adapters.keys().copied()) {
        let parts = places.iter().map(|&(layer, site)| {
            let adapter = &lora.adapters[&(layer, site)];
            (adapter, rows(site, adapter.b.dims()[1]))
        });
        let parts: Vec<(&Adapter, Rows)> = parts.collect();
        let joined =
            fused::join(&parts).map_err(|found| Error::config("adapters", format!("all maps of {path}"), found))?;
        let [a, b, magnitude] = keys(&path);
        let alpha = joined.scale * lora.config.divisor(joined.rank);
        let whole = (alpha - alpha.round()).abs() < 1e-9 * alpha.abs();
        sizes.push(Size {
            name: (names.linear)(places[0].1).0,
            rank: joined.rank,
            alpha: if whole { alpha.round() } else { alpha },
            path,
        });
        named.push((a, joined.a));
        named.push((b, joined.b));
        named.extend(joined.magnitude.map(|m| (magnitude, m)));
    }
    let (mut linear, mut others) = (BTreeMap::new(), Vec::new());
    for (weight, w) in &lora.saved {
        match *weight {
            Weight::Linear { layer, site } => {
                linear.insert((layer, site), w);
            }
            weight => others.push((saved_key(names, weight), w.clone())),
        }
    }
    for (path, places) in linear_modules(names, linear.keys().copied()) {
        let parts = places.iter().map(|&(layer, site)| {
            let w = linear[&(layer, site)].clone();
            let rows = rows(site, w.dims()[1]);
            (w.transpose(), rows)
        });
        let w = fused::whole(&parts.collect::<Vec<_>>())
            .map_err(|found| Error::config("saved", format!("all maps of {path}"), found))?;
        named.push((
            format!("base_model.model.{path}.weight"),
            if names.transposed { w.transpose() } else { w },
        ));
    }
    named.extend(others);
    write_atomic(dir.join(TENSORS), &tensors::write(named, is_vector))?;
    // Last, so that a folder with a configuration is a whole one.
    write_json(dir.join(CONFIG), &peft_config::write(lora, names, &sizes, base_model))?;
    Ok(())
}

/// Reads a PEFT folder for a model of this shape whose modules have a Llama's names.
///
/// Every option of the configuration is either followed, or known to change nothing, or refused by name: biases, swapped
/// axes, saved norms, and options that are unknown and not null. An adapter with magnitudes (DoRA) or saved modules is
/// merged, or attached before it is a hook: [`Lora::attach`].
///
/// # Errors
/// [`Error::Run`] where a file is missing or none, [`Error::Format`] where it is damaged, [`Error::Option`] names the option
/// and [`Error::Tensor`] the tensor at fault.
pub fn load(dir: impl AsRef<Path>, shape: &Shape, device: &Device) -> Result<Lora> {
    read(dir.as_ref(), &ModuleNames::LLAMA, shape, device)
}

/// [`load`] for this model, whose own names the modules have. What a fused module's adapter adds to each of its linear maps
/// becomes an adapter of that map: the same `A`, and rows of `B`.
///
/// # Errors
/// As [`load`].
pub fn load_for(dir: impl AsRef<Path>, model: &dyn LanguageModel, device: &Device) -> Result<Lora> {
    read(dir.as_ref(), &model.module_names(), model.shape(), device)
}

fn read(dir: &Path, names: &ModuleNames, shape: &Shape, device: &Device) -> Result<Lora> {
    let path = dir.join(CONFIG);
    let text = read_at_most(&path, LARGEST_CONFIG)?;
    let Asked {
        config,
        sizes,
        dora,
        saved,
    } = peft_config::read(&path, &text, names, shape)?;

    let path = dir.join(TENSORS);
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
    for (module, places) in linear_modules(names, sizes.keys().copied()) {
        let (rank, alpha) = sizes[&places[0]];
        let [a, b, magnitude] = keys(&module);
        let (d_in, total) = (shape.linear(places[0].1)[0], names.rows(places[0].1, shape).total);
        let why = format!("rank {rank} of {CONFIG}, widths of the model");
        let a = contiguous(take(a, [rank, d_in], &why)?.transpose());
        let b = take(b, [total, rank], &why)?;
        let magnitude = match dora {
            true => Some(take(magnitude, [1, total], "a number for each of the map's outputs")?.transpose()),
            false => None,
        };
        for (layer, site) in places {
            let rows = names.rows(site, shape);
            let of = |tensor: &Tensor<2>| contiguous(fused::part(tensor, rows, shape.linear(site)[1]).transpose());
            let adapter = Adapter {
                a: a.clone(),
                b: of(&b),
                scale: config.scale_of(rank, alpha),
                dora: magnitude.as_ref().map(|magnitude| Dora::new(of(magnitude))),
            };
            adapters.insert((layer, site), adapter);
        }
    }
    let mut weights = Vec::new();
    let linear = saved.iter().filter_map(|weight| match *weight {
        Weight::Linear { layer, site } => Some((layer, site)),
        _ => None,
    });
    for (_, places) in linear_modules(names, linear) {
        let rows = |site| names.rows(site, shape);
        let (d_in, total) = (shape.linear(places[0].1)[0], rows(places[0].1).total);
        let key = saved_key(
            names,
            Weight::Linear {
                layer: places[0].0,
                site: places[0].1,
            },
        );
        let why = "the shape of the model's own";
        let w = match names.transposed {
            true => take(key, [d_in, total], why)?.transpose(),
            false => take(key, [total, d_in], why)?,
        };
        for (layer, site) in places {
            let w = contiguous(fused::part(&w, rows(site), shape.linear(site)[1]).transpose());
            weights.push((Weight::Linear { layer, site }, w));
        }
    }
    for &weight in saved.iter().filter(|weight| !is_linear(**weight)) {
        let w = take(
            saved_key(names, weight),
            [shape.vocab, shape.d_model],
            "the shape of the model's own",
        )?;
        weights.push((weight, w));
    }
    weights.sort_by_key(|(weight, _)| saved.iter().position(|asked| asked == weight));
    if let Some(name) = found.keys().next() {
        let expected = format!("only what {CONFIG} adapts in the model's {} blocks", shape.n_layers);
        return Err(Error::tensor(&path, name, expected, "one more"));
    }
    Ok(Lora {
        config,
        adapters,
        saved: weights,
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

/// The names of an adapter's `A`, `B` and magnitudes, from its module's path.
fn keys(module: &str) -> [String; 3] {
    ["lora_A.weight", "lora_B.weight", MAGNITUDE].map(|part| format!("base_model.model.{module}.{part}"))
}

/// The name of a weight that takes the place of the model's own.
fn saved_key(names: &ModuleNames, weight: Weight) -> String {
    format!("base_model.model.{}.weight", module(names, weight))
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
