//! Llama (Touvron et al. 2023): RMS norms, rotary positions, grouped-query attention, SwiGLU.

use realign_core::{Shape, Site, Sites};
use realign_tensor::Activation;

use crate::fields::Fields;
use crate::sizes::{Names, Sizes};
use crate::{Architecture, Decoder, DecoderConfig, Result, Rope, rope_scaling};

/// A [`Decoder`], by the name of the architecture that most others are compared with.
pub type Llama = Decoder;

/// The sizes of a plain Llama: for models of random weights.
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

impl LlamaConfig {
    /// A model small enough for tests: 3 layers of width 32.
    pub fn tiny() -> Self {
        Self {
            n_layers: 3,
            d_model: 32,
            n_heads: 4,
            n_kv_heads: 2,
            d_head: 8,
            d_mlp: 48,
            vocab: 64,
            context: 256,
            rope_theta: 10_000.0,
            rms_eps: 1e-5,
            tied: true,
        }
    }

    /// The sizes that [`realign_core::LanguageModel::shape`] reports.
    pub fn shape(&self) -> Shape {
        Shape {
            n_layers: self.n_layers,
            d_model: self.d_model,
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            d_head: self.d_head,
            d_mlp: self.d_mlp,
            vocab: self.vocab,
            context: self.context,
            sites: Sites::ALL,
        }
    }
}

impl From<&LlamaConfig> for DecoderConfig {
    fn from(config: &LlamaConfig) -> Self {
        let rope = Rope::new(config.rope_theta.into(), config.d_head);
        let plain = Self::plain(Architecture::Llama, config.shape(), rope, config.rms_eps);
        Self {
            tied: config.tied,
            ..plain
        }
    }
}

/// Reads a Llama's `config.json`.
pub(crate) fn config(fields: &Fields<'_>) -> Result<DecoderConfig> {
    let mut config = base(fields, Architecture::Llama, Defaults::default())?;
    if fields.flag("attention_bias", false)? {
        config.biases = Sites::of(config.biases.iter().chain([Site::Q, Site::K, Site::V, Site::O]));
    }
    if fields.flag("mlp_bias", false)? {
        config.biases = Sites::of(config.biases.iter().chain([Site::Gate, Site::Up, Site::Down]));
    }
    Ok(config)
}

/// What an architecture takes for fields that its `config.json` lacks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Defaults {
    pub(crate) tied: bool,
    pub(crate) rope_theta: f64,
    pub(crate) d_head: Option<u64>,
    /// Whether a part of each head may be rotated only.
    pub(crate) partial: bool,
    /// Whether rotary positions are scaled by `longrope`, and the context that it takes for the trained one.
    pub(crate) longrope: Option<u64>,
    pub(crate) activation_field: &'static str,
    pub(crate) activation: Activation,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            tied: false,
            rope_theta: 10_000.0,
            d_head: None,
            partial: false,
            longrope: None,
            activation_field: "hidden_act",
            activation: Activation::Silu,
        }
    }
}

/// The fields that Llama shares with what came after it.
pub(crate) fn base(fields: &Fields<'_>, architecture: Architecture, defaults: Defaults) -> Result<DecoderConfig> {
    let n_heads = fields.count("num_attention_heads")?;
    let sizes = Sizes {
        path: fields.path(),
        names: hf_names(),
        n_layers: fields.count("num_hidden_layers")?,
        d_model: fields.count("hidden_size")?,
        n_heads,
        n_kv_heads: fields.whole("num_key_value_heads")?.unwrap_or(n_heads),
        d_head: fields.whole("head_dim")?.or(defaults.d_head),
        d_mlp: fields.count("intermediate_size")?,
        vocab: fields.count("vocab_size")?,
        context: fields.count("max_position_embeddings")?,
        norm_eps: fields.number("rms_norm_eps")?.unwrap_or(f64::NAN),
    };
    let (mut shape, eps) = sizes.check()?;
    let width = rotated_width(fields, "partial_rotary_factor", 1.0, shape.d_head)?;
    if width != shape.d_head && !defaults.partial {
        return Err(fields.wrong("partial_rotary_factor", "1, as in all models of this architecture"));
    }
    let (rope, context) = rope_scaling::read(fields, defaults.rope_theta, width, sizes.context, defaults.longrope)?;
    shape.context = context as usize;
    let plain = DecoderConfig::plain(architecture, shape, rope, eps);
    Ok(DecoderConfig {
        tied: fields.flag("tie_word_embeddings", defaults.tied)?,
        activation: activation(fields, defaults.activation_field, defaults.activation)?,
        ..plain
    })
}

/// How many numbers of a head are rotated, from the field that says the share.
pub(crate) fn rotated_width(fields: &Fields<'_>, name: &str, default: f64, d_head: usize) -> Result<usize> {
    let share = fields.number(name)?.unwrap_or(default);
    let width = (d_head as f64 * share) as usize;
    if !(share > 0.0 && share <= 1.0 && width >= 2 && width.is_multiple_of(2)) {
        let expected = format!("a share that makes an even number of a head's {d_head}");
        return Err(fields.wrong(name, expected));
    }
    Ok(width)
}

