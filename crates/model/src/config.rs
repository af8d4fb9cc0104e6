//! The shape of a Llama-family model, from `config.json` or from GGUF metadata.

use crate::files::read_small;
use crate::{Error, Gguf, Result};
use serde::Deserialize;
use std::path::Path;

/// A configuration is a page of text; a list of small numbers takes a hundred times its bytes in memory.
const MAX_CONFIG_BYTES: u64 = 1 << 19;
const SUPPORTED: &str = "`llama` (the only architecture so far)";

/// The shape and constants of a Llama-family model.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LlamaConfig {
    /// Blocks.
    pub n_layers: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; each serves `n_heads / n_kv_heads` query heads.
    pub n_kv_heads: usize,
    /// Width of one head.
    pub d_head: usize,
    /// Width of the gated MLP.
    pub d_mlp: usize,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Longest sequence that the model was trained for.
    pub context: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// Added to the mean square in RMS norms.
    pub rms_eps: f32,
    /// Whether logits are read off with the embedding itself (no `lm_head.weight`).
    pub tied: bool,
}

/// The part of a Hugging Face `config.json` that matters here.
#[derive(Deserialize)]
struct HfConfig {
    model_type: String,
    hidden_size: u64,
    intermediate_size: u64,
    num_hidden_layers: u64,
    num_attention_heads: u64,
    num_key_value_heads: Option<u64>,
    head_dim: Option<u64>,
    vocab_size: u64,
    max_position_embeddings: u64,
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_scaling: Option<serde_json::Value>,
    rope_parameters: Option<serde_json::Value>,
    hidden_act: Option<String>,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
}

impl LlamaConfig {
    /// Reads a Hugging Face `config.json`.
    ///
    /// # Errors
    /// Names the field: a wrong type, another architecture, an option that is not implemented
    /// (biases, rope scaling), or numbers that describe no model.
    pub fn from_file(path: &Path) -> Result<Self> {
        Self::from_json(&read_small(path, MAX_CONFIG_BYTES)?, path)
    }

    /// Reads the text of a `config.json`; `path` is what error messages call it.
    ///
    /// # Errors
    /// As [`LlamaConfig::from_file`].
    pub fn from_json(json: &[u8], path: &Path) -> Result<Self> {
        if json.len() as u64 > MAX_CONFIG_BYTES {
            let (want, have) = (
                format!("at most {MAX_CONFIG_BYTES} bytes"),
                format!("{} bytes", json.len()),
            );
            return Err(Error::format(path, "length", want, have));
        }
        let architecture: serde_json::Value =
            serde_json::from_slice(json).map_err(|e| Error::format(path, "JSON", "one object", e.to_string()))?;
        // Asked first: another architecture lacks fields of this one, which would be said instead.
        match architecture.get("model_type").and_then(|kind| kind.as_str()) {
            Some("llama") => {}
            Some(other) => return Err(Error::format(path, "model_type", SUPPORTED, other)),
            None => return Err(Error::format(path, "model_type", SUPPORTED, "no text")),
        }
        let mut json = serde_json::Deserializer::from_slice(json);
        let hf: HfConfig = serde_path_to_error::deserialize(&mut json).map_err(|e| {
            Error::format(
                path,
                e.path().to_string(),
                "a Llama configuration",
                e.inner().to_string(),
            )
        })?;
        hf.check_options(path)?;
        let theta = match hf.rope_parameters.as_ref().and_then(|rope| rope.get("rope_theta")) {
            Some(theta) => theta.as_f64(),
            None => Some(hf.rope_theta.unwrap_or(10_000.0)),
        };
        let shape = Shape {
            path,
            names: &HF_NAMES,
            n_layers: hf.num_hidden_layers,
            d_model: hf.hidden_size,
            n_heads: hf.num_attention_heads,
            n_kv_heads: hf.num_key_value_heads.unwrap_or(hf.num_attention_heads),
            d_head: hf.head_dim,
            d_mlp: hf.intermediate_size,
            vocab: hf.vocab_size,
            context: hf.max_position_embeddings,
            rope_theta: theta.unwrap_or(f64::NAN),
            rms_eps: hf.rms_norm_eps,
            tied: hf.tie_word_embeddings,
        };
        shape.check()
    }

