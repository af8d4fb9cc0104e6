//! Copying activations from another run.

use burn::tensor::Tensor;
use realign_core::{Batch, Hook, HookPoint, ids};

/// Replaces the stream at chosen tokens by activations of another run (activation patching, Vig et al. 2020).
#[derive(Clone, Debug)]
pub struct Patch {
    at: HookPoint,
    source: Tensor<2>,
    tokens: Vec<usize>,
}

impl Patch {
    /// Row `i` of `source` `[tokens.len(), d]` takes the place of token `tokens[i]` of the batch.
    ///
    /// # Panics
    /// Where there is not one row for each token, or a token stands twice.
    pub fn new(at: HookPoint, source: Tensor<2>, tokens: Vec<usize>) -> Self {
        assert_eq!(
            source.dims()[0],
            tokens.len(),
            "Patch: {:?} for {} tokens",
            source.dims(),
            tokens.len()
        );
        let mut sorted = tokens.clone();
        sorted.sort_unstable();
        assert!(
            sorted.windows(2).all(|pair| pair[0] != pair[1]),
            "Patch: a token stands twice in {tokens:?}"
        );
        Self { at, source, tokens }
    }
}

impl Hook for Patch {
    fn wants(&self, at: HookPoint) -> bool {
        at == self.at
    }
    fn stream(&mut self, at: HookPoint, x: Tensor<2>, _batch: &Batch) -> Tensor<2> {
        let ([n, d], source) = (x.dims(), self.source.dims());
        assert_eq!(d, source[1], "Patch: {at} is [{n}, {d}], the source is {source:?}");
        // Rows of the source lie after the batch's own; each token picks one.
        let mut picked: Vec<u32> = (0..n as u32).collect();
        for (row, &token) in self.tokens.iter().enumerate() {
            assert!(token < n, "Patch: token {token}, but {at} is [{n}, {d}]");
            picked[token] = (n + row) as u32;
        }
        let device = x.device().inner();
        Tensor::cat(vec![x, self.source.clone()], 0).select(0, ids(&picked, &device))
    }
}
