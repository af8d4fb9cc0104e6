//! Kind 25: `config.json`, and small files that are something else altogether.

use std::path::Path;

use realign::model::{Checkpoint, DecoderConfig, LlamaConfig};

use crate::bounds::alone;
use crate::model;

#[test]
fn kind_25_values_that_are_no_size() {
    let alone = alone();
    let folder = model::folder();
    let path = folder.path().join("config.json");
    for (field, was) in [
        ("vocab_size", "16"),
        ("hidden_size", "8"),
        ("num_hidden_layers", "2"),
        ("num_attention_heads", "2"),
        ("num_key_value_heads", "1"),
        ("intermediate_size", "12"),
        ("max_position_embeddings", "64"),
    ] {
        for value in [
            "1e308",
            "-1",
            "\"32\"",
            "2.5",
            "[[[[]]]]",
            "0",
            "18446744073709551615",
            "1000000000000",
            "{}",
        ] {
            let text = model::CONFIG.replace(&format!("\"{field}\": {was}"), &format!("\"{field}\": {value}"));
            assert_ne!(text, model::CONFIG, "{field}");
            std::fs::write(&path, &text).unwrap();
            let what = format!("{field}: {value}");
            alone.refused(&what, text.len() as u64, &["config.json", field], || {
                model::load(folder.path())
            });
        }
        // Not JSON, so that no field can be named.
        let text = model::CONFIG.replace(&format!("\"{field}\": {was}"), &format!("\"{field}\": NaN"));
        alone.refused(field, text.len() as u64, &["config.json"], || {
            DecoderConfig::from_json(text.as_bytes(), Path::new("config.json"))
        });
    }
}

#[test]
fn kind_25_an_architecture_that_nobody_knows_is_answered_with_those_that_are_known() {
    let alone = alone();
    for kind in ["\"no-such-model\"", "7", "null", "\"\""] {
        let text = model::CONFIG.replace("\"llama\"", kind);
        alone.refused(kind, text.len() as u64, &["config.json", "model_type", "llama"], || {
            DecoderConfig::from_json(text.as_bytes(), Path::new("config.json"))
        });
    }
}

#[test]
fn kind_25_text_that_is_no_configuration() {
    let alone = alone();
    let deep = format!("{{\"model_type\": {}", "[".repeat(1 << 20));
    let wide = format!("{{\"model_type\": [{}0]}}", "0,".repeat(1 << 19));
    for text in ["", "{", "null", "[]", "\u{feff}{}", "{}{}", &deep, &wide] {
        let what: String = text.chars().take(30).collect();
        alone.refused(&what, text.len() as u64, &["config.json"], || {
            DecoderConfig::from_json(text.as_bytes(), Path::new("config.json"))
        });
    }
}

/// Makes something of this name that is no file to be read.
#[cfg(unix)]
type Make = fn(&Path);

#[cfg(unix)]
const STRANGE: [(&str, Make); 3] = [
    ("a folder", |path| std::fs::create_dir(path).unwrap()),
    ("a pipe", |path| {
        assert!(
            std::process::Command::new("mkfifo")
                .arg(path)
                .status()
                .unwrap()
                .success()
        );
    }),
    ("a device", |path| {
        std::os::unix::fs::symlink("/dev/zero", path).unwrap()
    }),
];

/// A pipe would be waited for, and a device never ends: each is refused by its kind, by every reader of small files.
#[cfg(unix)]
#[test]
fn kind_25_folders_pipes_and_devices() {
    use realign::burn::tensor::Device;
    use realign::model::{ChatTemplate, Tokenizer};

    let alone = alone();
    let device = Device::flex();
    let shape = LlamaConfig::tiny().shape();
    for (what, make) in STRANGE {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| {
            let path = folder.path().join(name);
            if path.is_dir() {
                std::fs::remove_dir(&path).unwrap();
            } else if path.symlink_metadata().is_ok() {
                std::fs::remove_file(&path).unwrap();
            }
            make(&path);
            path
        };
        let path = at("config.json");
        alone.refused(what, 0, &["config.json"], || DecoderConfig::from_file(&path));
        let path = at("tokenizer.json");
        alone.refused(what, 0, &["tokenizer.json"], || Tokenizer::from_file(&path));
        at("chat_template.jinja");
        alone.refused(what, 0, &["chat_template.jinja"], || {
            ChatTemplate::from_dir(folder.path())
        });
        for name in ["model.gguf", "model.safetensors"] {
            let path = at(name);
            if what != "a folder" {
                alone.refused(what, 0, &[name], || Checkpoint::open(&path));
            }
        }
        at("adapter_config.json");
        alone.refused(what, 0, &["adapter_config.json"], || {
            realign::lora::load(folder.path(), &shape, &device)
        });
        let adapter = model::adapter();
        std::fs::copy(adapter.path().join("adapter_config.json"), {
            let path = folder.path().join("adapter_config.json");
            if path.is_dir() {
                std::fs::remove_dir(&path).unwrap();
            } else {
                std::fs::remove_file(&path).unwrap();
            }
            path
        })
        .unwrap();
        at("adapter_model.safetensors");
        alone.refused(what, 0, &["adapter_model.safetensors"], || {
            realign::lora::load(folder.path(), &shape, &device)
        });
        at("cfg.json");
        alone.refused(what, 0, &["cfg.json"], || {
            realign::sae::Sae::load(folder.path(), &device)
        });
        at("direction.json");
        alone.refused(what, 0, &["direction.json"], || {
            realign::steering::Direction::load(folder.path(), &device)
        });
        let path = at("vector.gguf");
        alone.refused(what, 0, &["vector.gguf"], || {
            realign::steering::ControlVector::load(&path, "llama", &shape, &device)
        });
    }
}

#[test]
fn kind_25_a_gigabyte_where_a_kilobyte_belongs() {
    let alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let device = realign::burn::tensor::Device::flex();
    let shape = LlamaConfig::tiny().shape();
    for name in [
        "config.json",
        "tokenizer.json",
        "adapter_config.json",
        "cfg.json",
        "direction.json",
        "vector.gguf",
    ] {
        let path = folder.path().join(name);
        // Sparse: it takes no room, and reading it would take a gigabyte.
        std::fs::File::create(&path).unwrap().set_len(1 << 30).unwrap();
    }
    let at = |name: &str| folder.path().join(name);
    alone.refused("config.json", 0, &["config.json"], || {
        DecoderConfig::from_file(&at("config.json"))
    });
    alone.refused("tokenizer.json", 0, &["tokenizer.json"], || {
        realign::model::Tokenizer::from_file(&at("tokenizer.json"))
    });
    alone.refused("adapter_config.json", 0, &["adapter_config.json"], || {
        realign::lora::load(folder.path(), &shape, &device)
    });
    alone.refused("cfg.json", 0, &["cfg.json"], || {
        realign::sae::Sae::load(folder.path(), &device)
    });
    alone.refused("direction.json", 0, &["direction.json"], || {
        realign::steering::Direction::load(folder.path(), &device)
    });
    alone.refused("vector.gguf", 0, &["vector.gguf"], || {
        realign::steering::ControlVector::load(at("vector.gguf"), "llama", &shape, &device)
    });
}
