//! SAEs of other libraries (`tests/reference/saes.py`, `saelens_sae.py`): the same activations and reconstructions;
//! settings that would change them, and damaged files, are refused by name.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use realign_arrays::{Array, Arrays, safetensors};
use realign_core::HookPoint;
use realign_run::Seed;
use realign_sae::{Activation, Format, Latents, Metadata, Sae, SaeConfig, Transcoder};
use serde_json::{Map, Value, json};

#[derive(serde::Deserialize)]
struct Reference {
    inputs: Vec<Vec<f32>>,
    /// `(latent, activation)` of the active ones.
    activations: Vec<Vec<(u32, f32)>>,
    reconstructions: Vec<Vec<f32>>,
    /// Where SAELens says that a file of Gemma Scope 2 belongs.
    #[serde(default)]
    metadata: Map<String, Value>,
}

/// Each with its activation and where it belongs.
const SAES: [(&str, &str, Option<HookPoint>); 23] = [
    ("saelens_topk", "topk", Some(HookPoint::ResidPost(16))),
    ("saelens_topk_rescaled", "topk", Some(HookPoint::ResidPost(16))),
    ("saelens_standard", "relu", Some(HookPoint::ResidPost(16))),
    ("saelens_gated", "gated", Some(HookPoint::ResidPost(16))),
    ("saelens_jumprelu", "jumprelu", Some(HookPoint::ResidPost(16))),
    ("saelens_batchtopk", "batchtopk", Some(HookPoint::ResidPost(16))),
    (
        "saelens_batchtopk_unfinished",
        "batchtopk",
        Some(HookPoint::ResidPost(16)),
    ),
    ("saelens_matryoshka", "batchtopk", Some(HookPoint::ResidPost(16))),
    ("saelens_abstopk", "abstopk", Some(HookPoint::ResidPost(16))),
    ("saelens_abstopk_rescaled", "abstopk", Some(HookPoint::ResidPost(16))),
    ("saelens_pursuit", "matching_pursuit", Some(HookPoint::ResidPost(16))),
    (
        "saelens_pursuit_repeating",
        "matching_pursuit",
        Some(HookPoint::ResidPost(16)),
    ),
    ("saelens_legacy", "relu", Some(HookPoint::ResidPost(16))),
    ("saelens_legacy_topk", "topk", Some(HookPoint::ResidPost(16))),
    ("sparsify/layers.10", "topk", Some(HookPoint::ResidPost(10))),
    ("sparsify/layers.3.mlp", "groupmax", Some(HookPoint::MlpOut(3))),
    ("dictionary_relu", "relu", Some(HookPoint::ResidPost(16))),
    ("dictionary_april", "relu", Some(HookPoint::ResidPost(16))),
    ("dictionary_gated", "gated", Some(HookPoint::ResidPost(16))),
    ("dictionary_topk", "topk", Some(HookPoint::ResidPost(16))),
    ("dictionary_batchtopk", "batchtopk", Some(HookPoint::ResidPost(16))),
    ("dictionary_matryoshka", "batchtopk", Some(HookPoint::ResidPost(16))),
    ("dictionary_jumprelu", "jumprelu", Some(HookPoint::ResidPost(16))),
];
const GEMMA_SCOPE: &str = "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71";
const GEMMA_SCOPE_2: &str = "gemma-scope-2-1b-pt";
const GEMMA_SCOPE_2_SAES: [(&str, HookPoint); 3] = [
    ("resid_post/layer_7_width_16k_l0_small", HookPoint::ResidPost(7)),
    ("attn_out/layer_7_width_16k_l0_small", HookPoint::Z(7)),
    ("mlp_out_all/layer_7_width_16k_l0_small", HookPoint::MlpOut(7)),
];
const GEMMA_SCOPE_2_TRANSCODERS: [&str; 3] = [
    "transcoder/layer_7_width_16k_l0_small",
    "transcoder_all/layer_7_width_16k_l0_small_affine",
    "transcoder_all/layer_8_width_16k_l0_big_affine",
];
const TRANSCODERS: [(&str, &str); 4] = [
    ("saelens_transcoder", "relu"),
    ("saelens_skip_transcoder", "relu"),
    ("saelens_jumprelu_transcoder", "jumprelu"),
    ("sparsify/layers.3.transcoder", "topk"),
];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn reference(name: &str) -> Reference {
    serde_json::from_slice(&fs::read(fixture(name).join("reference.json")).unwrap()).unwrap()
}

