//! Weight-decomposed adapters.

use burn::tensor::Tensor;

/// The magnitudes of an adapted map's outputs (DoRA, Liu et al. 2024): `W' = m (W + s A B) / ‖W + s A B‖`, column by column.
#[derive(Clone, Debug)]
pub struct Dora {
    /// `m`, `[1, d_out]`.
    pub magnitude: Tensor<2>,
    /// What a hook needs of the base model; see [`Lora::attach`](crate::Lora::attach).
    pub(crate) attached: Option<Attached>,
}

/// The base weight, and what the adapted columns are multiplied by.
#[derive(Clone, Debug)]
pub(crate) struct Attached {
    weight: Tensor<2>,
    factor: Tensor<2>,
}

impl Dora {
    /// Magnitudes `[1, d_out]`, not attached to a model.
    pub fn new(magnitude: Tensor<2>) -> Self {
        Self {
            magnitude,
            attached: None,
        }
    }

    /// `m / ‖W + Δ‖` for each column of `W + Δ`, `[1, d_out]`.
    fn factor(&self, sum: &Tensor<2>) -> Tensor<2> {
        self.magnitude.clone() / (sum.clone() * sum.clone()).sum_dim(0).sqrt()
    }

    /// The weight `W'`, from `W + Δ`.
    pub(crate) fn merged(&self, sum: Tensor<2>) -> Tensor<2> {
        let factor = self.factor(&sum);
        sum * factor
    }

    /// The same magnitudes, ready for a hook on a model with this weight.
    pub(crate) fn attach(&self, weight: Tensor<2>, delta: Tensor<2>) -> Self {
        let factor = self.factor(&(weight.clone() + delta));
        Self {
            magnitude: self.magnitude.clone(),
            attached: Some(Attached { weight, factor }),
        }
    }

    /// The map's output, `y` without the adapter: `y - x W + f (x W + s (x A) B)`; `add_to` adds what A and B make of `x`.
    ///
    /// # Panics
    /// Where it is not attached to a model.
    pub(crate) fn output(&self, x: Tensor<2>, y: Tensor<2>, add_to: impl FnOnce(Tensor<2>) -> Tensor<2>) -> Tensor<2> {
        let Some(Attached { weight, factor }) = &self.attached else {
            panic!(
                "an adapter with magnitudes (DoRA) needs the base weights as a hook: call Lora::attach, or merge it"
            );
        };
        let plain = realign_tensor::product(x, weight.clone());
        y - plain.clone() + add_to(plain) * factor.clone()
    }

    /// The base weight that it is attached to.
    pub(crate) fn weight(&self) -> Option<Tensor<2>> {
        self.attached.as_ref().map(|attached| attached.weight.clone())
    }
}
