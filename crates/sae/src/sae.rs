//! The sparse autoencoder: a residual as a few of many directions.

use burn::tensor::{Device, Int, Tensor};
use realign_core::{HookPoint, ids};
use realign_tensor::sparse_decode;
use serde::{Deserialize, Serialize};

use crate::Activation;

/// A sparse autoencoder.
///
/// `z = activation((x - b_dec) w_encᵀ + b_enc)`, `x̂ = z w_dec + b_dec`. A latent's direction is its row of `w_dec`.
#[derive(Clone, Debug)]
pub struct Sae {
    /// Which latents are active, and how strongly.
    pub activation: Activation,
    /// Encoder `[d_sae, d_in]`, one row a latent.
    pub w_enc: Tensor<2>,
    /// Encoder bias `[d_sae]`.
    pub b_enc: Tensor<1>,
    /// Decoder `[d_sae, d_in]`, one row a latent.
    pub w_dec: Tensor<2>,
    /// Decoder bias `[d_in]`.
    pub b_dec: Tensor<1>,
    /// Where it belongs.
    pub metadata: Metadata,
}

/// Where an SAE belongs: the `metadata` of a SAELens file, and what other files say of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// The model that it was trained on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_name: Option<String>,
    /// The hook point that it reads, by TransformerLens' name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hook_name: Option<String>,
    /// Everything else that the file says.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

/// The active latents of each token: `n` of `d_sae`, largest first ([`Activation::GroupMax`]: in the groups' order;
/// [`Activation::AbsTopK`]: by their absolute values).
///
/// `n` is an SAE's `k`, or what the busiest token has; a token with fewer has zeros behind them.
#[derive(Clone, Debug)]
pub struct Latents {
    /// Activations `[token, n]`, 0 where there is none; negative ones only of [`Activation::AbsTopK`].
    pub values: Tensor<2>,
    /// Their latents `[token, n]`; any where the activation is 0.
    pub indices: Tensor<2, Int>,
}

impl Sae {
    /// The active latents of `x`.
    ///
    /// # Shapes
    /// - `x`: `[token, d_in]`
    pub fn encode(&self, x: Tensor<2>) -> Latents {
        let centred = x - self.b_dec.clone().unsqueeze();
        self.activation.encode(centred, &self.w_enc, &self.b_enc)
    }

    /// The reconstruction `[token, d_in]`.
    pub fn decode(&self, latents: &Latents) -> Tensor<2> {
        let written = sparse_decode(latents.values.clone(), latents.indices.clone(), self.w_dec.clone());
        written + self.b_dec.clone().unsqueeze()
    }

    /// Encodes and decodes: `[token, d_in]` to `[token, d_in]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.decode(&self.encode(x))
    }

    /// The direction `[d_in]` that a latent writes.
    ///
    /// # Panics
    /// When there is no such latent.
    pub fn decoder_row(&self, latent: usize) -> Tensor<1> {
        let [d_sae, d_in] = self.w_dec.dims();
        assert!(latent < d_sae, "decoder_row: latent {latent}, but there are {d_sae}");
        self.w_dec.clone().slice([latent..latent + 1, 0..d_in]).reshape([d_in])
    }

    /// Width of the activation that it reads.
    pub fn d_in(&self) -> usize {
        self.w_dec.dims()[1]
    }

    /// Number of latents.
    pub fn d_sae(&self) -> usize {
        self.w_dec.dims()[0]
    }

    /// The hook point that its metadata names, where this project knows it.
    pub fn at(&self) -> Option<HookPoint> {
        // An SAE of one head reads a part of what is there.
        let head = self.metadata.other.get("hook_head_index");
        if head.is_some_and(|head| !head.is_null()) {
            return None;
        }
        self.metadata.hook_name.as_ref()?.parse().ok()
    }

    /// Where its weights are.
    pub fn device(&self) -> Device {
        self.w_dec.device()
    }
}