fn matrix(rows: &[Vec<f32>]) -> Tensor<2> {
    let shape = [rows.len(), rows[0].len()];
    Tensor::from_data(TensorData::new(rows.concat(), shape), &Device::flex())
}

fn load(path: impl AsRef<Path>) -> Sae {
    Sae::load(path, &Device::flex()).unwrap_or_else(|e| panic!("{e}"))
}

fn error(path: &Path) -> String {
    Sae::load(path, &Device::flex()).unwrap_err().to_string()
}

/// Fails where activations or outputs are not the original library's.
fn compare(name: &str, reference: &Reference, latents: &Latents, out: Tensor<2>) {
    let columns = latents.values.dims()[1];
    let (values, indices) = latents.to_vecs();
    for (t, wanted) in reference.activations.iter().enumerate() {
        let at = t * columns..(t + 1) * columns;
        let mut found: Vec<(u32, f32)> = at
            .map(|j| (indices[j], values[j]))
            .filter(|(_, value)| *value != 0.0)
            .collect();
        found.sort_by_key(|(latent, _)| *latent);
        let mut wanted = wanted.clone();
        wanted.sort_by_key(|(latent, _)| *latent);
        assert_eq!(found.len(), wanted.len(), "{name}, token {t}: {found:?} {wanted:?}");
        for (found, wanted) in found.iter().zip(wanted) {
            let near = (found.1 - wanted.1).abs() <= 2e-5 * wanted.1.abs().max(1.0);
            assert!(found.0 == wanted.0 && near, "{name}, token {t}: {found:?} {wanted:?}");
        }
    }
    let out = out.into_data().try_into_vec::<f32>().unwrap();
    assert_eq!(out.len(), reference.reconstructions.concat().len(), "{name}");
    for (found, wanted) in out.iter().zip(reference.reconstructions.concat()) {
        assert!(
            (found - wanted).abs() <= 3e-5 * wanted.abs().max(1.0),
            "{name}: {found} {wanted}"
        );
    }
}

fn same_numbers(name: &str, sae: &Sae) {
    let reference = reference(name);
    let latents = sae.encode(matrix(&reference.inputs));
    compare(name, &reference, &latents, sae.decode(&latents));
}

#[test]
fn every_format_and_activation_gives_the_original_librarys_numbers() {
    for (name, activation, at) in SAES {
        let sae = load(fixture(name));
        assert_eq!((sae.activation.name(), sae.at()), (activation, at), "{name}");
        same_numbers(name, &sae);
    }
    let sae = load(fixture(GEMMA_SCOPE));
    assert_eq!(sae.activation.name(), "jumprelu");
    assert_eq!(sae.at(), Some(HookPoint::ResidPost(20)));
    same_numbers(GEMMA_SCOPE, &sae);
}

#[test]
fn transcoders_give_the_original_librarys_numbers_and_are_no_saes() {
    for (name, activation) in TRANSCODERS {
        let coder = Transcoder::load(fixture(name), &Device::flex()).unwrap();
        assert_eq!(coder.activation.name(), activation, "{name}");
        let reference = reference(name);
        let x = matrix(&reference.inputs);
        compare(name, &reference, &coder.encode(x.clone()), coder.forward(x));
        assert!(error(&fixture(name)).contains("a transcoder"), "{name}");
    }
    let sae = Transcoder::load(fixture("saelens_topk"), &Device::flex())
        .unwrap_err()
        .to_string();
    assert!(sae.contains("no transcoder"), "{sae}");
}

/// As SAELens tells it, where it tells anything.
fn same_place(name: &str, found: &Metadata, wanted: &Map<String, Value>) {
    let found = serde_json::to_value(found).unwrap();
    assert!(!wanted.is_empty(), "{name}");
    for (field, wanted) in wanted.iter().filter(|(_, wanted)| !wanted.is_null()) {
        assert_eq!(found.get(field), Some(wanted), "{name}: {field}");
    }
}

