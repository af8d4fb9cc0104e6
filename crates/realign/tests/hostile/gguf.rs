//! Kinds 1 to 17: GGUF files, for both readers of the format.

use std::path::{Path, PathBuf};

use realign::burn::tensor::Device;
use realign::core::Shape;
use realign::model::{Checkpoint, FileBytes, Gguf, Tokenizer};
use realign::steering::ControlVector;

use crate::bounds::{Alone, alone};
use crate::model::{self, D_MLP, D_MODEL, LAYERS, VOCAB};

/// A metadata value of the format's kinds.
#[derive(Clone)]
pub enum Value<'a> {
    U32(u32),
    F32(f32),
    Text(&'a [u8]),
    Texts(Vec<Vec<u8>>),
    I32s(Vec<i32>),
    /// A kind number and whatever follows it.
    Raw(u32, Vec<u8>),
}

/// A GGUF file put together byte by byte, right or wrong.
#[derive(Clone, Default)]
pub struct Raw {
    keys: Vec<u8>,
    n_keys: u64,
    tensors: Vec<u8>,
    n_tensors: u64,
    data: Vec<u8>,
}

fn text(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text].concat()
}

impl Raw {
    pub fn key(mut self, name: &str, value: Value<'_>) -> Self {
        self.n_keys += 1;
        self.keys.extend(text(name.as_bytes()));
        let (kind, bytes): (u32, Vec<u8>) = match value {
            Value::U32(n) => (4, n.to_le_bytes().into()),
            Value::F32(x) => (6, x.to_le_bytes().into()),
            Value::Text(bytes) => (8, text(bytes)),
            Value::Texts(all) => {
                let mut bytes = 8u32.to_le_bytes().to_vec();
                bytes.extend((all.len() as u64).to_le_bytes());
                all.iter().for_each(|one| bytes.extend(text(one)));
                (9, bytes)
            }
            Value::I32s(all) => {
                let mut bytes = 5u32.to_le_bytes().to_vec();
                bytes.extend((all.len() as u64).to_le_bytes());
                all.iter().for_each(|one| bytes.extend(one.to_le_bytes()));
                (9, bytes)
            }
            Value::Raw(kind, bytes) => (kind, bytes),
        };
        self.keys.extend(kind.to_le_bytes());
        self.keys.extend(bytes);
        self
    }

    /// A tensor's entry with this offset; `dims` are the file's, innermost first.
    pub fn entry(mut self, name: &[u8], dims: &[u64], kind: u32, offset: u64) -> Self {
        self.n_tensors += 1;
        self.tensors.extend(text(name));
        self.tensors.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|dim| self.tensors.extend(dim.to_le_bytes()));
        self.tensors.extend(kind.to_le_bytes());
        self.tensors.extend(offset.to_le_bytes());
        self
    }

    /// A tensor with its data, `[out, in]`.
    pub fn tensor(mut self, name: &str, shape: &[usize], kind: u32, bytes: &[u8]) -> Self {
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        let offset = self.data.len() as u64;
        self.data.extend(bytes);
        let dims: Vec<u64> = shape.iter().rev().map(|&dim| dim as u64).collect();
        self.entry(name.as_bytes(), &dims, kind, offset)
    }

    /// Bytes of data that belong to no tensor.
    fn spare(mut self, bytes: usize) -> Self {
        self.data.resize(self.data.len() + bytes, 0);
        self
    }

    fn header(&self) -> Vec<u8> {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(self.n_tensors.to_le_bytes());
        bytes.extend(self.n_keys.to_le_bytes());
        bytes.extend(&self.keys);
        bytes.extend(&self.tensors);
        bytes
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.header();
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(&self.data);
        bytes
    }
}