impl Latents {
    /// One latent's activation on every token, `[token]`: 0 where it is not active.
    pub fn dense_column(&self, latent: usize) -> Tensor<1> {
        let [tokens, n] = self.values.dims();
        let device = self.values.device().inner();
        let wanted: Tensor<2, Int> = ids(&[latent as u32], &device)
            .unsqueeze::<2>()
            .repeat_dim(0, tokens)
            .repeat_dim(1, n);
        let other = self.indices.clone().not_equal(wanted);
        self.values.clone().mask_fill(other, 0.0).sum_dim(1).reshape([tokens])
    }

    /// Activations and latents on the host, both row-major `[token, n]`.
    pub fn to_vecs(&self) -> (Vec<f32>, Vec<u32>) {
        let values = self.values.to_data().iter::<f32>().collect();
        let indices = self
            .indices
            .to_data()
            .iter::<i64>()
            .map(|latent| latent as u32)
            .collect();
        (values, indices)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;
    use realign_run::Seed;

    use super::*;
    use crate::SaeConfig;

    fn input(rows: usize, d: usize) -> Tensor<2> {
        let x: Vec<f32> = (0..rows * d).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
        Tensor::from_data(TensorData::new(x, [rows, d]), &Device::flex())
    }

    fn sae() -> Sae {
        let mut sae = SaeConfig::new(6, 10, 3).init(&Seed::new(3), &Device::flex());
        sae.b_dec = Tensor::from_floats([0.5, -0.25, 0.0, 0.1, 1.0, -1.0], &Device::flex());
        sae
    }

    #[test]
    fn sparse_and_dense_arithmetic_agree() {
        let (sae, x) = (sae(), input(4, 6));
        let latents = sae.encode(x.clone());
        let (values, indices) = latents.to_vecs();
        let pre = (x - sae.b_dec.clone().unsqueeze()).matmul(sae.w_enc.clone().transpose());
        let pre = pre.into_data().try_into_vec::<f32>().unwrap();
        let w_dec = sae.w_dec.clone().into_data().try_into_vec::<f32>().unwrap();
        let b_dec = sae.b_dec.clone().into_data().try_into_vec::<f32>().unwrap();
        let y = sae.decode(&latents).into_data().try_into_vec::<f32>().unwrap();
        for t in 0..4 {
            let mut order: Vec<usize> = (0..10).collect();
            order.sort_by(|&a, &b| pre[t * 10 + b].total_cmp(&pre[t * 10 + a]));
            let mut dense = b_dec.clone();
            for j in 0..3 {
                let latent = order[j];
                assert_eq!(indices[t * 3 + j] as usize, latent);
                let z = pre[t * 10 + latent].max(0.0);
                assert!((values[t * 3 + j] - z).abs() < 1e-5);
                (0..6).for_each(|d| dense[d] += z * w_dec[latent * 6 + d]);
            }
            (0..6).for_each(|d| assert!((dense[d] - y[t * 6 + d]).abs() < 1e-5));
        }
    }

    #[test]
    fn a_dense_column_holds_what_the_sparse_form_holds() {
        let latents = sae().encode(input(5, 6));
        let (values, indices) = latents.to_vecs();
        for latent in 0..10 {
            let column = latents.dense_column(latent).into_data().try_into_vec::<f32>().unwrap();
            for (t, found) in column.into_iter().enumerate() {
                let wanted = (t * 3..t * 3 + 3)
                    .find(|&j| indices[j] as usize == latent)
                    .map_or(0.0, |j| values[j]);
                assert_eq!(found, wanted);
            }
        }
    }

    #[test]
    fn a_decoder_row_is_what_one_active_latent_adds() {
        let sae = sae();
        let one = Latents {
            values: Tensor::ones([1, 1], &Device::flex()),
            indices: ids(&[4], &Device::flex()).unsqueeze(),
        };
        let written = (sae.decode(&one) - sae.b_dec.clone().unsqueeze()).reshape([6]);
        let gap = (written - sae.decoder_row(4)).abs().max().into_scalar::<f32>();
        assert!(gap < 1e-6, "{gap}");
    }
}
