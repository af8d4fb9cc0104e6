//! A model's description out of a GGUF's metadata.

use crate::sizes::{Names, Sizes};
use crate::{Architecture, DecoderConfig, Error, Gguf, GgufValue, Result, Rope};

/// Reads the metadata and checks it against the file's tokens and tensors.
pub(crate) fn read(gguf: &Gguf) -> Result<DecoderConfig> {
    let path = gguf.path();
    let name = match gguf.text("general.architecture")? {
        Some("llama") => "llama",
        other => {
            let found = other.unwrap_or("no such key");
            let expected = "`llama` (the only architecture that is read from GGUF so far)";
            return Err(Error::format(path, "general.architecture", expected, found));
        }
    };
    let key = |key: &str| format!("{name}.{key}");
    let need = |key: String| {
        let missing = || Error::format(path, &key, "a non-negative integer", "no such key");
        gguf.integer(&key)?.ok_or_else(missing)
    };
    refuse_options(gguf, name)?;
    let rows = match gguf.tensor("token_embd.weight") {
        Some(tensor) => tensor.shape[0] as u64,
        None => return Err(Error::format(path, "token_embd.weight", "a tensor", "none")),
    };
    let vocab = gguf.integer(&key("vocab_size"))?.unwrap_or(rows);
    if vocab != rows {
        let expected = format!("{vocab} rows ({name}.vocab_size)");
        return Err(Error::format(path, "token_embd.weight", expected, rows.to_string()));
    }
    check_tokens(gguf, vocab)?;
    let n_heads = need(key("attention.head_count"))?;
    let sizes = Sizes {
        path,
        names: Names {
            n_layers: key("block_count"),
            d_model: key("embedding_length"),
            n_heads: key("attention.head_count"),
            n_kv_heads: key("attention.head_count_kv"),
            d_head: key("attention.key_length"),
            d_mlp: key("feed_forward_length"),
            vocab: key("vocab_size"),
            context: key("context_length"),
            norm_eps: key("attention.layer_norm_rms_epsilon"),
        },
        n_layers: need(key("block_count"))?,
        d_model: need(key("embedding_length"))?,
        n_heads,
        n_kv_heads: gguf.integer(&key("attention.head_count_kv"))?.unwrap_or(n_heads),
        d_head: gguf.integer(&key("attention.key_length"))?,
        d_mlp: need(key("feed_forward_length"))?,
        vocab,
        context: need(key("context_length"))?,
        norm_eps: gguf
            .number(&key("attention.layer_norm_rms_epsilon"))?
            .unwrap_or(f64::NAN),
    };
    let (shape, eps) = sizes.check()?;
    let theta = gguf.number(&key("rope.freq_base"))?.unwrap_or(10_000.0);
    if !(theta.is_finite() && theta >= 1.0) {
        return Err(Error::format(
            path,
            key("rope.freq_base"),
            "a base of at least 1",
            theta.to_string(),
        ));
    }
    for (key, want) in [
        (key("rope.dimension_count"), shape.d_head),
        (key("attention.value_length"), shape.d_head),
    ] {
        match gguf.integer(&key)? {
            Some(have) if have != want as u64 => {
                let expected = format!("{want} (the width of a head)");
                return Err(Error::format(path, key, expected, have.to_string()));
            }
            _ => {}
        }
    }
    let rope = Rope::new(theta, shape.d_head);
    let mut config = DecoderConfig::plain(Architecture::Llama, shape, rope, eps);
    config.tied = gguf.tensor("output.weight").is_none();
    Ok(config)
}

fn refuse_options(gguf: &Gguf, name: &str) -> Result<()> {
    let path = gguf.path();
    let experts = format!("{name}.expert_count");
    if let Some(n) = gguf.integer(&experts)?.filter(|&n| n > 0) {
        let expected = "none (mixtures of experts are not read from GGUF)";
        return Err(Error::format(path, experts, expected, n.to_string()));
    }
    let scaling = format!("{name}.rope.scaling.type");
    if let Some(kind) = gguf.text(&scaling)?.filter(|kind| *kind != "none") {
        let expected = "`none` (rope scaling is not read from GGUF)";
        return Err(Error::format(path, scaling, expected, kind));
    }
    for (name, what) in [
        ("rope_freqs.weight", "rope scaling is not read from GGUF"),
        ("blk.0.attn_q.bias", "biases of a Llama are not read from GGUF"),
        ("blk.0.ffn_up.bias", "biases of a Llama are not read from GGUF"),
    ] {
        if gguf.tensor(name).is_some() {
            return Err(Error::format(path, name, format!("no such tensor ({what})"), "one"));
        }
    }
    Ok(())
}

