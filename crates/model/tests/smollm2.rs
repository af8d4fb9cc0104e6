//! The real SmolLM2-135M-Instruct: its file, its tokens, its chats (fixture by
//! `tests/reference/hf_tokens.py`).
//!
//! The model is `$REALIGN_TEST_MODEL`, or the known model, which is fetched on the first run.

use realign_model::{
    ChatTemplate, Checkpoint, GenerationPrompt, KnownModel, Message, Sources, Tokenizer,
};
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

static MODEL: LazyLock<PathBuf> = LazyLock::new(|| {
    if let Some(path) = std::env::var_os("REALIGN_TEST_MODEL") {
        return path.into();
    }
    let model = KnownModel::find("smollm2-135m-instruct").unwrap();
    Sources::from_env()
        .get(model, &mut |_, _| {})
        .unwrap_or_else(|e| panic!("{e}"))
});

#[derive(Deserialize)]
struct Fixture {
    bytes_without_token: Vec<u8>,
    texts: Vec<Text>,
    chats: Vec<Chat>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
    /// Where they differ: with special tokens taken as letters.
    ids_plain: Option<Vec<u32>>,
    decoded: String,
}

#[derive(Deserialize)]
struct Chat {
    messages: Vec<Message>,
    add_generation_prompt: bool,
    text: String,
    ids: Vec<u32>,
    /// With special tokens from the template only.
    ids_safe: Vec<u32>,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("fixtures/smollm2_tokens.json")).unwrap()
}

fn checkpoint() -> Checkpoint {
    Checkpoint::open(&MODEL).unwrap()
}

fn tokenizer() -> Tokenizer {
    Tokenizer::from_gguf(checkpoint().gguf().unwrap()).unwrap()
}

#[test]
fn the_file_is_the_one_that_is_meant() {
    let checkpoint = checkpoint();
    assert_eq!(
        checkpoint.sha256(),
        KnownModel::find("smollm2-135m-instruct").unwrap().sha256
    );
    let config = checkpoint.config().unwrap();
    assert_eq!(
        (config.n_layers, config.d_model, config.d_mlp),
        (30, 576, 1536)
    );
    assert_eq!(
        (config.n_heads, config.n_kv_heads, config.d_head),
        (9, 3, 64)
    );
    assert_eq!(
        (config.vocab, config.context, config.tied),
        (49_152, 8_192, true)
    );
    assert_eq!((config.rope_theta, config.rms_eps), (100_000.0, 1e-5));
    assert_eq!(checkpoint.names().len(), 272);
    assert_eq!(checkpoint.metadata()["general.architecture"], "llama");
}

#[test]
fn all_tensors_come_with_their_shapes_and_quickly() {
    let checkpoint = checkpoint();
    let start = Instant::now();
    let mut parameters = 0;
    for name in checkpoint.names() {
        let (shape, values) = checkpoint.tensor(&name).unwrap();
        assert_eq!(shape.iter().product::<usize>(), values.len(), "{name}");
        assert!(values.iter().all(|value| value.is_finite()), "{name}");
        parameters += values.len();
    }
    assert_eq!(parameters, 134_515_008);
    let (shape, _) = checkpoint
        .tensor("model.layers.3.self_attn.k_proj.weight")
        .unwrap();
    assert_eq!(shape, [192, 576]);
    // A second or so here; the bound is for a machine that does much else.
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn token_ids_are_those_of_the_reference() {
    let tokenizer = tokenizer();
    assert_eq!(
        (tokenizer.bos(), tokenizer.eos(), tokenizer.unk()),
        (Some(1), Some(2), Some(0))
    );
    assert_eq!(
        (tokenizer.vocab_size(), tokenizer.adds_bos()),
        (49_152, false)
    );
    for Text {
        text,
        ids,
        ids_plain,
        decoded,
    } in fixture().texts
    {
        assert_eq!(tokenizer.encode_with_special(&text), ids, "{text:?}");
        let plain = ids_plain.as_ref().unwrap_or(&ids);
        assert_eq!(&tokenizer.encode_text(&text), plain, "{text:?} as letters");
        if !ids.iter().any(|&id| tokenizer.is_special(id)) {
            assert_eq!(tokenizer.decode(&ids), decoded, "{text:?}");
        }
    }
}

#[test]
fn bytes_without_a_token_become_the_unknown_token() {
    let tokenizer = tokenizer();
    for byte in fixture()
        .bytes_without_token
        .into_iter()
        .filter(u8::is_ascii)
    {
        let text = format!("a{}b", char::from(byte));
        let ids = tokenizer.encode_text(&text);
        assert!(ids.contains(&0), "{byte:#04x}: {ids:?}");
        assert_eq!(tokenizer.decode(&ids), "ab");
    }
    // U+40000 is f1 80 80 80, and f1 has no token.
    assert!(tokenizer.encode_text("\u{40000}").contains(&0));
}

#[test]
fn chats_are_those_of_the_reference() {
    let checkpoint = checkpoint();
    let tokenizer = tokenizer();
    let template = ChatTemplate::from_gguf(checkpoint.gguf().unwrap())
        .unwrap()
        .unwrap();
    for Chat {
        messages,
        add_generation_prompt,
        text,
        ids,
        ids_safe,
    } in fixture().chats
    {
        let prompt = match add_generation_prompt {
            true => GenerationPrompt::Add,
            false => GenerationPrompt::Omit,
        };
        assert_eq!(
            template.render(&tokenizer, &messages, prompt).unwrap(),
            text
        );
        assert_eq!(tokenizer.encode_with_special(&text), ids);
        let encoded = template.encode(&tokenizer, &messages, prompt).unwrap();
        assert_eq!(encoded.ids, ids_safe, "{text}");
        assert_eq!(
            template
                .encode_prompt(&tokenizer, &messages, prompt)
                .unwrap(),
            ids_safe
        );

        let contents = messages
            .iter()
            .filter(|m| m.role == "assistant")
            .map(|m| &m.content);
        assert_eq!(encoded.answer.len(), contents.clone().count());
        for (range, content) in encoded.answer.iter().zip(contents) {
            assert_eq!(
                encoded.ids[range.end - 1],
                2,
                "an answer ends with <|im_end|>"
            );
            assert_eq!(&tokenizer.decode(&encoded.ids[range.clone()]), content);
        }
    }
}
