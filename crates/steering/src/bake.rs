//! An ablation in the weights.

use std::ops::Range;

use burn::tensor::Tensor;
use realign_core::{LanguageModel, Site, Weight};

use crate::Direction;

/// The model with the weights that write to the stream made orthogonal to a direction: those of these blocks'
/// attention and MLP outputs, and the token embeddings where the range starts at 0 (weight orthogonalisation, Arditi
/// et al. 2024).
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
        let writes = match weight {
            Weight::Embedding => layers.start == 0 && !layers.is_empty(),
            Weight::Linear { layer, site } => layers.contains(&layer) && matches!(site, Site::O | Site::Down),
            Weight::Unembedding => false,
        };
        if !writes {
            return w;
        }
        // Rows are what an input writes, for both layouts.
        let component = w.clone().matmul(unit.clone().transpose());
        w - component * unit.clone()
    })
}
