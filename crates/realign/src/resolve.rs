//! From what the user calls a model to files on this machine.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use realign_model::{Access, Checkpoint, ModelSpec, known as models};
use realign_steering::{ControlVector, Direction, Directions};

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
    let lora = realign_lora::load_for(folder, &*base.model, device)?;
    let weights = folder.join("adapter_model.safetensors");
    let bytes = std::fs::read(&weights).map_err(|e| Failure::failed(format!("{}: {e}", weights.display())))?;
    let mut chat = base.with_model(&folder.display().to_string(), realign_lora::merge(&*base.model, &lora));
    chat.sha256 = realign_data::hash_bytes(&bytes);
    Ok(chat)
}

/// What a model's own file calls its architecture: `general.architecture` of a GGUF, `model_type` of a folder.
pub fn architecture(model: &Path, access: Access) -> Result<Option<String>> {
    let checkpoint = Checkpoint::open_with(model, access)?;
    if let Some(gguf) = checkpoint.gguf() {
        return Ok(gguf.text("general.architecture")?.map(str::to_owned));
    }
    let folder = checkpoint.path().parent().unwrap_or(Path::new("."));
    let config: serde_json::Value = realign_run::read_json(folder.join("config.json"))?;
    Ok(config["model_type"].as_str().map(str::to_owned))
}

/// The directions of a file for a model: the one behind `layer`, or without it what the file means.
pub fn directions(
    path: &Path,
    layer: Option<usize>,
    chat: &ChatModel,
    architecture: Option<&str>,
    device: &Device,
) -> Result<Vec<Direction>> {
    let shape = chat.model.shape();
    if let Some(layer) = layer.filter(|&layer| layer >= shape.n_layers) {
        let last = shape.n_layers - 1;
        return Err(Failure::usage(format!(
            "--layer {layer}: the model has layers 0 to {last}"
        )));
    }
    let chosen = Directions::load(path, architecture, shape, device)?.choose(layer);
    chosen
        .map_err(|error| Failure::from(error).hint("--layer N, the 0-based block behind which the direction is added"))
}

/// Writes a direction behind a block as the ending of `out` says: a control vector, or a folder.
pub fn save_direction(direction: &Direction, out: &Path, architecture: Option<String>) -> Result<()> {
    let ending = out.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let layer = direction
        .at
        .layer()
        .filter(|_| matches!(ending, "gguf" | "safetensors"));
    let Some(layer) = layer else {
        return Ok(direction.save(out)?);
    };
    let vector = ControlVector {
        model_hint: architecture.unwrap_or_default(),
        directions: [(layer, direction.vector.clone())].into(),
    };
    match ending {
        "gguf" => vector.save(out)?,
        _ => vector.save_safetensors(out)?,
    }
    Ok(())
}
