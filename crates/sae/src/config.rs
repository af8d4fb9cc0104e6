//! The sizes of a sparse autoencoder, and its beginning.

use burn::tensor::{Device, Tensor, TensorData};
use rand::RngExt;
use realign_run::Seed;
use serde::{Deserialize, Serialize};

use crate::{Activation, Error, Metadata, Result, Sae};

/// The sizes of a TopK or BatchTopK sparse autoencoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaeConfig {
    /// Width of the activation that it reads.
    pub d_in: usize,
    /// Number of latents.
    pub d_sae: usize,
    /// Latents that are active on a token; with `batch`, in the mean over a batch.
    pub k: usize,
    /// Whether the largest of the whole batch are active instead of each token's: BatchTopK (Bussmann et al. 2024).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub batch: bool,
}

impl SaeConfig {
    /// A TopK SAE of these sizes.
    pub fn new(d_in: usize, d_sae: usize, k: usize) -> Self {
        Self {
            d_in,
            d_sae,
            k,
            batch: false,
        }
    }

    /// A BatchTopK SAE of these sizes.
    pub fn batch_top_k(d_in: usize, d_sae: usize, k: usize) -> Self {
        Self {
            batch: true,
            ..Self::new(d_in, d_sae, k)
        }
    }

    /// # Errors
    /// [`Error::Config`] for sizes that make no SAE.
    pub fn check(&self) -> Result<()> {
        let Self { d_in, d_sae, k, .. } = *self;
        let fits = |numbers| numbers <= isize::MAX as usize / size_of::<f32>();
        if d_in == 0 || d_sae == 0 || k == 0 || k > d_sae || !d_sae.checked_mul(d_in).is_some_and(fits) {
            return Err(Error::Config { d_in, d_sae, k });
        }
        Ok(())
    }

    /// What a token's code is after training.
    pub(crate) fn activation(&self, threshold: f32) -> Activation {
        if self.batch {
            Activation::BatchTopK { threshold }
        } else {
            Activation::TopK { k: self.k }
        }
    }

    /// An untrained SAE as in Gao et al. 2024: random unit decoder rows, the encoder their transpose, biases 0. BatchTopK's
    /// threshold comes with training and is 0 until then.
    ///
    /// # Panics
    /// For sizes that [`SaeConfig::check`] refuses.
    pub fn init(&self, seed: &Seed, device: &Device) -> Sae {
        assert!(
            self.check().is_ok(),
            "{self:?}: sizes must be at least 1, and k at most d_sae"
        );
        let Self { d_in, d_sae, .. } = *self;
        let mut rng = seed.stream("sae.init");
        let mut rows = vec![0f32; d_sae * d_in];
        for row in rows.chunks_exact_mut(d_in) {
            // Normal components make the direction uniform on the sphere.
            for pair in row.chunks_mut(2) {
                let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
                let (sin, cos) = (std::f64::consts::TAU * rng.random::<f64>()).sin_cos();
                for (x, part) in pair.iter_mut().zip([cos, sin]) {
                    *x = (radius * part) as f32;
                }
            }
            let norm = row
                .iter()
                .map(|x| f64::from(*x).powi(2))
                .sum::<f64>()
                .sqrt()
                .max(f64::MIN_POSITIVE);
            row.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
        }
        let w_dec = Tensor::<2>::from_data(TensorData::new(rows, [d_sae, d_in]), device);
        Sae {
            activation: self.activation(0.0),
            w_enc: w_dec.clone(),
            b_enc: Tensor::zeros([d_sae], device),
            w_dec,
            b_dec: Tensor::zeros([d_in], device),
            metadata: Metadata::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoder_rows_begin_random_with_norm_one() {
        let device = Device::flex();
        let config = SaeConfig::new(7, 5, 2);
        let sae = config.init(&Seed::new(1), &device);
        let norms = (sae.w_dec.clone() * sae.w_dec.clone())
            .sum_dim(1)
            .into_data()
            .try_into_vec::<f32>()
            .unwrap();
        assert!(norms.iter().all(|n| (n - 1.0).abs() < 1e-6), "{norms:?}");
        let rows = sae.w_dec.into_data();
        assert_eq!(rows, config.init(&Seed::new(1), &device).w_enc.into_data());
        assert_ne!(rows, config.init(&Seed::new(2), &device).w_enc.into_data());
    }

    #[test]
    fn sizes_that_make_no_sae_are_refused() {
        for (d_in, d_sae, k) in [
            (0, 4, 1),
            (4, 0, 0),
            (4, 4, 0),
            (4, 4, 5),
            (usize::MAX, 2, 1),
            (1 << 31, 1 << 31, 1),
        ] {
            assert!(SaeConfig::new(d_in, d_sae, k).check().is_err(), "{d_in} {d_sae} {k}");
        }
    }
}
