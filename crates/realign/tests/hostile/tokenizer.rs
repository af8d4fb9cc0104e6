//! Kinds 26 to 28: `tokenizer.json`, and text that is hard on a tokenizer.

use realign::model::{Error, Tokenizer};

use crate::bounds::{Alone, alone};
use crate::model;

/// Reads the good file after a change.
fn load(alone: &Alone, change: impl FnOnce(&mut serde_json::Value)) -> Result<Tokenizer, Error> {
    let mut json: serde_json::Value = serde_json::from_str(&model::tokenizer_json()).unwrap();
    change(&mut json);
    read(alone, &json.to_string())
}

fn read(alone: &Alone, text: &str) -> Result<Tokenizer, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, text).unwrap();
    alone.bounded("tokenizer.json", text.len() as u64, || Tokenizer::from_file(&path))
}

fn refused(alone: &Alone, word: &str, change: impl FnOnce(&mut serde_json::Value)) {
    let error = load(alone, change).expect_err(word).to_string();
    assert!(
        error.contains("tokenizer.json") && error.contains(word),
        "{word}: {error}"
    );
}

#[test]
fn kind_26_merges_and_affixes_that_make_the_library_panic() {
    let alone = alone();
    load(&alone, |_| {}).unwrap();
    let long = "h".repeat(1000);
    for merges in [
        serde_json::json!([["hi", "hi"]]),
        serde_json::json!([[long.clone(), long]]),
        serde_json::json!([["h", ""]]),
        serde_json::json!(["h i i"]),
        serde_json::json!([["h"]]),
        serde_json::json!([["z", "z"]]),
    ] {
        refused(&alone, "merges", |json| json["model"]["merges"] = merges);
    }
    for affix in ["longer than any token", "é", "#"] {
        for field in ["continuing_subword_prefix", "end_of_word_suffix"] {
            refused(&alone, field, |json| json["model"][field] = affix.into());
        }
    }
}

#[test]
fn kind_27_tokens_that_cannot_be() {
    let alone = alone();
    refused(&alone, "added_tokens", |json| {
        json["added_tokens"][0]["content"] = "".into()
    });
    for id in [u32::MAX, 1 << 24, 0] {
        refused(&alone, "added_tokens", |json| json["added_tokens"][0]["id"] = id.into());
    }
    refused(&alone, "added_tokens", |json| {
        let again = json["added_tokens"][0].clone();
        json["added_tokens"].as_array_mut().unwrap().push(again);
    });
    for id in [
        serde_json::json!(u32::MAX),
        serde_json::json!(-1),
        serde_json::json!(1.5),
        serde_json::json!("1"),
    ] {
        refused(&alone, "vocab", |json| json["model"]["vocab"]["a"] = id);
    }
    refused(&alone, "each id once", |json| json["model"]["vocab"]["a"] = 1.into());
    refused(&alone, "vocab", |json| json["model"]["vocab"] = serde_json::json!({}));
    refused(&alone, "unk_token", |json| json["model"]["unk_token"] = "nobody".into());
    refused(&alone, "model.type", |json| {
        json["model"]["type"] = "NoSuchModel".into()
    });
    // The library gives a special token that the vocabulary lacks an id that a letter has.
    refused(&alone, "which is `u`", |json| {
        json["model"]["vocab"]["u"] = 0.into();
        let count = json["model"]["vocab"].as_object().unwrap().len();
        json["model"]["vocab"]["u"] = count.into();
        json["added_tokens"][1]["content"] = "<new>".into();
    });
    // Ids with a gap: the embedding may have rows that no text uses.
    let gap = load(&alone, |json| json["model"]["vocab"]["u"] = 1000.into()).unwrap();
    assert_eq!((gap.vocab_size(), gap.token_text(500).as_str()), (1001, ""));
    for text in ["", "{}", "[]", "null", "{\"model\": 3}", "{\"model\": {\"vocab\": []}}"] {
        let error = read(&alone, text).unwrap_err().to_string();
        assert!(error.contains("tokenizer.json"), "{error}");
    }
    let deep = format!("{{\"model\": {}", "[".repeat(1 << 20));
    assert!(read(&alone, &deep).is_err());
}

#[test]
fn kind_27_patterns_that_backtrack_for_ever() {
    let alone = alone();
    let split = |pattern: &str| {
        serde_json::json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]})
    };
    for pattern in [
        "(a+)+$",
        "(a|a)*$",
        "(.*)*\\d{9}",
        "(?:a?){40}a{40}\\d",
        "(\\s+)+$",
        "(\\p{N}+)+!",
    ] {
        match load(&alone, |json| json["pre_tokenizer"] = split(pattern)) {
            Err(error) => assert!(error.to_string().contains("pre_tokenizer"), "{pattern}: {error}"),
            // The engine sees through some of them.
            Ok(tokenizer) => {
                for text in [
                    "a1 ".repeat(30_000),
                    format!("{}!", "a".repeat(100_000)),
                    "1".repeat(100_000),
                ] {
                    let ids = alone.bounded(pattern, text.len() as u64, || tokenizer.encode_text(&text));
                    assert!(!ids.is_empty(), "{pattern}");
                }
            }
        }
    }
    // One that shows what it is on a letter that nobody tried.
    let tokenizer = load(&alone, |json| json["pre_tokenizer"] = split("(o+)+$")).unwrap();
    for text in [
        "o".repeat(100_000),
        format!("{}h", "o".repeat(100_000)),
        format!("hi{}h", "oé".repeat(50_000)),
    ] {
        let ids = alone.bounded("a pattern", text.len() as u64, || tokenizer.encode_text(&text));
        let letters = text.chars().filter(|&c| c == 'o').count();
        assert_eq!(
            ids.iter().filter(|&&id| tokenizer.token_text(id) == "o").count(),
            letters
        );
    }
    refused(&alone, "tokenizer", |json| {
        json["pre_tokenizer"] = serde_json::json!({"type": "Split", "pattern": {"Regex": "(a"}, "behavior": "Isolated",
            "invert": false});
    });
}

#[test]
fn kind_27_a_long_word_takes_time_in_proportion() {
    let alone = alone();
    let tokenizer = load(&alone, |_| {}).unwrap();
    for text in [
        "a".repeat(1 << 18),
        "hi".repeat(1 << 17),
        "<|im_end|>".repeat(1 << 14),
        " ".repeat(1 << 18),
    ] {
        let ids = alone.bounded("a long word", text.len() as u64, || tokenizer.encode_text(&text));
        assert!(ids.len() > 1 << 14, "{}", ids.len());
        assert!(
            ids.iter()
                .all(|&id| !tokenizer.is_special(id) || Some(id) == tokenizer.unk())
        );
    }
}

#[test]
fn kind_28_vocabularies_beyond_the_limit() {
    let alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::File::create(&path).unwrap().set_len(200 << 20).unwrap();
    alone.refused("200 MB", 0, &["tokenizer.json", "length"], || {
        Tokenizer::from_file(&path)
    });
    // Below the limit on bytes, above that on tokens.
    let mut text = String::from(r#"{"model": {"type": "BPE", "vocab": {"#);
    for i in 0..2_000_000 {
        text.push_str(&format!("\"{i:x}\":{i},"));
    }
    text.push_str(r#""end":2000000}, "merges": []}}"#);
    std::fs::write(&path, &text).unwrap();
    let len = text.len() as u64;
    drop(text);
    alone.refused("two million tokens", len, &["tokenizer.json", "1048576 keys"], || {
        Tokenizer::from_file(&path)
    });
}
