//! A pretrained model with all that belongs to it: weights, tokenizer, chat template.

use std::path::Path;

use burn::tensor::Device;

use crate::{Access, ChatTemplate, Checkpoint, Decoder, Error, Result, Tokenizer, Weights};

/// A model, its tokenizer and its chat template, read from one GGUF or one Hugging Face folder.
#[derive(Debug)]
pub struct Pretrained {
    /// The weights with hook points.
    pub model: Decoder,
    /// Text to tokens and back.
    pub tokenizer: Tokenizer,
    /// Conversations to tokens.
    pub template: ChatTemplate,
    /// SHA-256 of the weights' files.
    pub sha256: String,
}

impl Pretrained {
    /// Reads a `.gguf` file, or a folder with `config.json`, `tokenizer.json` and safetensors.
    ///
    /// # Errors
    /// Whatever is missing or malformed, by file and field.
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        Self::load_with(path, Access::default(), Weights::default(), device)
    }

    /// [`Pretrained::load`] with a choice between mapping the file and reading it, and of the bits to keep weights in.
    ///
    /// # Errors
    /// As [`Pretrained::load`].
    pub fn load_with(path: &Path, access: Access, weights: Weights, device: &Device) -> Result<Self> {
        let checkpoint = Checkpoint::open_with(path, access)?;
        let (tokenizer, template) = match checkpoint.gguf() {
            Some(gguf) => (Tokenizer::from_gguf(gguf)?, ChatTemplate::from_gguf(gguf)?),
            None => {
                let folder = checkpoint.path().parent().unwrap_or(Path::new("."));
                (
                    Tokenizer::from_file(&folder.join("tokenizer.json"))?,
                    ChatTemplate::from_dir(folder)?,
                )
            }
        };
        let none = || Error::format(path, "chat template", "a template, as chat models have", "none");
        let template = template.ok_or_else(none)?;
        let model = Decoder::load_as(&checkpoint.config()?, &checkpoint, weights, device)?;
        Ok(Self {
            model,
            tokenizer,
            template,
            sha256: checkpoint.sha256().to_owned(),
        })
    }
}
