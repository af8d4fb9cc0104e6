macro_rules! fuzz_target { (|$d:ident: &[u8]| $b:block) => { pub fn run($d: &[u8]) $b } }
mod gguf {
    // A GGUF file: header, metadata, tensors, and what is built from them.

    use realign::model::{ChatTemplate, FileBytes, Gguf, LlamaConfig, Tokenizer};

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
        let _ = LlamaConfig::from_gguf(&gguf);
        let _ = ChatTemplate::from_gguf(&gguf);
        if let Ok(tokenizer) = Tokenizer::from_gguf(&gguf) {
            let ids = tokenizer.encode_text("Hello, world!\n");
            assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
            let _ = tokenizer.decode(&ids);
        }
    });
}
mod adapter {
    // A PEFT folder: `adapter_config.json`, a zero byte, `adapter_model.safetensors`.

    use realign::burn::tensor::Device;
    use realign::model::LlamaConfig;

    fuzz_target!(|data: &[u8]| {
        let mut parts = data.splitn(2, |&byte| byte == 0);
        let (config, tensors) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("adapter_config.json"), config).expect("written");
        std::fs::write(folder.path().join("adapter_model.safetensors"), tensors).expect("written");
        let shape = LlamaConfig::tiny().shape();
        if let Ok(lora) = realign::lora::load(folder.path(), &shape, &Device::flex()) {
            lora.config.check(&shape).expect("what was loaded is a valid adapter");
            for (&(layer, site), adapter) in &lora.adapters {
                assert!(layer < shape.n_layers);
                let [d_in, d_out] = shape.linear(site);
                assert_eq!((adapter.a.dims()[0], adapter.b.dims()[1]), (d_in, d_out));
            }
        }
    });
}
mod sae {
    // A SAELens folder: `cfg.json`, a zero byte, `sae_weights.safetensors`.

    use realign::burn::tensor::{Device, Tensor};
    use realign::sae::Sae;

    fuzz_target!(|data: &[u8]| {
        let mut parts = data.splitn(2, |&byte| byte == 0);
        let (config, tensors) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("cfg.json"), config).expect("written");
        std::fs::write(folder.path().join("sae_weights.safetensors"), tensors).expect("written");
        let device = Device::flex();
        if let Ok(sae) = Sae::load(folder.path(), &device) {
            sae.config.check().expect("what was loaded is a valid SAE");
            let x = Tensor::ones([2, sae.config.d_in], &device);
            assert_eq!(sae.forward(x).dims(), [2, sae.config.d_in]);
        }
    });
}
mod jsonl {
    // Chat data: one conversation a line.

    use realign::data::{OnBad, read_conversations};

    fuzz_target!(|data: &[u8]| {
        let strict = read_conversations(data, "fuzz.jsonl", OnBad::Fail);
        let lenient = read_conversations(data, "fuzz.jsonl", OnBad::Skip);
        if let Ok(strict) = strict {
            let lenient = lenient.expect("no row is bad");
            assert_eq!((&lenient.rows, lenient.skipped), (&strict.rows, 0));
            assert!(strict.rows.iter().all(|conversation| !conversation.messages.is_empty()));
        }
    });
}
mod tokenizer {
    // `tokenizer.json`, a zero byte, a chat template, a zero byte, a text.

    use std::path::Path;

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
}
fn main() {
    let d = std::fs::read(std::env::args().nth(1).unwrap_or_default()).unwrap_or_default();
    gguf::run(&d);
    adapter::run(&d);
    sae::run(&d);
    jsonl::run(&d);
    tokenizer::run(&d);
}
