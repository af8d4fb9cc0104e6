//! Model diffing: what differs inside two models that read the same tokens.

use burn::tensor::{Tensor, TensorData};
use realign_core::{Batch, Hook, HookPoint, LanguageModel, Record, Until, rows};
use realign_sae::Sae;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How much more a latent is active in the tuned model than in the base model.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatentShift {
    /// The latent.
    pub index: usize,
    /// Its mean activation in the base model.
    pub base_mean: f64,
    /// Its mean activation in the tuned model.
    pub tuned_mean: f64,
    /// `tuned_mean - base_mean`.
    pub delta: f64,
    /// Share of the tokens, of both models together, on which it is active.
    pub density: f64,
}

/// The difference of two models' mean activations behind one block: a steering direction (`resid_post`).
#[derive(Clone, Debug)]
pub struct MeanDifference {
    /// The block.
    pub layer: usize,
    /// Mean activation `[d_model]` of the base model.
    pub base: Tensor<1>,
    /// Mean activation `[d_model]` of the tuned model.
    pub tuned: Tensor<1>,
    /// `tuned - base`, `[d_model]`.
    pub vector: Tensor<1>,
}

/// What one pass over each model tells.
#[derive(Clone, Debug)]
pub struct Explained {
    /// Every latent, the one that rose most first.
    pub latents: Vec<LatentShift>,
    /// One direction a layer, in order.
    pub directions: Vec<MeanDifference>,
}

/// Mean activation of every latent in two models, the one that rose most first.
///
/// Each side is a model and the hook that makes it what it is: an adapter, or `()`. `tokens` names the tokens of a
/// batch that count, such as those of the answers.
///
/// # Errors
/// [`Error::NoTokens`], [`Error::Token`], [`Error::Unreached`], [`Error::Width`].
pub fn diff_latents(
    base: (&dyn LanguageModel, &mut dyn Hook),
    tuned: (&dyn LanguageModel, &mut dyn Hook),
    sae: &Sae,
    at: HookPoint,
    batches: &[Batch],
    tokens: &dyn Fn(&Batch) -> Vec<usize>,
) -> Result<Vec<LatentShift>> {
    let base = Means::of(base, &[], Some((sae, at)), batches, tokens)?;
    let tuned = Means::of(tuned, &[], Some((sae, at)), batches, tokens)?;
    Ok(shifts(&base, &tuned))
}

/// Mean activations of two models behind every block, and their differences.
///
/// # Errors
/// [`Error::NoTokens`], [`Error::Token`], [`Error::Unequal`] for models of different depths or widths.
pub fn mean_difference(
    base: (&dyn LanguageModel, &mut dyn Hook),
    tuned: (&dyn LanguageModel, &mut dyn Hook),
    batches: &[Batch],
    tokens: &dyn Fn(&Batch) -> Vec<usize>,
) -> Result<Vec<MeanDifference>> {
    let (model, points) = (base.0, every_layer(base.0, tuned.0)?);
    let base = Means::of(base, &points, None, batches, tokens)?;
    let tuned = Means::of(tuned, &points, None, batches, tokens)?;
    Ok(directions(model, &base, &tuned))
}

/// [`diff_latents`] and [`mean_difference`] in one pass over each model.
///
/// # Errors
/// Those of both.
pub fn explain(
    base: (&dyn LanguageModel, &mut dyn Hook),
    tuned: (&dyn LanguageModel, &mut dyn Hook),
    sae: &Sae,
    at: HookPoint,
    batches: &[Batch],
    tokens: &dyn Fn(&Batch) -> Vec<usize>,
) -> Result<Explained> {
    let (model, points) = (base.0, every_layer(base.0, tuned.0)?);
    let base = Means::of(base, &points, Some((sae, at)), batches, tokens)?;
    let tuned = Means::of(tuned, &points, Some((sae, at)), batches, tokens)?;
    Ok(Explained {
        latents: shifts(&base, &tuned),
        directions: directions(model, &base, &tuned),
    })
}