    /// Reads the `llama.*` metadata of a GGUF and checks it against the file's tokens and tensors.
    ///
    /// # Errors
    /// As [`LlamaConfig::from_file`]; also when the embedding, the token list, the scores and the
    /// special tokens do not fit together.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        let path = gguf.path();
        match gguf.text("general.architecture")? {
            Some("llama") => {}
            other => {
                let found = other.unwrap_or("no such key");
                return Err(Error::format(path, "general.architecture", SUPPORTED, found));
            }
        }
        let need = |key: &str| {
            let missing = || Error::format(path, key, "a non-negative integer", "no such key");
            gguf.integer(key)?.ok_or_else(missing)
        };
        refuse_gguf_options(gguf)?;
        let rows = match gguf.tensor("token_embd.weight") {
            Some(tensor) => tensor.shape[0] as u64,
            None => return Err(Error::format(path, "token_embd.weight", "a tensor", "none")),
        };
        let vocab = gguf.integer("llama.vocab_size")?.unwrap_or(rows);
        if vocab != rows {
            let expected = format!("{vocab} rows (llama.vocab_size)");
            return Err(Error::format(path, "token_embd.weight", expected, rows.to_string()));
        }
        check_tokens(gguf, vocab)?;
        let n_heads = need("llama.attention.head_count")?;
        let d_head = gguf.integer("llama.attention.key_length")?;
        let shape = Shape {
            path,
            names: &GGUF_NAMES,
            n_layers: need("llama.block_count")?,
            d_model: need("llama.embedding_length")?,
            n_heads,
            n_kv_heads: gguf.integer("llama.attention.head_count_kv")?.unwrap_or(n_heads),
            d_head,
            d_mlp: need("llama.feed_forward_length")?,
            vocab,
            context: need("llama.context_length")?,
            rope_theta: gguf.number("llama.rope.freq_base")?.unwrap_or(10_000.0),
            rms_eps: gguf
                .number("llama.attention.layer_norm_rms_epsilon")?
                .unwrap_or(f64::NAN),
            tied: gguf.tensor("output.weight").is_none(),
        };
        let config = shape.check()?;
        for (key, want) in [
            ("llama.rope.dimension_count", config.d_head),
            ("llama.attention.value_length", config.d_head),
        ] {
            match gguf.integer(key)? {
                Some(have) if have != want as u64 => {
                    let expected = format!("{want} (the width of a head)");
                    return Err(Error::format(path, key, expected, have.to_string()));
                }
                _ => {}
            }
        }
        Ok(config)
    }
}

impl HfConfig {
    fn check_options(&self, path: &Path) -> Result<()> {
        debug_assert_eq!(self.model_type, "llama");
        for (name, on) in [("attention_bias", self.attention_bias), ("mlp_bias", self.mlp_bias)] {
            if on {
                return Err(Error::format(path, name, "false (biases are not implemented)", "true"));
            }
        }
        if let Some(act) = self.hidden_act.as_deref().filter(|act| *act != "silu") {
            return Err(Error::format(path, "hidden_act", "`silu`", act));
        }
        for (name, value) in [
            ("rope_scaling", &self.rope_scaling),
            ("rope_parameters", &self.rope_parameters),
        ] {
            let Some(value) = value else { continue };
            let kind = value.get("rope_type").or_else(|| value.get("type"));
            if kind.is_none_or(|kind| kind != "default") {
                let expected = "null or type `default` (rope scaling is not implemented)";
                let found = kind.and_then(|kind| kind.as_str()).unwrap_or("no type").to_owned();
                return Err(Error::format(path, name, expected, found));
            }
        }
        Ok(())
    }
}

