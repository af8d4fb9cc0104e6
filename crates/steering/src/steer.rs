//! Adding a direction.

use burn::tensor::{Tensor, TensorData};
use realign_core::{Batch, Hook, HookPoint};

use crate::Direction;

/// The tokens at which an intervention acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tokens {
    /// All of them.
    All,
    /// Those at this position of their sequence and after it.
    From(usize),
}

/// Adds `strength · vector` to the stream at the direction's hook point (activation addition, Turner et al. 2023).
///
/// Strength 0 is bit-identical to no hook.
#[derive(Clone, Debug)]
pub struct Steer {
    /// What is added, and where.
    pub direction: Direction,
    /// How often.
    pub strength: f64,
    /// At which tokens.
    pub tokens: Tokens,
}

/// Steers along several directions in turn, such as one a layer.
#[derive(Clone, Debug, Default)]
pub struct SteerEach(pub Vec<Steer>);

impl Tokens {
    /// 1 where the intervention acts and 0 elsewhere, `[token, 1]`; none where it acts everywhere.
    fn mask(self, batch: &Batch, like: &Tensor<2>) -> Option<Tensor<2>> {
        let Self::From(position) = self else { return None };
        let mask: Vec<f32> = batch
            .positions()
            .iter()
            .map(|&p| if p >= position { 1.0 } else { 0.0 })
            .collect();
        let n = mask.len();
        Some(Tensor::from_data(TensorData::new(mask, [n, 1]), &like.device().inner()))
    }
}

impl Steer {
    /// Adds the direction at all tokens.
    pub fn new(direction: Direction, strength: f64) -> Self {
        Self {
            direction,
            strength,
            tokens: Tokens::All,
        }
    }

    /// At these tokens only.
    pub fn on(mut self, tokens: Tokens) -> Self {
        self.tokens = tokens;
        self
    }
}

impl Hook for Steer {
    fn wants(&self, at: HookPoint) -> bool {
        at == self.direction.at && self.strength != 0.0
    }
    fn stream(&mut self, at: HookPoint, x: Tensor<2>, batch: &Batch) -> Tensor<2> {
        assert_eq!(
            x.dims()[1],
            self.direction.width(),
            "Steer: {at} is {:?}, the direction is [{}]",
            x.dims(),
            self.direction.width()
        );
        let added: Tensor<2> = self
            .direction
            .vector
            .clone()
            .mul_scalar(self.strength as f32)
            .unsqueeze();
        match self.tokens.mask(batch, &x) {
            None => x + added,
            Some(mask) => x + mask * added,
        }
    }
}

impl Hook for SteerEach {
    fn wants(&self, at: HookPoint) -> bool {
        self.0.iter().any(|steer| steer.wants(at))
    }
    fn stream(&mut self, at: HookPoint, x: Tensor<2>, batch: &Batch) -> Tensor<2> {
        self.0
            .iter_mut()
            .filter(|steer| steer.wants(at))
            .fold(x, |x, steer| steer.stream(at, x, batch))
    }
}