/// Running sums over one model.
struct Means {
    tokens: usize,
    /// Of activations, one vector a point.
    streams: Vec<Vec<f64>>,
    /// Of each latent's activation.
    latents: Vec<f64>,
    /// Tokens on which each latent is active.
    active: Vec<u64>,
}

impl Means {
    fn of(
        (model, hook): (&dyn LanguageModel, &mut dyn Hook),
        points: &[HookPoint],
        sae: Option<(&Sae, HookPoint)>,
        batches: &[Batch],
        tokens: &dyn Fn(&Batch) -> Vec<usize>,
    ) -> Result<Self> {
        let d_sae = sae.map_or(0, |(sae, _)| sae.d_sae());
        let streams = vec![vec![0.0; model.shape().d_model]; points.len()];
        let mut means = Self {
            tokens: 0,
            streams,
            latents: vec![0.0; d_sae],
            active: vec![0; d_sae],
        };
        let watched: Vec<HookPoint> = points.iter().copied().chain(sae.map(|(_, at)| at)).collect();
        for batch in batches {
            let chosen = chosen(batch, tokens)?;
            if chosen.is_empty() {
                continue;
            }
            means.tokens += chosen.len();
            let seen = record(model, &mut *hook, &watched, batch)?;
            for (sums, &at) in means.streams.iter_mut().zip(points) {
                let x = rows(recorded(&seen, at)?, &chosen);
                for (sum, x) in sums.iter_mut().zip(x.sum_dim(0).into_data().iter::<f32>()) {
                    *sum += f64::from(x);
                }
            }
            if let Some((sae, at)) = sae {
                let x = rows(recorded(&seen, at)?, &chosen);
                let (values, latents) = encoded(sae, at, x)?.to_vecs();
                for (value, latent) in values.into_iter().zip(latents).filter(|(value, _)| *value != 0.0) {
                    means.latents[latent as usize] += f64::from(value);
                    means.active[latent as usize] += 1;
                }
            }
        }
        match means.tokens {
            0 => Err(Error::NoTokens("the comparison")),
            _ => Ok(means),
        }
    }
}

fn shifts(base: &Means, tuned: &Means) -> Vec<LatentShift> {
    let tokens = (base.tokens + tuned.tokens) as f64;
    let shift = |index: usize| {
        let base_mean = base.latents[index] / base.tokens as f64;
        let tuned_mean = tuned.latents[index] / tuned.tokens as f64;
        let density = (base.active[index] + tuned.active[index]) as f64 / tokens;
        LatentShift {
            index,
            base_mean,
            tuned_mean,
            delta: tuned_mean - base_mean,
            density,
        }
    };
    let mut shifts: Vec<LatentShift> = (0..base.latents.len()).map(shift).collect();
    shifts.sort_by(|a, b| b.delta.total_cmp(&a.delta).then(a.index.cmp(&b.index)));
    shifts
}

fn directions(model: &dyn LanguageModel, base: &Means, tuned: &Means) -> Vec<MeanDifference> {
    let device = model.device();
    let direction = |layer: usize| {
        let mean = |of: &Means| {
            of.streams[layer]
                .iter()
                .map(|sum| sum / of.tokens as f64)
                .collect::<Vec<f64>>()
        };
        let (base, tuned) = (mean(base), mean(tuned));
        let tensor = |x: Vec<f64>| {
            let x: Vec<f32> = x.into_iter().map(|x| x as f32).collect();
            let n = x.len();
            Tensor::from_data(TensorData::new(x, [n]), &device)
        };
        // Taken in f64: the difference is much smaller than the means.
        let vector = tensor(tuned.iter().zip(&base).map(|(tuned, base)| tuned - base).collect());
        MeanDifference {
            layer,
            base: tensor(base),
            tuned: tensor(tuned),
            vector,
        }
    };
    (0..base.streams.len()).map(direction).collect()
}

