//! A model's description out of a GGUF's metadata.

use realign_core::{Shape, Sites};
use realign_tensor::Activation;

use crate::sizes::{Names, Sizes};
use crate::{Architecture, DecoderConfig, Error, Gguf, GgufValue, NormKind, QkNorm, Result, Rope, RopeScaling};

/// The architectures that are read, by the name that GGUF gives them.
const ARCHITECTURES: [(&str, Architecture); 9] = [
    ("llama", Architecture::Llama),
    ("qwen2", Architecture::Qwen2),
    ("qwen3", Architecture::Qwen3),
    ("gemma2", Architecture::Gemma2),
    ("gemma3", Architecture::Gemma3),
    ("phi3", Architecture::Phi3),
    ("gpt2", Architecture::Gpt2),
    ("gptneox", Architecture::GptNeoX),
    ("olmo2", Architecture::Olmo2),
];

/// What GGUF calls an architecture, where it is one that is read.
pub(crate) fn name(architecture: Architecture) -> Option<&'static str> {
    // Mistral's own tensors and sizes are a Llama's.
    let architecture = match architecture {
        Architecture::Mistral => Architecture::Llama,
        other => other,
    };
    let found = ARCHITECTURES.iter().find(|(_, known)| *known == architecture);
    found.map(|(name, _)| *name)
}

/// A GGUF's metadata, with what its keys begin with.
struct Metadata<'a> {
    gguf: &'a Gguf,
    name: &'static str,
    architecture: Architecture,
}

/// Reads the metadata and checks it against the file's tokens and tensors.
pub(crate) fn read(gguf: &Gguf) -> Result<DecoderConfig> {
    let found = gguf.text("general.architecture")?;
    let Some(&(name, architecture)) = ARCHITECTURES.iter().find(|(name, _)| Some(*name) == found) else {
        let known: Vec<&str> = ARCHITECTURES.iter().map(|(name, _)| *name).collect();
        let expected = format!("one of {}", known.join(", "));
        let found = found.unwrap_or("no such key");
        return Err(Error::format(gguf.path(), "general.architecture", expected, found));
    };
    let metadata = Metadata {
        gguf,
        name,
        architecture,
    };
    metadata.refuse_options()?;
    let mut config = metadata.plain()?;
    metadata.differences(&mut config)?;
    config.tied = gguf.tensor("output.weight").is_none();
    config.biases = metadata.biases(config.shape.sites);
    Ok(config)
}

