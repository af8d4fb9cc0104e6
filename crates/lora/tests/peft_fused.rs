//! Adapters of architectures whose linear maps share modules: Python's own (`tests/reference/peft_variants.py`), and ours.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use realign_core::{Batch, Hook, LanguageModel, Site, Weight};
use realign_lora::{Dora, Lora, LoraConfig, load, load_for, merge, save_for};
use realign_model::{Checkpoint, Decoder};
use realign_run::Seed;
use serde_json::{Value, json};

/// A fixture and the architecture that it is for.
const OF_PYTHON: [(&str, &str); 6] = [
    ("peft_gpt2", "gpt2"),
    ("peft_gpt2_dora", "gpt2"),
    ("peft_gpt_neox", "gpt_neox"),
    ("peft_gpt_neox_dora", "gpt_neox"),
    ("peft_phi3", "phi3"),
    ("peft_phi3_dora", "phi3"),
];

const ARCHITECTURES: [&str; 3] = ["gpt2", "gpt_neox", "phi3"];

const IDS: [u32; 9] = [3, 17, 63, 0, 42, 42, 8, 61, 5];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn model(name: &str) -> Decoder {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures/architectures");
    let checkpoint = Checkpoint::open(&folder.join(name)).unwrap();
    Decoder::load(&checkpoint.config().unwrap(), &checkpoint, &Device::flex()).unwrap()
}

fn logits(model: &dyn LanguageModel, mut hook: impl Hook, ids: &[u32]) -> Vec<f32> {
    let hidden = model.forward(&Batch::packed([ids]), &mut hook);
    model.logits(hidden).into_data().try_into_vec::<f32>().unwrap()
}

/// With the adapter as a hook.
fn adapted(model: &dyn LanguageModel, lora: &Lora, ids: &[u32]) -> Vec<f32> {
    let (model, lora) = lora.attach(model);
    logits(&*model, &lora, ids)
}