#[test]
fn gemma_scope_2_gives_saelens_numbers_and_names() {
    for (id, at) in GEMMA_SCOPE_2_SAES {
        let name = format!("{GEMMA_SCOPE_2}/{id}");
        let sae = load(fixture(&name));
        assert_eq!((sae.activation.name(), sae.at()), ("jumprelu", Some(at)), "{name}");
        same_numbers(&name, &sae);
        same_place(&name, &sae.metadata, &reference(&name).metadata);
    }
    for id in GEMMA_SCOPE_2_TRANSCODERS {
        let name = format!("{GEMMA_SCOPE_2}/{id}");
        let coder = Transcoder::load(fixture(&name), &Device::flex()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(coder.w_skip.is_some(), id.ends_with("affine"), "{name}");
        let reference = reference(&name);
        let x = matrix(&reference.inputs);
        compare(&name, &reference, &coder.encode(x.clone()), coder.forward(x));
        same_place(&name, &coder.metadata, &reference.metadata);
        assert!(error(&fixture(&name)).contains("a transcoder"), "{name}");
    }
}

#[test]
fn settings_of_gemma_scope_2_that_are_not_supported_are_refused_by_name() {
    for (field, value, named) in [
        (
            "architecture",
            json!("topk"),
            "`architecture`: expected jump_relu, found `\"topk\"`",
        ),
        ("architecture", json!(null), "`architecture`"),
        ("affine_connection", json!(true), "`affine_connection`: expected false"),
        ("affine_connection", json!("no"), "`affine_connection`"),
        ("hf_hook_point_in", json!(7), "`hf_hook_point_in`: expected a text"),
        ("hf_hook_point_out", json!("model.layers.7.mlp.output"), "a transcoder"),
    ] {
        let folder = copied(&format!("{GEMMA_SCOPE_2}/{}", GEMMA_SCOPE_2_SAES[0].0));
        let error = after(folder.path(), "config.json", None, field, value);
        assert!(error.contains(named), "{field}: {error}");
    }
    // What is neither configured nor told by the path is an SAE that belongs nowhere.
    let folder = copied(&format!("{GEMMA_SCOPE_2}/{}", GEMMA_SCOPE_2_SAES[2].0));
    let sae = load(folder.path());
    assert_eq!((sae.at(), sae.metadata.model_name), (None, None));
    let path = folder.path().join("params.safetensors");
    for (name, array, named) in [
        ("w_dec", Some(vec![24, 2, 8]), "2 layers: a cross-layer transcoder"),
        ("w_dec", Some(vec![24, 9]), "expected shape [24, 8], found [24, 9]"),
        ("w_enc", Some(vec![192]), "`w_enc`: expected a matrix [d_in, d_sae]"),
        ("w_enc", None, "`w_enc`: expected a matrix [d_in, d_sae]"),
        ("threshold", Some(vec![1]), "`threshold`"),
        (
            "affine_skip_connection",
            Some(vec![8, 8]),
            "`affine_skip_connection`: expected no such array",
        ),
    ] {
        let mut arrays = Arrays::read(
            fixture(GEMMA_SCOPE_2)
                .join(GEMMA_SCOPE_2_SAES[2].0)
                .join("params.safetensors"),
        )
        .unwrap();
        let names: Vec<String> = arrays.shapes().map(|(name, _)| name.to_owned()).collect();
        let mut all: Vec<(String, Array)> = names
            .into_iter()
            .map(|name| (name.clone(), arrays.pop(&name).unwrap()))
            .collect();
        all.retain(|(other, _)| other != name);
        if let Some(shape) = array {
            let n = shape.iter().product();
            all.push((name.into(), Array::new(shape, vec![0.5; n])));
        }
        fs::write(
            &path,
            safetensors(all.iter().map(|(name, array)| (&name[..], array)), &[]),
        )
        .unwrap();
        let error = error(folder.path());
        assert!(
            error.contains(named) && error.contains("params.safetensors"),
            "{name}: {error}"
        );
    }
}

#[test]
fn settings_of_a_pursuit_that_are_not_supported_are_refused_by_name() {
    for (field, value, named) in [
        ("max_iterations", json!(0), "`max_iterations`"),
        ("max_iterations", json!("9"), "`max_iterations`: expected an integer"),
        (
            "residual_threshold",
            json!("none"),
            "`residual_threshold`: expected a number",
        ),
        (
            "residual_threshold",
            json!(1e300),
            "`residual_threshold`: expected a number",
        ),
        ("stop_on_duplicate_support", json!(1), "`stop_on_duplicate_support`"),
        ("apply_b_dec_to_input", json!("yes"), "`apply_b_dec_to_input`"),
        ("normalize_activations", json!("layer_norm"), "layer_norm"),
        ("d_sae", json!(23), "`W_dec`"),
    ] {
        let error = after(copied("saelens_pursuit").path(), CONFIG, None, field, value);
        assert!(error.contains(named), "{field}: {error}");
    }
    let folder = copied("saelens_pursuit_repeating");
    let error = after(folder.path(), CONFIG, None, "max_iterations", json!(4097));
    assert!(error.contains("`max_iterations`: expected at most 4096"), "{error}");
    // A latent that comes again ends it in time.
    let said = after(folder.path(), CONFIG, None, "stop_on_duplicate_support", json!(true));
    assert_eq!(said, "");
    // SAELens has no place for an encoder of its own.
    let mut sae = load(fixture("saelens_pursuit"));
    sae.w_enc = sae.w_enc * 2.0;
    let error = sae.save(tempfile::tempdir().unwrap().path()).unwrap_err().to_string();
    assert!(error.contains("an encoder that is not the decoder"), "{error}");
}

/// Where written SAEs go: `REALIGN_WRITTEN`, for `tests/reference/saes.py check`, or a folder that does not stay.
fn written(temporary: &tempfile::TempDir) -> PathBuf {
    std::env::var_os("REALIGN_WRITTEN").map_or_else(|| temporary.path().to_owned(), PathBuf::from)
}

#[test]
fn what_is_written_for_saelens_gives_the_same_numbers_when_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    for (name, activation, at) in SAES {
        let path = written(&folder).join("saelens").join(name);
        let saved = load(fixture(name)).save(&path);
        if activation == "groupmax" {
            let error = saved.unwrap_err().to_string();
            assert!(
                error.contains("activation groupmax cannot be written as a SAELens folder"),
                "{error}"
            );
            continue;
        }
        saved.unwrap();
        let again = load(&path);
        assert_eq!((again.activation.name(), again.at()), (activation, at), "{name}");
        same_numbers(name, &again);
    }
}

