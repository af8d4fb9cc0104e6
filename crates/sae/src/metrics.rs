//! How well an SAE stands for the activation.

use burn::tensor::Tensor;
use realign_core::{Batch, Hook, HookPoint, LanguageModel, rows};
use serde::{Deserialize, Serialize};

use crate::splice::replace_rows;
use crate::{Error, Result, Sae, Splice, SpliceError, activation, all_but_first};

/// Reconstruction and sparsity over a set of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Fraction of variance unexplained: `Σ‖x - x̂‖² / Σ‖x - mean‖²`.
    pub fvu: f64,
    /// Mean number of active latents on a token.
    pub l0: f64,
    /// Share of the latents that were active on no token.
    pub dead_fraction: f64,
    /// Tokens looked at.
    pub tokens: usize,
}

impl Metrics {
    /// Over batches of activations `[token, d_in]`.
    ///
    /// # Errors
    /// [`Error::NoTokens`].
    pub fn measure(sae: &Sae, activations: impl IntoIterator<Item = Tensor<2>>) -> Result<Self> {
        let (mut error, mut square, mut sum) = (0.0, 0.0, vec![0f64; sae.d_in()]);
        let (mut active, mut tokens, mut seen) = (0, 0, vec![false; sae.d_sae()]);
        for x in activations {
            let latents = sae.encode(x.clone());
            error += sum_of_squares(x.clone() - sae.decode(&latents));
            // Measured from b_dec, which is near the mean: the difference below then loses no digits.
            let centred = x - sae.b_dec.clone().unsqueeze();
            tokens += centred.dims()[0];
            for (sum, x) in sum.iter_mut().zip(centred.clone().sum_dim(0).into_data().iter::<f32>()) {
                *sum += f64::from(x);
            }
            square += sum_of_squares(centred);
            let (values, indices) = latents.to_vecs();
            for (_, latent) in values.iter().zip(indices).filter(|(value, _)| **value != 0.0) {
                active += 1;
                seen[latent as usize] = true;
            }
        }
        if tokens == 0 {
            return Err(Error::NoTokens("measure the SAE on"));
        }
        let n = tokens as f64;
        let variance = square - sum.iter().map(|s| s * s).sum::<f64>() / n;
        Ok(Self {
            fvu: error / variance,
            l0: f64::from(active) / n,
            dead_fraction: seen.iter().filter(|seen| !**seen).count() as f64 / seen.len() as f64,
            tokens,
        })
    }

    /// Over a model's activations at `at`: every token but the first of each sequence.
    ///
    /// # Errors
    /// [`Error::NoTokens`].
    pub fn on_model(sae: &Sae, model: &dyn LanguageModel, at: HookPoint, batches: &[Batch]) -> Result<Self> {
        let kept = batches
            .iter()
            .map(|batch| (batch, all_but_first(batch)))
            .filter(|(_, kept)| !kept.is_empty());
        Self::measure(sae, kept.map(|(batch, kept)| rows(activation(model, at, batch), &kept)))
    }
}

/// What a model loses when it goes on with the reconstruction: mean next-token losses in nats.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossRecovered {
    /// Of the model as it is.
    pub clean: f64,
    /// With the reconstruction in the activation's place.
    pub spliced: f64,
    /// With zeros in the activation's place.
    pub ablated: f64,
    /// `(ablated - spliced) / (ablated - clean)`: 1 is perfect, 0 no better than zeros.
    pub recovered: f64,
}

/// Measures [`LossRecovered`] at `at`, with every token but the first of each sequence replaced.
///
/// # Errors
/// [`Error::NoTokens`] when no token has a next one.
pub fn loss_recovered(model: &dyn LanguageModel, sae: &Sae, at: HookPoint, batches: &[Batch]) -> Result<LossRecovered> {
    let mut sums = [0f64; 3];
    let mut tokens = 0;
    for batch in batches {
        let (from, targets) = next_tokens(batch);
        if from.is_empty() {
            continue;
        }
        tokens += from.len();
        let mut splice = Splice::new(sae, at, SpliceError::Drop).on(all_but_first);
        let hooks: [&mut dyn Hook; 3] = [&mut (), &mut splice, &mut Zero(at)];
        for (sum, hook) in sums.iter_mut().zip(hooks) {
            let hidden = rows(model.forward(batch, hook), &from);
            *sum += model.nll(hidden, &targets).into_data().iter::<f64>().sum::<f64>();
        }
    }
    if tokens == 0 {
        return Err(Error::NoTokens("measure the loss on"));
    }
    let [clean, spliced, ablated] = sums.map(|sum| sum / tokens as f64);
    Ok(LossRecovered {
        clean,
        spliced,
        ablated,
        recovered: (ablated - spliced) / (ablated - clean),
    })
}

/// Zeros in the place of the activation of every token but the first.
struct Zero(HookPoint);

impl Hook for Zero {
    fn wants(&self, at: HookPoint) -> bool {
        at == self.0
    }
    fn stream(&mut self, _at: HookPoint, x: Tensor<2>, batch: &Batch) -> Tensor<2> {
        let zeros = x.zeros_like();
        replace_rows(x, zeros, &all_but_first(batch))
    }
    fn heads(&mut self, at: HookPoint, x: Tensor<3>, batch: &Batch) -> Tensor<3> {
        let [tokens, heads, d] = x.dims();
        self.stream(at, x.reshape([tokens, heads * d]), batch)
            .reshape([tokens, heads, d])
    }
}