fn every_layer(base: &dyn LanguageModel, tuned: &dyn LanguageModel) -> Result<Vec<HookPoint>> {
    let (base, tuned) = (base.shape(), tuned.shape());
    for (what, first, second) in [
        ("the number of layers", base.n_layers, tuned.n_layers),
        ("d_model", base.d_model, tuned.d_model),
    ] {
        if first != second {
            return Err(Error::Unequal { what, first, second });
        }
    }
    Ok((0..base.n_layers).map(HookPoint::ResidPost).collect())
}

/// The tokens that count, checked.
pub(crate) fn chosen(batch: &Batch, tokens: &dyn Fn(&Batch) -> Vec<usize>) -> Result<Vec<usize>> {
    let (chosen, len) = (tokens(batch), batch.len());
    match chosen.iter().find(|token| **token >= len) {
        Some(&token) => Err(Error::Token {
            what: "the comparison",
            token,
            len,
        }),
        None => Ok(chosen),
    }
}

/// Runs `model` with `hook`, just as far as `points` need; returns what was there after the hook.
///
/// # Errors
/// [`Error::Unreached`] for a layer that the model does not have.
pub(crate) fn record(
    model: &dyn LanguageModel,
    hook: &mut dyn Hook,
    points: &[HookPoint],
    batch: &Batch,
) -> Result<Record> {
    if let Some(&at) = points
        .iter()
        .find(|at| at.layer().is_some_and(|layer| layer >= model.shape().n_layers))
    {
        return Err(Error::Unreached(at));
    }
    let mut both = (hook, Record::new(points.iter().copied()));
    let last = points.iter().filter_map(|at| at.layer()).max();
    let until = match points.contains(&HookPoint::FinalNorm) {
        true => Until::End,
        false => Until::Layer(last.unwrap_or(0)),
    };
    model.run(batch, until, None, &mut both);
    Ok(both.1)
}

/// What was recorded at `at`, `[token, d]`, heads side by side; a constant.
pub(crate) fn recorded(record: &Record, at: HookPoint) -> Result<Tensor<2>> {
    let heads = || {
        let heads = record.get_heads(at)?.clone();
        let [tokens, n, d] = heads.dims();
        Some(heads.reshape([tokens, n * d]))
    };
    record
        .get(at)
        .cloned()
        .or_else(heads)
        .map(Tensor::inner)
        .ok_or(Error::Unreached(at))
}

/// Latents of `x`, if the SAE is as wide.
pub(crate) fn encoded(sae: &Sae, at: HookPoint, x: Tensor<2>) -> Result<realign_sae::Latents> {
    check_width(sae, at, &x)?;
    Ok(sae.encode(x))
}

