//! Writing a model with changed weights as a Hugging Face folder.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use realign_core::{LanguageModel, Weight};
use safetensors::tensor::{Dtype, View};
use serde_json::json;

use crate::files::read_small;
use crate::weight_names::Rows;
use crate::{Access, Architecture, Checkpoint, DecoderConfig, Error, Gguf, Result, RopeScaling, Tokenizer};

/// What a folder has beside its weights, and how large each may be.
const BESIDE: [&str; 6] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
];
const MAX_BYTES: u64 = 64 << 20;

/// Writes `model` as a folder that transformers and [`crate::Pretrained::load`] open: `model.safetensors` in F32, `config.json`, the
/// tokenizer and the chat template.
///
/// The linear maps and their biases are those of `model` (an adapter merged in, a direction taken out); embeddings, norms and all
/// that is not a weight are those of `source`, the GGUF or folder that it was made from. Weights are written one at a time, to a
/// temporary name that is renamed at the end.
///
/// # Errors
/// Where `source` cannot be read or is of another shape, or `out` cannot be written.
pub fn export(source: &Path, access: Access, model: &dyn LanguageModel, out: &Path) -> Result<()> {
    let checkpoint = Checkpoint::open_with(source, access)?;
    let config = checkpoint.config()?;
    if config.shape() != *model.shape() {
        let (expected, found) = (format!("{:?}", model.shape()), format!("{:?}", config.shape()));
        return Err(Error::format(source, "shape", expected, found));
    }
    std::fs::create_dir_all(out).map_err(|e| io(out, "create the folder", e))?;
    let folder = checkpoint.path().parent().unwrap_or(Path::new("."));
    let same = folder.canonicalize().ok() == out.canonicalize().ok();
    if (checkpoint.gguf().is_none() && same) || out.join("adapter_config.json").exists() {
        let found = if same {
            "the model's own"
        } else {
            "one with an adapter in it"
        };
        return Err(Error::format(out, "folder", "a folder of its own", found));
    }
    match checkpoint.gguf() {
        Some(gguf) => describe(gguf, &config, out)?,
        None => {
            for name in BESIDE {
                if folder.join(name).exists() {
                    let bytes = read_small(&folder.join(name), MAX_BYTES)?;
                    let bytes = if name == "config.json" {
                        as_f32(&bytes, &folder.join(name))?
                    } else {
                        bytes
                    };
                    write(&out.join(name), &bytes)?;
                }
            }
        }
    }

    let mut maps = maps(&checkpoint, &config);
    let weights = checkpoint.names().into_iter().map(|name| Stored {
        shape: checkpoint.shape(&name).unwrap_or_default(),
        maps: maps.remove(&name).unwrap_or_default(),
        transposed: checkpoint.weight_names(config.architecture).transposed,
        name,
    });
    let weights: Vec<Stored> = weights.collect();
    if let Some(name) = maps.keys().next() {
        return Err(Error::format(source, name.as_str(), "a tensor of this name", "none"));
    }
    for stored in &weights {
        stored.check(source, &config)?;
    }
    let views = weights.iter().map(|stored| {
        let of = Of {
            stored,
            checkpoint: &checkpoint,
            model,
        };
        (stored.name.clone(), of)
    });
    let (path, temporary) = (out.join("model.safetensors"), out.join(".model.safetensors.partial"));
    // transformers refuses a file that does not say so.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(views, Some(metadata), &temporary).map_err(|e| {
        // A full disk: what is there is of no use, and in the way.
        let _ = std::fs::remove_file(&temporary);
        io(&temporary, "write", std::io::Error::other(e))
    })?;
    let written = std::fs::File::open(&temporary).and_then(|file| file.sync_all());
    written.map_err(|e| io(&temporary, "sync", e))?;
    std::fs::rename(&temporary, &path).map_err(|e| io(&path, "rename to", e))
}

/// The linear maps in each of a checkpoint's tensors.
fn maps(checkpoint: &Checkpoint, config: &DecoderConfig) -> BTreeMap<String, Vec<Map>> {
    let (names, shape) = (checkpoint.weight_names(config.architecture), &config.shape);
    let root = checkpoint.root(&names);
    let mut maps: BTreeMap<String, Vec<Map>> = BTreeMap::new();
    for layer in 0..shape.n_layers {
        for site in shape.sites.iter() {
            let stem = format!("{root}{}{layer}.{}", names.blocks, (names.linear)(site).0);
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
                names.blocks, names.experts
            );
            let (weight, rows) = (Weight::ExpertDown { layer, expert }, Rows::all(shape.d_model));
            maps.entry(name).or_default().push(Map { weight, rows });
        }
    }
    maps
}

/// A weight of the model, and its rows in the tensor.
#[derive(Clone, Copy)]
struct Map {
    weight: Weight,
    rows: Rows,
}

/// A tensor of the file: the source's own, or made of weights of the model.
struct Stored {
    name: String,
    shape: Vec<usize>,
    maps: Vec<Map>,
    transposed: bool,
}

