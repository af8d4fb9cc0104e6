//! GGUFs that this crate writes, against those that the `gguf` package writes of the same weights
//! (`tests/reference/gguf_model.py`) and against the models that they were made of.
//!
//! `REALIGN_WRITTEN` names a folder to leave them in, each with its logits, for llama.cpp (`tests/interop_files.sh`).

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use realign_core::{Batch, LanguageModel, Site, Weight};
use realign_model::{Access, Checkpoint, Decoder, FileBytes, GgmlType, Gguf, Tokenizer, export, export_gguf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn open(path: &Path) -> Gguf {
    Gguf::parse(FileBytes::open(path, Access::Read).unwrap()).unwrap()
}

fn model(path: &Path) -> Decoder {
    let checkpoint = Checkpoint::open_with(path, Access::Read).unwrap();
    Decoder::load(&checkpoint.config().unwrap(), &checkpoint, &Device::flex()).unwrap()
}

/// Below every fixture's vocabulary.
const IDS: [u32; 5] = [3, 17, 45, 0, 42];

fn logits(model: &dyn LanguageModel) -> Vec<f32> {
    let hidden = model.forward(&Batch::packed([IDS]), &mut ());
    model.logits(hidden).into_data().try_into_vec().unwrap()
}

#[test]
fn what_is_written_is_what_the_gguf_package_writes() {
    let folder = tempfile::tempdir().unwrap();
    let source = fixture("gguf_files/tiny_llama_f16.gguf");
    let model = model(&source);
    for (kind, reference, file_type) in [
        (GgmlType::F16, "gguf_files/tiny_llama_f16.gguf", 1),
        (GgmlType::Q8_0, "gguf_files/tiny_llama_q8_0.gguf", 7),
    ] {
        let out = folder.path().join("out.gguf");
        export_gguf(&source, Access::Map, &model, &out, kind).unwrap();
        let (ours, theirs) = (open(&out), open(&fixture(reference)));
        assert_eq!(ours.tensors().count(), theirs.tensors().count());
        for (name, tensor) in ours.tensors() {
            let other = theirs.tensor(name).unwrap();
            assert_eq!((&tensor.shape, tensor.kind), (&other.shape, other.kind), "{name}");
            // To the byte: Q8_0 is rounded as ggml's reference does it.
            assert_eq!(ours.tensor_bytes(tensor), theirs.tensor_bytes(other), "{name}");
        }
        for (key, value) in theirs.metadata() {
            assert_eq!(ours.get(key), Some(value), "{key}");
        }
        assert_eq!(ours.integer("general.file_type").unwrap(), Some(file_type));
        assert!(!folder.path().join("out.gguf.partial").exists());
    }
}

#[test]
fn our_own_reader_opens_it_with_the_same_logits() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.gguf");
    let source = fixture("gguf_files/tiny_llama_f16.gguf");
    // Changed weights, as a merged adapter leaves them; queries lie in another order in the file.
    let changed = model(&source).edited(&mut |weight, w| match weight {
        Weight::Linear {
            layer: 1,
            site: Site::Q | Site::Down,
        } => w * 1.5 + 0.01,
        _ => w,
    });
    export_gguf(&source, Access::Read, &*changed, &out, GgmlType::F32).unwrap();
    let again = model(&out);
    assert_eq!(logits(&again), logits(&*changed));
    assert_ne!(logits(&again), logits(&model(&source)));
    export_gguf(&source, Access::Read, &*changed, &out, GgmlType::Q8_0).unwrap();
    let (rounded, exact) = (logits(&model(&out)), logits(&*changed));
    let gap = rounded
        .iter()
        .zip(&exact)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(gap > 0.0 && gap < 0.5, "{gap}");
}

