//! Adapters folded into the weights.

use realign_core::{LanguageModel, Weight};

use crate::Lora;

/// The model with adapters folded into its weights: `W + scale · A B` at each adapted linear map.
///
/// # Panics
/// Where an adapter's shape is not the weight's.
pub fn merge(model: &dyn LanguageModel, lora: &Lora) -> Box<dyn LanguageModel> {
    add(model, lora, lora.config.scale())
}

/// The model with adapters that were folded in by [`merge`] taken out again, up to rounding.
///
/// # Panics
/// Where an adapter's shape is not the weight's.
pub fn unmerge(model: &dyn LanguageModel, lora: &Lora) -> Box<dyn LanguageModel> {
    add(model, lora, -lora.config.scale())
}

fn add(model: &dyn LanguageModel, lora: &Lora, scale: f64) -> Box<dyn LanguageModel> {
    model.edited(&mut |weight, w| {
        let Weight::Linear { layer, site } = weight else {
            return w;
        };
        let Some(adapter) = lora.adapters.get(&(layer, site)) else {
            return w;
        };
        let delta = adapter.a.clone().matmul(adapter.b.clone()).mul_scalar(scale as f32);
        assert_eq!(
            delta.dims(),
            w.dims(),
            "merge: the adapter of blocks.{layer}.{site} does not fit the weight"
        );
        w + delta
    })
}
