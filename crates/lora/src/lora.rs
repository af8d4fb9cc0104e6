//! Adapters as a hook.

use std::collections::BTreeMap;

use burn::tensor::{Tensor, TensorData};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use realign_core::{Batch, Hook, HookPoint, LanguageModel, Site, Weight};
use realign_tensor::low_rank_linear;

use crate::{Dora, LoraConfig};

/// The two factors of one adapted linear map.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// `A`, `[d_in, rank]`.
    pub a: Tensor<2>,
    /// `B`, `[rank, d_out]`.
    pub b: Tensor<2>,
    /// What the product `x A B` is multiplied by.
    pub scale: f64,
    /// Magnitudes, of a weight-decomposed adapter.
    pub dora: Option<Dora>,
}

impl Adapter {
    /// `scale · A B`, `[d_in, d_out]`.
    pub(crate) fn delta(&self) -> Tensor<2> {
        self.a.clone().matmul(self.b.clone()).mul_scalar(self.scale as f32)
    }
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
    /// Weights that take the place of the model's own (PEFT's `modules_to_save`), laid out as [`Weight`] says.
    pub saved: Vec<(Weight, Tensor<2>)>,
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
            .map(|adapter| {
                let magnitude = adapter.dora.as_ref().map_or(0, |dora| dora.magnitude.dims()[1]);
                adapter.a.dims().iter().product::<usize>() + adapter.b.dims().iter().product::<usize>() + magnitude
            })
            .sum::<usize>()
            + self
                .saved
                .iter()
                .map(|(_, w)| w.dims().iter().product::<usize>())
                .sum::<usize>()
    }

    /// The model with the saved weights in place, and the adapters as a hook for it.
    ///
    /// A hook can add to linear maps, and no more: adapters with magnitudes need the base weights, and saved weights a
    /// model that has them. Plain adapters need none of this.
    ///
    /// # Panics
    /// Where an adapter's or a saved weight's shape is not the model's.
    pub fn attach(&self, model: &dyn LanguageModel) -> (Box<dyn LanguageModel>, Self) {
        let model = model.edited(&mut |weight, w| self.saved(weight, &w).unwrap_or(w));
        let adapters = self.adapters.iter().map(|(&(layer, site), adapter)| {
            let dora = adapter.dora.as_ref();
            let dora = dora.map(|dora| dora.attach(model.linear_weight(layer, site), adapter.delta()));
            (
                (layer, site),
                Adapter {
                    dora,
                    ..adapter.clone()
                },
            )
        });
        let attached = Self {
            config: self.config.clone(),
            adapters: adapters.collect(),
            saved: Vec::new(),
        };
        (model, attached)
    }

    /// The weight that takes the place of `w`, if one does.
    pub(crate) fn saved(&self, weight: Weight, w: &Tensor<2>) -> Option<Tensor<2>> {
        let (_, saved) = self.saved.iter().find(|(at, _)| *at == weight)?;
        assert_eq!(saved.dims(), w.dims(), "the saved {weight:?} does not fit the model");
        Some(saved.clone())
    }

    fn adapter(&self, at: HookPoint) -> Option<&Adapter> {
        assert!(
            self.saved.is_empty(),
            "an adapter with saved weights is no hook by itself: call Lora::attach, or merge it"
        );
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
    fn linear(&mut self, at: HookPoint, x: &Tensor<2>, y: Tensor<2>, _batch: &Batch) -> Tensor<2> {
        let Some(adapter) = self.adapter(at) else { return y };
        let add_to = |y| low_rank_linear(y, x.clone(), adapter.a.clone(), adapter.b.clone(), adapter.scale);
        match &adapter.dora {
            Some(dora) => dora.output(x.clone(), y, add_to),
            None => add_to(y),
        }
    }
}

impl Hook for Lora {
    fn wants(&self, at: HookPoint) -> bool {
        self.adapter(at).is_some()
    }
    fn linear(&mut self, at: HookPoint, x: &Tensor<2>, y: Tensor<2>, batch: &Batch) -> Tensor<2> {
        (&*self).linear(at, x, y, batch)
    }
}

impl Hook for Training<'_> {
    fn wants(&self, at: HookPoint) -> bool {
        self.lora.adapter(at).is_some()
    }
    fn linear(&mut self, at: HookPoint, x: &Tensor<2>, y: Tensor<2>, batch: &Batch) -> Tensor<2> {
        let p = self.lora.config.dropout;
        if p == 0.0 {
            return self.lora.linear(at, x, y, batch);
        }
        let kept = (1.0 / (1.0 - p)) as f32;
        let [token, d_in] = x.dims();
        let mask = (0..token * d_in)
            .map(|_| if self.rng.random::<f64>() < p { 0.0 } else { kept })
            .collect();
        let mask = Tensor::from_data(TensorData::new::<f32, _>(mask, [token, d_in]), &x.device().inner());
        self.lora.linear(at, &(x.clone() * mask), y, batch)
    }
}
