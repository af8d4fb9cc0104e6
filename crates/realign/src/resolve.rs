//! From what the user calls a model to files on this machine.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use realign_model::{ModelSpec, known as models};

use crate::chat_model::ChatModel;
use crate::error::{Failure, Result};
use crate::progress::{Meter, Show, Unit, check_stop};

/// The path of a model's file or folder, fetched into the cache if need be.
pub fn model(spec: &str, show: Show) -> Result<PathBuf> {
    let parsed: ModelSpec = spec.parse()?;
    let mut meter: Option<Meter> = None;
    let fetched = parsed.fetch(&mut |done, total| {
        let meter = meter.get_or_insert_with(|| Meter::new(show, format!("get {spec}"), Unit::Bytes));
        meter.update(done, total.unwrap_or(0), "")
    });
    // Ctrl-C during a download comes back as the download's error.
    check_stop()?;
    let path = fetched?;
    if let Some(meter) = meter {
        meter.finish("");
    }
    Ok(path)
}

/// The models that are known by name, and where they lie in the cache.
pub fn known() -> Vec<(String, Option<PathBuf>)> {
    models::known()
        .iter()
        .map(|known| (known.name.to_owned(), models::cached(known.name)))
        .collect()
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
