//! Δ-attribution: which latents' directions carry misaligned answers, to first order, from one model.

use std::ops::Range;

use burn::tensor::Tensor;
use realign_core::{Batch, Hook, HookPoint, LanguageModel, rows};
use realign_sae::Sae;

use crate::diff::check_width;
use crate::{Error, Result};

/// A packed batch, and the tokens of each completion in it.
pub type Completions = (Batch, Vec<Range<usize>>);

/// Δ-attribution of every latent (OpenAI, December 2025), indexed by latent.
///
/// The attribution of latent `i` at token `t` is `-(g_t · d_i) ((a_t - ā) · d_i)`, to first order the rise in the
/// completion's mean log-loss if the activation's deviation from its mean were taken out along the latent's direction:
/// positive where the direction supports the completion. `a_t` is the activation at `at`, `g_t` the loss's gradient by
/// it, `d_i` the decoder row, `ā` the mean of `a` over all completions. It is summed over the tokens that predict the
/// completion, averaged over completions, and given as mean(misaligned) − mean(aligned).
///
/// One forward and one backward pass a batch. Gradients begin at `at`: nothing below it is on the tape, and no weight
/// of the model.
///
/// # Errors
/// [`Error::NoTokens`] when either side has no completion, [`Error::Token`], [`Error::Unpredicted`],
/// [`Error::Unreached`], [`Error::Width`].
pub fn delta_attribution(
    model: &dyn LanguageModel,
    hook: &mut dyn Hook,
    sae: &Sae,
    at: HookPoint,
    misaligned: &[Completions],
    aligned: &[Completions],
) -> Result<Vec<f64>> {
    let misaligned = Moments::of(model, hook, sae, at, misaligned)?;
    let aligned = Moments::of(model, hook, sae, at, aligned)?;
    let tokens = (misaligned.tokens + aligned.tokens) as f64;
    let mean: Vec<f64> = misaligned
        .sum
        .iter()
        .zip(&aligned.sum)
        .map(|(a, b)| (a + b) / tokens)
        .collect();
    let (misaligned, aligned) = (misaligned.attribution(sae, &mean), aligned.attribution(sae, &mean));
    Ok(misaligned.into_iter().zip(aligned).map(|(a, b)| a - b).collect())
}

/// Sums over completions, from which every latent's attribution follows once the mean is known:
/// `Σ_t (g_t·d)(a_t·d) = d (Σ_t g_t a_tᵀ) dᵀ`. Activations are measured from `b_dec`, near their mean, so that the
/// mean's part does not drown the rest.
struct Moments {
    completions: usize,
    tokens: usize,
    /// `Σ a_t`, `[d_in]`.
    sum: Vec<f64>,
    /// `Σ g_t`, `[d_in]`.
    gradient: Vec<f64>,
    /// `Σ g_t a_tᵀ`, `[d_in, d_in]`.
    product: Vec<f64>,
}

impl Moments {
    fn of(
        model: &dyn LanguageModel,
        hook: &mut dyn Hook,
        sae: &Sae,
        at: HookPoint,
        batches: &[Completions],
    ) -> Result<Self> {
        let d = sae.d_in();
        let (sum, product) = (vec![0.0; d], vec![0.0; d * d]);
        let mut moments = Self {
            completions: 0,
            tokens: 0,
            gradient: sum.clone(),
            sum,
            product,
        };
        for (batch, completions) in batches {
            let predicted = Predicted::of(batch, completions)?;
            if predicted.from.is_empty() {
                continue;
            }
            let (x, grad) = gradient(model, &mut *hook, at, batch, &predicted)?;
            check_width(sae, at, &x)?;
            let x = rows(x, &predicted.places) - sae.b_dec.clone().unsqueeze();
            let grad = rows(grad, &predicted.places);
            add(&mut moments.sum, x.clone().sum_dim(0));
            add(&mut moments.gradient, grad.clone().sum_dim(0));
            add(&mut moments.product, grad.transpose().matmul(x));
            moments.completions += predicted.completions;
            moments.tokens += predicted.places.len();
        }
        match moments.completions {
            0 => Err(Error::NoTokens("the attribution")),
            _ => Ok(moments),
        }
    }

    /// Mean attribution of each latent over the completions.
    fn attribution(&self, sae: &Sae, mean: &[f64]) -> Vec<f64> {
        let d = mean.len();
        let centred = |g: usize, a: usize| self.product[g * d + a] - self.gradient[g] * mean[a];
        let product: Vec<f32> = (0..d * d)
            .map(|i| (centred(i / d, i % d) / self.completions as f64) as f32)
            .collect();
        let product = Tensor::<2>::from_data(burn::tensor::TensorData::new(product, [d, d]), &sae.device());
        let along = (sae.w_dec.clone().matmul(product) * sae.w_dec.clone()).sum_dim(1);
        along.into_data().iter::<f32>().map(|x| -f64::from(x)).collect()
    }
}

