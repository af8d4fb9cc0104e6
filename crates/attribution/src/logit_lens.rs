//! The logit lens (nostalgebraist 2020): what a vector of the residual stream says about the next token.

use burn::tensor::Tensor;
use realign_core::LanguageModel;
use realign_tensor::top_k;

/// Tokens, each with a logit.
pub type TokenLogits = Vec<(u32, f32)>;

/// The `n` tokens that a direction makes most likely, and the `n` that it makes least likely, each with its logit.
///
/// Logits are `norm(vector) · unembeddingᵀ` with the model's own final norm (its weights matter, the vector's length
/// does not), less their mean over the vocabulary: a constant added to all logits changes no probability. Highest
/// first in the one list, lowest first in the other.
///
/// # Shapes
/// - `vector`: `[d_model]`
pub fn logit_lens(model: &dyn LanguageModel, vector: Tensor<1>, n: usize) -> (TokenLogits, TokenLogits) {
    let d_model = model.shape().d_model;
    assert_eq!(
        vector.dims(),
        [d_model],
        "logit_lens: the direction is {:?}, expected {:?}",
        vector.dims(),
        [d_model]
    );
    let logits = lens(model, vector.inner().unsqueeze());
    let centred = logits.clone() - logits.mean_dim(1);
    let n = n.min(centred.dims()[1]);
    let top = tokens(centred.clone(), n);
    let bottom = tokens(centred.neg(), n)
        .into_iter()
        .map(|(token, logit)| (token, -logit))
        .collect();
    (top, bottom)
}

/// Logits `[token, vocab]` of a residual stream `[token, d_model]` of any layer, as if the rest of the model did nothing.
pub fn lens(model: &dyn LanguageModel, resid: Tensor<2>) -> Tensor<2> {
    model.logits(model.final_norm(resid))
}

fn tokens(logits: Tensor<2>, n: usize) -> TokenLogits {
    let (values, indices) = top_k(logits, n);
    let tokens = indices
        .into_data()
        .iter::<i64>()
        .map(|token| token as u32)
        .collect::<Vec<u32>>();
    tokens
        .into_iter()
        .zip(values.into_data().iter::<f32>().collect::<Vec<f32>>())
        .collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use realign_core::{Batch, HookPoint, Record};
    use realign_model::{Llama, LlamaConfig};

    use super::*;

    #[test]
    fn the_lens_on_the_last_layer_gives_the_models_own_logits() {
        let model = Llama::random(&LlamaConfig::tiny(), 5, &Device::flex());
        let batch = Batch::packed([[3u32, 1, 4, 1, 5]]);
        let mut record = Record::new([HookPoint::ResidPost(2)]);
        let own = model.logits(model.forward(&batch, &mut record));
        let seen = lens(&model, record.take(HookPoint::ResidPost(2)).unwrap());
        assert!((own - seen).abs().max().into_scalar::<f32>() < 1e-5);
    }

    #[test]
    fn top_and_bottom_are_the_ends_of_the_centred_logits_whatever_the_length() {
        let model = Llama::random(&LlamaConfig::tiny(), 5, &Device::flex());
        let vector: Vec<f32> = (0..32).map(|i| (i as f32).sin()).collect();
        let vector = Tensor::<1>::from_floats(vector.as_slice(), &Device::flex());
        let logits: Vec<f32> = lens(&model, vector.clone().unsqueeze())
            .into_data()
            .try_into_vec()
            .unwrap();
        let mean = logits.iter().sum::<f32>() / 64.0;
        let mut order: Vec<u32> = (0..64).collect();
        order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
        let (top, bottom) = logit_lens(&model, vector.clone().mul_scalar(100.0), 3);
        let ids = |list: &TokenLogits| list.iter().map(|(token, _)| *token).collect::<Vec<u32>>();
        assert_eq!(ids(&top), order[..3]);
        assert_eq!(ids(&bottom), [order[63], order[62], order[61]]);
        for (token, logit) in top.iter().chain(&bottom) {
            assert!((logit - (logits[*token as usize] - mean)).abs() < 1e-3);
        }
        assert!(top[0].1 > 0.0 && bottom[0].1 < 0.0);
        assert_eq!(logit_lens(&model, vector, 1000).0.len(), 64);
    }
}
