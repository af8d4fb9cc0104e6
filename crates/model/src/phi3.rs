//! Phi-3 (Abdin et al. 2024): Llama with queries, keys and values in one weight, gate and up in another.

use realign_core::ModuleNames;

use crate::fields::Fields;
use crate::llama::{Defaults, base};
use crate::mistral::window;
use crate::weight_names::WeightNames;
use crate::{Architecture, DecoderConfig, Result};

pub(crate) const NAMES: WeightNames = WeightNames {
    modules: ModuleNames::PHI3,
    ..WeightNames::LLAMA
};

pub(crate) fn config(fields: &Fields<'_>) -> Result<DecoderConfig> {
    let defaults = Defaults {
        partial: true,
        longrope: Some(4096),
        ..Defaults::default()
    };
    let mut config = base(fields, Architecture::Phi3, defaults)?;
    let window = window(fields)?;
    config.layers.iter_mut().for_each(|layer| layer.window = window);
    Ok(config)
}
