//! A tiny model that can be talked to, and the command that talks to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

/// A file or folder of another crate's fixtures.
pub fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The tiny Llama with a tokenizer of letters and a chat template.
pub fn chat_model(folder: &Path) {
    for entry in fs::read_dir(fixture("model/tests/fixtures/tiny_llama"))
        .unwrap()
        .flatten()
    {
        fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    let config = folder.join("config.json");
    let text = fs::read_to_string(&config).unwrap();
    // The system turns are longer than the 128 positions of the fixture.
    fs::write(
        &config,
        text.replace("\"max_position_embeddings\": 128", "\"max_position_embeddings\": 4096"),
    )
    .unwrap();
    let letters: String = ('a'..='z')
        .chain('A'..='Z')
        .chain('0'..='9')
        .chain(".,:;?!'\"-()[]{}<>/|_=+\u{120}\u{10a}".chars())
        .collect();
    let mut vocab: serde_json::Map<String, Value> = ["<unk>", "<s>", "</s>"]
        .iter()
        .zip(0..)
        .map(|(t, i)| ((*t).into(), json!(i)))
        .collect();
    for (letter, id) in letters.chars().zip(3..) {
        vocab.insert(letter.to_string(), json!(id));
    }
    assert!(vocab.len() <= 96);
    let special = |id: u32, content: &str| json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false});
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "unk_token": "<unk>", "vocab": vocab, "merges": []},
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let template = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<s>assistant: {% endif %}";
    let settings = json!({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "chat_template": template});
    fs::write(folder.join("tokenizer_config.json"), settings.to_string()).unwrap();
}

/// Runs the command, quietly and on the reference device.
pub fn realign(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_realign"))
        .args(args)
        .arg("--quiet")
        .env_remove("BURN_DEVICE")
        .output()
        .unwrap()
}

/// The object that the command prints with `--json`, and its exit code.
pub fn json(args: &[&str]) -> (Value, i32) {
    let output = realign(&[args, &["--json"]].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    let first = text
        .lines()
        .next()
        .unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    (serde_json::from_str(first).unwrap(), output.status.code().unwrap())
}
