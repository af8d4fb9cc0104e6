//! PEFT folders: Python's own, our own, and hostile ones.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use proptest::prelude::*;
use realign_core::{Batch, LanguageModel, Shape, Site, Sites};
use realign_lora::{Lora, LoraConfig, load, merge, save, unmerge};
use realign_model::{Checkpoint, Llama};
use realign_run::Seed;
use serde_json::{Value, json};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn tiny_llama() -> Llama {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures/tiny_llama");
    let checkpoint = Checkpoint::open(&folder).unwrap();
    Llama::load(&checkpoint.config().unwrap(), &checkpoint, &Device::flex()).unwrap()
}

fn shape() -> Shape {
    Shape {
        n_layers: 3,
        d_model: 8,
        n_heads: 2,
        n_kv_heads: 1,
        d_head: 4,
        d_mlp: 12,
        vocab: 16,
        context: 32,
        sites: Sites::ALL,
    }
}

fn numbers(tensor: &Tensor<2>) -> Vec<u32> {
    tensor
        .to_data()
        .try_into_vec::<f32>()
        .unwrap()
        .into_iter()
        .map(f32::to_bits)
        .collect()
}

fn adapter(config: &LoraConfig, seed: u64) -> Lora {
    let mut lora = config.init(&shape(), &Seed::new(seed), &Device::flex());
    for adapter in lora.adapters.values_mut() {
        let [rank, d_out] = adapter.b.dims();
        let b = (0..rank * d_out)
            .map(|i| (i as f32 * 0.37 + seed as f32).sin())
            .collect::<Vec<_>>();
        adapter.b = Tensor::from_data(TensorData::new(b, [rank, d_out]), &Device::flex());
    }
    lora
}

fn assert_same(a: &Lora, b: &Lora) {
    assert_eq!(a.config, b.config);
    assert!(a.adapters.keys().eq(b.adapters.keys()));
    for (a, b) in a.adapters.values().zip(b.adapters.values()) {
        assert_eq!((a.a.dims(), numbers(&a.a)), (b.a.dims(), numbers(&b.a)));
        assert_eq!((a.b.dims(), numbers(&a.b)), (b.b.dims(), numbers(&b.b)));
        assert_eq!(a.scale, b.scale);
        let magnitude = |adapter: &realign_lora::Adapter| adapter.dora.as_ref().map(|dora| numbers(&dora.magnitude));
        assert_eq!(magnitude(a), magnitude(b));
    }
    let saved = |lora: &Lora| lora.saved.iter().map(|(at, w)| (*at, numbers(w))).collect::<Vec<_>>();
    assert_eq!(saved(a), saved(b));
}

/// A good folder whose configuration is then changed.
fn with_options(change: impl Fn(&mut Value)) -> Result<Lora, realign_lora::Error> {
    let folder = tempfile::tempdir().unwrap();
    save(&adapter(&LoraConfig::new(2), 1), "base", folder.path()).unwrap();
    let path = folder.path().join("adapter_config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    fs::write(&path, config.to_string()).unwrap();
    load(folder.path(), &shape(), &Device::flex())
}

fn message(option: &str, value: Value) -> String {
    with_options(|config| config[option] = value.clone())
        .unwrap_err()
        .to_string()
}

#[test]
fn adapters_of_pythons_peft_give_its_logits() {
    let model = tiny_llama();
    for (name, sites) in [("peft_tiny", 7 * model.shape().n_layers), ("peft_rank1", 1)] {
        let reference: Value =
            serde_json::from_slice(&fs::read(fixture(name).join("reference.json")).unwrap()).unwrap();
        let ids: Vec<u32> = serde_json::from_value(reference["ids"].clone()).unwrap();
        let lora = load(fixture(name), model.shape(), &Device::flex()).unwrap();
        assert_eq!(lora.adapters.len(), sites);
        let batch = Batch::packed([&ids]);
        let gap = |key: &str, lora: Option<&Lora>| {
            let wanted: Vec<Vec<f32>> = serde_json::from_value(reference[key].clone()).unwrap();
            let mut hook = lora;
            let found = model.logits(model.forward(&batch, &mut hook));
            let found = found.into_data().try_into_vec::<f32>().unwrap();
            assert_eq!(found.len(), wanted.iter().map(Vec::len).sum::<usize>());
            wanted
                .concat()
                .iter()
                .zip(found)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max)
        };
        // Logits up to 6, both sides in f32: sums are taken in another order.
        let (base, adapted, unadapted) = (
            gap("base_logits", None),
            gap("adapted_logits", Some(&lora)),
            gap("adapted_logits", None),
        );
        assert!(
            base < 1e-4 && adapted < 1e-4 && unadapted > 0.1,
            "{name}: {base} {adapted} {unadapted}"
        );
    }
}

