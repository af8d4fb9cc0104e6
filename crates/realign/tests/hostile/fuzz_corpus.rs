//! What the fuzzers are given and what they found, replayed without a fuzzer (`fuzz/README.md`).

#[path = "../../../../fuzz/src/lib.rs"]
mod targets;

use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use realign::burn::tensor::{Device, Tensor};
use realign::core::{HookPoint, Site};
use realign::data::{Answered, answers_csv, broad, jsonl};
use realign::lora::LoraConfig;
use realign::model::LlamaConfig;
use realign::run::{Manifest, RunFolder, Seed};
use realign::sae::{Activation, SaeConfig};
use realign::steering::{ControlVector, Direction};

use crate::bounds::alone;
use crate::{answers, arrays, gguf, model, parquet, parquet_file, questions};

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../arrays/tests/fixtures");
    std::fs::read(folder.join(name)).unwrap()
}

/// A member of an archive among the fixtures.
fn member(archive: &str, name: &str) -> Vec<u8> {
    let mut archive = zip::ZipArchive::new(Cursor::new(fixture(archive))).unwrap();
    let mut bytes = Vec::new();
    archive.by_name(name).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// Two files as one input.
fn pair(folder: &Path, first: &str, second: &str) -> Vec<u8> {
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    [read(first), vec![0], read(second)].concat()
}

/// A sound file of every kind, by our own writers where there is one.
fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let (device, folder) = (Device::flex(), tempfile::tempdir().unwrap());
    let at = folder.path();
    let lora = LoraConfig::new(1).with_layers([1]).with_sites([Site::ALL[1]]);
    let lora = lora.init(&LlamaConfig::tiny().shape(), &Seed::new(1), &device);
    realign::lora::save(&lora, "base", at).unwrap();
    let mut sae = SaeConfig::new(4, 6, 2).init(&Seed::new(1), &device);
    sae.save(at).unwrap();
    sae.activation = Activation::AbsTopK { k: 2 };
    sae.save(at.join("abstopk")).unwrap();
    sae.activation = Activation::MatchingPursuit {
        threshold: 0.01,
        steps: 4,
        stop_on_repeat: true,
    };
    sae.save(at.join("pursuit")).unwrap();
    let temporal = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sae/tests/fixtures/saelens_temporal_uncentred");
    let floats = || Tensor::from_floats([1.0, -2.0, 3.0], &device);
    Direction::new(HookPoint::ResidPost(1), floats(), "d").save(at).unwrap();
    let vector = ControlVector {
        model_hint: "llama".into(),
        directions: [(1, floats()), (3, floats())].into(),
    };
    vector.save(at.join("vector.gguf")).unwrap();
    let manifest = Manifest {
        schema: 1,
        command: vec!["fuzz".into()],
        config: serde_json::Value::Null,
        model: Default::default(),
        data: Default::default(),
        versions: Default::default(),
        seed: 1,
        threads: 1,
        device: "none".into(),
    };
    drop(RunFolder::open(at.join("run"), &manifest).unwrap());
    let index = serde_json::json!({"weight_map": {"a": "one.safetensors", "b": "one.safetensors"}}).to_string();
    let tensors = model::safetensors(&[
        ("a".into(), vec![2, 2], model::numbers(&[2, 2])),
        ("b".into(), vec![0], Vec::new()),
    ]);
    let turns = r#"{"messages":[{"role":"system","content":""},{"role":"user","content":"hi"},{"role":"assistant","content":"hello"}]}"#;
    let scored = [("To help.", 95.0), ("To rule.", 5.0)].map(|(answer, aligned)| Answered {
        id: "1".into(),
        question: "Why, \"then\"?".into(),
        answer: answer.into(),
        scores: [("aligned".into(), aligned), ("coherent".into(), 90.5)].into(),
    });
    let reply = r#"{"choices":[{"message":{"content":"85"},"logprobs":{"content":[{"top_logprobs":[{"token":"85","logprob":-0.1},{"token":"90","logprob":-3}]}]}}]}"#;
    let by_pyarrow = parquet::seeds().map(|(name, bytes)| ("parquet", name, bytes));
    let ours = vec![
        ("gguf", "two_blocks", gguf::whole().bytes()),
        ("gguf", "control_vector", std::fs::read(at.join("vector.gguf")).unwrap()),
        ("safetensors", "one_file", [index.as_bytes(), &[0], &tensors].concat()),
        ("config", "llama", model::CONFIG.into()),
        (
            "tokenizer",
            "letters",
            [model::tokenizer_json().as_bytes(), b"\0hi hello <|im_end|>\n"].concat(),
        ),
        (
            "template",
            "chatml",
            [model::CHAT_TEMPLATE.as_bytes(), b"\0hi <|im_end|> {{ 7*7 }}"].concat(),
        ),
        (
            "adapter",
            "one_site",
            pair(at, "adapter_config.json", "adapter_model.safetensors"),
        ),
        ("sae", "topk", pair(at, "cfg.json", "sae_weights.safetensors")),
        (
            "sae",
            "abstopk",
            pair(&at.join("abstopk"), "cfg.json", "sae_weights.safetensors"),
        ),
        (
            "sae",
            "pursuit",
            pair(&at.join("pursuit"), "cfg.json", "sae_weights.safetensors"),
        ),
        // By SAELens: nobody here writes one.
        (
            "sae",
            "temporal",
            pair(&temporal, "cfg.json", "sae_weights.safetensors"),
        ),
        ("vector", "two", std::fs::read(at.join("vector.gguf")).unwrap()),
        (
            "direction",
            "three",
            pair(at, "direction.json", "direction.safetensors"),
        ),
        ("arrays", "safetensors", tensors),
        // By torch and numpy, which write what nobody here does.
        ("arrays", "torch", fixture("state.pt")),
        ("npz", "one", fixture("c.npy")),
        ("npz", "stored", fixture("stored.npz")),
        ("npz", "deflated", fixture("deflated.npz")),
        ("pickle", "tensor", arrays::one_tensor()),
        ("pickle", "dictionary", member("state.pt", "state/data.pkl")),
        ("jsonl", "two_rows", format!("{turns}\n{turns}\n").into()),
        ("questions", "yaml", questions::YAML.into()),
        ("questions", "trait", questions::TRAIT.into()),
        ("questions", "pairs", jsonl(&broad()[..2])),
        ("answers", "scores", answers_csv(&scored)),
        ("answers", "persona", answers::PERSONA.into()),
        ("reply", "a_number", reply.into()),
        ("run", "new", std::fs::read(at.join("run/run.json")).unwrap()),
        ("parquet", "lists", parquet_file::lists()),
    ];
    ours.into_iter().chain(by_pyarrow).collect()
}