impl Stored {
    /// That a tensor which is made of weights of the model has their size.
    fn check(&self, source: &Path, config: &DecoderConfig) -> Result<()> {
        let Some(Map { weight, rows }) = self.maps.first() else {
            return Ok(());
        };
        let d_in = match weight {
            Weight::Linear { site, .. } => Some(config.shape.linear(*site)[0]),
            Weight::ExpertDown { .. } => config.experts.map(|experts| config.shape.d_mlp / experts.per_token),
            _ => None,
        };
        let expected = match d_in {
            Some(d_in) if self.transposed => vec![d_in, rows.total],
            Some(d_in) => vec![rows.total, d_in],
            None => vec![rows.total],
        };
        if self.shape == expected {
            return Ok(());
        }
        let (expected, found) = (format!("shape {expected:?}"), format!("{:?}", self.shape));
        Err(Error::format(source, self.name.as_str(), expected, found))
    }
}

/// A weight's bytes, made when they are written.
struct Of<'a> {
    stored: &'a Stored,
    checkpoint: &'a Checkpoint,
    model: &'a dyn LanguageModel,
}

impl Of<'_> {
    /// The linear maps' rows `[out, in]` in their places, or `[in, out]` where the file has it so.
    fn of_maps(&self) -> Vec<f32> {
        let mut numbers = vec![0.0; self.shape().iter().product()];
        let total = self.stored.maps[0].rows.total;
        let width = numbers.len() / total;
        for map in &self.stored.maps {
            // [in, out]; a bias has one row.
            let Some(weight) = self.model.weight(map.weight) else {
                continue;
            };
            let n = weight.dims()[1];
            let weight: Vec<f32> = weight.into_data().iter::<f32>().collect();
            for row in 0..n {
                let place = map.rows.source(row);
                for column in 0..width {
                    let at = match self.stored.transposed {
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

impl View for Of<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.stored.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let numbers = match self.stored.maps.is_empty() {
            true => self
                .checkpoint
                .tensor(&self.stored.name)
                .map(|(_, numbers)| numbers)
                .unwrap_or_default(),
            false => self.of_maps(),
        };
        Cow::Owned(numbers.iter().flat_map(|x| x.to_le_bytes()).collect())
    }

    fn data_len(&self) -> usize {
        4 * self.shape().iter().product::<usize>()
    }
}

/// `config.json`, tokenizer and chat template out of a GGUF's metadata.
fn describe(gguf: &Gguf, config: &DecoderConfig, out: &Path) -> Result<()> {
    if config.architecture != Architecture::Llama {
        let expected = "llama (no other architecture's GGUF is written as a folder)";
        return Err(Error::format(
            gguf.path(),
            "general.architecture",
            expected,
            config.architecture.to_string(),
        ));
    }
    if config.ropes.iter().any(|rope| rope.scaling != RopeScaling::None) {
        let expected = "none (a GGUF with scaled rotary positions is not written as a folder)";
        let found = format!("{:?}", config.ropes[0].scaling);
        return Err(Error::format(gguf.path(), "llama.rope.scaling.type", expected, found));
    }
    let shape = &config.shape;
    let tokenizer = Tokenizer::from_gguf(gguf)?;
    let token = |id: Option<u32>| id.map(|id| tokenizer.token_text(id));
    let settings = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": token(tokenizer.bos()),
        "eos_token": token(tokenizer.eos()),
        "unk_token": token(tokenizer.unk()),
        "add_bos_token": tokenizer.adds_bos(),
        "model_max_length": shape.context,
        "clean_up_tokenization_spaces": false,
        "chat_template": gguf.text("tokenizer.chat_template")?,
    });
    let model = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.d_model,
        "intermediate_size": shape.d_mlp,
        "num_hidden_layers": shape.n_layers,
        "num_attention_heads": shape.n_heads,
        "num_key_value_heads": shape.n_kv_heads,
        "head_dim": shape.d_head,
        "vocab_size": shape.vocab,
        "max_position_embeddings": shape.context,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.ropes[0].theta,
        "hidden_act": "silu",
        "tie_word_embeddings": config.tied,
        "attention_bias": false,
        "mlp_bias": false,
        "bos_token_id": tokenizer.bos(),
        "eos_token_id": tokenizer.eos(),
        "torch_dtype": "float32",
    });
    write(&out.join("config.json"), &pretty(&model))?;
    write(&out.join("tokenizer_config.json"), &pretty(&settings))?;
    let path = out.join("tokenizer.json");
    let text = tokenizer
        .to_json()
        .map_err(|found| Error::format(gguf.path(), "tokenizer", "one that can be written as JSON", found))?;
    write(&path, text.as_bytes())
}

/// A `config.json` that says what the weights are now.
fn as_f32(config: &[u8], path: &Path) -> Result<Vec<u8>> {
    let mut config: serde_json::Value =
        serde_json::from_slice(config).map_err(|e| Error::format(path, "JSON", "an object", e.to_string()))?;
    for field in ["torch_dtype", "dtype"] {
        if let Some(value) = config.get_mut(field) {
            *value = "float32".into();
        }
    }
    Ok(pretty(&config))
}

fn pretty(object: &serde_json::Value) -> Vec<u8> {
    format!("{object:#}\n").into_bytes()
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(|e| io(path, "write", e))
}

fn io(path: &Path, action: &'static str, source: std::io::Error) -> Error {
    Error::Io {
        path: path.to_owned(),
        action,
        source,
    }
}
