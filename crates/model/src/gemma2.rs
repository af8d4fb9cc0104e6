//! Gemma 2 (Gemma Team 2024): soft caps, windows in every other layer, norms before and behind attention and MLP.

use realign_core::Sites;
use realign_tensor::Activation;

use crate::fields::Fields;
use crate::llama::{Defaults, base};
use crate::mistral::{window, windows};
use crate::weight_names::WeightNames;
use crate::{Architecture, DecoderConfig, Result};

pub(crate) const NAMES: WeightNames = WeightNames {
    attn_norm_after: "post_attention_layernorm",
    mlp_norm: "pre_feedforward_layernorm",
    mlp_norm_after: "post_feedforward_layernorm",
    norms_from_one: true,
    ..WeightNames::LLAMA
};

pub(crate) fn config(fields: &Fields<'_>) -> Result<DecoderConfig> {
    let mut config = gemma(fields, Architecture::Gemma2, 10_000.0)?;
    config.attention_softcap = softcap(fields, "attn_logit_softcapping", Some(50.0))?;
    config.logit_softcap = softcap(fields, "final_logit_softcapping", Some(30.0))?;
    let window = window(fields)?.or((!fields.has("sliding_window")).then_some(4096));
    windows(fields, &mut config, window, |layer| layer.is_multiple_of(2))?;
    Ok(config)
}

/// What the Gemmas from 2 on share.
pub(crate) fn gemma(fields: &Fields<'_>, architecture: Architecture, rope_theta: f64) -> Result<DecoderConfig> {
    let defaults = Defaults {
        tied: true,
        rope_theta,
        d_head: Some(256),
        activation_field: "hidden_activation",
        activation: Activation::GeluTanh,
        ..Defaults::default()
    };
    let mut config = base(fields, architecture, defaults)?;
    config.norm_after = true;
    config.embedding_scale = (config.shape.d_model as f32).sqrt();
    let scalar = fields.positive("query_pre_attn_scalar")?.unwrap_or(256.0);
    config.attention_scale = scalar.powf(-0.5) as f32;
    if fields.flag("attention_bias", false)? {
        config.biases = Sites::ATTENTION;
    }
    Ok(config)
}

/// A soft cap: null for none, `default` where nothing is said.
pub(crate) fn softcap(fields: &Fields<'_>, name: &str, default: Option<f64>) -> Result<Option<f32>> {
    let found = match fields.has(name) {
        true => fields.positive(name)?,
        false => default,
    };
    Ok(found.map(|cap| cap as f32))
}
