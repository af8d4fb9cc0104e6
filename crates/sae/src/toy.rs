//! Synthetic sparse data whose true directions are known.

use burn::tensor::{Device, Tensor, TensorData};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use realign_run::Seed;

use crate::{ActivationSource, SaeConfig};

/// Sums of `active` of `n` random unit directions with random strengths, at some distance from the origin.
pub(crate) struct Toy {
    directions: Vec<f32>,
    d: usize,
    active: usize,
    batch_tokens: usize,
    rng: ChaCha8Rng,
}

impl Toy {
    pub fn new(d: usize, n: usize, active: usize, batch_tokens: usize) -> Self {
        let directions = SaeConfig::new(d, n, 1).init(&Seed::new(99), &Device::flex()).w_dec;
        let directions = directions.into_data().try_into_vec().unwrap();
        Self {
            directions,
            d,
            active,
            batch_tokens,
            rng: Seed::new(5).stream("toy"),
        }
    }

    fn draw(&mut self) -> Vec<f32> {
        let (d, n) = (self.d, self.directions.len() / self.d);
        let mut x = vec![4.0; self.batch_tokens * d];
        for row in x.chunks_mut(d) {
            for _ in 0..self.active {
                let (which, strength) = (self.rng.random_range(0..n), 1.0 + 2.0 * self.rng.random::<f32>());
                row.iter_mut()
                    .zip(&self.directions[which * d..])
                    .for_each(|(x, w)| *x += strength * w);
            }
        }
        x
    }
}

impl ActivationSource for Toy {
    fn next_batch(&mut self) -> Option<Tensor<2>> {
        let x = self.draw();
        Some(Tensor::from_data(
            TensorData::new(x, [self.batch_tokens, self.d]),
            &Device::flex(),
        ))
    }

    fn skip(&mut self, batches: usize) {
        (0..batches).for_each(|_| drop(self.draw()));
    }
}
