//! The `realign` command opens the SAEs and directions of other programs, on a tiny random chat model.

use std::ffi::OsStr;
use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use realign_arrays::{Array, safetensors};
use serde_json::{Value, json};

/// As wide as the SAEs of `realign-sae`'s fixtures, and as deep as they ask for.
const D_MODEL: usize = 8;
const LAYERS: usize = 21;
/// 256 bytes and the template's two tokens.
const VOCAB: usize = 264;

/// Numbers that look random.
fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Writes a Llama with random weights, a vocabulary of bytes and a chat template.
fn talking(folder: &Path, seed: u64) {
    fs::create_dir_all(folder).unwrap();
    let write = |file: &str, value: &Value| fs::write(folder.join(file), serde_json::to_vec(value).unwrap()).unwrap();
    write(
        "config.json",
        &json!({"model_type": "llama", "hidden_size": D_MODEL, "intermediate_size": D_MODEL,
            "num_hidden_layers": LAYERS, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": D_MODEL,
            "vocab_size": VOCAB, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
            "tie_word_embeddings": true, "hidden_act": "silu"}),
    );
    let mut arrays = Vec::new();
    let mut add = |name: String, shape: &[usize]| {
        let n = shape.iter().product();
        let data = match shape.len() {
            1 => vec![1.0; n],
            _ => numbers(n, seed + arrays.len() as u64),
        };
        arrays.push((name, Array::new(shape.to_vec(), data)));
    };
    add("model.embed_tokens.weight".into(), &[VOCAB, D_MODEL]);
    add("model.norm.weight".into(), &[D_MODEL]);
    for layer in 0..LAYERS {
        for site in [
            "self_attn.q",
            "self_attn.k",
            "self_attn.v",
            "self_attn.o",
            "mlp.gate",
            "mlp.up",
            "mlp.down",
        ] {
            add(format!("model.layers.{layer}.{site}_proj.weight"), &[D_MODEL, D_MODEL]);
        }
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            add(format!("model.layers.{layer}.{norm}.weight"), &[D_MODEL]);
        }
    }
    let bytes = safetensors(arrays.iter().map(|(name, array)| (&name[..], array)), &[]);
    fs::write(folder.join("model.safetensors"), bytes).unwrap();

    // GPT-2's letters for bytes: printable ones stand for themselves, the others for what comes after 255.
    let mut others = 256..;
    let letter = |byte: u32| match byte {
        33..=126 | 161..=172 | 174..=255 => byte,
        _ => others.next().unwrap(),
    };
    let letters = (0..256)
        .map(letter)
        .map(|letter| char::from_u32(letter).unwrap().to_string());
    let vocab: serde_json::Map<String, Value> = letters.zip(0..).map(|(letter, id)| (letter, json!(id))).collect();
    let added = ["<|im_start|>", "<|im_end|>"].iter().zip(256..).map(|(content, id)| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    });
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    write(
        "tokenizer.json",
        &json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added.collect::<Vec<_>>(),
            "normalizer": null, "pre_tokenizer": bytes, "post_processor": null, "decoder": bytes,
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []}}),
    );
    let turn = "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}";
    let template = format!(
        "{{% for message in messages %}}{turn}{{% endfor %}}{{% if add_generation_prompt %}}{{{{ \
         '<|im_start|>assistant\\n' }}}}{{% endif %}}"
    );
    write(
        "tokenizer_config.json",
        &json!({"eos_token": "<|im_end|>", "bos_token": "<|im_start|>", "chat_template": template}),
    );
}

fn run<S: AsRef<OsStr>>(arguments: &[S]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_realign"));
    command.args(["--json", "--quiet"]).args(arguments).output().unwrap()
}

