//! Qwen 3 (Yang et al. 2025): Llama with norms of each query and key head.

use realign_core::Sites;

use crate::fields::Fields;
use crate::llama::{Defaults, base};
use crate::qwen2::upper_windows;
use crate::weight_names::WeightNames;
use crate::{Architecture, DecoderConfig, QkNorm, Result};

pub(crate) const NAMES: WeightNames = WeightNames::LLAMA;

pub(crate) fn config(fields: &Fields<'_>) -> Result<DecoderConfig> {
    let defaults = Defaults {
        d_head: Some(128),
        ..Defaults::default()
    };
    let mut config = base(fields, Architecture::Qwen3, defaults)?;
    config.qk_norm = Some(QkNorm::Head);
    if fields.flag("attention_bias", false)? {
        config.biases = Sites::ATTENTION;
    }
    upper_windows(fields, &mut config)?;
    Ok(config)
}
