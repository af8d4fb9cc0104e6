//! Qwen 2 and 2.5 (Yang et al. 2024): Llama with biases of queries, keys and values.

use realign_core::{Site, Sites};

use crate::fields::Fields;
use crate::llama::{Defaults, base};
use crate::mistral::{window, windows};
use crate::{Architecture, DecoderConfig, Result};

pub(crate) fn config(fields: &Fields<'_>) -> Result<DecoderConfig> {
    let mut config = base(fields, Architecture::Qwen2, Defaults::default())?;
    config.biases = Sites::of([Site::Q, Site::K, Site::V]);
    upper_windows(fields, &mut config)?;
    Ok(config)
}

/// A window in the layers from `max_window_layers` on, if `use_sliding_window`.
pub(crate) fn upper_windows(fields: &Fields<'_>, config: &mut DecoderConfig) -> Result<()> {
    let window = match fields.flag("use_sliding_window", false)? {
        true => window(fields)?.or(Some(4096)),
        false => None,
    };
    let first = fields.whole("max_window_layers")?.unwrap_or(28);
    windows(fields, config, window, |layer| {
        window.is_some() && layer as u64 >= first
    })
}
