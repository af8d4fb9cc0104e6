//! SentencePiece vocabularies from GGUF metadata, against the sentencepiece library (`tests/reference/sentencepiece_ids.py`).

use std::path::{Path, PathBuf};

use realign_model::{Access, FileBytes, Gguf, Tokenizer};
use serde_json::Value;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn tokenizer(name: &str) -> Tokenizer {
    let bytes = FileBytes::open(&fixture(&format!("gguf_files/sentencepiece_{name}.gguf")), Access::Read).unwrap();
    Tokenizer::from_gguf(&Gguf::parse(bytes).unwrap()).unwrap()
}

#[test]
fn ids_and_text_are_sentencepieces_own() {
    for (name, adds_prefix) in [("llama", true), ("gemma", false)] {
        let tokenizer = tokenizer(name);
        assert_eq!(
            (tokenizer.bos(), tokenizer.eos(), tokenizer.unk(), tokenizer.adds_bos()),
            (Some(1), Some(2), Some(0), true)
        );
        let bytes = std::fs::read(fixture(&format!("gguf_files/sentencepiece_{name}.json"))).unwrap();
        let reference: Value = serde_json::from_slice(&bytes).unwrap();
        let texts = reference["texts"].as_array().unwrap();
        assert!(texts.len() > 100);
        for row in texts {
            let text = row["text"].as_str().unwrap();
            let ids: Vec<u32> = serde_json::from_value(row["ids"].clone()).unwrap();
            let found = tokenizer.encode_text(text);
            assert_eq!(found, ids, "{name}: {text:?}");
            assert_eq!(
                tokenizer.decode(&ids),
                row["decoded"].as_str().unwrap(),
                "{name}: {text:?}"
            );
        }
        // A part of a text begins with a space where the model was trained so.
        let shown: String = tokenizer
            .encode_text("hello")
            .iter()
            .map(|&id| tokenizer.token_text(id))
            .collect();
        assert_eq!(shown, if adds_prefix { " hello" } else { "hello" });
    }
}

#[test]
fn control_tokens_stand_for_themselves_only_where_the_program_wrote_them() {
    let tokenizer = tokenizer("gemma");
    assert_eq!(tokenizer.encode_with_special("<s>")[..], [1]);
    assert!(!tokenizer.encode_text("<s></s><unk>").iter().any(|&id| id < 3));
    let newline = tokenizer.encode_text("\n")[0];
    assert_eq!(tokenizer.token_text(newline), "\n");
}
