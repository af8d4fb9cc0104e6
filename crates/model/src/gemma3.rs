//! Gemma 3's text models (Gemma Team 2025): five layers with a window to one without, each kind with its own rotary base.

use crate::fields::Fields;
use crate::gemma2::{gemma, softcap};
use crate::mistral::{window, windows};
use crate::weight_names::WeightNames;
use crate::{Architecture, DecoderConfig, QkNorm, Result, Rope};

pub(crate) const NAMES: WeightNames = crate::gemma2::NAMES;

pub(crate) fn config(fields: &Fields<'_>) -> Result<DecoderConfig> {
    fields.refuse_flag("use_bidirectional_attention", "attention to later tokens is")?;
    // transformers reads it and does not use it.
    fields.refuse("attn_logit_softcapping", "a soft cap of Gemma 3's attention is")?;
    let mut config = gemma(fields, Architecture::Gemma3, 1_000_000.0)?;
    // Its scaled rotary positions are those of the trained context.
    config.shape.context = fields.count("max_position_embeddings")? as usize;
    config.qk_norm = Some(QkNorm::Head);
    config.logit_softcap = softcap(fields, "final_logit_softcapping", None)?;
    let every = fields.whole("sliding_window_pattern")?.unwrap_or(6);
    if every == 0 {
        return Err(fields.wrong("sliding_window_pattern", "at least 1"));
    }
    let window = window(fields)?.or((!fields.has("sliding_window")).then_some(4096));
    windows(fields, &mut config, window, |layer| {
        !(layer as u64 + 1).is_multiple_of(every)
    })?;
    let theta = fields.number("rope_local_base_freq")?.unwrap_or(10_000.0);
    if !(theta.is_finite() && theta >= 1.0) {
        return Err(fields.wrong("rope_local_base_freq", "a base of at least 1"));
    }
    config.ropes.push(Rope::new(theta, config.shape.d_head));
    for layer in &mut config.layers {
        layer.rope = Some(usize::from(layer.window.is_some()));
    }
    Ok(config)
}
