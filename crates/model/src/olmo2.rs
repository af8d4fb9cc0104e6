//! OLMo 2 (OLMo Team 2024): norms behind attention and MLP only, and norms of all queries and all keys of a token.

use realign_core::Sites;

use crate::fields::Fields;
use crate::llama::{Defaults, base};
use crate::weight_names::WeightNames;
use crate::{Architecture, DecoderConfig, QkNorm, Result};

pub(crate) const NAMES: WeightNames = WeightNames {
    attn_norm: "",
    mlp_norm: "",
    attn_norm_after: "post_attention_layernorm",
    mlp_norm_after: "post_feedforward_layernorm",
    ..WeightNames::LLAMA
};

pub(crate) fn config(fields: &Fields<'_>) -> Result<DecoderConfig> {
    let mut config = base(fields, Architecture::Olmo2, Defaults::default())?;
    config.norm_before = false;
    config.norm_after = true;
    config.qk_norm = Some(QkNorm::Width);
    if fields.flag("attention_bias", false)? {
        config.biases = Sites::ATTENTION;
    }
    Ok(config)
}