#[test]
fn what_is_written_for_sparsify_gives_the_same_numbers_when_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    for (name, activation, at) in SAES {
        let path = written(&folder).join("sparsify").join(name).join("layers.16");
        let saved = load(fixture(name)).save_sparsify(&path);
        if !matches!(activation, "topk" | "groupmax") {
            let error = saved.unwrap_err().to_string();
            assert!(error.contains("which has topk and groupmax"), "{error}");
            continue;
        }
        saved.unwrap();
        let again = load(&path);
        assert_eq!(again.activation.name(), activation, "{name}");
        assert!(at.is_some() && again.at() == Some(HookPoint::ResidPost(16)), "{name}");
        same_numbers(name, &again);
    }
}

#[test]
fn formats_are_recognised_by_the_files_that_are_there() {
    for (path, format) in [
        ("saelens_topk", Format::SaeLens),
        ("saelens_topk/cfg.json", Format::SaeLens),
        ("saelens_topk/sae_weights.safetensors", Format::SaeLens),
        ("sparsify/layers.10", Format::Sparsify),
        ("sparsify/layers.10/cfg.json", Format::Sparsify),
        ("dictionary_topk", Format::DictionaryLearning),
        ("dictionary_topk/ae.pt", Format::DictionaryLearning),
        (GEMMA_SCOPE, Format::GemmaScope),
        (
            "gemma-scope-2-1b-pt/attn_out/layer_7_width_16k_l0_small",
            Format::GemmaScope2,
        ),
        (
            "gemma-scope-2-1b-pt/attn_out/layer_7_width_16k_l0_small/config.json",
            Format::GemmaScope2,
        ),
    ] {
        assert_eq!(Format::of(fixture(path)).unwrap().0, format, "{path}");
    }
    // A checkpoint of a training that goes on, and a file under a name of one's own.
    let folder = tempfile::tempdir().unwrap();
    fs::copy(
        fixture("dictionary_topk/config.json"),
        folder.path().join("config.json"),
    )
    .unwrap();
    fs::create_dir(folder.path().join("checkpoints")).unwrap();
    let checkpoint = folder.path().join("checkpoints/ae_500.pt");
    fs::copy(fixture("dictionary_topk/ae.pt"), &checkpoint).unwrap();
    same_numbers("dictionary_topk", &load(checkpoint));
    let mine = folder.path().join("mine");
    fs::copy(fixture(GEMMA_SCOPE).join("params.npz"), &mine).unwrap();
    let sae = load(&mine);
    assert_eq!(sae.at(), None);
    same_numbers(GEMMA_SCOPE, &sae);
}

