//! Activation patching: what one activation of one run does in another.

use burn::tensor::Tensor;
use realign_core::{Batch, Hook, HookPoint, LanguageModel, rows};
use serde::{Deserialize, Serialize};

use crate::diff::{record, recorded};
use crate::{Error, Result};

/// The effect of one patch on `log p(answer) - log p(other)` at the last token, in nats.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Patched {
    /// In the run that activations are taken from.
    pub clean: f64,
    /// In the run that they are put into.
    pub corrupted: f64,
    /// In that run with the activations put in.
    pub patched: f64,
}

impl Patched {
    /// `(patched - corrupted) / (clean - corrupted)`: 1 restores the clean run, 0 does nothing.
    pub fn restored(&self) -> f64 {
        (self.patched - self.corrupted) / (self.clean - self.corrupted)
    }
}

/// Runs `corrupted` with the activation at `at` and `token` taken from `clean` (Meng et al. 2022).
///
/// Both prompts have the same length; `answer` is what the clean one asks for, `other` what the corrupted one does.
///
/// # Errors
/// [`Error::Unequal`] for prompts of different lengths, [`Error::Token`], [`Error::Unreached`].
pub fn patch(
    model: &dyn LanguageModel,
    [clean, corrupted]: [&[u32]; 2],
    at: HookPoint,
    token: usize,
    [answer, other]: [u32; 2],
) -> Result<Patched> {
    let (first, second) = (clean.len(), corrupted.len());
    if first != second {
        return Err(Error::Unequal {
            what: "the prompt's length",
            first,
            second,
        });
    }
    if token >= first {
        return Err(Error::Token {
            what: "the patch",
            token,
            len: first,
        });
    }
    let (clean, corrupted) = (Batch::packed([clean]), Batch::packed([corrupted]));
    let source = recorded(&record(model, &mut (), &[at], &clean)?, at)?;
    let margin = |batch: &Batch, hook: &mut dyn Hook| {
        let last = rows(model.forward(batch, hook), &[first - 1, first - 1]);
        let nll: Vec<f32> = model.nll(last, &[answer, other]).into_data().iter::<f32>().collect();
        f64::from(nll[1]) - f64::from(nll[0])
    };
    Ok(Patched {
        clean: margin(&clean, &mut ()),
        corrupted: margin(&corrupted, &mut ()),
        patched: margin(&corrupted, &mut Put { at, token, source }),
    })
}

/// Puts one token's activation in its place.
struct Put {
    at: HookPoint,
    token: usize,
    source: Tensor<2>,
}

impl Hook for Put {
    fn wants(&self, at: HookPoint) -> bool {
        at == self.at
    }
    fn stream(&mut self, _at: HookPoint, x: Tensor<2>, _batch: &Batch) -> Tensor<2> {
        let d = x.dims()[1];
        let place = [self.token..self.token + 1, 0..d];
        x.slice_assign(place.clone(), self.source.clone().slice(place))
    }
    fn heads(&mut self, at: HookPoint, x: Tensor<3>, batch: &Batch) -> Tensor<3> {
        let [tokens, heads, d] = x.dims();
        self.stream(at, x.reshape([tokens, heads * d]), batch)
            .reshape([tokens, heads, d])
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use realign_model::{Llama, LlamaConfig};

    use super::*;

    const CLEAN: [u32; 4] = [3, 1, 4, 1];
    const CORRUPTED: [u32; 4] = [3, 2, 4, 1];

    fn patched(at: HookPoint, token: usize) -> Patched {
        let model = Llama::random(&LlamaConfig::tiny(), 5, &Device::flex());
        patch(&model, [&CLEAN, &CORRUPTED], at, token, [7, 9]).unwrap()
    }

    #[test]
    fn patching_all_that_differs_restores_the_clean_run() {
        let whole = patched(HookPoint::ResidPre(0), 1);
        assert!(
            whole.clean != whole.corrupted && (whole.restored() - 1.0).abs() < 1e-4,
            "{whole:?}"
        );
        let last = patched(HookPoint::ResidPost(2), 3);
        assert!((last.restored() - 1.0).abs() < 1e-4, "{last:?}");
    }

    #[test]
    fn patching_what_is_equal_or_comes_too_late_does_nothing() {
        // Token 0 comes before the difference; at the last layer only the last token is read.
        for (at, token) in [(HookPoint::ResidPost(1), 0), (HookPoint::ResidPost(2), 1)] {
            let nothing = patched(at, token);
            assert_eq!(nothing.patched, nothing.corrupted);
        }
    }

    #[test]
    fn prompts_of_different_lengths_are_refused() {
        let model = Llama::random(&LlamaConfig::tiny(), 5, &Device::flex());
        let error = patch(&model, [&CLEAN, &CORRUPTED[..3]], HookPoint::Embed, 0, [7, 9]).unwrap_err();
        assert!(error.to_string().contains("length is 4 in one and 3"), "{error}");
    }
}
