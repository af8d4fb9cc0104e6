//! Folders: models, adapters, directions, runs.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use realign_model::{Access, ChatTemplate, Checkpoint, Tokenizer};
use serde_json::{Map, Value};

use super::found::{Found, counted};
use super::json::{self, arms};
use super::sae;
use super::tensors::Header;

/// What a folder holds; none where no kind fits.
pub fn inspect(path: &Path, access: Access) -> Option<Found> {
    let has = |name: &str| path.join(name).is_file();
    if has("run.json") || has("results.json") {
        Some(run(path))
    } else if has("adapter_config.json") {
        Some(adapter(path, access))
    } else if has("cfg.json") {
        Some(sae::described(path, access))
    } else if has("direction.json") {
        Some(direction(path))
    } else if let Some(layers) = sparsify_layers(path) {
        let mut found = Found::new(path, "sparsify", "sparse autoencoders of several places (sparsify)");
        found.fact("places", layers.join(", "));
        found.fit(format!(
            "each folder: realign inspect {}",
            path.join(&layers[0]).display()
        ));
        Some(found)
    } else if has("ae.pt") {
        Some(sae::dictionary(path))
    } else if has("params.safetensors") {
        Some(sae::gemma_scope_2(path, access))
    } else if has("config.json") {
        Some(model(path, access))
    } else if has("W_enc_0.safetensors") {
        let mut found = Found::new(
            path,
            "cross-layer-transcoder",
            "cross-layer transcoder (circuit-tracer)",
        );
        found.problem("realign does not read these");
        Some(found)
    } else if has("tokenizer.json") {
        json::inspect(
            &path.join("tokenizer.json"),
            &json::read(&path.join("tokenizer.json")).ok()?,
        )
    } else {
        None
    }
}

fn model(path: &Path, access: Access) -> Found {
    let config = json::read(&path.join("config.json"));
    let mut found = Found::new(path, "hf-model", "model folder (Hugging Face)");
    let Some(config) = found.try_to(config) else {
        return found;
    };
    facts(
        &mut found,
        &config,
        &[
            ("model_type", "model_type"),
            ("num_hidden_layers", "blocks"),
            ("hidden_size", "d_model"),
            ("intermediate_size", "d_mlp"),
            ("num_attention_heads", "heads"),
            ("num_key_value_heads", "kv heads"),
            ("vocab_size", "vocab"),
            ("max_position_embeddings", "context"),
        ],
    );
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry
            .path()
            .extension()
            .is_some_and(|extension| extension == "safetensors")
        {
            files.push(entry.path());
        }
    }
    files.sort();
    let headers: Vec<Header> = files
        .iter()
        .filter_map(|file| found.try_to(Header::read(file, access)))
        .collect();
    let all = Header(headers.into_iter().flat_map(|header| header.0).collect());
    if !all.0.is_empty() {
        found.fact("tensors", format!("{}, in {} files", all.summary(), files.len()));
    }
    let checkpoint = Checkpoint::open_with(path, access);
    if let Some(checkpoint) = found.try_to(checkpoint) {
        found.try_to(checkpoint.config().map(drop));
    }
    if let Some(tokenizer) = found.try_to(Tokenizer::from_file(&path.join("tokenizer.json"))) {
        found.fact("tokenizer", format!("{} tokens", tokenizer.vocab_size()));
    }
    match ChatTemplate::from_dir(path) {
        Ok(Some(template)) => found.fact("chat template", format!("sha256 {}", template.sha256())),
        Ok(None) => found.problem("no chat template: realign needs one to ask questions"),
        Err(error) => found.problem(error),
    }
    found.fit(format!("realign audit {} TUNED", path.display()));
    found.fit(format!("realign generate \"…\" --model {}", path.display()));
    found
}

fn adapter(path: &Path, access: Access) -> Found {
    let mut found = Found::new(path, "peft-adapter", "adapter (PEFT)");
    let config = json::read(&path.join("adapter_config.json"));
    if let Some(config) = found.try_to(config) {
        if let Some(kind) = config.get("peft_type").and_then(Value::as_str) {
            found.what = format!("adapter (PEFT, {kind})");
        }
        let names = [
            "base_model_name_or_path",
            "r",
            "lora_alpha",
            "target_modules",
            "layers_to_transform",
            "peft_version",
        ];
        facts(&mut found, &config, &names.map(|name| (name, name)));
        let on = |value: &&str| {
            config.get(*value).is_some_and(|value| match value {
                Value::Bool(on) => *on,
                Value::Object(fields) => !fields.is_empty(),
                Value::Array(items) => !items.is_empty(),
                _ => false,
            })
        };
        let options = [
            "use_rslora",
            "use_dora",
            "rank_pattern",
            "alpha_pattern",
            "modules_to_save",
        ];
        let options: Vec<&str> = options.iter().filter(|option| on(option)).copied().collect();
        if !options.is_empty() {
            found.fact("options", options.join(", "));
        }
        found.try_to(realign_lora::check_options(path));
    }
    let weights = path.join("adapter_model.safetensors");
    if weights.is_file() {
        if let Some(header) = found.try_to(Header::read(&weights, access)) {
            found.fact("tensors", header.summary());
            pairs(&mut found, &header);
        }
    } else if path.join("adapter_model.bin").is_file() {
        found.problem("adapter_model.bin is a pickle; save it with `safe_serialization=True`");
    } else {
        found.problem("adapter_model.safetensors: expected the weights, found nothing");
    }
    found.fit(format!("realign audit BASE {}", path.display()));
    found.fit(format!("realign eval --model BASE --adapter {}", path.display()));
    found
}