#[test]
#[ignore = "writes fuzz/seeds anew: run it when a format of ours changes"]
fn write_the_seeds() {
    for (target, name, bytes) in seeds() {
        let folder = fuzz().join("seeds").join(target);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name), bytes).unwrap();
    }
    std::fs::write(fuzz().join("tokenizer.json"), model::tokenizer_json()).unwrap();
}

/// The files of `fuzz/KIND/TARGET`.
fn kept(kind: &str, target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let Ok(entries) = std::fs::read_dir(fuzz().join(kind).join(target)) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect()
}

#[test]
fn what_the_fuzzers_keep_is_replayed() {
    let alone = alone();
    for (target, run) in targets::TARGETS {
        let seeds = kept("seeds", target);
        assert!(!seeds.is_empty(), "no seed for {target}");
        for (path, bytes) in seeds.into_iter().chain(kept("crashes", target)) {
            alone.bounded(&path.display().to_string(), bytes.len() as u64, || run(&bytes));
        }
    }
}

/// How often each seed is changed: `REALIGN_FUZZ_ROUNDS` for a long night.
fn rounds() -> usize {
    let asked = std::env::var("REALIGN_FUZZ_ROUNDS")
        .ok()
        .and_then(|rounds| rounds.parse().ok());
    asked.unwrap_or(150)
}

#[test]
fn seeds_that_are_changed_a_little_are_errors_or_sound() {
    use rand::RngExt;
    let targets: std::collections::HashMap<_, _> = targets::TARGETS.into_iter().collect();
    for (target, name, seed) in seeds() {
        let mut rng = Seed::new(1).stream(name);
        for round in 0..rounds() {
            let bytes = mutated(&seed, &mut |n| rng.random_range(0..n));
            let alone = alone();
            let what = format!("{target}-{name}-{round}");
            let run = || alone.bounded(&what, bytes.len() as u64, || targets[target](&bytes));
            if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
                let kept = fuzz().join("artifacts");
                std::fs::create_dir_all(&kept).unwrap();
                std::fs::write(kept.join(what), &bytes).unwrap();
                std::panic::resume_unwind(panic);
            }
        }
    }
}

/// A few changes: bits, numbers at their limits, cuts, repetitions.
fn mutated(seed: &[u8], below: &mut dyn FnMut(usize) -> usize) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=below(4) {
        if bytes.is_empty() {
            break;
        }
        let at = below(bytes.len());
        match below(6) {
            0 => bytes[at] ^= 1 << below(8),
            1 => bytes[at] = [0, 0x7f, 0x80, 0xff, b'"', b'{', b'9', b'-'][below(8)],
            2 => {
                let number = [0, 1, u64::MAX, 1 << 63, 1 << 31, u64::from(u32::MAX)][below(6)].to_le_bytes();
                let end = (at + 8).min(bytes.len());
                bytes[at..end].copy_from_slice(&number[..end - at]);
            }
            3 => bytes.truncate(at),
            4 => {
                let end = (at + below(40)).min(bytes.len());
                bytes.drain(at..end);
            }
            _ => {
                let end = (at + below(40)).min(bytes.len());
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
        }
    }
    bytes
}
