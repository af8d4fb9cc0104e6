//! GGUF files: models and control vectors.

use std::path::Path;

use realign_model::{Access, ChatTemplate, Checkpoint, FileBytes, Gguf, GgufValue, Tokenizer};

use super::found::{Found, counted};

/// What a GGUF holds, from its header.
pub fn inspect(path: &Path, access: Access) -> Found {
    let gguf = FileBytes::open(path, access).and_then(Gguf::parse);
    let gguf = match gguf {
        Ok(gguf) => gguf,
        Err(error) => {
            let mut found = Found::new(path, "gguf", "a GGUF that cannot be read");
            found.problem(error);
            return found;
        }
    };
    match gguf.get("general.architecture") {
        Some(GgufValue::Text(b"controlvector")) => control_vector(path, &gguf),
        _ => model(path, &gguf, access),
    }
}

fn model(path: &Path, gguf: &Gguf, access: Access) -> Found {
    let text = |key: &str| gguf.text(key).ok().flatten().map(str::to_owned);
    let architecture = text("general.architecture").unwrap_or_else(|| "of no architecture".into());
    let mut found = Found::new(path, "gguf-model", format!("GGUF model ({architecture})"));
    found.fact_if("name", text("general.name"));
    found.fact("version", gguf.version());
    let parameters: usize = gguf
        .tensors()
        .map(|(_, tensor)| tensor.shape.iter().product::<usize>())
        .sum();
    let types = counted(gguf.tensors().map(|(_, tensor)| format!("{:?}", tensor.kind)));
    found.fact(
        "tensors",
        format!(
            "{} ({types}), {:.1} M numbers",
            gguf.tensors().count(),
            parameters as f64 / 1e6
        ),
    );
    for (name, key) in [
        ("blocks", "block_count"),
        ("d_model", "embedding_length"),
        ("d_mlp", "feed_forward_length"),
        ("heads", "attention.head_count"),
        ("kv heads", "attention.head_count_kv"),
        ("context", "context_length"),
    ] {
        found.fact_if(name, gguf.get(&format!("{architecture}.{key}")));
    }
    let tokens = gguf.get("tokenizer.ggml.tokens");
    let (kind, pre) = (text("tokenizer.ggml.model"), text("tokenizer.ggml.pre"));
    if let (Some(kind), Some(GgufValue::Array(tokens))) = (kind, tokens) {
        let pre = pre.map(|pre| format!(", {pre}")).unwrap_or_default();
        found.fact("tokenizer", format!("{kind}{pre}, {tokens} tokens"));
    }
    found.try_to(Checkpoint::open_with(path, access).and_then(|checkpoint| checkpoint.config().map(drop)));
    found.try_to(Tokenizer::from_gguf(gguf).map(drop));
    match ChatTemplate::from_gguf(gguf) {
        Ok(Some(template)) => found.fact("chat template", format!("sha256 {}", template.sha256())),
        Ok(None) => found.problem("no chat template: realign needs one to ask questions"),
        Err(error) => found.problem(error),
    }
    found.fit(format!("realign audit {} TUNED", path.display()));
    found.fit(format!("realign generate \"…\" --model {}", path.display()));
    found
}

fn control_vector(path: &Path, gguf: &Gguf) -> Found {
    let mut found = Found::new(path, "control-vector", "GGUF control vector");
    found.fact_if("model hint", gguf.get("controlvector.model_hint"));
    found.fact_if("layers", gguf.get("controlvector.layer_count"));
    if gguf.get("controlvector.model_hint").is_none() {
        found.problem("controlvector.model_hint: expected the architecture that it is for, found nothing");
    }
    let (mut blocks, mut widths) = (Vec::new(), Vec::new());
    for (name, tensor) in gguf.tensors() {
        match name
            .strip_prefix("direction.")
            .and_then(|block| block.parse::<usize>().ok())
        {
            Some(block) if block > 0 && tensor.shape.len() == 1 => {
                blocks.push(block);
                widths.push(tensor.shape[0]);
            }
            _ => found.problem(format!("{name}: expected a vector `direction.N`, N at least 1")),
        }
    }
    blocks.sort_unstable();
    widths.sort_unstable();
    widths.dedup();
    match (blocks.first(), blocks.last(), &widths[..]) {
        (Some(first), Some(last), [width]) => {
            found.fact("directions", format!("{} (blocks {first} to {last})", blocks.len()));
            found.fact("d_model", width);
        }
        (None, ..) => found.problem("no direction"),
        _ => found.problem(format!("directions of one width expected, found widths {widths:?}")),
    }
    found.fit(format!("llama-cli --control-vector {}", path.display()));
    found.fit("realign_steering::ControlVector::load");
    found
}