#[test]
fn where_there_is_no_sae_the_error_lists_what_was_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    let empty = error(folder.path());
    let wanted =
        "expected a folder with one of sae_weights.safetensors, sae.safetensors, ae.pt, params.npz, params.safetensors";
    assert!(empty.contains(wanted) && empty.contains("an empty folder"), "{empty}");
    fs::write(folder.path().join("notes.txt"), "x").unwrap();
    assert!(error(folder.path()).contains("found notes.txt"));
    assert!(error(&folder.path().join("notes.txt")).contains("found another file"));
    assert!(error(&folder.path().join("none")).contains("no such file or folder"));
    assert!(error(&fixture("sparsify")).contains("layers.10"));
}

#[test]
fn saving_then_loading_restores_everything() {
    let (folder, sae) = saved();
    let mut read = load(folder.path());
    assert_eq!(parts(&read), parts(&sae));
    assert!(matches!(read.activation, Activation::TopK { k: 2 }));
    assert_eq!(read.metadata.other.remove("sae_lens_version"), Some("6.0.0".into()));
    assert_eq!(read.metadata, sae.metadata);
    let again = tempfile::tempdir().unwrap();
    let sae = load(fixture("saelens_topk"));
    sae.save(again.path()).unwrap();
    assert_eq!(
        (parts(&load(again.path())), load(again.path()).metadata),
        (parts(&sae), sae.metadata)
    );
}

fn parts(sae: &Sae) -> [TensorData; 4] {
    [
        sae.w_enc.to_data(),
        sae.b_enc.to_data(),
        sae.w_dec.to_data(),
        sae.b_dec.to_data(),
    ]
}

const CONFIG: &str = "cfg.json";
const WEIGHTS: &str = "sae_weights.safetensors";

/// A folder that loads, for tests to damage.
fn saved() -> (tempfile::TempDir, Sae) {
    let folder = tempfile::tempdir().unwrap();
    let mut sae = SaeConfig::new(3, 5, 2).init(&Seed::new(1), &Device::flex());
    sae.b_enc = Tensor::from_floats([0.1, 0.2, 0.3, 0.4, 0.5], &Device::flex());
    sae.b_dec = Tensor::from_floats([1.0, 2.0, 3.0], &Device::flex());
    sae.metadata.hook_name = Some("blocks.16.hook_resid_post".into());
    sae.metadata.other.insert("context_size".into(), 128.into());
    sae.save(folder.path()).unwrap();
    (folder, sae)
}

fn copied(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in fs::read_dir(fixture(name)).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    folder
}

/// What `Sae::load` says after a field of a JSON file, or of an object in it, was set; nothing where it loads.
fn after(folder: &Path, file: &str, inside: Option<&str>, field: &str, value: Value) -> String {
    let path = folder.join(file);
    let mut cfg: Map<String, Value> = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let object = match inside {
        Some(inside) => cfg[inside].as_object_mut().unwrap(),
        None => &mut cfg,
    };
    object.insert(field.into(), value);
    fs::write(&path, serde_json::to_vec(&cfg).unwrap()).unwrap();
    Sae::load(folder, &Device::flex())
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default()
}

