//! GGUFs that this crate writes, against those that the `gguf` package writes of the same weights
//! (`tests/reference/gguf_model.py`).

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use realign_core::{Batch, LanguageModel, Site, Weight};
use realign_model::{Access, Checkpoint, FileBytes, GgmlType, Gguf, Llama, export_gguf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn open(path: &Path) -> Gguf {
    Gguf::parse(FileBytes::open(path, Access::Read).unwrap()).unwrap()
}

fn model(path: &Path) -> Llama {
    let checkpoint = Checkpoint::open_with(path, Access::Read).unwrap();
    Llama::load(&checkpoint.config().unwrap(), &checkpoint, &Device::flex()).unwrap()
}

fn logits(model: &dyn LanguageModel) -> Vec<f32> {
    let hidden = model.forward(&Batch::packed([[3_u32, 17, 95, 0, 42]]), &mut ());
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
    assert!(message(&fixture("tiny_llama"), &out, GgmlType::F32).contains("a GGUF, whose metadata"));
    assert!(message(&source, &folder.path().join("no/out.gguf"), GgmlType::F32).contains("no/out.gguf.partial"));
    let own = folder.path().join("own.gguf");
    std::fs::copy(&source, &own).unwrap();
    assert!(message(&own, &own, GgmlType::F32).contains("the model's own"));
    assert!(!out.exists());
}