fn gap(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn read(folder: &Path, file: &str) -> Value {
    serde_json::from_slice(&fs::read(folder.join(file)).unwrap()).unwrap()
}

/// Names, shapes and bytes of a folder's tensors.
fn tensors(folder: &Path) -> Vec<(String, Vec<usize>, Vec<u8>)> {
    let bytes = fs::read(folder.join("adapter_model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut all: Vec<_> = file
        .iter()
        .map(|(name, view)| (name.to_owned(), view.shape().to_vec(), view.data().to_vec()))
        .collect();
    all.sort();
    all
}

#[test]
fn pythons_adapters_of_fused_modules_give_its_logits_and_are_written_back_bit_for_bit() {
    for (name, architecture) in OF_PYTHON {
        let model = model(architecture);
        let reference = read(&fixture(name), "reference.json");
        let ids: Vec<u32> = serde_json::from_value(reference["ids"].clone()).unwrap();
        let wanted: Vec<Vec<f32>> = serde_json::from_value(reference["adapted_logits"].clone()).unwrap();
        let wanted = wanted.concat();
        let lora = load_for(fixture(name), &model, &Device::flex()).unwrap();
        let hooked = gap(&wanted, &adapted(&model, &lora, &ids));
        let merged = gap(&wanted, &logits(&*merge(&model, &lora), (), &ids));
        let plain = gap(&wanted, &logits(&model, (), &ids));
        assert!(
            hooked < 1e-4 && merged < 1e-4 && plain > 0.1,
            "{name}: {hooked} {merged} {plain}"
        );

        let folder = tempfile::tempdir().unwrap();
        save_for(&lora, &model, architecture, folder.path()).unwrap();
        assert_eq!(tensors(folder.path()), tensors(&fixture(name)), "{name}");
        let again = load_for(folder.path(), &model, &Device::flex()).unwrap();
        assert_eq!(adapted(&model, &again, &ids), adapted(&model, &lora, &ids), "{name}");
        // `tests/interop.sh` has Python's peft open them.
        if let Some(kept) = std::env::var_os("REALIGN_PEFT_OUT") {
            save_for(&lora, &model, architecture, Path::new(&kept).join(name)).unwrap();
        }
    }
}

/// New adapters, of which no two are alike, of several ranks and scales.
fn of_our_own(model: &dyn LanguageModel, config: &LoraConfig) -> Lora {
    let mut lora = config.init(model.shape(), &Seed::new(5), &Device::flex());
    for (i, adapter) in lora.adapters.values_mut().enumerate() {
        let [rank, d_out] = adapter.b.dims();
        let b = (0..rank * d_out).map(|j| ((j * 7 + i * 13) as f32 * 0.37).sin() * 0.2);
        adapter.b = Tensor::from_data(TensorData::new(b.collect::<Vec<_>>(), [rank, d_out]), &Device::flex());
    }
    lora
}

#[test]
fn our_adapters_become_those_of_fused_modules_and_add_the_same() {
    let plain = LoraConfig::new(2);
    let mut patterns = LoraConfig::new(2).with_rs_lora(false);
    patterns.rank_pattern = vec![("k_proj".to_owned(), 1), (r"layers\.1\..*up_proj".to_owned(), 3)];
    patterns.alpha_pattern = vec![("v_proj".to_owned(), 1.5), (r"layers\.0\..*o_proj".to_owned(), 7.0)];
    let some = LoraConfig::new(3).with_layers([1]).with_sites([Site::K, Site::Up]);
    for (name, config) in [("plain", plain), ("patterns", patterns), ("some", some)] {
        for architecture in ARCHITECTURES {
            let model = model(architecture);
            let lora = of_our_own(&model, &config);
            let wanted = adapted(&model, &lora, &IDS);
            assert!(gap(&wanted, &logits(&model, (), &IDS)) > 0.1);
            let folder = tempfile::tempdir().unwrap();
            save_for(&lora, &model, architecture, folder.path()).unwrap();
            let again = load_for(folder.path(), &model, &Device::flex()).unwrap();
            let apart = gap(&wanted, &adapted(&model, &again, &IDS));
            assert!(apart < 2e-5, "{architecture}, {name}: {apart}");
            // A second time, from the fused form, nothing grows.
            let second = tempfile::tempdir().unwrap();
            save_for(&again, &model, architecture, second.path()).unwrap();
            assert_eq!(tensors(second.path()), tensors(folder.path()), "{architecture}, {name}");
            assert_eq!(
                read(second.path(), "adapter_config.json"),
                read(folder.path(), "adapter_config.json"),
                "{architecture}, {name}"
            );
            if let Some(kept) = std::env::var_os("REALIGN_PEFT_OUT") {
                let kept = Path::new(&kept).join(format!("own_{architecture}_{name}"));
                save_for(&lora, &model, architecture, &kept).unwrap();
                let json = json!({"architecture": architecture, "ids": IDS, "logits": wanted});
                fs::write(kept.join("logits.json"), json.to_string()).unwrap();
            }
        }
    }
}

#[test]
fn a_fused_module_has_the_sum_of_the_ranks_and_python_names() {
    let gpt2 = model("gpt2");
    let folder = tempfile::tempdir().unwrap();
    save_for(&of_our_own(&gpt2, &LoraConfig::new(2)), &gpt2, "gpt2", folder.path()).unwrap();
    let config = read(folder.path(), "adapter_config.json");
    assert_eq!(
        config["target_modules"],
        json!(["c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"])
    );
    assert_eq!(config["rank_pattern"], json!({"attn.c_attn": 6}));
    assert_eq!(config["fan_in_fan_out"], json!(true));
    // rsLoRA: 4 / sqrt(2) = alpha / sqrt(6).
    let alpha = config["alpha_pattern"]["attn.c_attn"].as_f64().unwrap();
    assert!((alpha - 4.0 * 3f64.sqrt()).abs() < 1e-12, "{alpha}");
    let shapes: Vec<_> = tensors(folder.path())
        .into_iter()
        .map(|(name, shape, _)| (name, shape))
        .collect();
    let b = "base_model.model.transformer.h.0.attn.c_attn.lora_B.weight".to_owned();
    assert!(shapes.contains(&(b, vec![72, 6])), "{shapes:?}");
}

#[test]
fn what_does_not_fit_a_fused_module_is_named() {
    let gpt2 = model("gpt2");
    let folder = tempfile::tempdir().unwrap();
    let mut lora = of_our_own(&gpt2, &LoraConfig::new(2).with_sites([Site::Q]));
    for adapter in lora.adapters.values_mut() {
        let d_out = adapter.b.dims()[1];
        adapter.dora = Some(Dora::new(Tensor::ones([1, d_out], &Device::flex())));
    }
    let error = save_for(&lora, &gpt2, "gpt2", folder.path()).unwrap_err().to_string();
    assert!(
        error.contains("c_attn") && error.contains("24 of its 72 outputs"),
        "{error}"
    );

    let phi3 = model("phi3");
    let mut lora = load_for(fixture("peft_phi3"), &phi3, &Device::flex()).unwrap();
    lora.saved
        .retain(|(weight, _)| !matches!(weight, Weight::Linear { site: Site::Up, .. }));
    let error = save_for(&lora, &phi3, "phi3", folder.path()).unwrap_err().to_string();
    assert!(
        error.contains("mlp.gate_up_proj") && error.contains("32 of its 64 outputs"),
        "{error}"
    );

    // A Llama's names are not GPT-2's, and the other way round.
    let fixture = fixture("peft_gpt2");
    let error = load(&fixture, gpt2.shape(), &Device::flex()).unwrap_err().to_string();
    assert!(error.contains("target_modules") && error.contains("q_proj"), "{error}");
    let neox = model("gpt_neox");
    let error = load_for(&fixture, &neox, &Device::flex()).unwrap_err().to_string();
    assert!(
        error.contains("target_modules") && error.contains("query_key_value"),
        "{error}"
    );
    // A module without its rows.
    let folder = tempfile::tempdir().unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(fixture.join(file), folder.path().join(file)).unwrap();
    }
    let mut config = read(folder.path(), "adapter_config.json");
    config["rank_pattern"] = json!({});
    fs::write(folder.path().join("adapter_config.json"), config.to_string()).unwrap();
    let error = load_for(folder.path(), &gpt2, &Device::flex()).unwrap_err().to_string();
    assert!(
        error.contains("transformer.h.0.attn.c_attn.lora_A.weight") && error.contains("[4, 24]"),
        "{error}"
    );
}
