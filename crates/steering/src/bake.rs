//! An ablation in the weights.

use std::ops::Range;

use burn::tensor::Tensor;
use realign_core::{LanguageModel, Site, Weight};

use crate::Direction;

/// The model with the weights that write to the stream made orthogonal to a direction: those of these blocks'
/// attention and MLP outputs with their biases, and the embeddings of tokens and positions where the range starts at 0
/// (weight orthogonalisation, Arditi et al. 2024).
///
/// Where a norm stands behind a map (Gemma, OLMo 2), its weight multiplies what the map writes, so the map is made
/// orthogonal to the direction times that weight.
///
/// With all blocks, the stream has no component along the direction anywhere; no hook is needed any more.
///
/// # Panics
/// Where the direction's width is not the model's, or the range goes beyond its blocks.
pub fn bake_ablation(model: &dyn LanguageModel, direction: &Direction, layers: Range<usize>) -> Box<dyn LanguageModel> {
    let shape = model.shape();
    let width = direction.width();
    assert_eq!(
        width, shape.d_model,
        "bake_ablation: the direction is [{width}], the stream [{}]",
        shape.d_model
    );
    assert!(
        layers.end <= shape.n_layers,
        "bake_ablation: blocks {layers:?} of {}",
        shape.n_layers
    );
    let unit: Tensor<2> = direction.unit().vector.unsqueeze();
    model.edited(&mut |weight, w| {
        let (writes, norm) = match weight {
            Weight::Embedding | Weight::Positions => (layers.start == 0 && !layers.is_empty(), None),
            Weight::Linear { layer, site } | Weight::Bias { layer, site } => {
                let writes = layers.contains(&layer) && matches!(site, Site::O | Site::Down);
                (writes, model.norm_behind(layer, site))
            }
            Weight::ExpertDown { layer, .. } => (layers.contains(&layer), model.norm_behind(layer, Site::Down)),
            Weight::Unembedding => (false, None),
        };
        if !writes {
            return w;
        }
        let unit = match norm {
            Some(norm) => {
                let scaled = unit.clone() * norm.unsqueeze();
                scaled.clone() / scaled.powi_scalar(2).sum_dim(1).add_scalar(f32::MIN_POSITIVE).sqrt()
            }
            None => unit.clone(),
        };
        // Rows are what an input writes, for both layouts.
        let component = w.clone().matmul(unit.clone().transpose());
        w - component * unit
    })
}