const VARIANTS: [&str; 4] = ["peft_dora", "peft_patterns", "peft_saved", "peft_excluded"];

fn logits(model: &dyn LanguageModel, mut hook: impl realign_core::Hook, ids: &[u32]) -> Vec<f32> {
    let hidden = model.forward(&Batch::packed([ids]), &mut hook);
    model.logits(hidden).into_data().try_into_vec::<f32>().unwrap()
}

fn gap(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// `tests/reference/peft_variants.py`: magnitudes, patterns, saved modules, excluded modules.
#[test]
fn every_kind_of_adapter_gives_pythons_logits_as_a_hook_and_merged() {
    let model = tiny_llama();
    for name in VARIANTS {
        let reference: Value =
            serde_json::from_slice(&fs::read(fixture(name).join("reference.json")).unwrap()).unwrap();
        let ids: Vec<u32> = serde_json::from_value(reference["ids"].clone()).unwrap();
        let wanted: Vec<Vec<f32>> = serde_json::from_value(reference["adapted_logits"].clone()).unwrap();
        let wanted = wanted.concat();
        let lora = load(fixture(name), model.shape(), &Device::flex()).unwrap();
        let (attached_model, attached) = lora.attach(&model);
        // Logits up to 6, both sides in f32: sums are taken in another order.
        let hooked = gap(&wanted, &logits(&*attached_model, &attached, &ids));
        let merged = gap(&wanted, &logits(&*merge(&model, &lora), (), &ids));
        let plain = gap(&wanted, &logits(&model, (), &ids));
        assert!(
            hooked < 1e-4 && merged < 1e-4 && plain > 0.1,
            "{name}: {hooked} {merged} {plain}"
        );

        // What was read is written, and read again.
        let folder = tempfile::tempdir().unwrap();
        save(&lora, "tiny_llama", folder.path()).unwrap();
        let again = load(folder.path(), model.shape(), &Device::flex()).unwrap();
        assert_same(&again, &lora);
        // `tests/interop.sh` has Python's peft open them.
        if let Some(kept) = std::env::var_os("REALIGN_PEFT_OUT") {
            save(&lora, "tiny_llama", Path::new(&kept).join(name)).unwrap();
        }
        assert_eq!(tensors(folder.path()), tensors(&fixture(name)), "{name}");
    }
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
fn magnitudes_are_taken_out_again_where_the_base_is_known() {
    let model = tiny_llama();
    let lora = load(fixture("peft_dora"), model.shape(), &Device::flex()).unwrap();
    let (_, attached) = lora.attach(&model);
    let back = unmerge(&*merge(&model, &lora), &attached);
    let weight = |model: &dyn LanguageModel| numbers(&model.linear_weight(1, Site::Down));
    assert_eq!(weight(&*back), weight(&model));
    assert_ne!(weight(&*merge(&model, &lora)), weight(&model));
}

#[test]
#[should_panic(expected = "call Lora::attach")]
fn magnitudes_without_a_base_are_no_hook() {
    let model = tiny_llama();
    let lora = load(fixture("peft_dora"), model.shape(), &Device::flex()).unwrap();
    logits(&model, &lora, &[1, 2]);
}

#[test]
#[should_panic(expected = "call Lora::attach")]
fn saved_weights_without_a_model_are_no_hook() {
    let model = tiny_llama();
    let lora = load(fixture("peft_saved"), model.shape(), &Device::flex()).unwrap();
    logits(&model, &lora, &[1, 2]);
}

#[test]
fn what_a_configuration_promises_must_be_in_the_file() {
    for (option, value, tensor) in [
        (
            "use_dora",
            json!(true),
            "layers.0.self_attn.q_proj.lora_magnitude_vector",
        ),
        ("modules_to_save", json!(["lm_head"]), "lm_head.weight"),
        (
            "modules_to_save",
            json!(["1.mlp.up_proj"]),
            "layers.1.mlp.up_proj.weight",
        ),
        (
            "rank_pattern",
            json!({"q_proj": 4}),
            "layers.0.self_attn.q_proj.lora_A.weight",
        ),
    ] {
        let message = message(option, value);
        assert!(
            message.contains(tensor) && message.contains("adapter_config.json"),
            "{message}"
        );
    }
    // Patterns that match nothing change nothing.
    let same = with_options(|config| config["alpha_pattern"] = json!({"c_attn": 4})).unwrap();
    assert_eq!(same.config.alpha_pattern, [("c_attn".to_owned(), 4.0)]);
    assert!(
        same.adapters
            .values()
            .all(|adapter| adapter.scale == same.config.scale())
    );
}

#[test]
fn a_folder_of_pythons_peft_is_written_back_bit_for_bit() {
    let model = tiny_llama();
    for name in ["peft_tiny", "peft_rank1"] {
        let folder = tempfile::tempdir().unwrap();
        let lora = load(fixture(name), model.shape(), &Device::flex()).unwrap();
        save(&lora, "tiny_llama", folder.path()).unwrap();
        let read = |folder: &Path, file: &str| fs::read(folder.join(file)).unwrap();
        let parse = |bytes: Vec<u8>| serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes).unwrap();
        let (ours, theirs) = (
            parse(read(folder.path(), "adapter_config.json")),
            parse(read(&fixture(name), "adapter_config.json")),
        );
        for (option, value) in &ours {
            let sorted = |value: &Value| {
                let mut items = value.as_array().cloned().unwrap_or_default();
                items.sort_by_key(Value::to_string);
                items
            };
            let same = value == &theirs[option] || (value.is_array() && sorted(value) == sorted(&theirs[option]));
            assert!(same, "{name}: {option}: {value} for {}", theirs[option]);
        }
        assert_same(&load(folder.path(), model.shape(), &Device::flex()).unwrap(), &lora);
        assert_eq!(tensors(folder.path()), tensors(&fixture(name)));
    }
}

#[test]
fn adapters_at_scattered_places_survive() {
    let mut lora = adapter(&LoraConfig::new(2).with_sites([Site::Q, Site::Down]), 3);
    lora.adapters.remove(&(0, Site::Q));
    lora.config.layers = None;
    let folder = tempfile::tempdir().unwrap();
    save(&lora, "base", folder.path()).unwrap();
    assert_same(&load(folder.path(), &shape(), &Device::flex()).unwrap(), &lora);
}

#[test]
fn every_form_of_target_modules_is_understood() {
    let all = adapter(&LoraConfig::new(2), 1);
    let forms = [
        json!("all-linear"),
        json!([
            "self_attn.q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "up_proj",
            "down_proj",
            "c_attn"
        ]),
        json!(r".*\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"),
    ];
    for form in forms {
        assert_same(
            &with_options(|config| config["target_modules"] = form.clone()).unwrap(),
            &all,
        );
    }
    let unknown = with_options(|config| config["something_new"] = Value::Null).unwrap();
    assert_same(&unknown, &all);
    // What is left out of the configuration, but is in the file, is not dropped silently.
    let fewer = message("target_modules", json!(["q_proj"]));
    assert!(fewer.contains("only what adapter_config.json adapts"), "{fewer}");
    let fewer = message("exclude_modules", json!(["q_proj"]));
    assert!(fewer.contains("only what adapter_config.json adapts"), "{fewer}");
}

#[test]
fn hostile_options_are_refused_by_name() {
    let bomb = format!("{}b", "(a{1000}){1000}");
    let wrong = [
        ("r", json!(0)),
        ("r", json!(1_000_000_000)),
        ("r", json!(2.5)),
        ("r", json!(-1)),
        ("r", json!("8")),
        ("lora_alpha", json!("16")),
        ("lora_alpha", Value::Null),
        ("lora_dropout", json!(1.5)),
        ("use_rslora", json!("yes")),
        ("target_modules", json!(bomb)),
        ("target_modules", json!(".*")),
        ("target_modules", json!("(")),
        ("target_modules", json!("(?=q)q_proj")),
        ("target_modules", json!(["c_attn"])),
        ("target_modules", json!(["q_proj", "lm_head"])),
        ("target_modules", json!([1])),
        ("target_modules", json!(3)),
        ("target_modules", Value::Null),
        ("peft_type", json!("IA3")),
        ("peft_type", Value::Null),
        ("task_type", json!("SEQ_CLS")),
        ("use_dora", json!("yes")),
        ("bias", json!("all")),
        ("rank_pattern", json!({"q_proj": 0})),
        ("rank_pattern", json!({"q_proj": 1_000_000_000})),
        ("rank_pattern", json!({"(": 2})),
        ("rank_pattern", json!({"(a{1000}){1000}": 2})),
        ("rank_pattern", json!([2])),
        ("alpha_pattern", json!({"q_proj": "4"})),
        ("alpha_pattern", json!({"(?=q)": 4})),
        ("modules_to_save", json!(["norm"])),
        ("modules_to_save", json!(["self_attn"])),
        ("modules_to_save", json!(["score"])),
        ("modules_to_save", json!("lm_head")),
        ("fan_in_fan_out", json!(true)),
        ("layer_replication", json!([[0, 2]])),
        ("init_lora_weights", json!("pissa")),
        ("layers_to_transform", json!([3])),
        ("layers_to_transform", json!(-1)),
        ("layers_pattern", json!("h")),
        ("layers_pattern", json!(["h", "("])),
        ("something_new", json!(1)),
        ("something_new", json!(false)),
    ];
    for (option, value) in wrong {
        let message = message(option, value.clone());
        assert!(
            message.contains("adapter_config.json") && message.contains(&format!("`{option}`")),
            "{value}: {message}"
        );
        assert!(message.len() < 500, "{message}");
    }
}

#[test]
fn a_number_that_json_does_not_know_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("adapter_config.json"),
        "{\n  \"r\": 4,\n  \"lora_alpha\": NaN\n}",
    )
    .unwrap();
    let message = load(folder.path(), &shape(), &Device::flex()).unwrap_err().to_string();
    assert!(message.contains("\"lora_alpha\": NaN"), "{message}");
    fs::write(folder.path().join("adapter_config.json"), "[".repeat(1_000_000)).unwrap();
    assert!(load(folder.path(), &shape(), &Device::flex()).is_err());
    fs::write(folder.path().join("adapter_config.json"), vec![b' '; 2 << 20]).unwrap();
    let message = load(folder.path(), &shape(), &Device::flex()).unwrap_err().to_string();
    assert!(message.contains("at most"), "{message}");
}