/// Every `A` needs its `B`, of the same rank.
fn pairs(found: &mut Found, header: &Header) {
    let places: Vec<&str> = header
        .0
        .iter()
        .filter_map(|(name, ..)| name.split_once(".lora_A.").map(|(place, _)| place))
        .collect();
    let shape = |place: &str, factor: &str| {
        header
            .shape(&format!("{place}.lora_{factor}.weight"))
            .map(<[usize]>::to_vec)
    };
    let mut ranks = Vec::new();
    for place in &places {
        match (shape(place, "A").as_deref(), shape(place, "B").as_deref()) {
            (Some([rank, _]), Some([_, other])) if rank == other => ranks.push(format!("rank {rank}")),
            (a, b) => found.problem(format!("{place}: A {a:?} and B {b:?} do not fit each other")),
        }
    }
    let alone = header
        .0
        .iter()
        .filter_map(|(name, ..)| name.split_once(".lora_B."))
        .filter(|(place, _)| !places.contains(place));
    for (place, _) in alone {
        found.problem(format!("{place}: B without A"));
    }
    found.fact("adapted", counted(ranks));
}

fn direction(path: &Path) -> Found {
    let mut found = Found::new(path, "direction", "direction");
    // Some thousand numbers.
    if let Some(direction) = found.try_to(realign_steering::Direction::load(path, &Device::flex())) {
        found.fact("name", &direction.name);
        found.fact("at", direction.at);
        found.fact("d_model", direction.width());
        found.fact("norm", format!("{:.3}", direction.norm()));
    }
    found.fit(format!("realign steer --model MODEL --direction {}", path.display()));
    found.fit(format!(
        "realign generate \"…\" --model MODEL --direction {} --strength 1",
        path.display()
    ));
    found
}

fn run(path: &Path) -> Found {
    let mut found = Found::new(path, "run", "run folder");
    if path.join("run.json").is_file()
        && let Some(record) = found.try_to(json::read(&path.join("run.json")))
    {
        facts(&mut found, &record, &[("created", "created")]);
        if let Some(manifest) = record.get("manifest").and_then(Value::as_object) {
            let words = manifest.get("command").and_then(Value::as_array);
            let words = words.map(|words| words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "));
            found.fact_if("command", words);
            facts(
                &mut found,
                manifest,
                &["model", "seed", "device"].map(|name| (name, name)),
            );
        }
    }
    let mut stages: Vec<String> = std::fs::read_dir(path.join("stages"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some(entry.path().file_stem()?.to_string_lossy().into_owned()))
        .filter(|name| !name.starts_with('.'))
        .collect();
    stages.sort();
    if !stages.is_empty() {
        found.fact("stages done", stages.join(", "));
    }
    let results = path.join("results.json");
    if results.is_file() {
        if let Some(results) = found.try_to(realign_report::Results::read(&results)) {
            found.fact("arms", arms(&results));
        }
        found.fit(format!("realign report {}", path.display()));
    } else {
        found.fact("results", "none yet: the same command goes on from here");
    }
    found
}

/// Sub-folders that sparsify wrote, one for each place.
fn sparsify_layers(path: &Path) -> Option<Vec<String>> {
    let is_place = |path: &PathBuf| path.join("cfg.json").is_file() && path.join("sae.safetensors").is_file();
    let mut places: Vec<String> = std::fs::read_dir(path)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter(is_place)
        .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .collect();
    places.sort();
    (!places.is_empty()).then_some(places)
}

/// Fields that are there and not null, under other names.
pub fn facts(found: &mut Found, fields: &Map<String, Value>, names: &[(&str, &str)]) {
    for (field, name) in names {
        match fields.get(*field) {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => found.fact(*name, text),
            Some(value) => found.fact(*name, value),
        }
    }
}
