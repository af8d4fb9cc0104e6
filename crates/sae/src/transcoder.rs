//! The transcoder: one activation as a few of many latents, which write another.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use realign_tensor::sparse_decode;

use crate::{Activation, Latents, Metadata, Result, format};

/// A transcoder (Dunefsky et al. 2024), with a linear skip connection or without.
///
/// `z = activation(x w_encᵀ + b_enc)`, `ŷ = z w_dec + b_dec + x w_skipᵀ`: `x` is mostly an MLP's input, `y` its output.
/// Its latents can be read where an SAE's can; what they write belongs elsewhere, so it is no [`crate::Sae`].
#[derive(Clone, Debug)]
pub struct Transcoder {
    /// Which latents are active, and how strongly.
    pub activation: Activation,
    /// Encoder `[d_sae, d_in]`, one row a latent.
    pub w_enc: Tensor<2>,
    /// Encoder bias `[d_sae]`.
    pub b_enc: Tensor<1>,
    /// Decoder `[d_sae, d_out]`, one row a latent.
    pub w_dec: Tensor<2>,
    /// Decoder bias `[d_out]`.
    pub b_dec: Tensor<1>,
    /// Skip connection `[d_out, d_in]`.
    pub w_skip: Option<Tensor<2>>,
    /// Where it belongs.
    pub metadata: Metadata,
}

impl Transcoder {
    /// Reads a transcoder of SAELens 6, sparsify or Gemma Scope 2, whichever lies at `path`.
    ///
    /// # Errors
    /// Those of [`crate::Sae::load`].
    pub fn load(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        format::read(path.as_ref())?.transcoder(device)
    }

    /// The active latents of `x [token, d_in]`.
    pub fn encode(&self, x: Tensor<2>) -> Latents {
        self.activation.encode(x, &self.w_enc, &self.b_enc)
    }

    /// What the latents write, `[token, d_out]`.
    pub fn decode(&self, latents: &Latents) -> Tensor<2> {
        let written = sparse_decode(latents.values.clone(), latents.indices.clone(), self.w_dec.clone());
        written + self.b_dec.clone().unsqueeze()
    }

    /// The prediction `[token, d_out]` from `x [token, d_in]`, the skip connection included.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let written = self.decode(&self.encode(x.clone()));
        match &self.w_skip {
            Some(w_skip) => written + x.matmul(w_skip.clone().transpose()),
            None => written,
        }
    }
}
