//! What is done with bytes that a stranger may have written, one function a reader: for libFuzzer, and for the test
//! `fuzz_corpus` that replays what is kept here.
//!
//! None may panic, hang, or take more memory than its input justifies, whatever the bytes are. What is accepted must hold
//! together.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use realign::arrays::Arrays;
use realign::burn::tensor::{Device, Tensor};
use realign::core::{Batch, Shape};
use realign::data::{
    OnBad, QuestionSet, answer_pairs, answers_csv, jsonl as write_jsonl, load_broad, load_conversations,
    load_question_set, parquet_about, read_answers, read_conversations, read_question_yaml,
};
use realign::model::{
    ChatTemplate, Checkpoint, DecoderConfig, FileBytes, GenerationPrompt, Gguf, LlamaConfig, Message, Pretrained,
    Tokenizer,
};
use realign::run::{Manifest, RunFolder};
use realign::sae::{Sae, TemporalSae};
use realign::steering::{ControlVector, Direction};

/// A target takes bytes.
pub type Target = fn(&[u8]);

/// Every target, by the name of its folder in `seeds` and `crashes`.
pub const TARGETS: [(&str, Target); 18] = [
    ("gguf", gguf),
    ("safetensors", safetensors),
    ("config", config),
    ("tokenizer", tokenizer),
    ("template", template),
    ("adapter", adapter),
    ("sae", sae),
    ("vector", vector),
    ("direction", direction),
    ("arrays", arrays),
    ("npz", npz),
    ("pickle", pickle),
    ("jsonl", jsonl),
    ("parquet", parquet),
    ("questions", questions),
    ("answers", answers),
    ("reply", reply),
    ("run", run),
];

/// A GGUF file: header, metadata, tensors, and what is built from them.
pub fn gguf(data: &[u8]) {
    let Ok(gguf) = Gguf::parse(FileBytes::from_vec("fuzz.gguf", data.to_vec())) else {
        return;
    };
    for (key, _) in gguf.metadata() {
        // Each is right for some keys and an error for the others.
        let _ = (gguf.integer(key), gguf.number(key), gguf.flag(key));
        let _ = (gguf.text(key), gguf.texts(key), gguf.integers(key));
    }
    for (_, tensor) in gguf.tensors() {
        assert!(gguf.tensor_bytes(tensor).len() <= data.len());
        let elements = gguf.dequantise(tensor, |row| row).len();
        assert_eq!(elements, tensor.shape.iter().product::<usize>());
    }
    let folder = with_files(&[("model.gguf", data)]);
    if let Ok(read) = Pretrained::load(&folder.path().join("model.gguf"), &Device::flex()) {
        let ids = read.tokenizer.encode_text("Hello, world!\n");
        assert!(ids.iter().all(|&id| (id as usize) < read.tokenizer.vocab_size()));
        let _ = read.tokenizer.decode(&ids);
    }
}

/// A checkpoint in two files: an index, a zero byte, a safetensors file that is there as `one` and `two`.
pub fn safetensors(data: &[u8]) {
    let [index, tensors] = parts(data);
    let folder = with_files(&[
        ("model.safetensors.index.json", index),
        ("one.safetensors", tensors),
        ("two.safetensors", tensors),
    ]);
    for path in [folder.path().to_path_buf(), folder.path().join("one.safetensors")] {
        let Ok(checkpoint) = Checkpoint::open(&path) else {
            continue;
        };
        for name in checkpoint.names() {
            let (shape, values) = checkpoint.tensor(&name).expect("a tensor that is listed");
            assert_eq!(shape.iter().product::<usize>(), values.len());
            assert!(values.len() <= tensors.len());
        }
    }
}

/// A `config.json`.
pub fn config(data: &[u8]) {
    if let Ok(config) = DecoderConfig::from_json(data, Path::new("config.json")) {
        let shape = config.shape();
        assert!(shape.n_layers > 0 && shape.n_heads.is_multiple_of(shape.n_kv_heads));
    }
}

/// `tokenizer.json`, a zero byte, a text.
pub fn tokenizer(data: &[u8]) {
    let [json, text] = parts(data);
    let text = String::from_utf8_lossy(text);
    let folder = with_files(&[("tokenizer.json", json)]);
    let Ok(tokenizer) = Tokenizer::from_file(&folder.path().join("tokenizer.json")) else {
        return;
    };
    let ids = tokenizer.encode_text(&text);
    assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
    let ordinary = |&id: &u32| !tokenizer.is_special(id) || Some(id) == tokenizer.unk();
    assert!(ids.iter().all(ordinary), "text became a special token");
    let _ = tokenizer.decode(&ids);
}