/// An activation by Hugging Face's name.
pub(crate) fn activation(fields: &Fields<'_>, name: &str, default: Activation) -> Result<Activation> {
    match fields.text(name)? {
        None => Ok(default),
        Some("silu" | "swish") => Ok(Activation::Silu),
        Some("gelu") => Ok(Activation::Gelu),
        Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast") => Ok(Activation::GeluTanh),
        Some(_) => Err(fields.wrong(name, "`silu`, `gelu`, `gelu_new` or `gelu_pytorch_tanh`")),
    }
}

/// What Hugging Face calls each size.
pub(crate) fn hf_names() -> Names {
    let name = str::to_owned;
    Names {
        n_layers: name("num_hidden_layers"),
        d_model: name("hidden_size"),
        n_heads: name("num_attention_heads"),
        n_kv_heads: name("num_key_value_heads"),
        d_head: name("head_dim"),
        d_mlp: name("intermediate_size"),
        vocab: name("vocab_size"),
        context: name("max_position_embeddings"),
        norm_eps: name("rms_norm_eps"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::RopeScaling;

    const JSON: &str = r#"{"model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": 300, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": true, "rope_scaling": null}"#;

    fn json(from: &str, to: &str) -> Result<DecoderConfig> {
        assert!(JSON.contains(from), "{from}");
        DecoderConfig::from_json(JSON.replace(from, to).as_bytes(), Path::new("config.json"))
    }

    #[test]
    fn a_plain_llama_is_what_a_random_one_is() {
        let mut config = LlamaConfig::tiny();
        (config.n_layers, config.d_model, config.d_mlp) = (2, 64, 128);
        (config.d_head, config.vocab, config.context) = (16, 300, 512);
        assert_eq!(json("300", "300").unwrap(), DecoderConfig::from(&config));
    }

    #[test]
    fn a_wrong_type_names_its_field() {
        for bad in ["1e308", "-1", "\"32\"", "NaN", "[[[[]]]]", "0", "1000000000"] {
            let error = json("300", bad).unwrap_err().to_string();
            assert!(error.starts_with("config.json: "), "{bad}: {error}");
            assert!(bad == "NaN" || error.contains("vocab_size"), "{bad}: {error}");
        }
        let deep = format!("{{\"model_type\": {}", "[".repeat(1 << 20));
        assert!(DecoderConfig::from_json(deep.as_bytes(), Path::new("c")).is_err());
    }

    #[test]
    fn what_is_not_implemented_is_refused_by_name() {
        for (from, to, words) in [
            (
                "\"llama\"",
                "\"mamba\"",
                ["model_type: expected one of llama,", "found mamba"],
            ),
            ("null", "{\"rope_type\": \"longrope\"}", ["rope_scaling", "longrope"]),
            ("null", "{\"factor\": 2.0}", ["rope_scaling", "rope_type"]),
            ("null", "{\"type\": \"linear\"}", ["rope_scaling.factor", "nothing"]),
            (
                "null",
                "{\"type\": \"yarn\", \"factor\": 0.5}",
                ["rope_scaling.factor", "0.5"],
            ),
            (
                "null",
                "{\"type\": \"llama3\", \"factor\": 2, \"low_freq_factor\": 4, \"high_freq_factor\": 1}",
                ["rope_scaling.low_freq_factor", "4"],
            ),
            ("10000.0", "0.5", ["rope_theta", "0.5"]),
            (
                "\"rope_scaling\": null",
                "\"hidden_act\": \"relu2\"",
                ["hidden_act", "relu2"],
            ),
            (
                "\"rope_scaling\": null",
                "\"partial_rotary_factor\": 0.5",
                ["partial_rotary_factor", "0.5"],
            ),
            (
                "\"rope_scaling\": null",
                "\"quantization_config\": {\"bits\": 4}",
                ["quantization_config", "bits"],
            ),
        ] {
            let error = json(from, to).unwrap_err().to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{words:?}: {error}");
        }
        assert!(json("null", "{\"type\": \"default\"}").is_ok());
    }

    #[test]
    fn scalings_reach_as_far_as_they_say() {
        let linear = json("null", "{\"type\": \"linear\", \"factor\": 4.0}").unwrap();
        assert_eq!(linear.shape.context, 2048);
        assert_eq!(linear.ropes[0].scaling, RopeScaling::Linear { factor: 4.0 });
        let yarn = "{\"rope_type\": \"yarn\", \"factor\": 4.0, \"original_max_position_embeddings\": 256}";
        assert_eq!(json("null", yarn).unwrap().shape.context, 1024);
        assert_eq!(json("null", "{\"type\": \"default\"}").unwrap().shape.context, 512);
    }

    #[test]
    fn biases_are_where_the_flags_say() {
        let with = |flag: &str| json("\"rope_scaling\": null", flag).unwrap().biases;
        assert_eq!(with("\"attention_bias\": true"), Sites::ATTENTION);
        assert_eq!(
            with("\"mlp_bias\": true"),
            Sites::of([Site::Gate, Site::Up, Site::Down])
        );
        assert_eq!(with("\"mlp_bias\": false"), Sites::NONE);
    }
}
