//! The temporal SAE: what the tokens before foretell of an activation, and a few latents for what is new in it.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use realign_core::{Batch, rows};
use realign_tensor::{AttentionOptions, Spans, attention_with, product, sparse_decode};

use crate::{Activation, Latents, Metadata, Result, temporal_file};

/// A temporal SAE (arXiv 2511.01836), which reads a sequence and no single token.
///
/// With `λ = 1 / (4 d_in)` and `r = scale · x - b_in`, each layer of attention takes out of `r` the part that lies
/// along its prediction `p w_dec`: `p = relu(attention(q = z, k and v = z of the token before))`, `z = relu(λ r w_encᵀ)`.
/// What is left is new: `novel = activation(λ r w_encᵀ)`. `x̂ = ((novel + predicted) w_dec + b_dec) / scale`.
#[derive(Clone, Debug)]
pub struct TemporalSae {
    /// What the tokens before foretell, layer by layer.
    pub layers: Vec<Foretelling>,
    /// Which latents of what is new are active: TopK or ReLU.
    pub activation: Activation,
    /// Encoder `[d_sae, d_in]`, one row a latent.
    pub w_enc: Tensor<2>,
    /// What is subtracted from the input, `[d_in]`.
    pub b_in: Tensor<1>,
    /// Decoder `[d_sae, d_in]`, one row a latent.
    pub w_dec: Tensor<2>,
    /// Decoder bias `[d_in]`.
    pub b_dec: Tensor<1>,
    /// What the input is multiplied by, and the output divided by.
    pub scale: f32,
    /// Where it belongs.
    pub metadata: Metadata,
}

/// A layer of attention over latents; its queries and keys are narrower than its values.
#[derive(Clone, Debug)]
pub struct Foretelling {
    /// Number of heads.
    pub heads: usize,
    /// Queries, of the token itself: `[d_attention, d_sae]` and `[d_attention]`.
    pub q: (Tensor<2>, Tensor<1>),
    /// Keys, of the token before: `[d_attention, d_sae]` and `[d_attention]`.
    pub k: (Tensor<2>, Tensor<1>),
    /// Values, of the token before: `[d_sae, d_sae]` and `[d_sae]`.
    pub v: (Tensor<2>, Tensor<1>),
    /// What the heads' values become: `[d_sae, d_sae]` and `[d_sae]`.
    pub o: (Tensor<2>, Tensor<1>),
}

/// Added to a prediction's norm before it is divided by.
const EPSILON: f32 = 1e-6;

impl TemporalSae {
    /// Reads a temporal SAE of SAELens 6.
    ///
    /// # Errors
    /// Those of [`crate::Sae::load`].
    pub fn load(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        temporal_file::read(path.as_ref(), device)
    }

    /// The active latents of what is new, and the activations `[token, d_sae]`, of either sign, that the tokens before
    /// foretell.
    ///
    /// # Shapes
    /// - `x`: `[token, d_in]`, the activations of `batch`
    ///
    /// # Panics
    /// For a batch that continues a cache: the activations of the tokens in it are not there.
    pub fn encode(&self, x: Tensor<2>, batch: &Batch) -> (Latents, Tensor<2>) {
        let ([tokens, d_in], d_sae) = (x.dims(), self.w_dec.dims()[0]);
        assert_eq!(
            tokens,
            batch.len(),
            "TemporalSae: x is {:?}, but not of this batch",
            x.dims()
        );
        let lambda = 1.0 / (4.0 * d_in as f32);
        let (before, spans) = (before(batch), batch.spans(0, |_| &[]));
        let none = Tensor::zeros([1, d_sae], &x.device());
        let mut rest = x * self.scale - self.b_in.clone().unsqueeze();
        let mut predicted = Tensor::zeros([tokens, d_sae], &rest.device());
        for layer in &self.layers {
            let read = product(rest.clone() * lambda, self.w_enc.clone().transpose()).clamp_min(0.0);
            let context = rows(Tensor::cat(vec![read.clone(), none.clone()], 0), &before);
            let part = layer.forward(read, context, spans.clone()).clamp_min(0.0);
            let written = product(part.clone(), self.w_dec.clone());
            let norm = (written.clone() * written.clone()).sum_dim(1).sqrt() + EPSILON;
            let share = (written.clone() * rest.clone()).sum_dim(1) / (norm.clone() * norm);
            predicted = predicted + part * share.clone();
            rest = rest - written * share;
        }
        let b_enc = Tensor::zeros([d_sae], &rest.device());
        let novel = self.activation.encode(rest * lambda, &self.w_enc, &b_enc);
        (novel, predicted)
    }

    /// What is written by the latents of what is new alone, `[token, d_in]`.
    pub fn decode(&self, novel: &Latents) -> Tensor<2> {
        let written = sparse_decode(novel.values.clone(), novel.indices.clone(), self.w_dec.clone());
        (written + self.b_dec.clone().unsqueeze()) / self.scale
    }

    /// The reconstruction `[token, d_in]` of `x [token, d_in]`, the activations of `batch`.
    ///
    /// # Panics
    /// As [`TemporalSae::encode`].
    pub fn forward(&self, x: Tensor<2>, batch: &Batch) -> Tensor<2> {
        let (novel, predicted) = self.encode(x, batch);
        self.decode(&novel) + product(predicted, self.w_dec.clone()) / self.scale
    }
}

impl Foretelling {
    fn forward(&self, own: Tensor<2>, context: Tensor<2>, spans: Arc<Spans>) -> Tensor<2> {
        let ([tokens, d_sae], heads) = (own.dims(), self.heads);
        let d_value = d_sae / heads;
        let d_head = self.q.1.dims()[0] / heads;
        // The operation has one width for all three. Zeros behind queries and keys add nothing to their products.
        let widened = |x: Tensor<2>| {
            let x = x.reshape([tokens, heads, d_head]);
            match d_value - d_head {
                0 => x,
                missing => {
                    let zeros = Tensor::zeros([tokens, heads, missing], &x.device());
                    Tensor::cat(vec![x, zeros], 2)
                }
            }
        };
        let q = widened(linear(own, &self.q));
        let k = widened(linear(context.clone(), &self.k));
        let v = linear(context, &self.v).reshape([tokens, heads, d_value]);
        let read = attention_with(q, k, v, spans, AttentionOptions::new(d_head));
        linear(read.reshape([tokens, d_sae]), &self.o)
    }
}

fn linear(x: Tensor<2>, (weight, bias): &(Tensor<2>, Tensor<1>)) -> Tensor<2> {
    product(x, weight.clone().transpose()) + bias.clone().unsqueeze()
}

/// The token before each token in its sequence; behind the batch's last one for a sequence's first.
fn before(batch: &Batch) -> Vec<usize> {
    let mut before = vec![batch.len(); batch.len()];
    for (index, segment) in batch.segments().iter().enumerate() {
        assert!(
            segment.cached.is_none(),
            "TemporalSae: segment {index} continues a cache, whose activations are not there"
        );
        // Of an empty parent, the token is further up.
        let path = batch.path(index);
        let own = path.len() - segment.tokens.len();
        for (at, token) in path.iter().enumerate().skip(own.max(1)) {
            before[*token] = path[at - 1];
        }
    }
    before
}
