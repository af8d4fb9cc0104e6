//! `tokenizer.json`, a zero byte, a chat template, a zero byte, a text.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use realign::model::{ChatTemplate, GenerationPrompt, Message, Tokenizer};

fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(3, |&byte| byte == 0);
    let (json, template) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let text = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let template = ChatTemplate::new(&String::from_utf8_lossy(template), Path::new("fuzz.jinja"));

    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, json).expect("written");
    let Ok(tokenizer) = Tokenizer::from_file(&path) else {
        return;
    };
    let ids = tokenizer.encode_text(&text);
    assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
    assert!(
        ids.iter()
            .all(|&id| !tokenizer.is_special(id) || Some(id) == tokenizer.unk())
    );
    let _ = tokenizer.decode(&ids);

    let Ok(template) = template else { return };
    let messages = [
        Message::system("Be kind."),
        Message::user(&*text),
        Message::assistant(&*text),
    ];
    let _ = template.render(&tokenizer, &messages, GenerationPrompt::Omit);
    let _ = template.encode_prompt(&tokenizer, &messages[..2], GenerationPrompt::Add);
    if let Ok(encoded) = template.encode(&tokenizer, &messages, GenerationPrompt::Omit) {
        assert!(encoded.answer.iter().all(|range| range.end <= encoded.ids.len()));
    }
});