pub(crate) fn check_width(sae: &Sae, at: HookPoint, x: &Tensor<2>) -> Result<()> {
    let (expected, found) = (sae.d_in(), x.dims()[1]);
    match expected == found {
        true => Ok(()),
        false => Err(Error::Width { at, expected, found }),
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use realign_model::{Llama, LlamaConfig};
    use realign_run::Seed;
    use realign_sae::{Activation, SaeConfig};

    use super::*;

    /// Adds a vector at one point.
    pub(crate) struct Add(pub HookPoint, pub Tensor<1>);

    impl Hook for Add {
        fn wants(&self, at: HookPoint) -> bool {
            at == self.0
        }
        fn stream(&mut self, _at: HookPoint, x: Tensor<2>, _batch: &Batch) -> Tensor<2> {
            x + self.1.clone().unsqueeze()
        }
    }

    fn model() -> Llama {
        Llama::random(&LlamaConfig::tiny(), 5, &Device::flex())
    }

    fn sae() -> Sae {
        SaeConfig::new(32, 48, 5).init(&Seed::new(1), &Device::flex())
    }

    fn batches() -> Vec<Batch> {
        vec![
            Batch::packed([vec![3u32, 1, 4, 1, 5], vec![9, 2, 6]]),
            Batch::packed([[5u32, 3, 5, 8]]),
        ]
    }

    fn all(batch: &Batch) -> Vec<usize> {
        (0..batch.len()).collect()
    }

    fn vec(x: Tensor<1>) -> Vec<f32> {
        x.into_data().try_into_vec().unwrap()
    }

    #[test]
    fn a_model_does_not_differ_from_itself() {
        let (model, at) = (model(), HookPoint::ResidPost(1));
        let found = explain((&model, &mut ()), (&model, &mut ()), &sae(), at, &batches(), &all).unwrap();
        assert_eq!(found.latents.len(), 48);
        assert!(found.latents.iter().all(|shift| shift.delta == 0.0));
        assert!(
            found
                .latents
                .iter()
                .any(|shift| shift.base_mean > 0.0 && shift.density > 0.0)
        );
        assert_eq!(found.directions.len(), 3);
        assert!(
            found
                .directions
                .iter()
                .all(|d| vec(d.vector.clone()).iter().all(|x| *x == 0.0))
        );
    }

    #[test]
    fn a_steered_copys_mean_difference_is_the_steering_vector_from_its_layer_on() {
        let model = model();
        let wanted: Vec<f32> = (0..32).map(|i| (i as f32).sin()).collect();
        let mut steer = Add(
            HookPoint::ResidPost(1),
            Tensor::from_floats(wanted.as_slice(), &Device::flex()),
        );
        let found = mean_difference((&model, &mut ()), (&model, &mut steer), &batches(), &all).unwrap();
        assert!(vec(found[0].vector.clone()).iter().all(|x| *x == 0.0));
        for (found, wanted) in vec(found[1].vector.clone()).iter().zip(&wanted) {
            assert!((found - wanted).abs() < 1e-5, "{found} {wanted}");
        }
        assert!(
            vec(found[2].vector.clone())
                .iter()
                .zip(&wanted)
                .any(|(a, b)| (a - b).abs() > 1e-5)
        );
    }

    #[test]
    fn only_chosen_tokens_count_and_latents_are_averaged_over_them() {
        let (model, mut sae, at) = (model(), sae(), HookPoint::ResidPost(0));
        let tokens = |batch: &Batch| vec![1, batch.len() - 1];
        let threshold = Tensor::full([48], 0.05, &Device::flex());
        for activation in [
            sae.activation.clone(),
            Activation::Relu,
            Activation::JumpRelu { threshold },
        ] {
            sae.activation = activation;
            let mut steer = Add(at, sae.decoder_row(7).mul_scalar(50.0));
            let found = diff_latents((&model, &mut ()), (&model, &mut steer), &sae, at, &batches(), &tokens).unwrap();
            assert_eq!(found[0].index, 7);
            for shift in &found {
                let mut sum = 0.0;
                for batch in batches() {
                    let mut record = Record::new([at]);
                    model.watch(&batch, &mut record);
                    let column = vec(sae.encode(record.take(at).unwrap()).dense_column(shift.index));
                    sum += tokens(&batch).into_iter().map(|t| f64::from(column[t])).sum::<f64>();
                }
                assert!((shift.base_mean - sum / 4.0).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        let (model, at) = (model(), HookPoint::ResidPost(1));
        let explain = |sae: &Sae, at, tokens: &dyn Fn(&Batch) -> Vec<usize>| {
            explain((&model, &mut ()), (&model, &mut ()), sae, at, &batches(), tokens)
                .unwrap_err()
                .to_string()
        };
        let narrow = SaeConfig::new(8, 16, 2).init(&Seed::new(1), &Device::flex());
        assert!(explain(&narrow, at, &all).contains("d_in is 8"));
        assert!(explain(&sae(), at, &|_| vec![]).contains("no token"));
        assert!(explain(&sae(), at, &|batch| vec![batch.len()]).contains("token 8"));
        assert!(explain(&sae(), HookPoint::ResidPost(9), &all).contains("blocks.9"));
    }
}
