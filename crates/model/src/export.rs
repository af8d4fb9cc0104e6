//! Writing a model with changed weights as a Hugging Face folder.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use realign_core::LanguageModel;
use safetensors::tensor::{Dtype, View};
use serde_json::json;

use crate::checkpoint::gguf_name;
use crate::config_json::config_json;
use crate::export_tensors::{Planned, plan};
use crate::files::read_small;
use crate::same_model::difference;
use crate::{Access, Checkpoint, DecoderConfig, Error, Gguf, Result, Tokenizer};

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
/// Where `source` cannot be read or is of another shape, a `config.json` cannot say what a GGUF does, or `out` cannot be
/// written.
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

    let from_gguf = checkpoint.gguf().is_some();
    let mut planned = plan(&checkpoint, &config, config.architecture.names())?;
    // What a GGUF alone has is in the configuration now.
    planned.retain(|tensor| !from_gguf || gguf_name(&config, &tensor.name).is_some());
    let views = planned.iter().map(|tensor| {
        let of = Of {
            tensor,
            checkpoint: &checkpoint,
            model,
        };
        (tensor.name.clone(), of)
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

/// A tensor's bytes, made when they are written.
struct Of<'a> {
    tensor: &'a Planned,
    checkpoint: &'a Checkpoint,
    model: &'a dyn LanguageModel,
}

impl View for Of<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        // The checkpoint has every tensor that it named.
        let numbers = self.tensor.values(self.checkpoint, self.model).unwrap_or_default();
        Cow::Owned(numbers.iter().flat_map(|x| x.to_le_bytes()).collect())
    }

    fn data_len(&self) -> usize {
        4 * self.shape().iter().product::<usize>()
    }
}

/// `config.json`, tokenizer and chat template out of a GGUF's metadata.
fn describe(gguf: &Gguf, config: &DecoderConfig, out: &Path) -> Result<()> {
    let tokenizer = Tokenizer::from_gguf(gguf)?;
    let token = |id: Option<u32>| id.map(|id| tokenizer.token_text(id));
    let settings = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": token(tokenizer.bos()),
        "eos_token": token(tokenizer.eos()),
        "unk_token": token(tokenizer.unk()),
        "add_bos_token": tokenizer.adds_bos(),
        "model_max_length": config.shape.context,
        "clean_up_tokenization_spaces": false,
        "chat_template": gguf.text("tokenizer.chat_template")?,
    });
    let mut fields = config_json(config);
    fields.insert("bos_token_id".into(), json!(tokenizer.bos()));
    fields.insert("eos_token_id".into(), json!(tokenizer.eos()));
    let model = pretty(&fields.into());
    // What is written is what will be read, or else it is not written.
    let read = DecoderConfig::from_json(&model, &out.join("config.json"))?;
    if let Some((what, expected, found)) = difference(&read, config) {
        let expected = format!("what a config.json of {} can say: {expected}", config.architecture);
        return Err(Error::format(gguf.path(), what, expected, found));
    }
    let text = tokenizer
        .to_json()
        .map_err(|found| Error::format(gguf.path(), "tokenizer", "one that can be written as JSON", found))?;
    write(&out.join("config.json"), &model)?;
    write(&out.join("tokenizer_config.json"), &pretty(&settings))?;
    write(&out.join("tokenizer.json"), text.as_bytes())
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
