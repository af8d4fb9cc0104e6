//! The architectures that are read, by the name that Hugging Face gives them.

use std::fmt;
use std::path::Path;

use crate::fields::Fields;
use crate::weight_names::WeightNames;
use crate::{
    DecoderConfig, Result, gemma2, gemma3, gpt_neox, gpt2, llama, mistral, olmo2, phi3, qwen2, qwen3, qwen3_moe,
};

/// An architecture: which fields its `config.json` has, and what its tensors are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Architecture {
    /// Llama 1 to 3, and what has their layout (SmolLM, TinyLlama, Yi).
    Llama,
    /// Mistral: Llama with a sliding window.
    Mistral,
    /// Qwen 2 and 2.5: Llama with biases of queries, keys and values.
    Qwen2,
    /// Qwen 3: Llama with norms of queries and keys.
    Qwen3,
    /// Qwen 3's mixtures of experts.
    Qwen3Moe,
    /// Gemma 2: soft caps, alternating windows, norms on both sides.
    Gemma2,
    /// Gemma 3, text only: two rotary bases, five windows to one full layer.
    Gemma3,
    /// GPT-2: learned positions, LayerNorm, an MLP without a gate.
    Gpt2,
    /// GPT-NeoX and Pythia: partial rotary positions, parallel residuals.
    GptNeoX,
    /// OLMo 2: norms behind attention and MLP.
    Olmo2,
    /// Phi-3: Llama with fused weights.
    Phi3,
}

impl Architecture {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Llama,
        Self::Mistral,
        Self::Qwen2,
        Self::Qwen3,
        Self::Qwen3Moe,
        Self::Gemma2,
        Self::Gemma3,
        Self::Gpt2,
        Self::GptNeoX,
        Self::Olmo2,
        Self::Phi3,
    ];

    /// `model_type` in `config.json`.
    pub const fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Qwen3Moe => "qwen3_moe",
            Self::Gemma2 => "gemma2",
            Self::Gemma3 => "gemma3_text",
            Self::Gpt2 => "gpt2",
            Self::GptNeoX => "gpt_neox",
            Self::Olmo2 => "olmo2",
            Self::Phi3 => "phi3",
        }
    }

    /// Reads a `config.json`.
    pub(crate) fn config(json: &[u8], path: &Path) -> Result<DecoderConfig> {
        let fields = Fields::parse(json, path)?;
        let model_type = fields.text("model_type").ok().flatten();
        let Some(found) = Self::ALL.into_iter().find(|a| Some(a.model_type()) == model_type) else {
            let known: Vec<_> = Self::ALL.iter().map(|a| a.model_type()).collect();
            return Err(fields.wrong("model_type", format!("one of {}", known.join(", "))));
        };
        for (name, why) in [
            ("quantization_config", "weights quantised in safetensors are"),
            ("text_config", "models of more than text are"),
        ] {
            fields.refuse(name, why)?;
        }
        for name in ["is_encoder_decoder", "add_cross_attention"] {
            fields.refuse_flag(name, "attention to an encoder is")?;
        }
        let config = match found {
            Self::Llama => llama::config(&fields),
            Self::Mistral => mistral::config(&fields),
            Self::Qwen2 => qwen2::config(&fields),
            Self::Qwen3 => qwen3::config(&fields),
            Self::Qwen3Moe => qwen3_moe::config(&fields),
            Self::Gemma2 => gemma2::config(&fields),
            Self::Gemma3 => gemma3::config(&fields),
            Self::Gpt2 => gpt2::config(&fields),
            Self::GptNeoX => gpt_neox::config(&fields),
            Self::Olmo2 => olmo2::config(&fields),
            Self::Phi3 => phi3::config(&fields),
        }?;
        debug_assert_eq!(config.layers.len(), config.shape.n_layers);
        Ok(config)
    }

    /// What its tensors are called.
    pub(crate) fn names(self) -> WeightNames {
        match self {
            Self::Llama | Self::Mistral | Self::Qwen2 => WeightNames::LLAMA,
            Self::Qwen3 => qwen3::NAMES,
            Self::Qwen3Moe => qwen3_moe::NAMES,
            Self::Gemma2 => gemma2::NAMES,
            Self::Gemma3 => gemma3::NAMES,
            Self::Gpt2 => gpt2::NAMES,
            Self::GptNeoX => gpt_neox::NAMES,
            Self::Olmo2 => olmo2::NAMES,
            Self::Phi3 => phi3::NAMES,
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.model_type())
    }
}
