//! Folders: models, adapters, autoencoders, directions, runs.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use realign_model::{Access, ChatTemplate, Checkpoint, Tokenizer};
use serde_json::{Map, Value};

use super::found::{Found, counted};
use super::json::{self, arms};
use super::tensors::Header;

/// What a folder holds; none where no kind fits.
pub fn inspect(path: &Path, access: Access) -> Option<Found> {
    let has = |name: &str| path.join(name).is_file();
    if has("run.json") || has("results.json") {
        Some(run(path))
    } else if has("adapter_config.json") {
        Some(adapter(path, access))
    } else if has("cfg.json") {
        Some(sae(path, access))
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
        Some(dictionary(path))
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

fn sae(path: &Path, access: Access) -> Found {
    let mut found = Found::new(path, "sae", "sparse autoencoder");
    let Some(cfg) = found.try_to(json::read(&path.join("cfg.json"))) else {
        return found;
    };
    let number = |name: &str| {
        cfg.get(name)
            .and_then(Value::as_u64)
            .and_then(|n| usize::try_from(n).ok())
    };
    let sparsify = cfg.contains_key("num_latents") || cfg.contains_key("expansion_factor");
    let d_in = number("d_in");
    let (weights, d_sae, encoder, transposed) = if sparsify {
        found.kind = "sparsify-sae";
        found.what = "sparse autoencoder (sparsify)".into();
        let latents = number("num_latents").filter(|&n| n > 0);
        let expanded = d_in
            .zip(number("expansion_factor"))
            .and_then(|(d, by)| d.checked_mul(by));
        ("sae.safetensors", latents.or(expanded), "encoder.weight", true)
    } else {
        found.kind = "saelens-sae";
        found.what = "sparse autoencoder (SAELens)".into();
        ("sae_weights.safetensors", number("d_sae"), "W_enc", false)
    };
    let names = [
        "architecture",
        "activation",
        "k",
        "d_in",
        "dtype",
        "normalize_activations",
        "transcode",
        "skip_connection",
    ];
    facts(&mut found, &cfg, &names.map(|name| (name, name)));
    found.fact_if("latents", d_sae);
    if let Some(Value::Object(metadata)) = cfg.get("metadata") {
        facts(
            &mut found,
            metadata,
            &["model_name", "hook_name", "sae_lens_version"].map(|name| (name, name)),
        );
    }
    let header = Header::read(&path.join(weights), access);
    if let Some(header) = found.try_to(header) {
        found.fact("tensors", header.summary());
        let expected = match (d_in, d_sae) {
            (Some(d_in), Some(d_sae)) if transposed => Some([d_sae, d_in]),
            (Some(d_in), Some(d_sae)) => Some([d_in, d_sae]),
            _ => None,
        };
        match (expected, header.shape(encoder)) {
            (_, None) => found.problem(format!("{weights}: no tensor `{encoder}`")),
            (Some(expected), Some(shape)) if shape != expected => {
                found.problem(format!(
                    "{weights}: {encoder}: expected {expected:?}, as cfg.json says, found {shape:?}"
                ));
            }
            (None, _) => found.problem("cfg.json: expected d_in and the number of latents, found none"),
            _ => {}
        }
    }
    found.fit(format!("realign diff BASE TUNED --sae {} --out DIR", path.display()));
    found
}

fn dictionary(path: &Path) -> Found {
    let mut found = Found::new(
        path,
        "dictionary-learning-sae",
        "sparse autoencoder (dictionary_learning)",
    );
    let config = path.join("config.json");
    if let Some(config) = found.try_to(json::read(&config)) {
        match config.get("trainer").and_then(Value::as_object) {
            Some(trainer) => {
                let names = [
                    "dict_class",
                    "activation_dim",
                    "dict_size",
                    "k",
                    "layer",
                    "lm_name",
                    "submodule_name",
                ];
                facts(&mut found, trainer, &names.map(|name| (name, name)));
            }
            None => found.problem("config.json: expected `trainer`, found none"),
        }
    }
    found.fact("weights", "ae.pt, a pickle; realign runs no code from it");
    found.fit(format!("realign diff BASE TUNED --sae {} --out DIR", path.display()));
    found
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
fn facts(found: &mut Found, fields: &Map<String, Value>, names: &[(&str, &str)]) {
    for (field, name) in names {
        match fields.get(*field) {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => found.fact(*name, text),
            Some(value) => found.fact(*name, value),
        }
    }
}