#[test]
fn settings_of_saelens_that_are_not_supported_are_refused_by_name() {
    for (field, value, named) in [
        ("architecture", json!("no-such"), "no-such"),
        ("architecture", json!("temporal"), "temporal"),
        (
            "architecture",
            json!("matching_pursuit"),
            "`W_enc`: expected no such array",
        ),
        ("architecture", Value::Null, "architecture"),
        ("architecture", json!("jumprelu"), "`threshold`"),
        ("architecture", json!("gated"), "`b_gate`"),
        ("architecture", json!("transcoder"), "`d_out`"),
        ("normalize_activations", json!("layer_norm"), "layer_norm"),
        (
            "normalize_activations",
            json!("expected_average_only_in"),
            "expected_average_only_in",
        ),
        (
            "normalize_activations",
            json!("constant_norm_rescale"),
            "constant_norm_rescale",
        ),
        ("reshape_activations", json!("other"), "other"),
        ("apply_b_dec_to_input", json!("yes"), "apply_b_dec_to_input"),
        ("rescale_acts_by_decoder_norm", json!(1), "rescale_acts_by_decoder_norm"),
        ("d_in", json!(0), "d_in"),
        ("d_in", json!(-3), "d_in"),
        ("d_sae", json!(1e300), "d_sae"),
        ("d_sae", json!(u64::MAX), "d_sae"),
        ("d_sae", json!(1_u64 << 61), "`W_enc`"),
        ("k", json!(6), "k = 6"),
        ("k", json!("many"), "`k`"),
        (
            "metadata",
            json!({"sae_lens_version": "6.1.0", "hook_name": 3}),
            "metadata",
        ),
        ("d_in", json!(4), "W_enc"),
    ] {
        let (folder, _) = saved();
        let error = after(folder.path(), CONFIG, None, field, value.clone());
        assert!(error.contains(named), "{field} = {value}: {error}");
    }
    let error = after(
        copied("saelens_transcoder").path(),
        CONFIG,
        None,
        "apply_b_dec_to_input",
        json!(true),
    );
    assert!(error.contains("apply_b_dec_to_input"), "{error}");
}

#[test]
fn settings_of_legacy_files_that_are_not_supported_are_refused_by_name() {
    for (field, value, named) in [
        (
            "activation_fn_str",
            json!("tanh-relu"),
            "`activation_fn`: expected relu or topk, found `\"tanh-relu\"`",
        ),
        ("activation_fn_str", json!("topk"), "activation_fn_kwargs"),
        ("normalize_activations", json!(true), "expected_average_only_in"),
        ("normalize_activations", json!("layer_norm"), "layer_norm"),
        ("architecture", json!("other"), "other"),
    ] {
        let folder = copied("saelens_legacy");
        let error = after(folder.path(), CONFIG, None, field, value);
        assert!(error.contains(named), "{field}: {error}");
    }
    // A version of its own does not make it a file of version 6, and what is written is one.
    let folder = copied("saelens_legacy");
    let said = after(folder.path(), CONFIG, None, "sae_lens_version", json!("5.9.1"));
    assert_eq!(said, "");
    let again = tempfile::tempdir().unwrap();
    load(folder.path()).save(again.path()).unwrap();
    assert_eq!(load(again.path()).at(), Some(HookPoint::ResidPost(16)));
    // An SAE of one head reads no whole activation.
    assert_eq!(
        after(folder.path(), CONFIG, None, "hook_point_head_index", json!(3)),
        ""
    );
    assert_eq!(load(folder.path()).at(), None);
    // Scales of a fine-tuning: dropped where they are ones, as SAELens does.
    let folder = copied("saelens_legacy");
    let with_scale = |scale: f32| {
        let path = folder.path().join(WEIGHTS);
        let mut arrays = Arrays::read(&path).unwrap();
        let names: Vec<String> = arrays.shapes().map(|(name, _)| name.to_owned()).collect();
        let mut all: Vec<(String, Array)> = names
            .into_iter()
            .map(|name| (name.clone(), arrays.pop(&name).unwrap()))
            .collect();
        all.retain(|(name, _)| name != "scaling_factor");
        all.push(("scaling_factor".into(), Array::new(vec![24], vec![scale; 24])));
        fs::write(
            &path,
            safetensors(all.iter().map(|(name, array)| (&name[..], array)), &[]),
        )
        .unwrap();
    };
    with_scale(1.0);
    same_numbers("saelens_legacy", &load(folder.path()));
    with_scale(1.5);
    assert!(error(folder.path()).contains("scaling_factor"));
}