/// The metadata of the model of two blocks; `change` is put in the place of a key's value.
fn metadata(change: Option<(&str, Value<'_>)>) -> Raw {
    let number = |name: &str, n: u32| (format!("llama.{name}"), Value::U32(n));
    let special = |name: &str, id: u32| (format!("tokenizer.ggml.{name}_token_id"), Value::U32(id));
    let all = [
        ("general.architecture".to_owned(), Value::Text(b"llama")),
        number("block_count", LAYERS as u32),
        number("embedding_length", D_MODEL as u32),
        number("feed_forward_length", D_MLP as u32),
        number("context_length", 64),
        number("attention.head_count", 2),
        number("attention.head_count_kv", 1),
        number("rope.dimension_count", 4),
        ("llama.attention.layer_norm_rms_epsilon".to_owned(), Value::F32(1e-5)),
        ("tokenizer.ggml.model".to_owned(), Value::Text(b"gpt2")),
        ("tokenizer.ggml.pre".to_owned(), Value::Text(b"gpt-2")),
        ("tokenizer.ggml.tokens".to_owned(), Value::Texts(model::tokens())),
        (
            "tokenizer.ggml.token_type".to_owned(),
            Value::I32s((0..VOCAB).map(|id| if id + 3 >= VOCAB { 3 } else { 1 }).collect()),
        ),
        (
            "tokenizer.ggml.merges".to_owned(),
            Value::Texts(vec![b"h i".to_vec(), "Ġ hi".into()]),
        ),
        special("unknown", VOCAB as u32 - 3),
        special("bos", VOCAB as u32 - 2),
        special("eos", VOCAB as u32 - 1),
        (
            "tokenizer.chat_template".to_owned(),
            Value::Text(model::CHAT_TEMPLATE.as_bytes()),
        ),
    ];
    let mut raw = Raw::default();
    let mut changed = false;
    for (name, value) in all {
        match &change {
            Some((key, other)) if *key == name => {
                raw = raw.key(&name, other.clone());
                changed = true;
            }
            _ => raw = raw.key(&name, value),
        }
    }
    match change {
        Some((key, value)) if !changed => raw.key(key, value),
        _ => raw,
    }
}

fn with_weights(raw: Raw) -> Raw {
    model::weights().into_iter().fold(raw, |raw, weight| {
        raw.tensor(&weight.gguf, &weight.shape, 0, &model::numbers(&weight.shape))
    })
}

/// The model of two blocks.
pub fn whole() -> Raw {
    with_weights(metadata(None))
}

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn file(&self, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join("hostile.gguf");
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

fn control_vector(path: &Path) -> Result<ControlVector, realign::steering::Error> {
    let shape = Shape {
        n_layers: 4,
        ..realign::model::LlamaConfig::tiny().shape()
    };
    ControlVector::load(path, "llama", &shape, &Device::flex())
}

/// Both readers refuse these bytes; the model's names `field` too.
fn refused(alone: &Alone, what: &str, bytes: &[u8], field: &str) {
    let place = Place::new();
    let (path, len) = (place.file(bytes), bytes.len() as u64);
    alone.refused(what, len, &["hostile.gguf", field], || Checkpoint::open(&path));
    alone.refused(what, len, &["hostile.gguf"], || control_vector(&path));
}

#[test]
fn the_model_of_two_blocks_loads() {
    let place = Place::new();
    model::load(&place.file(&whole().bytes())).unwrap();
}

#[test]
fn kind_1_what_is_no_gguf() {
    let alone = alone();
    let gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\x03GGUF\x03\0\0\0and so on";
    for (what, bytes) in [
        ("empty", &b""[..]),
        ("1 byte", b"G"),
        ("7 bytes", b"GGUF\x03\0\0"),
        ("23 bytes", &whole().bytes()[..23]),
        ("a text", b"This is a text file, and a rather long one at that."),
        ("a gzip", gzip),
    ] {
        refused(&alone, what, bytes, "");
    }
}

#[test]
fn kind_2_other_versions_and_the_other_byte_order() {
    let alone = alone();
    for (version, word) in [
        (0u32.to_le_bytes(), "found 0"),
        (1u32.to_le_bytes(), "found 1"),
        (4u32.to_le_bytes(), "found 4"),
        (3u32.to_be_bytes(), "big-endian"),
    ] {
        let mut bytes = whole().bytes();
        bytes[4..8].copy_from_slice(&version);
        refused(&alone, "a version", &bytes, "version");
        refused(&alone, "a version", &bytes, word);
    }
    let mut bytes = whole().bytes();
    bytes[..4].copy_from_slice(b"FUGG");
    refused(&alone, "a magic backwards", &bytes, "magic");
}

#[test]
fn kind_3_counts_that_no_file_could_hold() {
    let alone = alone();
    for (at, field) in [(8, "tensor_count"), (16, "metadata_kv_count")] {
        for count in [1u64 << 63, u64::MAX, 1 << 40] {
            let mut bytes = b"GGUF\x03\0\0\0".to_vec();
            bytes.resize(24, 0);
            bytes[at..at + 8].copy_from_slice(&count.to_le_bytes());
            refused(&alone, "a count", &bytes, field);
        }
    }
}

#[test]
fn kind_4_texts_longer_than_the_file() {
    let alone = alone();
    for len in [u64::MAX, u64::MAX - 7, 1 << 63, 10_000] {
        let mut bytes = whole().header();
        bytes[24..32].copy_from_slice(&len.to_le_bytes());
        refused(&alone, "a key's length", &bytes, "metadata key 0");
    }
    let one_past = Value::Raw(8, [&6u64.to_le_bytes()[..], b"hello"].concat());
    let bytes = Raw::default().key("general.name", one_past).header();
    refused(&alone, "one byte past the end", &bytes, "general.name");
}

#[test]
fn kind_5_arrays_longer_or_deeper_than_the_file() {
    let alone = alone();
    let array = |kind: u32, len: u64| Value::Raw(9, [&kind.to_le_bytes()[..], &len.to_le_bytes()].concat());
    for (kind, len) in [(8, 1 << 30), (0, 1 << 30), (12, u64::MAX), (8, u64::MAX), (9, 1 << 30)] {
        let bytes = Raw::default().key("k.array", array(kind, len)).bytes();
        refused(&alone, "an array", &bytes, "k.array");
    }
    let mut nested = Vec::new();
    for _ in 0..10_000 {
        nested.extend(9u32.to_le_bytes());
        nested.extend(1u64.to_le_bytes());
    }
    let bytes = Raw::default().key("k.nested", Value::Raw(9, nested)).bytes();
    refused(&alone, "arrays of arrays", &bytes, "k.nested");
}

#[test]
fn kind_5_many_small_things_cost_no_more_than_their_file() {
    let alone = alone();
    let place = Place::new();
    let n = 1_500_000;
    let texts = Value::Raw(
        9,
        [&8u32.to_le_bytes()[..], &(n as u64).to_le_bytes(), &vec![0; 8 * n]].concat(),
    );
    let mut keys = Raw::default();
    for i in 0..n as u32 {
        keys.n_keys += 1;
        // The shortest name that is new each time, and a value of one byte.
        let name = i.to_le_bytes().map(|byte| byte & 0x7f);
        keys.keys.extend(text(
            &[
                &name[..],
                &(i >> 7 & 0x7f).to_le_bytes()[..1],
                &(i >> 15 & 0x7f).to_le_bytes()[..1],
            ]
            .concat(),
        ));
        keys.keys.extend([0, 0, 0, 0, 1]);
    }
    let mut tensors = Raw::default();
    for i in 0..n as u64 / 4 {
        tensors = tensors.entry(format!("{i:x}").as_bytes(), &[1], 0, 32 * i);
    }
    let tensors = tensors.spare(32 * n / 4);
    for (what, bytes) in [
        ("empty texts", Raw::default().key("k", texts).bytes()),
        ("keys", keys.bytes()),
        ("tensors", tensors.bytes()),
    ] {
        let (path, len) = (place.file(&bytes), bytes.len() as u64);
        drop(bytes);
        alone.refused(what, len, &["hostile.gguf"], || Checkpoint::open(&path));
        alone.refused(what, len, &["hostile.gguf"], || control_vector(&path));
    }
}

#[test]
fn kind_6_unknown_values() {
    let alone = alone();
    for (kind, bytes) in [(13, vec![0; 8]), (u32::MAX, vec![0; 8])] {
        let bytes = Raw::default().key("k.odd", Value::Raw(kind, bytes)).bytes();
        refused(&alone, "a kind of value", &bytes, "k.odd");
    }
    for two in [
        Value::Raw(7, vec![2]),
        Value::Raw(9, [&7u32.to_le_bytes()[..], &1u64.to_le_bytes(), &[255]].concat()),
    ] {
        let bytes = metadata(Some(("k.bool", two))).bytes();
        refused(&alone, "a bool of 2", &bytes, "k.bool");
    }
}

#[test]
fn kind_7_alignments_that_are_none() {
    let alone = alone();
    for value in [
        Value::U32(0),
        Value::U32(3),
        Value::U32(1 << 31),
        Value::Text(b"32"),
        Value::F32(32.0),
    ] {
        let bytes = metadata(Some(("general.alignment", value))).bytes();
        refused(&alone, "an alignment", &bytes, "general.alignment");
    }
}

#[test]
fn kind_8_names_that_come_twice() {
    let alone = alone();
    let key = |raw: Raw| raw.key("general.name", Value::U32(1));
    refused(&alone, "a key twice", &key(key(metadata(None))).bytes(), "general.name");
    let tensor = |raw: Raw| raw.tensor("blk.0.twice", &[8], 0, &[0; 32]);
    refused(
        &alone,
        "a tensor twice",
        &tensor(tensor(metadata(None))).bytes(),
        "blk.0.twice",
    );
}

#[test]
fn kinds_9_to_12_tensors_that_cannot_be() {
    let alone = alone();
    for (what, dims, kind, offset) in [
        ("no dimension", &[][..], 0, 0),
        ("five dimensions", &[1; 5], 0, 0),
        ("a dimension of 0", &[0], 0, 0),
        ("a product that wraps to 0", &[1 << 32, 1 << 32], 0, 0),
        ("2^63 numbers", &[1 << 63], 0, 0),
        ("2^62 numbers", &[1 << 62], 0, 0),
        ("a product that wraps to 1", &[u64::MAX, u64::MAX], 0, 0),
        ("Q4_K of 255", &[255], 12, 0),
        ("Q8_0 of 33", &[33], 8, 0),
        ("a removed type", &[32], 4, 0),
        ("a removed type", &[32], 5, 0),
        ("an unknown type", &[32], 99, 0),
        ("an unknown type", &[32], u32::MAX, 0),
        ("an offset between", &[4], 0, 8),
        ("an offset past the end", &[4], 0, 1 << 20),
        ("an offset that wraps", &[4], 0, u64::MAX - 31),
        ("a tensor that ends past the end", &[4096 / 4 + 8], 0, 0),
    ] {
        let bytes = metadata(None)
            .entry(b"blk.0.bad", dims, kind, offset)
            .spare(4096)
            .bytes();
        refused(&alone, what, &bytes, "blk.0.bad");
    }
    let mut n_dims = metadata(None).entry(b"blk.0.bad", &[1], 0, 0);
    let at = n_dims.tensors.len() - 24;
    n_dims.tensors[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    refused(&alone, "2^32 - 1 dimensions", &n_dims.spare(64).bytes(), "blk.0.bad");
    let overlap = metadata(None)
        .entry(b"a", &[16], 0, 0)
        .entry(b"b", &[16], 0, 32)
        .spare(4096)
        .bytes();
    refused(&alone, "an overlap", &overlap, "b");
}

#[test]
fn kind_13_a_model_cut_at_every_byte() {
    let alone = alone();
    let place = Place::new();
    let bytes = whole().bytes();
    let path = place.file(&bytes);
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    model::load(&path).unwrap();
    for len in (0..bytes.len()).rev() {
        file.set_len(len as u64).unwrap();
        alone.refused(&format!("cut at {len}"), len as u64, &["hostile.gguf"], || {
            model::load(&path)
        });
        alone.refused(&format!("cut at {len}"), len as u64, &["hostile.gguf"], || {
            control_vector(&path)
        });
    }
    // What lies behind the last tensor belongs to nobody.
    model::load(&place.file(&[&bytes[..], &[0; 100]].concat())).unwrap();
}

#[test]
fn kind_13_a_model_with_each_bit_of_its_header_flipped() {
    let alone = alone();
    let (whole, mut accepted) = (whole(), 0);
    let (header, bytes) = (whole.header().len(), whole.bytes());
    let place = Place::new();
    for at in 0..header {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            let what = format!("bit {bit} of byte {at}");
            let parsed = alone.bounded(&what, damaged.len() as u64, || {
                Gguf::parse(FileBytes::from_vec("hostile.gguf", damaged.clone()))
            });
            match parsed {
                Err(error) => assert!(error.to_string().starts_with("hostile.gguf: "), "{what}: {error}"),
                Ok(_) => {
                    let path = place.file(&damaged);
                    accepted += u32::from(
                        alone
                            .bounded(&what, damaged.len() as u64, || model::load(&path))
                            .is_ok(),
                    );
                }
            }
        }
    }
    // A letter of a token or of the template may be another one, and nobody can tell.
    assert!(
        accepted > 0 && accepted < 8 * header as u32 / 2,
        "{accepted} of {header} bytes"
    );
}

#[test]
fn kind_14_numbers_that_describe_no_model() {
    let alone = alone();
    let place = Place::new();
    for (key, value) in [
        ("llama.block_count", Value::U32(1_000_000_000)),
        ("llama.block_count", Value::U32(0)),
        ("llama.attention.head_count", Value::U32(0)),
        ("llama.attention.head_count_kv", Value::U32(4)),
        ("llama.attention.head_count_kv", Value::U32(0)),
        ("llama.embedding_length", Value::U32(9)),
        ("llama.embedding_length", Value::U32(u32::MAX)),
        ("llama.feed_forward_length", Value::U32(u32::MAX)),
        ("llama.rope.dimension_count", Value::U32(3)),
        ("llama.context_length", Value::U32(0)),
        ("llama.block_count", Value::Text(b"2")),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(f32::NAN)),
        ("llama.rope.freq_base", Value::F32(f32::INFINITY)),
        ("general.architecture", Value::Text(b"no-such-architecture")),
    ] {
        let bytes = with_weights(metadata(Some((key, value)))).bytes();
        let path = place.file(&bytes);
        alone.refused(key, bytes.len() as u64, &["hostile.gguf", key], || model::load(&path));
    }
    // A context that only its rotary table would notice.
    let bytes = with_weights(metadata(Some(("llama.context_length", Value::U32(1 << 28))))).bytes();
    let path = place.file(&bytes);
    let _ = alone.bounded("a long context", bytes.len() as u64, || model::load(&path));
}

#[test]
fn kind_15_tokens_that_do_not_fit() {
    let alone = alone();
    let place = Place::new();
    let fewer: Vec<_> = model::tokens().into_iter().skip(1).collect();
    let scores = |n: usize| {
        Value::Raw(
            9,
            [&6u32.to_le_bytes()[..], &(n as u64).to_le_bytes(), &vec![0; 4 * n]].concat(),
        )
    };
    for (key, value) in [
        ("tokenizer.ggml.tokens", Value::Texts(fewer)),
        ("tokenizer.ggml.tokens", Value::Texts(Vec::new())),
        ("tokenizer.ggml.scores", scores(VOCAB - 1)),
        ("tokenizer.ggml.token_type", Value::I32s(vec![1; VOCAB - 1])),
        ("tokenizer.ggml.bos_token_id", Value::U32(VOCAB as u32)),
        ("tokenizer.ggml.eos_token_id", Value::U32(u32::MAX)),
        ("tokenizer.ggml.merges", Value::Texts(vec![b"h h".to_vec()])),
        ("tokenizer.ggml.merges", Value::Texts(vec![b"hi".to_vec()])),
        ("tokenizer.ggml.pre", Value::Text(b"no-such-pre-tokenizer")),
        ("tokenizer.ggml.model", Value::Text(b"no-such-model")),
    ] {
        let bytes = with_weights(metadata(Some((key, value)))).bytes();
        let path = place.file(&bytes);
        alone.refused(key, bytes.len() as u64, &["hostile.gguf", key], || model::load(&path));
    }
}

#[test]
fn kind_16_scales_that_are_not_finite_are_named_on_loading() {
    let alone = alone();
    let place = Place::new();
    // Q8_0: a scale in half precision and 32 numbers.
    for scale in [0x7e00u16, 0x7c00, 0xfc00] {
        let mut raw = metadata(None);
        for weight in model::weights() {
            raw = if weight.gguf == "blk.1.ffn_down.weight" {
                // Rows of 12 make no block of 32, so this one tensor is F16.
                let halves: Vec<u8> = (0..D_MODEL * D_MLP).flat_map(|_| scale.to_le_bytes()).collect();
                raw.tensor(&weight.gguf, &weight.shape, 1, &halves)
            } else {
                raw.tensor(&weight.gguf, &weight.shape, 0, &model::numbers(&weight.shape))
            };
        }
        let bytes = raw.bytes();
        let path = place.file(&bytes);
        let name = "layers.1.mlp.down_proj";
        alone.refused(
            "a weight",
            bytes.len() as u64,
            &["hostile.gguf", name, "finite"],
            || model::load(&path),
        );
    }
    for (kind, block) in [(8u32, 34usize), (2, 18), (12, 144), (14, 210)] {
        let width = if kind >= 12 { 256 } else { 32 };
        let raw = metadata(None).tensor("token_embd.weight", &[VOCAB, width], kind, &vec![0xff; VOCAB * block]);
        let raw = raw.tensor(
            "blk.0.attn_output.weight",
            &[VOCAB, width],
            kind,
            &vec![0xff; VOCAB * block],
        );
        let bytes = raw.bytes();
        let path = place.file(&bytes);
        let checkpoint = alone.bounded("quantised", bytes.len() as u64, || Checkpoint::open(&path));
        let name = "model.layers.0.self_attn.o_proj.weight";
        let checkpoint = checkpoint.unwrap();
        // In the bits of the file: `gguf_pack`'s own tests.
        let values = checkpoint.tensor(name).unwrap().1;
        assert!(values.iter().any(|value| !value.is_finite()), "type {kind}");
    }
}

#[test]
fn kind_17_bytes_that_are_no_text() {
    let alone = alone();
    let mut bytes = Raw::default().key("abc", Value::U32(1)).bytes();
    bytes[32..35].copy_from_slice(&[0xff, 0xfe, 0xfd]);
    refused(&alone, "a key", &bytes, "metadata key 0");
    let bytes = metadata(None).entry(&[0xff, 0xfe], &[8], 0, 0).spare(64).bytes();
    refused(&alone, "a tensor's name", &bytes, "tensor 0");
    // A token is bytes; some tokenizers cut characters.
    let mut tokens = model::tokens();
    tokens[0] = vec![0xff, 0xfe];
    let bytes = with_weights(metadata(Some(("tokenizer.ggml.tokens", Value::Texts(tokens))))).bytes();
    let gguf = alone.bounded("a token", bytes.len() as u64, || {
        Gguf::parse(FileBytes::from_vec("hostile.gguf", bytes.clone()))
    });
    let gguf = gguf.unwrap();
    assert_eq!(gguf.texts("tokenizer.ggml.tokens").unwrap().unwrap()[0], [0xff, 0xfe]);
    let tokenizer = alone
        .bounded("a token", bytes.len() as u64, || Tokenizer::from_gguf(&gguf))
        .unwrap();
    assert_eq!(tokenizer.vocab_size(), VOCAB);
}