/// What is predicted in a batch, and from where.
struct Predicted {
    /// For each completion token the token that predicts it.
    from: Vec<usize>,
    targets: Vec<u32>,
    /// `1 / length` of the token's completion: the loss is the sum of the completions' means.
    weights: Vec<f32>,
    /// The tokens in `from`, each once.
    places: Vec<usize>,
    completions: usize,
}

impl Predicted {
    fn of(batch: &Batch, completions: &[Range<usize>]) -> Result<Self> {
        let before = before(batch);
        let (mut from, mut targets, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        let completions = completions.iter().filter(|tokens| !tokens.is_empty());
        for tokens in completions.clone() {
            if tokens.end > batch.len() {
                let (token, len) = (tokens.end - 1, batch.len());
                return Err(Error::Token {
                    what: "a completion",
                    token,
                    len,
                });
            }
            for token in tokens.clone() {
                let unpredicted = Error::Unpredicted {
                    start: tokens.start,
                    end: tokens.end,
                };
                from.push(before[token].ok_or(unpredicted)?);
                targets.push(batch.ids()[token]);
                weights.push(1.0 / tokens.len() as f32);
            }
        }
        let mut places = from.clone();
        places.sort_unstable();
        places.dedup();
        Ok(Self {
            from,
            targets,
            weights,
            places,
            completions: completions.count(),
        })
    }
}

/// The token before each token in its sequence.
fn before(batch: &Batch) -> Vec<Option<usize>> {
    let mut before = vec![None; batch.len()];
    for segment in batch.segments() {
        let mut previous = segment.parent.and_then(|parent| batch.tokens(parent).next_back());
        for token in segment.tokens.clone() {
            before[token] = previous;
            previous = Some(token);
        }
    }
    before
}

/// The activation at `at` and the loss's gradient by it, both `[token, d]`.
fn gradient(
    model: &dyn LanguageModel,
    hook: &mut dyn Hook,
    at: HookPoint,
    batch: &Batch,
    predicted: &Predicted,
) -> Result<(Tensor<2>, Tensor<2>)> {
    let mut both = (hook, Leaf { at, leaf: None });
    let hidden = rows(model.forward(batch, &mut both), &predicted.from);
    let leaf = both.1.leaf.ok_or(Error::Unreached(at))?;
    let weights = Tensor::<1>::from_floats(predicted.weights.as_slice(), &model.device());
    let loss = (model.nll(hidden, &predicted.targets) * weights).sum();
    let mut grads = loss.backward();
    let grad = leaf.grad_remove(&mut grads);
    let x = leaf.inner();
    let grad = grad.unwrap_or_else(|| x.zeros_like());
    Ok((x, grad))
}

/// Cuts the tape and begins a new one at a hook point.
struct Leaf {
    at: HookPoint,
    leaf: Option<Tensor<2>>,
}

impl Hook for Leaf {
    fn wants(&self, at: HookPoint) -> bool {
        at == self.at
    }
    fn stream(&mut self, _at: HookPoint, x: Tensor<2>, _batch: &Batch) -> Tensor<2> {
        let leaf = x.inner().autodiff().require_grad();
        self.leaf = Some(leaf.clone());
        leaf
    }
}

fn add(sums: &mut [f64], x: Tensor<2>) {
    for (sum, x) in sums.iter_mut().zip(x.into_data().iter::<f32>()) {
        *sum += f64::from(x);
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use realign_core::Record;
    use realign_model::{Llama, LlamaConfig};
    use realign_run::Seed;
    use realign_sae::SaeConfig;

    use super::*;

    /// Adds to each token its own multiple of a direction.
    struct Push {
        at: HookPoint,
        by: Tensor<2>,
    }

    impl Hook for Push {
        fn wants(&self, at: HookPoint) -> bool {
            at == self.at
        }
        fn stream(&mut self, _at: HookPoint, x: Tensor<2>, _batch: &Batch) -> Tensor<2> {
            x + self.by.clone()
        }
    }

    const AT: HookPoint = HookPoint::ResidPost(0);

    fn model() -> Llama {
        Llama::random(&LlamaConfig::tiny(), 5, &Device::flex())
    }

    fn sae() -> Sae {
        let mut sae = SaeConfig::new(32, 20, 3).init(&Seed::new(1), &Device::flex());
        sae.b_dec = Tensor::full([32], 0.05, &Device::flex());
        sae
    }

    /// Two answers to one question, and one of its own.
    fn completions(shift: u32) -> Completions {
        let mut batch = Batch::new();
        let question = batch.push(&[3, 1, 4 + shift]);
        batch.push_after(question, &[1, 5, 9]);
        batch.push_after(question, &[2, 6 + shift]);
        batch.push(&[5, 3, 5, 8, 9 + shift]);
        (batch, vec![3..6, 6..8, 10..13])
    }

    fn loss(model: &Llama, (batch, answers): &Completions, hook: &mut dyn Hook) -> f64 {
        let predicted = Predicted::of(batch, answers).unwrap();
        let hidden = rows(model.forward(batch, hook), &predicted.from);
        let nll = model.nll(hidden, &predicted.targets).into_data();
        nll.iter::<f32>()
            .zip(&predicted.weights)
            .map(|(nll, w)| f64::from(nll) * f64::from(*w))
            .sum()
    }

    fn activations(model: &Llama, batch: &Batch) -> Vec<f32> {
        let mut record = Record::new([AT]);
        model.watch(batch, &mut record);
        record.take(AT).unwrap().into_data().try_into_vec().unwrap()
    }

    #[test]
    fn attribution_is_the_slope_of_the_loss_when_a_latents_deviation_is_taken_out() {
        let (model, sae, d) = (model(), sae(), 32);
        let sides = [completions(0), completions(7)];
        let found = delta_attribution(&model, &mut (), &sae, AT, &sides[..1], &sides[1..]).unwrap();
        let [bad, good] = sides;
        assert_eq!(found.len(), 20);
        let places: Vec<usize> = vec![2, 3, 4, 6, 9, 10, 11];
        assert_eq!(Predicted::of(&bad.0, &bad.1).unwrap().places, places);
        let (x_bad, x_good) = (activations(&model, &bad.0), activations(&model, &good.0));
        let row = |x: &[f32], t: usize| x[t * d..(t + 1) * d].to_vec();
        let mut mean = vec![0f64; d];
        for x in [&x_bad, &x_good] {
            for &t in &places {
                row(x, t)
                    .iter()
                    .zip(&mut mean)
                    .for_each(|(x, m)| *m += f64::from(*x) / (2 * places.len()) as f64);
            }
        }
        let mut largest = 0f64;
        for (latent, &found) in found.iter().enumerate() {
            let direction: Vec<f32> = sae.decoder_row(latent).into_data().try_into_vec().unwrap();
            let slope = |side: &Completions, x: &[f32]| {
                let at = |step: f64| {
                    let mut by = vec![0f32; x.len()];
                    for &t in &places {
                        let along: f64 = (0..d)
                            .map(|i| (f64::from(x[t * d + i]) - mean[i]) * f64::from(direction[i]))
                            .sum();
                        (0..d).for_each(|i| by[t * d + i] = (-step * along * f64::from(direction[i])) as f32);
                    }
                    let by = Tensor::from_data(TensorData::new(by, [x.len() / d, d]), &Device::flex());
                    loss(&model, side, &mut Push { at: AT, by })
                };
                (at(0.05) - at(-0.05)) / 0.1 / 3.0
            };
            let wanted = slope(&bad, &x_bad) - slope(&good, &x_good);
            largest = largest.max(wanted.abs());
            assert!(
                (found - wanted).abs() < 2e-4 + 0.02 * wanted.abs(),
                "{latent}: {found} {wanted}"
            );
        }
        assert!(largest > 2e-3, "too small to tell from 0: {largest}");
    }

    #[test]
    fn equal_sides_have_no_difference() {
        let both = [completions(0)];
        let found = delta_attribution(&model(), &mut (), &sae(), AT, &both, &both).unwrap();
        assert!(found.iter().all(|x| *x == 0.0));
    }

    #[test]
    fn completions_that_nothing_predicts_are_refused() {
        let (batch, good) = completions(0);
        let attribution = |answer: Option<Range<usize>>| {
            let bad = [(batch.clone(), answer.into_iter().collect())];
            delta_attribution(&model(), &mut (), &sae(), AT, &bad, &[(batch.clone(), good.clone())])
        };
        assert!(matches!(
            attribution(Some(0..2)),
            Err(Error::Unpredicted { start: 0, end: 2 })
        ));
        assert!(matches!(
            attribution(Some(11..14)),
            Err(Error::Token { token: 13, len: 13, .. })
        ));
        assert!(matches!(attribution(None), Err(Error::NoTokens(_))));
    }
}