/// A chat template, a zero byte, a text that a user and an assistant say.
pub fn template(data: &[u8]) {
    let [source, text] = parts(data);
    let (source, text) = (String::from_utf8_lossy(source), String::from_utf8_lossy(text));
    let Ok(template) = ChatTemplate::new(&source, Path::new("fuzz.jinja")) else {
        return;
    };
    let folder = with_files(&[("tokenizer.json", TOKENIZER.as_bytes())]);
    let tokenizer = Tokenizer::from_file(&folder.path().join("tokenizer.json")).expect("the tokenizer is sound");
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
}

/// A PEFT folder: `adapter_config.json`, a zero byte, `adapter_model.safetensors`.
pub fn adapter(data: &[u8]) {
    let [config, tensors] = parts(data);
    let folder = with_files(&[("adapter_config.json", config), ("adapter_model.safetensors", tensors)]);
    let shape = LlamaConfig::tiny().shape();
    if let Ok(lora) = realign::lora::load(folder.path(), &shape, &Device::flex()) {
        lora.config.check(&shape).expect("what was loaded is a valid adapter");
        for (&(layer, site), adapter) in &lora.adapters {
            assert!(layer < shape.n_layers);
            let [d_in, d_out] = shape.linear(site);
            assert_eq!((adapter.a.dims()[0], adapter.b.dims()[1]), (d_in, d_out));
        }
    }
}

/// A SAELens folder: `cfg.json`, a zero byte, `sae_weights.safetensors`.
pub fn sae(data: &[u8]) {
    let [config, tensors] = parts(data);
    let folder = with_files(&[("cfg.json", config), ("sae_weights.safetensors", tensors)]);
    let device = Device::flex();
    if let Ok(sae) = Sae::load(folder.path(), &device) {
        let x = Tensor::ones([2, sae.d_in()], &device);
        assert_eq!(sae.forward(x).dims(), [2, sae.d_in()]);
    }
    if let Ok(sae) = TemporalSae::load(folder.path(), &device) {
        let d_in = sae.b_dec.dims()[0];
        let x = Tensor::ones([3, d_in], &device);
        assert_eq!(sae.forward(x, &Batch::packed([[0, 0, 0]])).dims(), [3, d_in]);
    }
}

/// A control vector for a model of four blocks and width 3.
pub fn vector(data: &[u8]) {
    let folder = with_files(&[("vector.gguf", data)]);
    let shape = Shape {
        n_layers: 4,
        d_model: 3,
        ..LlamaConfig::tiny().shape()
    };
    let read = ControlVector::load(folder.path().join("vector.gguf"), "llama", &shape, &Device::flex());
    if let Ok(read) = read {
        assert!(
            read.directions
                .iter()
                .all(|(&il, vector)| il < 4 && vector.dims() == [3])
        );
    }
}

/// A direction's folder: `direction.json`, a zero byte, `direction.safetensors`.
pub fn direction(data: &[u8]) {
    let [json, tensors] = parts(data);
    let folder = with_files(&[("direction.json", json), ("direction.safetensors", tensors)]);
    if let Ok(direction) = Direction::load(folder.path(), &Device::flex()) {
        assert!(direction.to_vec().iter().all(|x| x.is_finite()));
    }
}

/// A whole file of torch's or safetensors.
pub fn arrays(data: &[u8]) {
    read_arrays(data);
}

/// Numpy's files: one array, or an archive of them.
pub fn npz(data: &[u8]) {
    read_arrays(data);
}

/// The pickle of a torch file that holds one storage of 256 bytes, `0`.
pub fn pickle(data: &[u8]) {
    read_arrays(&archive(&[("a/data.pkl", data), ("a/data/0", &[0; 256])]));
}

fn read_arrays(file: &[u8]) {
    let folder = with_files(&[("file", file)]);
    if let Ok(arrays) = Arrays::read(folder.path().join("file")) {
        let numbers: usize = arrays.shapes().map(|(_, shape)| shape.iter().product::<usize>()).sum();
        assert!(
            4 * numbers <= 2 * file.len() + (64 << 20),
            "{numbers} numbers out of {} bytes",
            file.len()
        );
    }
}

/// Chat data, one conversation a line.
pub fn jsonl(data: &[u8]) {
    let strict = read_conversations(data, "fuzz.jsonl", OnBad::Fail);
    let lenient = read_conversations(data, "fuzz.jsonl", OnBad::Skip);
    if let Ok(strict) = strict {
        let lenient = lenient.expect("no row is bad");
        assert_eq!((&lenient.rows, lenient.skipped), (&strict.rows, 0));
        assert!(strict.rows.iter().all(|conversation| !conversation.messages.is_empty()));
    }
}

