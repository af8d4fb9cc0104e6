//! Projecting a direction out.

use burn::tensor::Tensor;
use realign_core::{Batch, Hook, HookPoint};

use crate::Direction;

/// Projects a direction out of the stream: `x − ((x − mean) · u) u`, with `u` of length 1 (Arditi et al. 2024).
///
/// Without a mean the component becomes 0; with one it becomes the mean's, which leaves the rest of the model closer
/// to what it knows (affine concept editing, Marshall et al. 2024).
#[derive(Clone, Debug)]
pub struct Ablate {
    unit: Direction,
    points: Vec<HookPoint>,
    mean: Option<Tensor<1>>,
}

impl Ablate {
    /// Projects the direction out at its own hook point.
    pub fn new(direction: &Direction) -> Self {
        Self {
            points: vec![direction.at],
            unit: direction.unit(),
            mean: None,
        }
    }

    /// At these hook points instead.
    pub fn at(mut self, points: impl IntoIterator<Item = HookPoint>) -> Self {
        self.points = points.into_iter().collect();
        self
    }

    /// Towards the component of this mean activation `[d]` instead of 0.
    ///
    /// # Panics
    /// Where its width is not the direction's.
    pub fn towards(mut self, mean: Tensor<1>) -> Self {
        let width = self.unit.width();
        assert_eq!(
            mean.dims(),
            [width],
            "Ablate: the mean is {:?}, the direction is [{width}]",
            mean.dims()
        );
        self.mean = Some(mean);
        self
    }
}

impl Hook for Ablate {
    fn wants(&self, at: HookPoint) -> bool {
        self.points.contains(&at)
    }
    fn stream(&mut self, at: HookPoint, x: Tensor<2>, _batch: &Batch) -> Tensor<2> {
        let width = self.unit.width();
        assert_eq!(
            x.dims()[1],
            width,
            "Ablate: {at} is {:?}, the direction is [{width}]",
            x.dims()
        );
        let unit: Tensor<2> = self.unit.vector.clone().unsqueeze();
        let centred = match &self.mean {
            Some(mean) => x.clone() - mean.clone().unsqueeze(),
            None => x.clone(),
        };
        let component = centred.matmul(unit.clone().transpose());
        x - component * unit
    }
}
