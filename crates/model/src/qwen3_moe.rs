//! Qwen 3's mixtures of experts: its attention, and in every layer a router before many small MLPs.
//!
//! An expert's maps are no sites: each sees only the tokens that were sent to it.

use realign_core::Sites;
use serde_json::json;

use crate::fields::Fields;
use crate::llama::{Defaults, base};
use crate::mistral::window;
use crate::weight_names::WeightNames;
use crate::{Architecture, DecoderConfig, ExpertsConfig, QkNorm, Result};

pub(crate) const NAMES: WeightNames = WeightNames::LLAMA;

pub(crate) fn config(fields: &Fields<'_>) -> Result<DecoderConfig> {
    let mut config = base(fields, Architecture::Qwen3Moe, Defaults::default())?;
    if fields.get("decoder_sparse_step").is_some_and(|step| *step != json!(1)) {
        return Err(fields.wrong("decoder_sparse_step", "1 (layers without experts are not implemented)"));
    }
    fields.refuse("mlp_only_layers", "layers without experts are")?;
    config.qk_norm = Some(QkNorm::Head);
    if fields.flag("attention_bias", false)? {
        config.biases = Sites::ATTENTION;
    }
    if fields.flag("use_sliding_window", false)? {
        let window = window(fields)?.or(Some(4096));
        config.layers.iter_mut().for_each(|layer| layer.window = window);
    }
    let (count, per_token) = (fields.count("num_experts")?, fields.count("num_experts_per_tok")?);
    if count == 0 || count > 1 << 12 {
        return Err(fields.wrong("num_experts", "1 to 4096"));
    }
    if per_token == 0 || per_token > count {
        return Err(fields.wrong("num_experts_per_tok", format!("1 to the {count} experts")));
    }
    let width = fields.count("moe_intermediate_size")?;
    if width == 0 || width > 1 << 20 {
        return Err(fields.wrong("moe_intermediate_size", "1 to 2^20"));
    }
    config.shape.d_mlp = (width * per_token) as usize;
    config.shape.sites = Sites::ATTENTION;
    config.experts = Some(ExpertsConfig {
        count: count as usize,
        per_token: per_token as usize,
        normalised: fields.flag("norm_topk_prob", false)?,
    });
    Ok(config)
}
