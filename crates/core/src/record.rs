//! Keeping activations.

use std::collections::BTreeMap;

use burn::tensor::Tensor;

use crate::{Batch, Hook, HookPoint};

/// Keeps the activations at chosen points, as they are after the hooks before it in the composition.
#[derive(Clone, Debug, Default)]
pub struct Record {
    points: Vec<HookPoint>,
    streams: BTreeMap<HookPoint, Tensor<2>>,
    heads: BTreeMap<HookPoint, Tensor<3>>,
}

impl Record {
    /// Keeps the activations at these points.
    pub fn new(points: impl IntoIterator<Item = HookPoint>) -> Self {
        Self {
            points: points.into_iter().collect(),
            ..Self::default()
        }
    }

    /// The activation `[token, d]` of the last pass at `at`; none if the pass did not reach it.
    pub fn get(&self, at: HookPoint) -> Option<&Tensor<2>> {
        self.streams.get(&at)
    }

    /// The per-head activation `[token, head, d_head]` of the last pass at `at`.
    pub fn get_heads(&self, at: HookPoint) -> Option<&Tensor<3>> {
        self.heads.get(&at)
    }

    /// Takes the activation `[token, d]` out.
    pub fn take(&mut self, at: HookPoint) -> Option<Tensor<2>> {
        self.streams.remove(&at)
    }
}

impl Hook for Record {
    fn wants(&self, at: HookPoint) -> bool {
        self.points.contains(&at)
    }
    fn stream(&mut self, at: HookPoint, x: Tensor<2>, _batch: &Batch) -> Tensor<2> {
        self.streams.insert(at, x.clone());
        x
    }
    fn heads(&mut self, at: HookPoint, x: Tensor<3>, _batch: &Batch) -> Tensor<3> {
        self.heads.insert(at, x.clone());
        x
    }
    fn linear(&mut self, at: HookPoint, x: &Tensor<2>, y: Tensor<2>, _batch: &Batch) -> Tensor<2> {
        self.streams.insert(at, x.clone());
        y
    }
}
