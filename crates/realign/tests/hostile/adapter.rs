//! Kinds 31 and 32: PEFT adapters.

use std::path::Path;

use realign::burn::tensor::Device;
use realign::lora::{Error, Lora};
use realign::model::LlamaConfig;
use serde_json::{Value, json};

use crate::bounds::{Alone, alone};
use crate::model;

fn load(folder: &Path) -> Result<Lora, Error> {
    realign::lora::load(folder, &LlamaConfig::tiny().shape(), &Device::flex())
}

#[test]
fn kind_31_options_that_cannot_be_followed_are_named() {
    let alone = alone();
    let folder = model::adapter();
    let path = folder.path().join("adapter_config.json");
    let good: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    load(folder.path()).unwrap();
    let bomb = "(((a{100}){100}){100})";
    let nest = format!("{}a{}", "(".repeat(10_000), ")".repeat(10_000));
    let many: Vec<String> = (0..20_000).map(|i| format!("m{i}")).collect();
    for (option, value) in [
        ("r", json!(0)),
        ("r", json!(1_000_000_000)),
        ("r", json!(u64::MAX)),
        ("r", json!(2.5)),
        ("r", json!("2")),
        ("lora_alpha", json!("NaN")),
        ("lora_alpha", Value::Null),
        ("lora_alpha", json!([])),
        ("target_modules", json!(bomb)),
        ("target_modules", json!(nest)),
        ("target_modules", json!(".*")),
        ("target_modules", json!(many)),
        ("target_modules", json!({"a": 1})),
        ("peft_type", json!("NO_SUCH_METHOD")),
        ("bias", json!("all")),
        ("megatron_config", json!({"a": 1})),
        ("use_qalora", json!(true)),
        ("an_option_of_next_year", json!(1)),
        ("layers_to_transform", json!([999])),
        ("layers_to_transform", json!([u64::MAX])),
        (
            "auto_mapping",
            json!({"base_model_class": "os", "parent_library": "os.system"}),
        ),
    ] {
        let mut changed = good.clone();
        changed[option] = value.clone();
        let text = changed.to_string();
        std::fs::write(&path, &text).unwrap();
        let what = format!("{option}: {}", value.to_string().chars().take(40).collect::<String>());
        if option == "auto_mapping" {
            // It names code to run in Python; here it is information, and nothing runs.
            alone.bounded(&what, text.len() as u64, || load(folder.path())).unwrap();
        } else {
            alone.refused(&what, text.len() as u64, &["adapter_config.json", option], || {
                load(folder.path())
            });
        }
    }
    let texts = ["", "[]", "null", "{}", "{\"r\": NaN}", "\u{feff}{}"].map(str::to_owned);
    for text in texts
        .into_iter()
        .chain(["[".repeat(1 << 20), "{\"a\":".repeat(1 << 17)])
    {
        std::fs::write(&path, &text).unwrap();
        alone.refused("no object", text.len() as u64, &["adapter_config.json"], || {
            load(folder.path())
        });
    }
}

#[test]
fn kind_32_tensors_that_do_not_fit_the_configuration() {
    let alone = alone();
    let folder = model::adapter();
    let path = folder.path().join("adapter_model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let all = tensors(&bytes);
    let name = all[0].0.clone();
    let (kept, wider) = (
        |i: usize| all[i].clone(),
        |name: &str, shape: &[usize]| (name.to_owned(), shape.to_vec(), model::numbers(shape)),
    );
    let without = |at: usize| {
        all.iter()
            .enumerate()
            .filter(|(i, _)| *i != at)
            .map(|(_, t)| t.clone())
            .collect::<Vec<_>>()
    };
    let with = |tensor: (String, Vec<usize>, Vec<u8>)| [all.clone(), vec![tensor]].concat();
    let instead = |tensor: (String, Vec<usize>, Vec<u8>)| [without(0), vec![tensor]].concat();
    let far = name.replace("layers.0.", "layers.999.");
    let strange = name.replace("base_model.", "other.");
    let [rows, columns] = kept(0).1[..] else {
        panic!("a matrix")
    };
    let mut not_finite = kept(0);
    not_finite.2[..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    for (what, tensors, word) in [
        ("a rank of 3", instead(wider(&name, &[rows + 1, columns + 1])), &name),
        ("transposed", instead(wider(&name, &[columns, rows])), &name),
        ("one of a pair", without(0), &name),
        ("no matrix", instead(wider(&name, &[rows * columns])), &name),
        ("empty", instead(wider(&name, &[0, columns])), &name),
        ("layer 999", with(wider(&far, &[rows, columns])), &far),
        ("another name", with(wider(&strange, &[rows, columns])), &strange),
        ("not finite", instead(not_finite), &name),
        ("nothing", Vec::new(), &"lora_A".to_owned()),
    ] {
        check(&alone, folder.path(), &path, what, &model::safetensors(&tensors), word);
    }
    for len in (0..bytes.len()).step_by(7) {
        std::fs::write(&path, &bytes[..len]).unwrap();
        alone.refused("cut", len as u64, &["adapter_model.safetensors"], || {
            load(folder.path())
        });
    }
}

fn check(alone: &Alone, folder: &Path, path: &Path, what: &str, bytes: &[u8], word: &str) {
    std::fs::write(path, bytes).unwrap();
    alone.refused(what, bytes.len() as u64, &["adapter_model.safetensors", word], || {
        load(folder)
    });
}

/// The tensors of one of our own files.
fn tensors(bytes: &[u8]) -> Vec<(String, Vec<usize>, Vec<u8>)> {
    let mut length = [0; 8];
    length.copy_from_slice(&bytes[..8]);
    let data = 8 + u64::from_le_bytes(length) as usize;
    let header: serde_json::Map<String, Value> = serde_json::from_slice(&bytes[8..data]).unwrap();
    header
        .into_iter()
        .filter(|(name, _)| name != "__metadata__")
        .map(|(name, entry)| {
            let numbers = |field: &str| -> Vec<usize> { serde_json::from_value(entry[field].clone()).unwrap() };
            let range = numbers("data_offsets");
            (name, numbers("shape"), bytes[data + range[0]..data + range[1]].to_vec())
        })
        .collect()
}