#[test]
fn settings_of_sparsify_that_are_not_supported_are_refused_by_name() {
    for (field, value, named) in [
        (
            "activation",
            json!("batchtopk"),
            "`activation`: expected topk or groupmax",
        ),
        ("signed", json!(true), "`signed`"),
        ("skip_connection", json!(true), "`skip_connection`"),
        ("transcode", json!(true), "a transcoder"),
        (
            "num_latents",
            json!(25),
            "`encoder.weight`: expected shape [25, 8], found [24, 8]",
        ),
        ("num_latents", json!(0), "expected shape [256, 8]"),
        ("d_in", json!(null), "`d_in`"),
        ("k", json!(0), "`k`"),
        ("k", json!(25), "k = 25"),
    ] {
        let folder = copied("sparsify/layers.10");
        let error = after(folder.path(), CONFIG, None, field, value);
        assert!(error.contains(named), "{field}: {error}");
    }
    let error = after(copied("sparsify/layers.3.mlp").path(), CONFIG, None, "k", json!(7));
    assert!(error.contains("groups of equal size"), "{error}");
}

#[test]
fn settings_of_dictionary_learning_that_are_not_supported_are_refused_by_name() {
    let trainer = Some("trainer");
    for (name, field, value, named) in [
        ("dictionary_topk", "dict_class", json!("IdentityDict"), "`dict_class`"),
        ("dictionary_topk", "dict_class", json!("JumpReluAutoEncoder"), "`W_enc`"),
        ("dictionary_topk", "dict_class", json!("AutoEncoder"), "`bias`"),
        ("dictionary_topk", "k", json!(4), "[3.0], which is in the weights"),
        ("dictionary_topk", "dict_size", json!(25), "`encoder.weight`"),
        ("dictionary_topk", "activation_dim", json!("8"), "`activation_dim`"),
        (
            "dictionary_matryoshka",
            "dict_class",
            json!("BatchTopKSAE"),
            "`encoder.weight`",
        ),
        (
            "dictionary_april",
            "dict_class",
            json!("GatedAutoEncoder"),
            "`gate_bias`",
        ),
    ] {
        let folder = copied(name);
        let error = after(folder.path(), "config.json", trainer, field, value);
        assert!(error.contains(named), "{name}, {field}: {error}");
    }
    let folder = copied("dictionary_topk");
    let error = after(folder.path(), "config.json", None, "trainer", json!(3));
    assert!(error.contains("`trainer`: expected an object"), "{error}");
    fs::remove_file(folder.path().join("config.json")).unwrap();
    assert!(self::error(folder.path()).contains("config.json"));
}

#[test]
fn arrays_that_nobody_asked_for_are_refused_by_name() {
    let (folder, _) = saved();
    let path = folder.path().join(WEIGHTS);
    let mut arrays = Arrays::read(&path).unwrap();
    let mut all: Vec<(&str, Array)> = ["W_enc", "W_dec", "b_enc", "b_dec"]
        .map(|name| (name, arrays.pop(name).unwrap()))
        .into();
    all.push(("W_skip", Array::new(vec![1], vec![1.0])));
    fs::write(&path, safetensors(all.iter().map(|(name, array)| (*name, array)), &[])).unwrap();
    assert!(error(folder.path()).contains("`W_skip`: expected no such array"));
}