#[test]
fn tensors_that_do_not_fit_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    save(&adapter(&LoraConfig::new(2), 1), "base", folder.path()).unwrap();
    let path = folder.path().join("adapter_model.safetensors");
    let good = fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&good).unwrap();
    type Tensors = std::collections::BTreeMap<String, (safetensors::Dtype, Vec<usize>, Vec<u8>)>;
    let all: Tensors = file
        .iter()
        .map(|(name, view)| {
            (
                name.to_owned(),
                (view.dtype(), view.shape().to_vec(), view.data().to_vec()),
            )
        })
        .collect();
    let name = |layer: usize, factor: &str| {
        format!("base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{factor}.weight")
    };
    let message = |change: &dyn Fn(&mut Tensors)| {
        let mut tensors = all.clone();
        change(&mut tensors);
        let views = tensors.iter().map(|(name, (dtype, shape, data))| {
            (
                name.as_str(),
                safetensors::tensor::TensorView::new(*dtype, shape.clone(), data).unwrap(),
            )
        });
        fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        load(folder.path(), &shape(), &Device::flex()).unwrap_err().to_string()
    };
    let f32 = safetensors::Dtype::F32;

    let rank = message(&|all| drop(all.insert(name(1, "A"), (f32, vec![3, 8], vec![0; 96]))));
    assert!(
        rank.contains(&name(1, "A")) && rank.contains("[2, 8]") && rank.contains("[3, 8]"),
        "{rank}"
    );
    let alone = message(&|all| drop(all.remove(&name(1, "B"))));
    assert!(
        alone.contains(&name(1, "B")) && alone.contains("found nothing"),
        "{alone}"
    );
    let layer = message(&|all| drop(all.insert(name(999, "A"), (f32, vec![2, 8], vec![0; 64]))));
    assert!(layer.contains(&name(999, "A")) && layer.contains("3 blocks"), "{layer}");
    let nan = message(&|all| drop(all.insert(name(0, "A"), (f32, vec![2, 8], vec![255; 64]))));
    assert!(nan.contains(&name(0, "A")) && nan.contains("finite"), "{nan}");
    let kind = message(&|all| drop(all.insert(name(0, "A"), (safetensors::Dtype::I32, vec![2, 8], vec![0; 64]))));
    assert!(kind.contains(&name(0, "A")) && kind.contains("I32"), "{kind}");
    let axes = message(&|all| drop(all.insert(name(0, "A"), (f32, vec![16], vec![0; 64]))));
    assert!(axes.contains(&name(0, "A")) && axes.contains("a matrix"), "{axes}");

    fs::write(&path, &good).unwrap();
    let other = Shape { d_model: 16, ..shape() };
    let message = load(folder.path(), &other, &Device::flex()).unwrap_err().to_string();
    assert!(message.contains("lora_A") && message.contains("[2, 16]"), "{message}");
    for end in [0, 7, 100, good.len() - 1] {
        fs::write(&path, &good[..end]).unwrap();
        let message = load(folder.path(), &shape(), &Device::flex()).unwrap_err().to_string();
        assert!(message.contains("adapter_model.safetensors"), "{message}");
    }
}