impl Metadata<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.name)
    }

    fn wrong(&self, key: &str, expected: &str, found: impl ToString) -> Error {
        Error::format(self.gguf.path(), self.key(key), expected, found.to_string())
    }

    fn integer(&self, key: &str) -> Result<Option<u64>> {
        self.gguf.integer(&self.key(key))
    }

    fn need(&self, key: &str) -> Result<u64> {
        let missing = || self.wrong(key, "a non-negative integer", "no such key");
        self.integer(key)?.ok_or_else(missing)
    }

    /// A number above zero; none where there is no such key.
    fn positive(&self, key: &str) -> Result<Option<f64>> {
        match self.gguf.number(&self.key(key))? {
            Some(x) if !(x.is_finite() && x > 0.0) => Err(self.wrong(key, "a number above 0", x)),
            found => Ok(found),
        }
    }

    /// A base of rotary frequencies.
    fn base(&self, key: &str, default: f64) -> Result<f64> {
        match self.gguf.number(&self.key(key))?.unwrap_or(default) {
            theta if theta.is_finite() && theta >= 1.0 => Ok(theta),
            theta => Err(self.wrong(key, "a base of at least 1", theta)),
        }
    }

    /// A sliding window; none where there is no such key, or it is zero.
    fn window(&self) -> Result<Option<usize>> {
        match self.integer("attention.sliding_window")? {
            None | Some(0) => Ok(None),
            Some(n) if n > 1 << 28 => Err(self.wrong("attention.sliding_window", "at most 2^28 tokens", n)),
            Some(n) => Ok(Some(n as usize)),
        }
    }

    /// What all architectures have: sizes, rotary positions.
    fn plain(&self) -> Result<DecoderConfig> {
        let (gguf, path) = (self.gguf, self.gguf.path());
        let rows = match gguf.tensor("token_embd.weight") {
            Some(tensor) => tensor.shape[0] as u64,
            None => return Err(Error::format(path, "token_embd.weight", "a tensor", "none")),
        };
        let vocab = self.integer("vocab_size")?.unwrap_or(rows);
        if vocab != rows {
            let expected = format!("{vocab} rows ({})", self.key("vocab_size"));
            return Err(Error::format(path, "token_embd.weight", expected, rows.to_string()));
        }
        check_tokens(gguf, vocab)?;
        let n_heads = self.need("attention.head_count")?;
        let eps = match self.architecture {
            Architecture::Gpt2 | Architecture::GptNeoX => "attention.layer_norm_epsilon",
            _ => "attention.layer_norm_rms_epsilon",
        };
        let sizes = Sizes {
            path,
            names: Names {
                n_layers: self.key("block_count"),
                d_model: self.key("embedding_length"),
                n_heads: self.key("attention.head_count"),
                n_kv_heads: self.key("attention.head_count_kv"),
                d_head: self.key("attention.key_length"),
                d_mlp: self.key("feed_forward_length"),
                vocab: self.key("vocab_size"),
                context: self.key("context_length"),
                norm_eps: self.key(eps),
            },
            n_layers: self.need("block_count")?,
            d_model: self.need("embedding_length")?,
            n_heads,
            n_kv_heads: self.integer("attention.head_count_kv")?.unwrap_or(n_heads),
            d_head: self.integer("attention.key_length")?,
            d_mlp: self.need("feed_forward_length")?,
            vocab,
            context: self.need("context_length")?,
            norm_eps: gguf.number(&self.key(eps))?.unwrap_or(f64::NAN),
        };
        let (mut shape, eps) = sizes.check()?;
        match self.integer("attention.value_length")? {
            Some(have) if have != shape.d_head as u64 => {
                let expected = format!("{} (the width of a head)", shape.d_head);
                return Err(self.wrong("attention.value_length", &expected, have));
            }
            _ => {}
        }
        let width = self.integer("rope.dimension_count")?.unwrap_or(shape.d_head as u64) as usize;
        let partial = matches!(self.architecture, Architecture::Phi3 | Architecture::GptNeoX);
        if width == 0 || width > shape.d_head || !width.is_multiple_of(2) || (width != shape.d_head && !partial) {
            let expected = format!("{} (the width of a head)", shape.d_head);
            return Err(self.wrong("rope.dimension_count", &expected, width));
        }
        let theta = match self.architecture {
            Architecture::Gpt2 => 1.0,
            _ => self.base("rope.freq_base", 10_000.0)?,
        };
        let mut rope = Rope::new(theta, width);
        rope.scaling = self.scaling(&rope, &mut shape)?;
        Ok(DecoderConfig::plain(self.architecture, shape, rope, eps))
    }

    fn scaling(&self, rope: &Rope, shape: &mut Shape) -> Result<RopeScaling> {
        let gguf = self.gguf;
        if let Some(tensor) = gguf.tensor("rope_freqs.weight") {
            let by: Vec<f64> = gguf
                .dequantise(tensor, |row| row)
                .iter()
                .map(|&x| f64::from(x))
                .collect();
            if by.len() != rope.width / 2 || by.iter().any(|x| !(x.is_finite() && *x > 0.0)) {
                let expected = format!("{} divisors above 0", rope.width / 2);
                let found = format!("{} numbers from {:?} on", by.len(), by.first());
                return Err(Error::format(gguf.path(), "rope_freqs.weight", expected, found));
            }
            return Ok(RopeScaling::Divided { by });
        }
        let kind = self.key("rope.scaling.type");
        let factor = || match self.positive("rope.scaling.factor")? {
            Some(factor) if (1.0..=1e6).contains(&factor) => Ok(factor),
            found => {
                let found = found.map_or_else(|| "no such key".to_owned(), |x| x.to_string());
                Err(self.wrong("rope.scaling.factor", "a number of 1 to a million", found))
            }
        };
        match gguf.text(&kind)? {
            None | Some("none") => Ok(RopeScaling::None),
            Some("linear") => {
                let factor = factor()?;
                // Gemma 3 says how far its scaled positions reach; others how far they reached before.
                if self.architecture != Architecture::Gemma3 {
                    shape.context = ((shape.context as f64 * factor) as usize).min(1 << 28);
                }
                Ok(RopeScaling::Linear { factor })
            }
            Some("yarn") if rope.theta > 1.0 => {
                let factor = factor()?;
                let trained = match self.integer("rope.scaling.original_context_length")? {
                    Some(n) if n > 0 && n <= 1 << 28 => n as usize,
                    None => shape.context,
                    Some(n) => return Err(self.wrong("rope.scaling.original_context_length", "1 to 2^28", n)),
                };
                let grown = if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 };
                let scaling = RopeScaling::Yarn {
                    factor,
                    trained,
                    fast: self.positive("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                    slow: self.positive("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                    truncate: true,
                    amplitude: grown,
                };
                shape.context = shape.context.max((trained as f64 * factor) as usize).min(1 << 28);
                Ok(scaling)
            }
            Some(other) => {
                let expected = "`none`, `linear` or `yarn`";
                Err(Error::format(gguf.path(), kind, expected, other))
            }
        }
    }

    /// What each architecture adds: constants that llama.cpp has in its code, and a few keys.
    fn differences(&self, config: &mut DecoderConfig) -> Result<()> {
        let shape = config.shape;
        match self.architecture {
            Architecture::Gemma2 | Architecture::Gemma3 => {
                config.activation = Activation::GeluTanh;
                config.norm_after = true;
                config.embedding_scale = (shape.d_model as f32).sqrt();
                config.logit_softcap = self.positive("final_logit_softcapping")?.map(|cap| cap as f32);
                let third = self.architecture == Architecture::Gemma3;
                // The 27B models, and they alone, scale scores by the width that the stream has for a head.
                if shape.n_layers == if third { 62 } else { 46 } {
                    config.attention_scale = ((shape.d_model / shape.n_heads) as f32).sqrt().recip();
                }
                let window = self.window()?;
                let full_every = if third { 6 } else { 2 };
                for (l, layer) in config.layers.iter_mut().enumerate() {
                    layer.window = window.filter(|_| !(l + 1).is_multiple_of(full_every));
                }
                if third {
                    config.qk_norm = Some(QkNorm::Head);
                    let local = self.base("rope.freq_base_swa", 10_000.0)?;
                    config.ropes.push(Rope::new(local, shape.d_head));
                    for (l, layer) in config.layers.iter_mut().enumerate() {
                        layer.rope = Some(usize::from(!(l + 1).is_multiple_of(full_every)));
                    }
                } else {
                    config.attention_softcap = self.positive("attn_logit_softcapping")?.map(|cap| cap as f32);
                }
            }
            Architecture::Qwen3 => config.qk_norm = Some(QkNorm::Head),
            Architecture::Olmo2 => {
                (config.norm_before, config.norm_after) = (false, true);
                config.qk_norm = Some(QkNorm::Width);
            }
            Architecture::Phi3 => {
                let window = self.window()?;
                config.layers.iter_mut().for_each(|layer| layer.window = window);
            }
            Architecture::Gpt2 | Architecture::GptNeoX => {
                config.norm = NormKind::Layer;
                config.shape.sites = Sites::UNGATED;
                if self.architecture == Architecture::Gpt2 {
                    config.activation = Activation::GeluTanh;
                    config.ropes.clear();
                    config.layers.iter_mut().for_each(|layer| layer.rope = None);
                } else {
                    // llama.cpp runs its tanh approximation; the models were trained with the error function.
                    config.activation = Activation::Gelu;
                    config.parallel = self.gguf.flag(&self.key("use_parallel_residual"))?.unwrap_or(true);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The maps that have a bias in the first block.
    fn biases(&self, sites: Sites) -> Sites {
        let names = self.architecture.names();
        Sites::of(sites.iter().filter(|&site| {
            let stem = format!(
                "{}{}0.{}",
                names.modules.root,
                names.modules.blocks,
                (names.modules.linear)(site).0
            );
            let own = names.to_gguf(&stem);
            own.is_some_and(|own| self.gguf.tensor(&format!("{own}.bias")).is_some())
        }))
    }

    fn refuse_options(&self) -> Result<()> {
        let path = self.gguf.path();
        if let Some(n) = self.integer("expert_count")?.filter(|&n| n > 0) {
            return Err(self.wrong("expert_count", "none (mixtures of experts are not read from GGUF)", n));
        }
        for name in ["rope_factors_long.weight", "rope_factors_short.weight"] {
            if self.gguf.tensor(name).is_some() {
                let expected = "no such tensor (`longrope` is read from Hugging Face folders only)";
                return Err(Error::format(path, name, expected, "one"));
            }
        }
        Ok(())
    }
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
