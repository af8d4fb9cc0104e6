//! Folders of sparse autoencoders and transcoders, by the library that wrote them.

use std::path::Path;

use realign_model::Access;
use serde_json::Value;

use super::folder::facts;
use super::found::Found;
use super::json;
use super::tensors::Header;

/// A folder of SAELens or sparsify, which `cfg.json` describes.
pub fn described(path: &Path, access: Access) -> Found {
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
    let architecture = cfg.get("architecture").and_then(Value::as_str).unwrap_or_default();
    // A matching pursuit has one matrix, and so has a temporal SAE whose weights are tied.
    let tied = cfg.get("tied_weights").is_none_or(|tied| tied == true);
    let one_matrix = architecture == "matching_pursuit" || architecture == "temporal" && tied;
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
        let encoder = if one_matrix { "W_dec" } else { "W_enc" };
        ("sae_weights.safetensors", number("d_sae"), encoder, one_matrix)
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
    let transcoder = architecture.ends_with("transcoder") || cfg.get("transcode").is_some_and(|on| on == true);
    fits(
        &mut found,
        match architecture {
            "temporal" => Some("TemporalSae"),
            _ => transcoder.then_some("Transcoder"),
        },
    );
    found
}

/// A folder of dictionary_learning.
pub fn dictionary(path: &Path) -> Found {
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
    fits(&mut found, None);
    found
}

/// A folder of Gemma Scope 2; where it has no configuration, the folder above it says what it is.
pub fn gemma_scope_2(path: &Path, access: Access) -> Found {
    const WEIGHTS: &str = "params.safetensors";
    let mut found = Found::new(path, "gemma-scope-2-sae", "sparse autoencoder (Gemma Scope 2)");
    let full = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let site = full.parent().and_then(Path::file_name).unwrap_or_default();
    let mut transcoder = site.to_string_lossy().starts_with("transcoder");
    let config = path.join("config.json");
    if config.is_file()
        && let Some(config) = found.try_to(json::read(&config))
    {
        let names = [
            "architecture",
            "model_name",
            "hf_hook_point_in",
            "hf_hook_point_out",
            "affine_connection",
        ];
        facts(&mut found, &config, &names.map(|name| (name, name)));
        if let Some(read) = config.get("hf_hook_point_in") {
            let written = config.get("hf_hook_point_out").filter(|written| !written.is_null());
            transcoder = written.is_some_and(|written| written != read);
        }
    }
    if transcoder {
        found.kind = "gemma-scope-2-transcoder";
        found.what = "transcoder (Gemma Scope 2)".into();
    }
    if let Some(header) = found.try_to(Header::read(&path.join(WEIGHTS), access)) {
        found.fact("tensors", header.summary());
        match header.shape("w_enc") {
            Some(&[d_in, d_sae]) => {
                found.fact("d_in", d_in);
                found.fact("latents", d_sae);
            }
            _ => found.problem(format!("{WEIGHTS}: expected a matrix `w_enc`, found none")),
        }
    }
    fits(&mut found, transcoder.then_some("Transcoder"));
    found
}

/// What is no [`realign_sae::Sae`] is read by programs only, as another type.
fn fits(found: &mut Found, other: Option<&str>) {
    let path = found.path.display();
    found.fit(match other {
        Some(other) => format!("realign_sae::{other}::load(\"{path}\")"),
        None => format!("realign diff BASE TUNED --sae {path} --out DIR"),
    });
}
