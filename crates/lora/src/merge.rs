//! Adapters folded into the weights.

use burn::tensor::Tensor;
use realign_core::{LanguageModel, Weight};

use crate::{Adapter, Lora};

/// The model with adapters folded into its weights: `W + scale · A B` at each adapted linear map, with magnitudes (DoRA)
/// the columns of that brought to them, and saved weights in place of the model's own.
///
/// # Panics
/// Where an adapter's or a saved weight's shape is not the weight's.
pub fn merge(model: &dyn LanguageModel, lora: &Lora) -> Box<dyn LanguageModel> {
    model.edited(&mut |weight, w| {
        if let Some(saved) = lora.saved(weight, &w) {
            return saved;
        }
        let Some((adapter, delta)) = delta(lora, weight, &w) else {
            return w;
        };
        match &adapter.dora {
            Some(dora) => dora.merged(w + delta),
            None => w + delta,
        }
    })
}

/// The model with adapters that were folded in by [`merge`] taken out again, up to rounding.
///
/// # Panics
/// Where an adapter's shape is not the weight's, and for what `merge` did not leave the means to undo: adapters with
/// magnitudes that are not attached to the base model ([`Lora::attach`]), and saved weights.
pub fn unmerge(model: &dyn LanguageModel, lora: &Lora) -> Box<dyn LanguageModel> {
    assert!(
        lora.saved.is_empty(),
        "unmerge: what saved weights took the place of is not known"
    );
    model.edited(&mut |weight, w| {
        let Some((adapter, delta)) = delta(lora, weight, &w) else {
            return w;
        };
        match &adapter.dora {
            Some(dora) => dora
                .weight()
                .expect("unmerge: adapters with magnitudes, attached to the base model"),
            None => w - delta,
        }
    })
}

/// The adapter of a weight and what it adds.
fn delta<'a>(lora: &'a Lora, weight: Weight, w: &Tensor<2>) -> Option<(&'a Adapter, Tensor<2>)> {
    let Weight::Linear { layer, site } = weight else {
        return None;
    };
    let adapter = lora.adapters.get(&(layer, site))?;
    let delta = adapter.delta();
    assert_eq!(
        delta.dims(),
        w.dims(),
        "merge: the adapter of blocks.{layer}.{site} does not fit the weight"
    );
    Some((adapter, delta))
}
