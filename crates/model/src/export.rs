//! Writing a model with changed weights as a Hugging Face folder.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use realign_core::{LanguageModel, Site};
use safetensors::tensor::{Dtype, View};
use serde_json::json;

use crate::files::read_small;
use crate::{Access, Checkpoint, Error, Gguf, LlamaConfig, Result, Tokenizer};

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
/// The linear maps are those of `model` (an adapter merged in, a direction taken out); embeddings, norms and all that is
/// not a weight are those of `source`, the GGUF or folder that it was made from. Weights are written one at a time, to a
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

    let shape = *model.shape();
    let mut weights = vec![Weight::Kept(
        "model.embed_tokens.weight".into(),
        vec![shape.vocab, shape.d_model],
    )];
    for layer in 0..shape.n_layers {
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            weights.push(Weight::Kept(
                format!("model.layers.{layer}.{norm}.weight"),
                vec![shape.d_model],
            ));
        }
        weights.extend(Site::ALL.map(|site| {
            let [d_in, d_out] = shape.linear(site);
            Weight::Linear(layer, site, vec![d_out, d_in])
        }));
    }
    weights.push(Weight::Kept("model.norm.weight".into(), vec![shape.d_model]));
    if !config.tied {
        weights.push(Weight::Kept("lm_head.weight".into(), vec![shape.vocab, shape.d_model]));
    }
    for weight in &weights {
        if let Weight::Kept(name, shape) = weight {
            let found = checkpoint.tensor(name)?.0;
            if found != *shape {
                return Err(Error::format(
                    source,
                    name.as_str(),
                    format!("shape {shape:?}"),
                    format!("{found:?}"),
                ));
            }
        }
    }
    let views = weights.iter().map(|weight| {
        let of = Of {
            weight,
            checkpoint: &checkpoint,
            model,
        };
        (weight.name(), of)
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

/// A weight by where it comes from, with its shape `[out, in]`.
enum Weight {
    Kept(String, Vec<usize>),
    Linear(usize, Site, Vec<usize>),
}

impl Weight {
    fn name(&self) -> String {
        match self {
            Self::Kept(name, _) => name.clone(),
            Self::Linear(layer, site, _) => format!("model.layers.{layer}.{}.weight", site.path()),
        }
    }
}

/// A weight's bytes, made when they are written.
struct Of<'a> {
    weight: &'a Weight,
    checkpoint: &'a Checkpoint,
    model: &'a dyn LanguageModel,
}

impl View for Of<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        match self.weight {
            Weight::Kept(_, shape) | Weight::Linear(_, _, shape) => shape,
        }
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let numbers = match self.weight {
            // Read once before: it is there, and of this shape.
            Weight::Kept(name, _) => self
                .checkpoint
                .tensor(name)
                .map(|(_, numbers)| numbers)
                .unwrap_or_default(),
            Weight::Linear(layer, site, _) => {
                let weight = self.model.linear_weight(*layer, *site).transpose();
                weight.into_data().iter::<f32>().collect()
            }
        };
        Cow::Owned(numbers.iter().flat_map(|x| x.to_le_bytes()).collect())
    }

    fn data_len(&self) -> usize {
        4 * self.shape().iter().product::<usize>()
    }
}

/// `config.json`, tokenizer and chat template out of a GGUF's metadata.
fn describe(gguf: &Gguf, config: &LlamaConfig, out: &Path) -> Result<()> {
    let tokenizer = Tokenizer::from_gguf(gguf)?;
    let token = |id: Option<u32>| id.map(|id| tokenizer.token_text(id));
    let settings = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": token(tokenizer.bos()),
        "eos_token": token(tokenizer.eos()),
        "unk_token": token(tokenizer.unk()),
        "add_bos_token": tokenizer.adds_bos(),
        "model_max_length": config.context,
        "clean_up_tokenization_spaces": false,
        "chat_template": gguf.text("tokenizer.chat_template")?,
    });
    let model = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": config.d_model,
        "intermediate_size": config.d_mlp,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.d_head,
        "vocab_size": config.vocab,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.rms_eps,
        "rope_theta": config.rope_theta,
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
