//! Setting an SAE latent.

use burn::tensor::Tensor;
use realign_core::{Batch, Hook, HookPoint};
use realign_sae::Sae;

/// Sets a latent's activation: adds `(value − activation) · decoder row` to the stream.
///
/// The part that the SAE does not reconstruct, and all other latents, stay as they are.
#[derive(Clone, Debug)]
pub struct Clamp {
    sae: Sae,
    at: HookPoint,
    latent: usize,
    value: f64,
}

impl Clamp {
    /// Sets `latent` of `sae`, which reads the stream at `at`, to `value` on every token.
    ///
    /// # Panics
    /// Where there is no such latent.
    pub fn new(sae: &Sae, at: HookPoint, latent: usize, value: f64) -> Self {
        let d_sae = sae.d_sae();
        assert!(latent < d_sae, "Clamp: latent {latent}, but there are {d_sae}");
        Self {
            sae: sae.clone(),
            at,
            latent,
            value,
        }
    }
}

impl Hook for Clamp {
    fn wants(&self, at: HookPoint) -> bool {
        at == self.at
    }
    fn stream(&mut self, at: HookPoint, x: Tensor<2>, _batch: &Batch) -> Tensor<2> {
        let d_in = self.sae.d_in();
        assert_eq!(
            x.dims()[1],
            d_in,
            "Clamp: {at} is {:?}, the SAE reads [token, {d_in}]",
            x.dims()
        );
        let activation: Tensor<2> = self.sae.encode(x.clone()).dense_column(self.latent).unsqueeze_dim(1);
        let change = activation.neg().add_scalar(self.value as f32);
        x + change * self.sae.decoder_row(self.latent).unsqueeze::<2>()
    }
}
