//! Mistral (Jiang et al. 2023): Llama with a sliding window in every layer.

use crate::fields::Fields;
use crate::llama::{Defaults, base};
use crate::{Architecture, DecoderConfig, Result};

/// The window of a configuration that says nothing; one that says null has none.
const WINDOW: u64 = 4096;

pub(crate) fn config(fields: &Fields<'_>) -> Result<DecoderConfig> {
    let mut config = base(fields, Architecture::Mistral, Defaults::default())?;
    fields.refuse("layer_types", "Mistral with layers of several kinds is")?;
    let window = match fields.has("sliding_window") {
        true => window(fields)?,
        false => Some(WINDOW as usize),
    };
    config.layers.iter_mut().for_each(|layer| layer.window = window);
    Ok(config)
}

/// The field `sliding_window`.
pub(crate) fn window(fields: &Fields<'_>) -> Result<Option<usize>> {
    match fields.whole("sliding_window")? {
        Some(n) if n == 0 || n > 1 << 28 => Err(fields.wrong("sliding_window", "1 to 2^28 tokens, or null")),
        found => Ok(found.map(|n| n as usize)),
    }
}

/// Gives a window to the layers that `layer_types`, or else `default`, calls sliding.
pub(crate) fn windows(
    fields: &Fields<'_>,
    config: &mut DecoderConfig,
    window: Option<usize>,
    default: impl Fn(usize) -> bool,
) -> Result<()> {
    let n = config.layers.len();
    let sliding: Vec<bool> = match fields.texts("layer_types", n)? {
        Some(kinds) => kinds
            .into_iter()
            .map(|kind| match kind {
                "sliding_attention" => Ok(true),
                "full_attention" => Ok(false),
                other => {
                    let expected = format!("`full_attention` or `sliding_attention`, not `{other}`");
                    Err(fields.wrong("layer_types", expected))
                }
            })
            .collect::<Result<_>>()?,
        None => (0..n).map(default).collect(),
    };
    if window.is_none() && sliding.contains(&true) {
        return Err(fields.wrong("sliding_window", "a number of tokens, as some layers have a window"));
    }
    for (layer, sliding) in config.layers.iter_mut().zip(sliding) {
        layer.window = window.filter(|_| sliding);
    }
    Ok(())
}