fn check_tokens(gguf: &Gguf, vocab: u64) -> Result<()> {
    let path = gguf.path();
    for key in ["tokens", "scores", "token_type"] {
        let key = format!("tokenizer.ggml.{key}");
        match gguf.get(&key) {
            Some(GgufValue::Array(len)) if len as u64 == vocab => {}
            Some(other) => {
                let expected = format!("an array of {vocab} (the embedding's rows)");
                return Err(Error::format(path, key, expected, other.to_string()));
            }
            // A file without its tokenizer is read with somebody else's.
            None => {}
        }
    }
    for key in ["bos", "eos", "unknown", "padding"] {
        let key = format!("tokenizer.ggml.{key}_token_id");
        if let Some(id) = gguf.integer(&key)?.filter(|&id| id >= vocab) {
            let expected = format!("a token below {vocab}");
            return Err(Error::format(path, key, expected, id.to_string()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf_writer::{GgufWriter, Meta};
    use crate::{FileBytes, LlamaConfig};

    fn gguf(change: &str, value: u32) -> Result<DecoderConfig> {
        let mut writer = GgufWriter::new()
            .meta("general.architecture", Meta::Text("llama"))
            .meta("llama.attention.layer_norm_rms_epsilon", Meta::F32(1e-5));
        for (key, normal) in [
            ("block_count", 2),
            ("embedding_length", 64),
            ("feed_forward_length", 128),
            ("context_length", 512),
            ("attention.head_count", 4),
            ("attention.head_count_kv", 2),
            ("rope.dimension_count", 16),
        ] {
            let value = if key == change { value } else { normal };
            writer = writer.meta(&format!("llama.{key}"), Meta::U32(value));
        }
        let tokens = if change == "tokens" { value } else { 3 };
        let tokens = (0..tokens).map(|i| i.to_string().into_bytes()).collect();
        writer = writer
            .meta("tokenizer.ggml.tokens", Meta::Texts(tokens))
            .meta(
                "tokenizer.ggml.bos_token_id",
                Meta::U32(if change == "bos" { value } else { 1 }),
            )
            .tensor_f32("token_embd.weight", &[3, 64], &[0.0; 192]);
        DecoderConfig::from_gguf(&Gguf::parse(FileBytes::from_vec("t.gguf", writer.finish()))?)
    }

    #[test]
    fn a_gguf_describes_the_model_that_a_config_json_does() {
        let mut config = LlamaConfig::tiny();
        (config.n_layers, config.d_model, config.d_mlp) = (2, 64, 128);
        (config.d_head, config.vocab, config.context) = (16, 3, 512);
        assert_eq!(gguf("", 0).unwrap(), DecoderConfig::from(&config));
    }

    #[test]
    fn metadata_that_describes_no_model_is_refused() {
        for (key, value, word) in [
            ("block_count", 1_000_000_000, "llama.block_count: expected 1 to 1024"),
            ("attention.head_count", 0, "llama.attention.head_count"),
            ("attention.head_count_kv", 8, "a divisor of the 4 query heads, found 8"),
            ("embedding_length", 66, "a multiple of the 4 heads, found 66"),
            ("rope.dimension_count", 15, "llama.rope.dimension_count"),
            ("context_length", 0, "llama.context_length"),
            ("tokens", 2, "tokenizer.ggml.tokens: expected an array of 3"),
            ("bos", 3, "a token below 3, found 3"),
        ] {
            let error = gguf(key, value).unwrap_err().to_string();
            assert!(error.contains(word), "{word}: {error}");
        }
    }
}
