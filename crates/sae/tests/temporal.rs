//! Temporal SAEs of SAELens (`tests/reference/saes.py`): the same numbers, over ragged batches too, and bad files refused.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use realign_core::{Batch, HookPoint, LanguageModel};
use realign_model::{Llama, LlamaConfig};
use realign_sae::{Sae, Splice, SpliceError, TemporalSae, Transcoder};
use serde_json::{Value, json};

#[derive(serde::Deserialize)]
struct Reference {
    /// Two sequences of four tokens.
    inputs: Vec<Vec<f32>>,
    activations: Vec<Vec<(usize, f32)>>,
    predicted: Vec<Vec<f32>>,
    novel: Vec<Vec<f32>>,
    reconstructions: Vec<Vec<f32>>,
}

const NAMES: [&str; 3] = [
    "saelens_temporal",
    "saelens_temporal_untied",
    "saelens_temporal_uncentred",
];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn reference(name: &str) -> Reference {
    serde_json::from_slice(&fs::read(fixture(name).join("reference.json")).unwrap()).unwrap()
}

fn load(name: &str) -> TemporalSae {
    TemporalSae::load(fixture(name), &Device::flex()).unwrap_or_else(|e| panic!("{e}"))
}

fn matrix(rows: &[Vec<f32>]) -> Tensor<2> {
    let shape = [rows.len(), rows[0].len()];
    Tensor::from_data(TensorData::new(rows.concat(), shape), &Device::flex())
}

fn near(what: &str, found: Tensor<2>, wanted: &[f32]) {
    let found = found.into_data().try_into_vec::<f32>().unwrap();
    assert_eq!(found.len(), wanted.len(), "{what}");
    for (found, wanted) in found.iter().zip(wanted) {
        let near = (found - wanted).abs() <= 3e-5 * wanted.abs().max(1.0);
        assert!(near, "{what}: {found} {wanted}");
    }
}

#[test]
fn temporal_saes_give_saelens_numbers() {
    let batch = Batch::packed([[0; 4]; 2]);
    for name in NAMES {
        let (sae, reference) = (load(name), reference(name));
        assert_eq!(
            sae.metadata.hook_name.as_deref(),
            Some("blocks.16.hook_resid_post"),
            "{name}"
        );
        let x = matrix(&reference.inputs);
        let (novel, predicted) = sae.encode(x.clone(), &batch);
        let columns: Vec<Tensor<2>> = (0..24)
            .map(|latent| novel.dense_column(latent).unsqueeze_dim(1))
            .collect();
        let mut wanted = vec![0.0; 8 * 24];
        for (token, active) in reference.activations.iter().enumerate() {
            active
                .iter()
                .for_each(|(latent, value)| wanted[token * 24 + latent] = *value);
        }
        near(name, Tensor::cat(columns, 1), &wanted);
        near(name, predicted, &reference.predicted.concat());
        near(name, sae.decode(&novel), &reference.novel.concat());
        near(name, sae.forward(x, &batch), &reference.reconstructions.concat());
    }
}

#[test]
fn sequences_of_any_length_and_shared_beginnings_give_what_they_give_alone() {
    let (sae, reference) = (load("saelens_temporal"), reference("saelens_temporal"));
    let x = |tokens: &[usize]| matrix(&tokens.iter().map(|&t| reference.inputs[t].clone()).collect::<Vec<_>>());
    let alone = |tokens: &[usize]| {
        let batch = Batch::packed([vec![0; tokens.len()]]);
        sae.forward(x(tokens), &batch)
            .into_data()
            .try_into_vec::<f32>()
            .unwrap()
    };
    // Tokens 0 to 2, then the beginning 3 and 4 with two ends: 5 and 6, 7.
    let mut batch = Batch::packed([[0; 3]]);
    let beginning = batch.push(&[0; 2]);
    batch.push_after(beginning, &[0; 2]);
    batch.push_after(beginning, &[0; 1]);
    let wanted = [
        alone(&[0, 1, 2]),
        alone(&[3, 4, 5, 6]),
        alone(&[3, 4, 7]).split_off(2 * 8),
    ];
    near(
        "ragged",
        sae.forward(x(&[0, 1, 2, 3, 4, 5, 6, 7]), &batch),
        &wanted.concat(),
    );
}

/// A temporal SAE of the tiny model's width, of the fixture's numbers.
fn tiny() -> TemporalSae {
    let mut sae = load("saelens_temporal");
    sae.w_dec = sae.w_dec.repeat_dim(1, 4);
    sae.w_enc = sae.w_dec.clone();
    sae.b_in = sae.b_in.repeat_dim(0, 4);
    sae.b_dec = sae.b_dec.repeat_dim(0, 4);
    sae
}