/// What the command printed.
fn realign<S: AsRef<OsStr> + Debug>(arguments: &[S]) -> Value {
    let output = run(arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{arguments:?}: {e}"))
}

/// What the command said when it failed.
fn refused<S: AsRef<OsStr> + Debug>(arguments: &[S]) -> String {
    let output = run(arguments);
    assert!(!output.status.success(), "{arguments:?}");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

fn saes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../sae/tests/fixtures")
}

const GEMMA_SCOPE: &str = "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71";

#[test]
fn saes_and_directions_of_every_format_open() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (base, tuned) = (path("base"), path("tuned"));
    talking(Path::new(&base), 1);
    talking(Path::new(&tuned), 1000);

    // SAEs: their latents are ranked, behind the block that they say.
    let owned = |arguments: &[&str], more: &[&str]| arguments.iter().chain(more).map(|x| (*x).to_owned()).collect();
    let diff = |sae: &Path, more: &[&str]| -> Vec<String> {
        let (sae, out) = (sae.display().to_string(), path("direction"));
        owned(&["diff", &base, &tuned, "--sae", &sae, "--out", &out], more)
    };
    for (sae, layer) in [
        ("saelens_gated", 16),
        ("saelens_legacy_topk/sae_weights.safetensors", 16),
        ("sparsify/layers.10", 10),
        ("dictionary_batchtopk/ae.pt", 16),
        (GEMMA_SCOPE, 20),
    ] {
        let found = realign(&diff(&saes().join(sae), &[]));
        assert_eq!(found["layer"], layer, "{sae}");
        assert_eq!(found["latents"].as_array().unwrap().len(), 10, "{sae}");
    }
    let mine = folder.path().join("mine.npz");
    fs::copy(saes().join(GEMMA_SCOPE).join("params.npz"), &mine).unwrap();
    let said = refused(&diff(&mine, &[]));
    assert!(
        said.contains("--sae does not say which activation it reads") && said.contains("--layer N"),
        "{said}"
    );
    assert_eq!(realign(&diff(&mine, &["--layer", "3"]))["layer"], 3);
    let said = refused(&diff(folder.path(), &[]));
    assert!(
        said.contains("one of sae_weights.safetensors, sae.safetensors, ae.pt, params.npz"),
        "{said}"
    );
    let said = refused(&diff(&saes().join("saelens_transcoder"), &[]));
    assert!(said.contains("a transcoder"), "{said}");

    // Directions: `diff` writes one of each kind, and they steer alike.
    let steer = |direction: &str, more: &[&str]| -> Vec<String> {
        owned(
            &["steer", "--model", &base, "--direction", direction, "--strengths", "1"],
            more,
        )
    };
    let shift = |arguments: Vec<String>| realign(&arguments)["points"][0]["shift"].clone();
    let written = ["direction", "direction.gguf", "direction.safetensors"].map(path);
    for out in &written {
        realign(&["diff", &base, &tuned, "--layer", "2", "--out", out]);
    }
    let wanted = shift(steer(&written[0], &[]));
    assert_ne!(wanted["mean"], 0.0);
    for out in &written[1..] {
        assert_eq!(shift(steer(out, &[])), wanted, "{out}");
    }
    let said = refused(&steer(&written[1], &["--layer", "3"]));
    assert!(said.contains("no direction behind layer 3"), "{said}");
    let said = refused(&steer(&written[1], &["--layer", "21"]));
    assert!(said.contains("the model has layers 0 to 20"), "{said}");

    // Hidden states: row 3 is the output of block 2.
    let rows = Array::new(vec![LAYERS + 1, D_MODEL], numbers((LAYERS + 1) * D_MODEL, 7));
    let row = Array::new(vec![D_MODEL], rows.data[3 * D_MODEL..4 * D_MODEL].to_vec());
    let (many, one) = (path("many"), path("one"));
    fs::write(&many, safetensors([("persona", &rows)], &[])).unwrap();
    fs::write(&one, safetensors([("persona", &row)], &[])).unwrap();
    assert_eq!(
        shift(steer(&many, &["--layer", "2"])),
        shift(steer(&one, &["--layer", "2"]))
    );
    for direction in [&many, &one] {
        assert!(refused(&steer(direction, &[])).contains("--layer N"), "{direction}");
    }
    let answers = realign(&[
        "generate",
        "Hello?",
        "--model",
        &base,
        "--direction",
        &many,
        "--layer",
        "2",
        "--strength",
        "-1.5",
        "--max-tokens",
        "3",
    ]);
    assert_eq!(answers["answers"].as_array().unwrap().len(), 1);
    let said = refused(&steer(&base, &[]));
    assert!(
        said.contains("a folder with direction.json, a control-vector GGUF"),
        "{said}"
    );
}