/// A Parquet file of chat data.
pub fn parquet(data: &[u8]) {
    let folder = with_files(&[("rows.parquet", data)]);
    let path = folder.path().join("rows.parquet");
    let _ = load_broad(&path, OnBad::Skip);
    let strict = load_conversations(&path, OnBad::Fail);
    let lenient = load_conversations(&path, OnBad::Skip);
    if let Ok(strict) = strict {
        let lenient = lenient.expect("no row is bad");
        assert_eq!((&lenient.rows, lenient.skipped), (&strict.rows, 0));
        if data.starts_with(b"PAR1") {
            assert!(parquet_about(&path).expect("it was read").rows >= strict.rows.len() as u64);
        }
        // Its line is as good, if it is not too long.
        if let Ok(again) = read_conversations(&write_jsonl(&strict.rows)[..], "fuzz.jsonl", OnBad::Fail) {
            assert_eq!(again.rows, strict.rows);
        }
    }
}

/// Questions: the papers' YAML, and what a file without an extension is taken for (a trait, pairs, YAML).
pub fn questions(data: &[u8]) {
    let yaml = std::str::from_utf8(data).ok();
    let yaml = yaml.and_then(|text| read_question_yaml(text, "fuzz.yaml").ok());
    let folder = with_files(&[("questions", data)]);
    let open = match load_question_set(folder.path().join("questions")) {
        Ok(QuestionSet::Pairs(pairs)) => {
            assert!(!pairs.is_empty());
            None
        }
        Ok(QuestionSet::Open(open)) => Some(open),
        Err(_) => None,
    };
    for questions in yaml.into_iter().chain(open) {
        let ids: BTreeSet<&str> = questions.iter().map(|question| &question.id[..]).collect();
        assert_eq!(ids.len(), questions.len(), "an id twice");
        assert!(questions.iter().all(|question| !question.paraphrases.is_empty()));
    }
}

/// A CSV of questions, answers and scores.
pub fn answers(data: &[u8]) {
    let strict = read_answers(data, "fuzz.csv", OnBad::Fail);
    let lenient = read_answers(data, "fuzz.csv", OnBad::Skip);
    if let Ok(strict) = strict {
        let lenient = lenient.expect("no row is bad");
        assert_eq!((&lenient.rows, lenient.skipped), (&strict.rows, 0));
        let again = read_answers(&answers_csv(&strict.rows)[..], "fuzz.csv", OnBad::Fail).expect("what we write");
        assert_eq!(again.rows, strict.rows);
        for pair in answer_pairs(&strict.rows) {
            assert!(!pair.aligned.trim().is_empty() && !pair.misaligned.trim().is_empty());
        }
    }
}

/// The body of a judge's reply.
pub fn reply(data: &[u8]) {
    if let Ok(Some(score)) = realign::eval::score_of_reply(data) {
        assert!((0.0..=100.0).contains(&score), "a score of {score}");
    }
}

/// The `run.json` of a run folder.
pub fn run(data: &[u8]) {
    let folder = with_files(&[("run.json", data)]);
    let manifest = Manifest {
        schema: 1,
        command: vec!["fuzz".into()],
        config: Default::default(),
        model: BTreeMap::new(),
        data: BTreeMap::new(),
        versions: BTreeMap::new(),
        seed: 1,
        threads: 1,
        device: "none".into(),
    };
    if let Ok(run) = RunFolder::open(folder.path(), &manifest) {
        assert_eq!(run.manifest().seed, 1);
        drop(run);
        RunFolder::open(folder.path(), &manifest).expect("what was opened opens again");
    }
}

/// What stands before the first zero byte, and what behind it: neither JSON nor a template holds one.
fn parts(data: &[u8]) -> [&[u8]; 2] {
    match data.iter().position(|&byte| byte == 0) {
        Some(at) => [&data[..at], &data[at + 1..]],
        None => [data, &[]],
    }
}

/// A zip archive of stored members, without checksums, as torch can be told to write it.
fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::<u8>::new(), Vec::<u8>::new());
    for (name, bytes) in members {
        let (start, size) = (file.len() as u32, bytes.len() as u32);
        // Version 2.0, no flags, stored, no time, no checksum; both sizes; the name's length, and no extra field.
        let mut fields = vec![20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        fields.extend([size, size].iter().flat_map(|size| size.to_le_bytes()));
        fields.extend((name.len() as u16).to_le_bytes());
        fields.extend([0, 0]);
        for part in [&b"PK\x03\x04"[..], &fields, name.as_bytes(), bytes] {
            file.extend(part);
        }
        for part in [
            &b"PK\x01\x02\x14\x00"[..],
            &fields,
            &[0; 10],
            &start.to_le_bytes(),
            name.as_bytes(),
        ] {
            directory.extend(part);
        }
    }
    let (start, size, count) = (file.len() as u32, directory.len() as u32, members.len() as u16);
    file.extend(directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend([count, count].iter().flat_map(|count| count.to_le_bytes()));
    file.extend([size, start].iter().flat_map(|at| at.to_le_bytes()));
    file.extend([0, 0]);
    file
}

fn with_files(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).expect("written");
    }
    folder
}

const TOKENIZER: &str = include_str!("../tokenizer.json");