#[test]
fn what_cannot_be_written_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let source = fixture("gguf_files/tiny_llama_f16.gguf");
    let model = model(&source);
    let message = |source: &Path, out: &Path, kind| {
        export_gguf(source, Access::Read, &model, out, kind)
            .unwrap_err()
            .to_string()
    };
    let out = folder.path().join("out.gguf");
    assert!(message(&source, &out, GgmlType::Q4_K).contains("F32, F16 or Q8_0"));
    assert!(message(&fixture("tiny_llama"), &out, GgmlType::F32).contains("tokenizer.json"));
    assert!(message(&source, &folder.path().join("no/out.gguf"), GgmlType::F32).contains("no/out.gguf.partial"));
    let own = folder.path().join("own.gguf");
    std::fs::copy(&source, &own).unwrap();
    assert!(message(&own, &own, GgmlType::F32).contains("the model's own"));
    assert!(!out.exists());
}

/// The tiny GGUFs, in F32, of every architecture that is read.
fn ggufs() -> Vec<(String, PathBuf)> {
    let files = std::fs::read_dir(fixture("gguf")).unwrap();
    let files = files.map(|entry| entry.unwrap().path());
    let mut files: Vec<(String, PathBuf)> = files
        .map(|file| (file.file_stem().unwrap().to_string_lossy().into_owned(), file))
        .filter(|(name, _)| !name.ends_with(".q8_0"))
        .collect();
    files.sort();
    files
}

/// What a `config.json` cannot say: the rotary divisors of these are of no published Llama 3.
const NO_FOLDER: [&str; 1] = ["llama_llama3"];

fn open_text(path: &Path) -> (Option<Tokenizer>, Decoder) {
    let checkpoint = Checkpoint::open_with(path, Access::Read).unwrap();
    let tokenizer = match checkpoint.gguf() {
        Some(gguf) => Tokenizer::from_gguf(gguf),
        None => Tokenizer::from_file(&path.join("tokenizer.json")),
    };
    (tokenizer.ok(), model(path))
}

/// Leaves a GGUF and its last logits where somebody else is to open it.
fn leave(name: &str, file: &Path) {
    let Some(folder) = std::env::var_os("REALIGN_WRITTEN").map(PathBuf::from) else {
        return;
    };
    let all = logits(&model(file));
    let last = &all[all.len() - 64..];
    let json = serde_json::json!({"ids": IDS, "logits": last}).to_string();
    std::fs::write(folder.join(name).with_extension("json"), json).unwrap();
    std::fs::copy(file, folder.join(name).with_extension("gguf")).unwrap();
}

#[test]
fn every_architecture_goes_from_gguf_to_folder_to_gguf_with_the_same_logits() {
    for (name, source) in ggufs() {
        let out = tempfile::tempdir().unwrap();
        let (folder, file) = (out.path().join("folder"), out.path().join("out.gguf"));
        // Changed, so that what is written is the model and not a copy of the source.
        let (tokenizer, base) = open_text(&source);
        let changed = base.edited(&mut |weight, w| match weight {
            Weight::Linear { layer: 0, .. } => w * 0.5,
            Weight::Bias { layer: 1, .. } => w * 2.0,
            _ => w,
        });
        let wanted = logits(&*changed);
        assert_ne!(wanted, logits(&base), "{name}");
        export_gguf(&source, Access::Map, &*changed, &file, GgmlType::F32).unwrap();
        assert_eq!(logits(&model(&file)), wanted, "{name}, from its GGUF");

        let written = export(&source, Access::Read, &*changed, &folder);
        if NO_FOLDER.contains(&name.as_str()) {
            let error = written.unwrap_err().to_string();
            assert!(
                error.contains("rotary positions: expected what a config.json of llama"),
                "{error}"
            );
            continue;
        }
        written.unwrap();
        let (again, read) = open_text(&folder);
        close(&name, &logits(&read), &wanted);
        assert_eq!(
            again.unwrap().encode_text("t4t17 é"),
            tokenizer.unwrap().encode_text("t4t17 é"),
            "{name}"
        );
        export_gguf(&folder, Access::Read, &read, &file, GgmlType::F32).unwrap();
        assert_eq!(logits(&model(&file)), logits(&read), "{name}, from its folder");
        // Nothing is said in another way than the converter's, whose keys these are.
        let (ours, theirs) = (open(&file), open(&source));
        for (key, value) in theirs.metadata().filter(|(key, _)| !key.starts_with("general.")) {
            if !key.ends_with("tokenizer.ggml.scores") {
                assert_eq!(
                    ours.get(key).map(|v| v.to_string()),
                    Some(value.to_string()),
                    "{name}: {key}"
                );
            }
        }
        for (tensor, place) in theirs.tensors() {
            let shape = ours.tensor(tensor).map(|place| &place.shape);
            assert_eq!(shape, Some(&place.shape), "{name}: {tensor}");
        }
    }
}

