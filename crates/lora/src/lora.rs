//! Adapters as a hook.

use std::collections::BTreeMap;

use burn::tensor::{Tensor, TensorData};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use realign_core::{Batch, Hook, HookPoint, Site};
use realign_tensor::low_rank_linear;

use crate::LoraConfig;

/// The two factors of one adapted linear map.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// `A`, `[d_in, rank]`.
    pub a: Tensor<2>,
    /// `B`, `[rank, d_out]`.
    pub b: Tensor<2>,
}

/// Low-rank adapters: a hook that adds `scale · (x A) B` to linear maps (LoRA, Hu et al. 2021).
///
/// The base weights are not touched and never on the gradient tape. Cloning shares the tensors, and `&lora` is a hook
/// too.
#[derive(Clone, Debug)]
pub struct Lora {
    /// The configuration; `layers` and `sites` cover the adapters.
    pub config: LoraConfig,
    /// The adapter of each place.
    pub adapters: BTreeMap<(usize, Site), Adapter>,
}

/// Adapters under training: as [`Lora`], with dropout on their inputs.
pub(crate) struct Training<'a> {
    pub(crate) lora: &'a Lora,
    pub(crate) rng: ChaCha8Rng,
}

impl Lora {
    /// Number of trained numbers.
    pub fn n_parameters(&self) -> usize {
        self.adapters
            .values()
            .map(|adapter| adapter.a.dims().iter().product::<usize>() + adapter.b.dims().iter().product::<usize>())
            .sum()
    }

    fn adapter(&self, at: HookPoint) -> Option<&Adapter> {
        match at {
            HookPoint::LinearIn { layer, site } => self.adapters.get(&(layer, site)),
            _ => None,
        }
    }
}

impl Hook for &Lora {
    fn wants(&self, at: HookPoint) -> bool {
        self.adapter(at).is_some()
    }
    fn linear(&mut self, at: HookPoint, x: &Tensor<2>, _batch: &Batch) -> Option<Tensor<2>> {
        let Adapter { a, b } = self.adapter(at)?.clone();
        Some(low_rank_linear(x.clone(), a, b, self.config.scale()))
    }
}

impl Hook for Lora {
    fn wants(&self, at: HookPoint) -> bool {
        self.adapter(at).is_some()
    }
    fn linear(&mut self, at: HookPoint, x: &Tensor<2>, batch: &Batch) -> Option<Tensor<2>> {
        (&*self).linear(at, x, batch)
    }
}

impl Hook for Training<'_> {
    fn wants(&self, at: HookPoint) -> bool {
        self.lora.adapter(at).is_some()
    }
    fn linear(&mut self, at: HookPoint, x: &Tensor<2>, batch: &Batch) -> Option<Tensor<2>> {
        let p = self.lora.config.dropout;
        if p == 0.0 {
            return self.lora.linear(at, x, batch);
        }
        let kept = (1.0 / (1.0 - p)) as f32;
        let [token, d_in] = x.dims();
        let mask = (0..token * d_in)
            .map(|_| if self.rng.random::<f64>() < p { 0.0 } else { kept })
            .collect();
        let mask = Tensor::from_data(TensorData::new::<f32, _>(mask, [token, d_in]), &x.device().inner());
        self.lora.linear(at, &(x.clone() * mask), batch)
    }
}
