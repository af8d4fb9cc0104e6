//! An SAE in the place of the activation that it reconstructs.

use std::fmt;

use burn::tensor::Tensor;
use realign_core::{Batch, Hook, HookPoint, rows};

use crate::{Sae, TemporalSae};

/// What becomes of the part of the activation that the SAE does not reconstruct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpliceError {
    /// It is added back: the activation, and with it the logits, stay what they were up to rounding.
    Keep,
    /// It is dropped: the model goes on with the reconstruction alone.
    Drop,
}

/// Replaces the activation at one hook point by an SAE's reconstruction.
#[derive(Clone)]
pub struct Splice<'a> {
    coder: Coder<'a>,
    at: HookPoint,
    error: SpliceError,
    tokens: Option<fn(&Batch) -> Vec<usize>>,
}

#[derive(Clone, Copy)]
enum Coder<'a> {
    Sae(&'a Sae),
    Temporal(&'a TemporalSae),
}

impl<'a> Splice<'a> {
    /// Splices `sae` in at `at`, on every token.
    ///
    /// # Panics
    /// At a linear map's input: a hook cannot replace that one.
    pub fn new(sae: &'a Sae, at: HookPoint, error: SpliceError) -> Self {
        Self::of(Coder::Sae(sae), at, error)
    }

    /// Splices a temporal SAE in at `at`, on every token.
    ///
    /// # Panics
    /// As [`Splice::new`], and in a pass that continues a cache: [`TemporalSae::encode`].
    pub fn temporal(sae: &'a TemporalSae, at: HookPoint, error: SpliceError) -> Self {
        Self::of(Coder::Temporal(sae), at, error)
    }

    fn of(coder: Coder<'a>, at: HookPoint, error: SpliceError) -> Self {
        assert!(
            !matches!(at, HookPoint::LinearIn { .. }),
            "Splice: a hook cannot replace the activation at {at}"
        );
        Self {
            coder,
            at,
            error,
            tokens: None,
        }
    }

    /// Only on these tokens of each batch, in ascending order; [`crate::all_but_first`] leaves out the ones that
    /// training left out.
    pub fn on(mut self, tokens: fn(&Batch) -> Vec<usize>) -> Self {
        self.tokens = Some(tokens);
        self
    }

    fn apply(&self, x: Tensor<2>, batch: &Batch) -> Tensor<2> {
        let replaced = match self.coder {
            Coder::Sae(sae) => sae.forward(x.clone()),
            Coder::Temporal(sae) => sae.forward(x.clone(), batch),
        };
        let replaced = match self.error {
            SpliceError::Keep => {
                let error = x.clone() - replaced.clone();
                replaced + error
            }
            SpliceError::Drop => replaced,
        };
        match self.tokens {
            Some(tokens) => replace_rows(x, replaced, &tokens(batch)),
            None => replaced,
        }
    }
}

impl fmt::Debug for Splice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sae = match self.coder {
            Coder::Sae(sae) => sae.activation.name(),
            Coder::Temporal(_) => "temporal",
        };
        f.debug_struct("Splice")
            .field("sae", &sae)
            .field("at", &self.at)
            .field("error", &self.error)
            .finish()
    }
}

impl Hook for Splice<'_> {
    fn wants(&self, at: HookPoint) -> bool {
        at == self.at
    }
    fn stream(&mut self, _at: HookPoint, x: Tensor<2>, batch: &Batch) -> Tensor<2> {
        self.apply(x, batch)
    }
    fn heads(&mut self, _at: HookPoint, x: Tensor<3>, batch: &Batch) -> Tensor<3> {
        let [tokens, heads, d] = x.dims();
        self.apply(x.reshape([tokens, heads * d]), batch)
            .reshape([tokens, heads, d])
    }
}

/// `x` with `new`'s rows at `tokens`.
pub(crate) fn replace_rows(x: Tensor<2>, new: Tensor<2>, tokens: &[usize]) -> Tensor<2> {
    let n = x.dims()[0];
    // Rows 0..n are the old ones, n..2n the new ones.
    let mut source: Vec<usize> = (0..n).collect();
    for &token in tokens {
        assert!(token < n, "Splice: token {token}, but the batch has {n}");
        source[token] = n + token;
    }
    rows(Tensor::cat(vec![x, new], 0), &source)
}