#[test]
fn a_damaged_folder_is_an_error_that_names_the_file() {
    let damage: [(&str, &[u8], &str); 8] = [
        (CONFIG, b"", "not a JSON object"),
        (CONFIG, b"[1, 2]", "not a JSON object"),
        (CONFIG, b"{\"architecture\": \"topk\"", "not a JSON object"),
        (CONFIG, &[b'['; 5000], "not a JSON object"),
        (CONFIG, &[b' '; (1 << 18) + 1], "at most 262144 bytes"),
        (WEIGHTS, b"", "an empty file"),
        (WEIGHTS, &[255; 64], "other first bytes"),
        (WEIGHTS, b"\x02\0\0\0\0\0\0\0{}", "W_enc"),
    ];
    for (file, content, named) in damage {
        let (folder, _) = saved();
        fs::write(folder.path().join(file), content).unwrap();
        let error = error(folder.path());
        assert!(error.contains(named) && error.contains(file), "{error}");
    }
    let (folder, _) = saved();
    fs::remove_file(folder.path().join(CONFIG)).unwrap();
    assert!(error(folder.path()).contains(CONFIG));
    fs::create_dir(folder.path().join(CONFIG)).unwrap();
    assert!(error(folder.path()).contains("expected a file"));
}

#[test]
fn a_folder_cut_anywhere_is_an_error() {
    for (name, files) in [
        ("saelens_jumprelu", [CONFIG, WEIGHTS]),
        ("sparsify/layers.10", [CONFIG, "sae.safetensors"]),
        ("dictionary_topk", ["config.json", "ae.pt"]),
        (GEMMA_SCOPE, ["params.npz"; 2]),
        ("saelens_pursuit", [CONFIG, WEIGHTS]),
        (
            "gemma-scope-2-1b-pt/resid_post/layer_7_width_16k_l0_small",
            ["config.json", "params.safetensors"],
        ),
    ] {
        let folder = copied(name);
        for file in files {
            let path = folder.path().join(file);
            let whole = fs::read(&path).unwrap();
            let open = File::options().write(true).open(&path).unwrap();
            for end in (0..whole.len()).rev() {
                open.set_len(end as u64).unwrap();
                assert!(
                    Sae::load(folder.path(), &Device::flex()).is_err(),
                    "{name}: {file} cut at {end}"
                );
            }
            fs::write(&path, &whole).unwrap();
        }
        assert!(Sae::load(folder.path(), &Device::flex()).is_ok(), "{name}");
    }
}

#[test]
fn numbers_that_are_not_finite_are_refused_in_every_format() {
    let infinite = f32::INFINITY.to_le_bytes();
    for (name, file) in [
        ("saelens_jumprelu", WEIGHTS),
        ("sparsify/layers.10", "sae.safetensors"),
        ("dictionary_topk", "ae.pt"),
        ("saelens_pursuit", WEIGHTS),
        (
            "gemma-scope-2-1b-pt/resid_post/layer_7_width_16k_l0_small",
            "params.safetensors",
        ),
    ] {
        let folder = copied(name);
        let path = folder.path().join(file);
        let sae = load(folder.path());
        // The last number of the decoder's bias, wherever the file holds it.
        let last: f32 = sae.b_dec.to_data().iter::<f32>().last().unwrap();
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes
            .windows(4)
            .position(|window| window == last.to_le_bytes())
            .unwrap();
        bytes[at..at + 4].copy_from_slice(&infinite);
        fs::write(&path, bytes).unwrap();
        let error = error(folder.path());
        assert!(
            error.contains("found inf at element 7") && error.contains(file),
            "{error}"
        );
    }
}

#[test]
fn gemma_scope_arrays_that_do_not_fit_are_refused_by_name() {
    // numpy's archive has no setting: another file's arrays are the wrong ones.
    let folder = tempfile::tempdir().unwrap();
    let arrays = Path::new(env!("CARGO_MANIFEST_DIR")).join("../arrays/tests/fixtures");
    for (file, said) in [
        (
            "stored.npz",
            "array `W_enc`: expected a matrix [d_in, d_sae], found `W` [3, 4], `b` [4], `n` []",
        ),
        ("bomb.npz", "`zeros`: expected arrays that a file of"),
        ("evil.pt", "the pickle asks for `posix.system`"),
    ] {
        fs::copy(arrays.join(file), folder.path().join("params.npz")).unwrap();
        let error = error(folder.path());
        assert!(error.contains(said), "{file}: {error}");
    }
}