/// Numbers that have yet to describe a model.
struct Shape<'a> {
    path: &'a Path,
    names: &'static Names,
    n_layers: u64,
    d_model: u64,
    n_heads: u64,
    n_kv_heads: u64,
    d_head: Option<u64>,
    d_mlp: u64,
    vocab: u64,
    context: u64,
    rope_theta: f64,
    rms_eps: f64,
    tied: bool,
}

/// What a file format calls each number, for error messages.
struct Names {
    n_layers: &'static str,
    d_model: &'static str,
    n_heads: &'static str,
    n_kv_heads: &'static str,
    d_head: &'static str,
    d_mlp: &'static str,
    vocab: &'static str,
    context: &'static str,
    rope_theta: &'static str,
    rms_eps: &'static str,
}

const HF_NAMES: Names = Names {
    n_layers: "num_hidden_layers",
    d_model: "hidden_size",
    n_heads: "num_attention_heads",
    n_kv_heads: "num_key_value_heads",
    d_head: "head_dim",
    d_mlp: "intermediate_size",
    vocab: "vocab_size",
    context: "max_position_embeddings",
    rope_theta: "rope_theta",
    rms_eps: "rms_norm_eps",
};

const GGUF_NAMES: Names = Names {
    n_layers: "llama.block_count",
    d_model: "llama.embedding_length",
    n_heads: "llama.attention.head_count",
    n_kv_heads: "llama.attention.head_count_kv",
    d_head: "llama.attention.key_length",
    d_mlp: "llama.feed_forward_length",
    vocab: "llama.vocab_size",
    context: "llama.context_length",
    rope_theta: "llama.rope.freq_base",
    rms_eps: "llama.attention.layer_norm_rms_epsilon",
};

impl Shape<'_> {
    fn check(self) -> Result<LlamaConfig> {
        let names = self.names;
        let fail = |field: &str, expected: String, found: String| Err(Error::format(self.path, field, expected, found));
        // Far above any published model, far below what overflows a product of two of them.
        for (field, value, most) in [
            (names.n_layers, self.n_layers, 1 << 10),
            (names.d_model, self.d_model, 1 << 17),
            (names.n_heads, self.n_heads, 1 << 12),
            (names.n_kv_heads, self.n_kv_heads, 1 << 12),
            (names.d_mlp, self.d_mlp, 1 << 20),
            (names.vocab, self.vocab, 1 << 24),
            (names.context, self.context, 1 << 28),
        ] {
            if value == 0 || value > most {
                return fail(field, format!("1 to {most}"), value.to_string());
            }
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            let expected = format!("a divisor of the {} query heads", self.n_heads);
            return fail(names.n_kv_heads, expected, self.n_kv_heads.to_string());
        }
        let d_head = match self.d_head {
            Some(d_head) => d_head,
            None if self.d_model.is_multiple_of(self.n_heads) => self.d_model / self.n_heads,
            None => {
                let expected = format!("a multiple of the {} heads", self.n_heads);
                return fail(names.d_model, expected, self.d_model.to_string());
            }
        };
        if d_head == 0 || d_head > 1 << 13 || !d_head.is_multiple_of(2) {
            let expected = "an even width of 2 to 8192 (rotary pairs)".to_owned();
            return fail(names.d_head, expected, d_head.to_string());
        }
        if !(self.rope_theta.is_finite() && self.rope_theta >= 1.0) {
            return fail(
                names.rope_theta,
                "a base of at least 1".into(),
                self.rope_theta.to_string(),
            );
        }
        if !(self.rms_eps > 0.0 && self.rms_eps < 1.0) {
            return fail(names.rms_eps, "between 0 and 1".into(), self.rms_eps.to_string());
        }
        Ok(LlamaConfig {
            n_layers: self.n_layers as usize,
            d_model: self.d_model as usize,
            n_heads: self.n_heads as usize,
            n_kv_heads: self.n_kv_heads as usize,
            d_head: d_head as usize,
            d_mlp: self.d_mlp as usize,
            vocab: self.vocab as usize,
            context: self.context as usize,
            rope_theta: self.rope_theta as f32,
            rms_eps: self.rms_eps as f32,
            tied: self.tied,
        })
    }
}