#[test]
fn spliced_with_its_error_it_leaves_the_logits_unchanged() {
    let (model, sae) = (Llama::random(&LlamaConfig::tiny(), 5, &Device::flex()), tiny());
    let batch = Batch::packed([vec![1, 2, 3, 4, 5], vec![6, 7]]);
    let logits = |error| {
        let mut splice = Splice::temporal(&sae, HookPoint::ResidPost(1), error);
        model.logits(model.forward(&batch, &mut splice))
    };
    let clean = model.logits(model.forward(&batch, &mut ()));
    let gap = |with: Tensor<2>| (with - clean.clone()).abs().max().into_scalar::<f32>();
    let scale = clean.clone().abs().max().into_scalar::<f32>();
    assert!(gap(logits(SpliceError::Keep)) <= 1e-5 * scale);
    assert!(gap(logits(SpliceError::Drop)) > 1e-3 * scale);
}

#[test]
#[should_panic(expected = "continues a cache")]
fn a_batch_that_continues_a_cache_is_refused() {
    let mut batch = Batch::new();
    batch.push_cached(0, 3, &[1, 2]);
    let x = Tensor::zeros([2, 8], &Device::flex());
    load("saelens_temporal").encode(x, &batch);
}

/// What loading says after a field of the configuration was set.
fn after(field: &str, value: Value) -> String {
    let folder = tempfile::tempdir().unwrap();
    let name = "saelens_temporal";
    let mut cfg: Value = serde_json::from_slice(&fs::read(fixture(name).join("cfg.json")).unwrap()).unwrap();
    cfg[field] = value;
    fs::write(folder.path().join("cfg.json"), cfg.to_string()).unwrap();
    let weights = "sae_weights.safetensors";
    fs::copy(fixture(name).join(weights), folder.path().join(weights)).unwrap();
    let read = TemporalSae::load(folder.path(), &Device::flex());
    read.err().map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn what_is_not_supported_or_does_not_fit_is_refused_by_name() {
    for (field, value, named) in [
        ("architecture", json!("topk"), "no temporal SAE"),
        ("normalize_activations", json!("layer_norm"), "layer_norm"),
        (
            "normalize_activations",
            json!("expected_average_only_in"),
            "expected_average_only_in",
        ),
        ("reshape_activations", json!("other"), "`reshape_activations`"),
        (
            "activation_normalization_factor",
            json!(0.0),
            "`activation_normalization_factor`: expected a number other than 0",
        ),
        (
            "activation_normalization_factor",
            json!("1"),
            "`activation_normalization_factor`",
        ),
        ("sae_diff_type", json!("batchtopk"), "`sae_diff_type`"),
        ("kval_topk", json!(25), "k = 25"),
        ("kval_topk", json!(0), "`kval_topk`"),
        ("n_heads", json!(5), "`bottleneck_factor`: expected with `n_heads` = 5"),
        ("n_heads", json!(1u64 << 63), "`bottleneck_factor`"),
        ("n_heads", json!(0), "`n_heads`"),
        ("bottleneck_factor", json!(4), "`attn_layers.0.q_target.weight`"),
        (
            "n_attn_layers",
            json!(u64::MAX),
            "`attn_layers.2.q_target.weight`: expected shape [8, 24]",
        ),
        ("n_attn_layers", json!(1), "expected no such array"),
        ("tied_weights", json!(false), "`W_enc`"),
        ("tied_weights", json!("no"), "`tied_weights`"),
        ("d_in", json!(9), "`W_dec`: expected shape [24, 9]"),
        ("d_sae", json!(1u64 << 61), "d_sae"),
    ] {
        let error = after(field, value.clone());
        assert!(error.contains(named), "{field} = {value}: {error}");
    }
    // Without its scaling, the factor is not looked at.
    assert_eq!(after("normalize_activations", json!("none")), "");
    let device = Device::flex();
    let temporal = fixture(NAMES[0]);
    let sae = Sae::load(&temporal, &device).unwrap_err().to_string();
    assert!(sae.contains("`TemporalSae::load` reads it"), "{sae}");
    let coder = Transcoder::load(&temporal, &device).unwrap_err().to_string();
    assert!(coder.contains("`TemporalSae::load` reads it"), "{coder}");
    for other in ["saelens_topk", "dictionary_topk"] {
        let error = TemporalSae::load(fixture(other), &device).unwrap_err().to_string();
        assert!(error.contains("no temporal SAE"), "{error}");
    }
}

#[test]
fn a_folder_cut_anywhere_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["cfg.json", "sae_weights.safetensors"] {
        fs::copy(fixture(NAMES[0]).join(file), folder.path().join(file)).unwrap();
    }
    for file in ["cfg.json", "sae_weights.safetensors"] {
        let path = folder.path().join(file);
        let whole = fs::read(&path).unwrap();
        for end in (0..whole.len()).rev().step_by(7) {
            fs::write(&path, &whole[..end]).unwrap();
            let read = TemporalSae::load(folder.path(), &Device::flex());
            assert!(read.is_err(), "{file} cut at {end}");
        }
        fs::write(&path, &whole).unwrap();
    }
    assert!(TemporalSae::load(folder.path(), &Device::flex()).is_ok());
}