/// Norms that count from one in a folder and from zero in a GGUF are rounded once on the way.
#[track_caller]
fn close(name: &str, found: &[f32], wanted: &[f32]) {
    let largest = wanted.iter().fold(1f32, |m, x| m.max(x.abs()));
    for (found, wanted) in found.iter().zip(wanted) {
        assert!(
            (found - wanted).abs() <= 2e-5 * largest,
            "{name}: {found}, not {wanted}"
        );
    }
}

#[test]
fn what_is_written_of_every_checkpoint_is_its_model_or_else_what_a_gguf_cannot_say_is_named() {
    // (fixture, what is named)
    let refused = [
        ("gemma2", "scale of attention scores"),
        ("gemma3_text", "sliding windows"),
        ("gpt_neox_sequential", "activation"),
        ("llama_dynamic", "rotary positions"),
        ("llama_yarn_mscale", "rotary positions"),
        ("mistral", "sliding windows"),
        ("phi3_longrope", "rotary positions"),
        ("phi3_longrope_crossing", "rotary positions"),
        ("qwen2_window", "sliding windows"),
        ("qwen3_moe", "architecture"),
    ];
    let folders = std::fs::read_dir(fixture("architectures")).unwrap();
    let mut seen = 0;
    for source in folders.map(|entry| entry.unwrap().path()) {
        let name = source.file_name().unwrap().to_string_lossy().into_owned();
        let out = tempfile::tempdir().unwrap();
        let folder = out.path().join("folder");
        std::fs::create_dir(&folder).unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(source.join(file), folder.join(file)).unwrap();
        }
        std::fs::write(folder.join("tokenizer.json"), byte_level(64)).unwrap();
        let (file, read) = (out.path().join("out.gguf"), model(&folder));
        let written = export_gguf(&folder, Access::Read, &read, &file, GgmlType::F32);
        if let Some((_, word)) = refused.iter().find(|(refused, _)| *refused == name) {
            let error = written.unwrap_err().to_string();
            assert!(error.contains(word) && !file.exists(), "{name}: {error}");
            seen += 1;
            continue;
        }
        written.unwrap_or_else(|error| panic!("{name}: {error}"));
        close(&name, &logits(&model(&file)), &logits(&read));
        leave(&name, &file);
        let reference = std::fs::read(source.join("reference.json")).unwrap();
        let reference: serde_json::Value = serde_json::from_slice(&reference).unwrap();
        let ids: Vec<u32> = serde_json::from_value(reference["ids"].clone()).unwrap();
        let theirs: Vec<f32> = serde_json::from_value(reference["logits"].clone()).unwrap();
        let again = model(&file);
        let ours = again.logits(again.forward(&Batch::packed([&ids]), &mut ()));
        close(&name, &ours.into_data().try_into_vec::<f32>().unwrap(), &theirs);
    }
    assert_eq!(seen, refused.len());
}

/// A `tokenizer.json` of so many tokens: some letters, as bytes, and one control token for all others.
fn byte_level(tokens: usize) -> String {
    let vocab: serde_json::Map<String, serde_json::Value> = ('A'..)
        .filter(|c| c.is_ascii_graphic())
        .take(tokens - 3)
        .map(String::from)
        .chain(["ab".to_owned(), "abc".to_owned(), "<unk>".to_owned()])
        .zip(0..)
        .map(|(token, id)| (token, id.into()))
        .collect();
    serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [{"id": tokens - 1, "content": "<unk>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": [["a", "b"], ["ab", "c"]]},
    })
    .to_string()
}