fn refuse_gguf_options(gguf: &Gguf) -> Result<()> {
    let path = gguf.path();
    if let Some(n) = gguf.integer("llama.expert_count")?.filter(|&n| n > 0) {
        let expected = "none (mixtures of experts are not implemented)";
        return Err(Error::format(path, "llama.expert_count", expected, n.to_string()));
    }
    if let Some(kind) = gguf.text("llama.rope.scaling.type")?.filter(|kind| *kind != "none") {
        let expected = "`none` (rope scaling is not implemented)";
        return Err(Error::format(path, "llama.rope.scaling.type", expected, kind));
    }
    for (name, what) in [
        ("rope_freqs.weight", "rope scaling is not implemented"),
        ("blk.0.attn_q.bias", "biases are not implemented"),
        ("blk.0.ffn_up.bias", "biases are not implemented"),
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
            Some(crate::GgufValue::Array(len)) if len as u64 == vocab => {}
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
    use crate::FileBytes;
    use crate::gguf_writer::{GgufWriter, Meta};

    const JSON: &str = r#"{"model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": 300, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": true, "rope_scaling": null}"#;

    fn json(from: &str, to: &str) -> Result<LlamaConfig> {
        assert!(JSON.contains(from), "{from}");
        LlamaConfig::from_json(JSON.replace(from, to).as_bytes(), Path::new("config.json"))
    }

    fn gguf(change: &str, value: u32) -> Result<LlamaConfig> {
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
        LlamaConfig::from_gguf(&Gguf::parse(FileBytes::from_vec("t.gguf", writer.finish()))?)
    }

    #[test]
    fn both_sources_describe_the_same_model() {
        let hf = json("300", "3").unwrap();
        assert_eq!((hf.d_head, hf.n_kv_heads, hf.tied), (16, 2, true));
        assert_eq!(gguf("", 0).unwrap(), hf);
    }

    #[test]
    fn a_wrong_type_names_its_field() {
        for bad in ["1e308", "-1", "\"32\"", "NaN", "[[[[]]]]", "0", "1000000000"] {
            let error = json("300", bad).unwrap_err().to_string();
            assert!(error.starts_with("config.json: "), "{bad}: {error}");
            assert!(bad == "NaN" || error.contains("vocab_size"), "{bad}: {error}");
        }
        let deep = format!("{{\"model_type\": {}", "[".repeat(1 << 20));
        assert!(LlamaConfig::from_json(deep.as_bytes(), Path::new("c")).is_err());
    }

    #[test]
    fn what_is_not_implemented_is_refused_by_name() {
        for (from, to, word) in [
            (
                "\"llama\"",
                "\"mamba\"",
                "`llama` (the only architecture so far), found mamba",
            ),
            (
                "\"rope_scaling\": null",
                "\"rope_scaling\": {\"rope_type\": \"yarn\"}",
                "yarn",
            ),
            ("\"rope_scaling\": null", "\"attention_bias\": true", "attention_bias"),
            ("\"rope_scaling\": null", "\"mlp_bias\": true", "mlp_bias"),
            ("\"rope_scaling\": null", "\"hidden_act\": \"gelu\"", "hidden_act"),
        ] {
            let error = json(from, to).unwrap_err().to_string();
            assert!(error.contains(word), "{word}: {error}");
        }
        assert!(json("\"rope_scaling\": null", "\"rope_scaling\": {\"type\": \"default\"}").is_ok());
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