#[test]
fn half_precision_is_widened() {
    let folder = tempfile::tempdir().unwrap();
    let mut lora = adapter(&LoraConfig::new(1).with_sites([Site::Q]).with_layers([0]), 1);
    save(&lora, "base", folder.path()).unwrap();
    let names = ["A", "B"].map(|f| format!("base_model.model.model.layers.0.self_attn.q_proj.lora_{f}.weight"));
    // 1.5 in bf16 and in f16.
    let (bf16, f16): (Vec<u8>, Vec<u8>) = ([0xC0, 0x3F].repeat(8), [0x00, 0x3E].repeat(8));
    let views = [
        (
            names[0].as_str(),
            safetensors::tensor::TensorView::new(safetensors::Dtype::BF16, vec![1, 8], &bf16).unwrap(),
        ),
        (
            names[1].as_str(),
            safetensors::tensor::TensorView::new(safetensors::Dtype::F16, vec![8, 1], &f16).unwrap(),
        ),
    ];
    let file = safetensors::serialize(views, None).unwrap();
    fs::write(folder.path().join("adapter_model.safetensors"), file).unwrap();
    let adapter = lora.adapters.get_mut(&(0, Site::Q)).unwrap();
    adapter.a = Tensor::full([8, 1], 1.5, &Device::flex());
    adapter.b = Tensor::full([1, 8], 1.5, &Device::flex());
    assert_same(&load(folder.path(), &shape(), &Device::flex()).unwrap(), &lora);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn saved_adapters_load_as_they_were(
        rank in 1_usize..6,
        alpha in prop_oneof![(0_i32..100).prop_map(f64::from), -10.0_f64..10.0],
        rs_lora: bool,
        dropout in 0.0_f64..0.9,
        layers in prop::option::of(prop::sample::subsequence(vec![0, 1, 2], 1..3)),
        sites in prop::sample::subsequence(Site::ALL.to_vec(), 1..=7),
        seed: u64,
    ) {
        let mut config = LoraConfig::new(rank).with_alpha(alpha).with_rs_lora(rs_lora).with_dropout(dropout);
        config.layers = layers;
        let lora = adapter(&config.with_sites(sites), seed % 1000);
        let folder = tempfile::tempdir().unwrap();
        save(&lora, "base", folder.path()).unwrap();
        assert_same(&load(folder.path(), &shape(), &Device::flex()).unwrap(), &lora);
    }
}
