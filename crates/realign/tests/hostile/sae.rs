//! Kind 33: sparse autoencoders in SAELens' and Gemma Scope 2's form.

use std::path::Path;

use realign::burn::tensor::Device;
use realign::run::Seed;
use realign::sae::{Activation, Sae, SaeConfig, TemporalSae, Transcoder};
use serde_json::{Value, json};

use crate::bounds::alone;
use crate::model;

#[test]
fn kind_33_configurations_that_do_not_fit_the_weights() {
    let alone = alone();
    let (folder, device) = (tempfile::tempdir().unwrap(), Device::flex());
    SaeConfig::new(4, 8, 2)
        .init(&Seed::new(1), &device)
        .save(folder.path())
        .unwrap();
    Sae::load(folder.path(), &device).unwrap();
    let path = folder.path().join("cfg.json");
    let good: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for (field, value, word) in [
        ("d_in", json!(5), "W_"),
        ("d_in", json!(0), "d_in"),
        ("d_in", json!(u64::MAX), "d_in"),
        ("d_in", json!(1u64 << 40), ""),
        ("d_in", json!(-4), "d_in"),
        ("d_in", json!("4"), "d_in"),
        ("d_in", json!(4.5), "d_in"),
        ("d_sae", json!(0), "d_sae"),
        ("d_sae", json!(9), ""),
        ("d_sae", json!(1u64 << 62), ""),
        ("k", json!(0), "k"),
        ("k", json!(9), "k"),
        ("architecture", json!("no-such-architecture"), "architecture"),
        ("architecture", json!(7), "architecture"),
        ("activation_fn", json!("no-such-function"), "activation_fn"),
        ("normalize_activations", json!("no-such-way"), "normalize_activations"),
    ] {
        let mut changed = good.clone();
        changed[field] = value.clone();
        let text = changed.to_string();
        std::fs::write(&path, &text).unwrap();
        let what = format!("{field}: {value}");
        alone.refused(&what, 4096, &[word], || Sae::load(folder.path(), &device));
    }
    for text in [
        "".to_owned(),
        "[]".into(),
        "null".into(),
        "{}".into(),
        "[".repeat(1 << 20),
    ] {
        std::fs::write(&path, &text).unwrap();
        alone.refused("cfg.json", text.len() as u64, &["cfg.json"], || {
            Sae::load(folder.path(), &device)
        });
    }
}

#[test]
fn kind_33_pursuits_that_do_not_end_or_do_not_fit() {
    let alone = alone();
    let (folder, device) = (tempfile::tempdir().unwrap(), Device::flex());
    let mut sae = SaeConfig::new(4, 8, 2).init(&Seed::new(1), &device);
    sae.activation = Activation::MatchingPursuit {
        threshold: 0.0,
        steps: 3,
        stop_on_repeat: false,
    };
    sae.save(folder.path()).unwrap();
    Sae::load(folder.path(), &device).unwrap();
    let path = folder.path().join("cfg.json");
    let good: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for (field, value, word) in [
        ("max_iterations", json!(u64::MAX), "max_iterations"),
        ("max_iterations", json!(1u64 << 20), "max_iterations"),
        ("max_iterations", json!(-1), "max_iterations"),
        ("max_iterations", json!(2.5), "max_iterations"),
        ("residual_threshold", json!([]), "residual_threshold"),
        ("residual_threshold", json!(-1e200), "residual_threshold"),
        ("stop_on_duplicate_support", json!("no"), "stop_on_duplicate_support"),
        ("d_in", json!(1u64 << 40), "W_dec"),
        ("d_sae", json!(1u64 << 60), "W_dec"),
        ("architecture", json!("abstopk"), "`k`"),
        ("architecture", json!("temporal"), "temporal"),
    ] {
        let mut changed = good.clone();
        changed[field] = value.clone();
        std::fs::write(&path, changed.to_string()).unwrap();
        let what = format!("{field}: {value}");
        alone.refused(&what, 4096, &[word], || Sae::load(folder.path(), &device));
    }
}

#[test]
fn kind_33_temporal_saes_that_do_not_fit() {
    let alone = alone();
    let (folder, device) = (tempfile::tempdir().unwrap(), Device::flex());
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sae/tests/fixtures/saelens_temporal");
    for file in ["cfg.json", "sae_weights.safetensors"] {
        std::fs::copy(fixture.join(file), folder.path().join(file)).unwrap();
    }
    TemporalSae::load(folder.path(), &device).unwrap();
    let path = folder.path().join("cfg.json");
    let good: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for (field, value, word) in [
        ("n_attn_layers", json!(u64::MAX), "attn_layers.2"),
        ("n_attn_layers", json!(-1), "n_attn_layers"),
        ("n_heads", json!(u64::MAX), "bottleneck_factor"),
        ("bottleneck_factor", json!(0), "bottleneck_factor"),
        ("d_sae", json!(24u64 << 40), "attn_layers.0"),
        ("d_in", json!(1u64 << 40), "W_dec"),
        ("kval_topk", json!([]), "kval_topk"),
        (
            "activation_normalization_factor",
            json!(1e300),
            "activation_normalization_factor",
        ),
    ] {
        let mut changed = good.clone();
        changed[field] = value.clone();
        std::fs::write(&path, changed.to_string()).unwrap();
        let what = format!("{field}: {value}");
        alone.refused(&what, 16384, &[word], || TemporalSae::load(folder.path(), &device));
    }
}