/// The tokens that have a next token in the batch, and that token; a parent's last token is followed by the first of
/// each of its continuations.
fn next_tokens(batch: &Batch) -> (Vec<usize>, Vec<u32>) {
    let (mut from, mut targets) = (Vec::new(), Vec::new());
    for segment in batch.segments() {
        let before = segment.parent.and_then(|parent| batch.tokens(parent).next_back());
        let mut previous = before;
        for token in segment.tokens.clone() {
            if let Some(previous) = previous {
                from.push(previous);
                targets.push(batch.ids()[token]);
            }
            previous = Some(token);
        }
    }
    (from, targets)
}

fn sum_of_squares(x: Tensor<2>) -> f64 {
    f64::from((x.clone() * x).sum().into_scalar::<f32>())
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use realign_model::{Llama, LlamaConfig};
    use realign_run::Seed;

    use super::*;
    use crate::{Activation, SaeConfig};

    fn batches() -> Vec<Batch> {
        let mut shared = Batch::packed([[3u32, 1, 4, 1, 5]]);
        shared.push_after(0, &[9, 2]);
        shared.push_after(0, &[6, 5, 3]);
        vec![shared, Batch::packed([vec![2u32, 7, 1], vec![8u32, 2, 8, 1]])]
    }

    /// An SAE that reconstructs exactly: a latent for each sign of each coordinate.
    fn identity(d: usize) -> Sae {
        let device = Device::flex();
        let mut sae = SaeConfig::new(d, 2 * d, 2 * d).init(&Seed::new(0), &device);
        let eye = Tensor::<2>::eye(d, &device);
        sae.w_dec = Tensor::cat(vec![eye.clone(), eye.neg()], 0);
        sae.w_enc = sae.w_dec.clone();
        sae
    }

    #[test]
    fn a_perfect_sae_explains_all_and_recovers_all_of_the_loss() {
        let model = Llama::random(&LlamaConfig::tiny(), 5, &Device::flex());
        let (sae, at) = (identity(32), HookPoint::ResidPost(1));
        let metrics = Metrics::on_model(&sae, &model, at, &batches()).unwrap();
        assert!(
            metrics.fvu.abs() < 1e-9 && (metrics.l0 - 32.0).abs() < 1e-9,
            "{metrics:?}"
        );
        let loss = loss_recovered(&model, &sae, at, &batches()).unwrap();
        assert!(
            (loss.recovered - 1.0).abs() < 1e-4 && loss.ablated != loss.clean,
            "{loss:?}"
        );
    }

    #[test]
    fn an_sae_that_writes_the_mean_explains_nothing() {
        let device = Device::flex();
        let mut sae = SaeConfig::new(3, 4, 2).init(&Seed::new(0), &device);
        sae.w_dec = sae.w_dec.zeros_like();
        let x = Tensor::<2>::from_floats([[1.0, 2.0, 3.0], [3.0, 0.0, 5.0]], &device);
        sae.b_dec = Tensor::from_floats([2.0, 1.0, 4.0], &device);
        let metrics = Metrics::measure(&sae, [x]).unwrap();
        assert!((metrics.fvu - 1.0).abs() < 1e-6, "{metrics:?}");
        assert!(Metrics::measure(&sae, []).is_err());
    }

    #[test]
    fn a_continuation_is_predicted_by_its_parents_last_token() {
        let (from, targets) = next_tokens(&batches()[0]);
        assert_eq!(from, [0, 1, 2, 3, 4, 5, 4, 7, 8]);
        assert_eq!(targets, [1, 4, 1, 5, 9, 2, 6, 5, 3]);
    }

    #[test]
    fn an_sae_spliced_with_its_error_leaves_the_logits_unchanged() {
        let model = Llama::random(&LlamaConfig::tiny(), 5, &Device::flex());
        let mut sae = SaeConfig::new(32, 64, 4).init(&Seed::new(1), &Device::flex());
        let vector = |x: f32| Tensor::full([64], x, &Device::flex());
        let gated = Activation::Gated {
            r_mag: vector(0.1),
            b_mag: vector(-0.05),
        };
        let jump = Activation::JumpRelu { threshold: vector(0.2) };
        let pursuit = Activation::MatchingPursuit {
            threshold: 0.1,
            steps: 4,
            stop_on_repeat: true,
        };
        for activation in [
            sae.activation.clone(),
            Activation::BatchTopK { threshold: 0.1 },
            jump,
            Activation::Relu,
            gated,
            Activation::AbsTopK { k: 4 },
            pursuit,
        ] {
            sae.activation = activation;
            splices(&model, &sae);
        }
    }

    fn splices(model: &Llama, sae: &Sae) {
        let batch = &batches()[0];
        let at = HookPoint::ResidPost(1);
        let logits = |hook: &mut dyn Hook| model.logits(model.forward(batch, hook));
        let clean = logits(&mut ());
        let gap = |with: Tensor<2>| (with - clean.clone()).abs().max().into_scalar::<f32>();
        let scale = clean.clone().abs().max().into_scalar::<f32>();
        let kept = gap(logits(&mut Splice::new(sae, at, SpliceError::Keep)));
        let dropped = gap(logits(&mut Splice::new(sae, at, SpliceError::Drop)));
        // Two roundings of the activation, at most a few ulp of the logits.
        assert!(kept <= 1e-5 * scale, "{kept} of {scale}");
        assert!(
            dropped > 1e-3 * scale,
            "an untrained SAE changed nothing: {dropped} of {scale}"
        );
    }
}
