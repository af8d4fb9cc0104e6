//! A GGUF file: header, metadata, tensors, and what is built from them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use realign::model::{ChatTemplate, DecoderConfig, FileBytes, Gguf, Tokenizer};

fuzz_target!(|data: &[u8]| {
    let Ok(gguf) = Gguf::parse(FileBytes::from_vec("fuzz.gguf", data.to_vec())) else {
        return;
    };
    for (key, _) in gguf.metadata() {
        // Each is right for some keys and an error for the others.
        let _ = (
            gguf.integer(key),
            gguf.number(key),
            gguf.flag(key),
            gguf.text(key),
            gguf.texts(key),
            gguf.integers(key),
        );
    }
    for (_, tensor) in gguf.tensors() {
        assert!(gguf.tensor_bytes(tensor).len() <= data.len());
        let elements = gguf.dequantise(tensor, |row| row).len();
        assert_eq!(elements, tensor.shape.iter().product::<usize>());
    }
    let _ = DecoderConfig::from_gguf(&gguf);
    let _ = ChatTemplate::from_gguf(&gguf);
    if let Ok(tokenizer) = Tokenizer::from_gguf(&gguf) {
        let ids = tokenizer.encode_text("Hello, world!\n");
        assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
        let _ = tokenizer.decode(&ids);
    }
});