#[test]
fn kind_33_folders_of_gemma_scope_2_that_do_not_fit() {
    let alone = alone();
    let (folder, device) = (tempfile::tempdir().unwrap(), Device::flex());
    let path = folder.path().join("params.safetensors");
    let tensor = |name: &str, shape: &[usize]| (name.to_owned(), shape.to_vec(), model::numbers(shape));
    let all = [
        tensor("w_enc", &[4, 8]),
        tensor("w_dec", &[8, 4]),
        tensor("b_enc", &[8]),
        tensor("b_dec", &[4]),
        tensor("threshold", &[8]),
    ];
    std::fs::write(&path, model::safetensors(&all)).unwrap();
    Sae::load(folder.path(), &device).unwrap();
    for (at, (name, shape, _)) in all.iter().enumerate() {
        let mut empty = all.to_vec();
        empty[at] = tensor(name, &vec![0; shape.len()]);
        let mut deep = all.to_vec();
        deep[at] = tensor(name, &[shape.clone(), vec![1]].concat());
        let mut missing = all.to_vec();
        missing.remove(at);
        for (what, tensors) in [("empty", empty), ("deep", deep), ("missing", missing)] {
            let bytes = model::safetensors(&tensors);
            std::fs::write(&path, &bytes).unwrap();
            alone.refused(what, bytes.len() as u64, &["params.safetensors", "`"], || {
                Sae::load(folder.path(), &device)
            });
        }
    }
    std::fs::write(&path, model::safetensors(&all)).unwrap();
    let config = folder.path().join("config.json");
    let (read, written) = ("model.layers.3.mlp.input", "model.layers.3.mlp.output");
    for (fields, word) in [
        (json!({}), "architecture"),
        (json!({"architecture": 7}), "architecture"),
        (
            json!({"architecture": "jump_relu", "hf_hook_point_in": {}}),
            "hf_hook_point_in",
        ),
        (
            json!({"architecture": "jump_relu", "affine_connection": 1}),
            "affine_connection",
        ),
        (
            json!({"architecture": "jump_relu", "hf_hook_point_in": read, "hf_hook_point_out": written, "affine_connection": true}),
            "affine_skip_connection",
        ),
    ] {
        let text = fields.to_string();
        std::fs::write(&config, &text).unwrap();
        alone.refused(&text, 4096, &[word], || Transcoder::load(folder.path(), &device));
    }
    let text = "[".repeat(1 << 20);
    std::fs::write(&config, &text).unwrap();
    alone.refused("config.json", text.len() as u64, &["config.json"], || {
        Sae::load(folder.path(), &device)
    });
}

#[test]
fn kind_33_weights_that_are_transposed_or_missing() {
    let alone = alone();
    let (folder, device) = (tempfile::tempdir().unwrap(), Device::flex());
    SaeConfig::new(4, 8, 2)
        .init(&Seed::new(1), &device)
        .save(folder.path())
        .unwrap();
    let path = folder.path().join("sae_weights.safetensors");
    let tensor = |name: &str, shape: &[usize]| (name.to_owned(), shape.to_vec(), model::numbers(shape));
    let all = [
        tensor("W_enc", &[4, 8]),
        tensor("W_dec", &[8, 4]),
        tensor("b_enc", &[8]),
        tensor("b_dec", &[4]),
    ];
    std::fs::write(&path, model::safetensors(&all)).unwrap();
    Sae::load(folder.path(), &device).unwrap();
    for (at, (name, shape, _)) in all.iter().enumerate() {
        let mut transposed = all.to_vec();
        transposed[at] = match shape[..] {
            [rows, columns] => tensor(name, &[columns, rows]),
            _ => tensor(name, &[shape[0] + 1]),
        };
        let mut missing = all.to_vec();
        missing.remove(at);
        let mut not_finite = all.to_vec();
        not_finite[at].2[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        for (what, tensors) in [
            ("another shape", transposed),
            ("missing", missing),
            ("not finite", not_finite),
        ] {
            let bytes = model::safetensors(&tensors);
            std::fs::write(&path, &bytes).unwrap();
            alone.refused(what, bytes.len() as u64, &["sae_weights.safetensors", name], || {
                Sae::load(folder.path(), &device)
            });
        }
    }
}
