//! Training: TopK (Gao et al. 2024) or BatchTopK (Bussmann et al. 2024), with AuxK, on a stream of activations.

use burn::tensor::{Device, Tensor, TensorData};
use realign_arrays::{Array, Arrays, safetensors};
use realign_core::HookPoint;
use realign_run::{Checkpoint, Checkpoints, Progress, Report, Seed};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::step::{Aux, Parameter, Parameters};
use crate::{ActivationSource, Error, Metrics, Result, Sae, SaeConfig};

/// The name under which progress is reported.
const STAGE: &str = "sae";
const WEIGHTS: &str = "weights.safetensors";
const STATE: &str = "state.json";
/// How much of BatchTopK's threshold a step renews: the running mean over the smallest activations of batches.
const THRESHOLD_RATE: f64 = 0.01;

/// How an SAE is trained.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainConfig {
    /// Tokens in all; the source begins again when its data is used up.
    pub tokens: usize,
    /// Tokens of a step: the size of the source's batches.
    pub batch_tokens: usize,
    /// Peak learning rate; none is [`TrainConfig::default_lr`].
    pub lr: Option<f64>,
    /// Steps of linear warm-up.
    pub warmup_steps: usize,
    /// Share of the steps, at the end, over which the learning rate falls to 0.
    pub decay_share: f64,
    /// Dead latents that model each token's error. Gao et al. take `d_in / 2`; fewer cost less and revive as well.
    pub aux_k: usize,
    /// Weight of the dead latents' loss.
    pub aux_coefficient: f64,
    /// A latent that was active on none of the last this many tokens is dead.
    pub dead_after_tokens: usize,
    /// Steps between checkpoints.
    pub checkpoint_every: usize,
}

/// A trained SAE and how it came to be.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The SAE, in the units of the activations.
    pub sae: Sae,
    /// One row a step.
    pub log: Vec<LogRow>,
    /// Means over the last twentieth of the steps, on the batches of training; dead as [`TrainConfig`] defines it.
    pub metrics: Metrics,
}

/// One step of training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogRow {
    /// The step, from 1.
    pub step: u64,
    /// Tokens seen, this step's included.
    pub tokens: u64,
    /// Fraction of variance unexplained on this step's batch, before its update.
    pub fvu: f64,
    /// The same of the dead latents' model of the error; 0 without dead latents.
    pub aux: f64,
    /// Mean active latents on a token.
    pub l0: f64,
    /// Dead latents.
    pub dead: usize,
    /// Learning rate.
    pub lr: f64,
}

impl TrainConfig {
    /// Training on this many tokens, with the settings of Gao et al. 2024 scaled to it.
    pub fn new(tokens: usize) -> Self {
        let batch_tokens = 2048;
        Self {
            tokens,
            batch_tokens,
            lr: None,
            warmup_steps: (tokens / batch_tokens / 20).clamp(1, 1000),
            decay_share: 0.2,
            aux_k: 128,
            aux_coefficient: 1.0 / 32.0,
            dead_after_tokens: (tokens / 8).clamp(8 * batch_tokens, 10_000_000),
            checkpoint_every: 250,
        }
    }

    /// The learning rate for this many latents: it falls with their square root, as Gao et al. found.
    pub fn default_lr(d_sae: usize) -> f64 {
        1e-3 * (8192.0 / d_sae as f64).sqrt()
    }

    /// Trains an SAE of these sizes on what `source` gives, which are activations at `at`.
    ///
    /// Activations are scaled so that their mean distance from their mean is `√d_in`; the scale is folded into the
    /// weights at the end. With `checkpoints` an interrupted training goes on to the same numbers, bit for bit.
    ///
    /// # Errors
    /// [`realign_run::Error::Interrupted`] when `report` says so, [`realign_run::Error::NoRoom`] for the checkpoints;
    /// [`Error::NoTokens`], [`Error::Width`],
    /// [`Error::Constant`] and [`Error::Diverged`] for activations that cannot be learned from;
    /// [`Error::OtherTraining`] for a checkpoint of other settings.
    #[expect(clippy::too_many_arguments, reason = "each is a different thing that training needs")]
    pub fn train(
        &self,
        sae: SaeConfig,
        source: &mut dyn ActivationSource,
        at: HookPoint,
        seed: &Seed,
        device: &Device,
        checkpoints: Option<&Checkpoints>,
        report: &mut Report<'_>,
    ) -> Result<Trained> {
        self.check()?;
        sae.check()?;
        let settings = self.settings(sae, at, seed);
        if let Some(checkpoints) = checkpoints {
            // Every parameter and its two moments.
            let weights = (sae.d_in as u64).saturating_mul(sae.d_sae as u64).saturating_mul(2);
            let parameters = weights.saturating_add(sae.d_in as u64).saturating_add(sae.d_sae as u64);
            checkpoints.check_room(parameters.saturating_mul(3 * size_of::<f32>() as u64))?;
        }
        let mut run = match checkpoints
            .map(Checkpoints::latest)
            .transpose()?
            .and_then(|latest| latest.checkpoint)
        {
            Some(checkpoint) => Run::resume(&checkpoint, &settings, sae, device)?,
            None => Run::begin(sae, seed, device),
        };
        source.skip(run.state.log.len());
        let steps = self.steps();
        while (run.state.log.len() as u64) < steps {
            let Some(x) = source.next_batch() else { break };
            run = run.step(self, sae, x, at)?;
            let row = run.state.log[run.state.log.len() - 1];
            let note = format!("fvu {:.3}", row.fvu);
            let stop = report(Progress {
                stage: STAGE,
                done: row.step,
                total: steps,
                note,
            })
            .is_break();
            if let Some(checkpoints) = checkpoints
                && (stop || row.step.is_multiple_of(self.checkpoint_every as u64))
            {
                run.save(checkpoints, row.step, &settings)?;
            }
            if stop {
                return Err(realign_run::Error::Interrupted {
                    stage: STAGE.into(),
                    done: row.step,
                }
                .into());
            }
        }
        if run.state.log.is_empty() {
            return Err(Error::NoTokens("train the SAE on"));
        }
        Ok(run.finish(sae, at))
    }

    fn steps(&self) -> u64 {
        self.tokens.div_ceil(self.batch_tokens) as u64
    }

    fn check(&self) -> Result<()> {
        let wrong = |field, expected, found: String| Err(Error::Setting { field, expected, found });
        for (field, value) in [
            ("tokens", self.tokens),
            ("batch_tokens", self.batch_tokens),
            ("aux_k", self.aux_k),
            ("checkpoint_every", self.checkpoint_every),
        ] {
            if value == 0 {
                return wrong(field, "at least 1", "0".into());
            }
        }
        if !(0.0..=1.0).contains(&self.decay_share) {
            return wrong("decay_share", "0 to 1", self.decay_share.to_string());
        }
        if !(self.aux_coefficient >= 0.0 && self.aux_coefficient.is_finite()) {
            return wrong("aux_coefficient", "at least 0", self.aux_coefficient.to_string());
        }
        match self.lr {
            Some(lr) if !(lr > 0.0 && lr.is_finite()) => wrong("lr", "above 0", lr.to_string()),
            _ => Ok(()),
        }
    }

    /// Warm-up, plateau, linear decay; `step` counts from 1.
    fn lr_at(&self, step: u64, d_sae: usize) -> f64 {
        let (step, steps) = (step as f64, self.steps() as f64);
        let warm = (step / self.warmup_steps.max(1) as f64).min(1.0);
        let decay = ((steps - step + 1.0) / (steps * self.decay_share).max(1.0)).min(1.0);
        self.lr.unwrap_or_else(|| Self::default_lr(d_sae)) * warm * decay
    }

    /// What must be the same for a training to be gone on with.
    fn settings(&self, sae: SaeConfig, at: HookPoint, seed: &Seed) -> String {
        // How often checkpoints are written changes no number.
        let train = Self {
            checkpoint_every: 0,
            ..*self
        };
        json!({"train": train, "sae": sae, "at": at.to_string(), "seed": seed.value()}).to_string()
    }
}

/// A training on its way.
struct Run {
    parameters: Parameters,
    state: State,
}

/// What is kept beside the weights.
#[derive(Serialize, Deserialize)]
struct State {
    settings: Value,
    /// What activations are multiplied by; set by the first batch.
    scale: Option<f64>,
    /// BatchTopK's, in the scaled space.
    #[serde(default)]
    threshold: Option<f64>,
    tokens: u64,
    /// For each latent the count of tokens at the end of the last batch in which it was active.
    last_active: Vec<u64>,
    log: Vec<LogRow>,
}

impl Run {
    fn begin(config: SaeConfig, seed: &Seed, device: &Device) -> Self {
        let sae = config.init(seed, device);
        let parameters = Parameters {
            w_enc: Parameter::new(sae.w_enc),
            b_enc: Parameter::new(sae.b_enc),
            w_dec: Parameter::new(sae.w_dec),
            b_dec: Parameter::new(sae.b_dec),
        };
        let last_active = vec![0; config.d_sae];
        let state = State {
            settings: Value::Null,
            scale: None,
            threshold: None,
            tokens: 0,
            last_active,
            log: Vec::new(),
        };
        Self { parameters, state }
    }

    fn step(mut self, train: &TrainConfig, sae: SaeConfig, x: Tensor<2>, at: HookPoint) -> Result<Self> {
        let [tokens, width] = x.dims();
        if width != sae.d_in {
            return Err(Error::Width {
                at: at.to_string(),
                expected: sae.d_in,
                found: width,
            });
        }
        let scale = match self.state.scale {
            Some(scale) => scale,
            None => self.centre(&x, at)?,
        };
        let step = self.state.log.len() as u64 + 1;
        let lr = train.lr_at(step, sae.d_sae);
        let dead = self.state.dead(train.dead_after_tokens);
        let aux = Aux {
            dead: &dead,
            k: train.aux_k,
            coefficient: train.aux_coefficient,
        };
        let pass = self.parameters.pass(x.mul_scalar(scale), sae.k, sae.batch, &aux);
        let loss = pass.fvu + train.aux_coefficient * pass.aux;
        if !loss.is_finite() {
            return Err(Error::Diverged { step, loss, lr });
        }
        let state = &mut self.state;
        state.tokens += tokens as u64;
        for &latent in &pass.active {
            state.last_active[latent as usize] = state.tokens;
        }
        if let (true, Some(least)) = (sae.batch, pass.least) {
            let was = state.threshold.unwrap_or(least);
            state.threshold = Some(was + THRESHOLD_RATE * (least - was));
        }
        let l0 = pass.active.len() as f64 / tokens as f64;
        let row = LogRow {
            step,
            tokens: state.tokens,
            fvu: pass.fvu,
            aux: pass.aux,
            l0,
            dead: dead.len(),
            lr,
        };
        state.log.push(row);
        self.parameters = self.parameters.updated(pass, lr, step as u32);
        Ok(self)
    }

    /// Sets the scale and the decoder bias from the first batch; returns the scale.
    fn centre(&mut self, x: &Tensor<2>, at: HookPoint) -> Result<f64> {
        let d_in = x.dims()[1];
        let mean = x.clone().mean_dim(0);
        let centred = x.clone() - mean.clone();
        let distance = f64::from(
            (centred.clone() * centred)
                .sum_dim(1)
                .sqrt()
                .mean()
                .into_scalar::<f32>(),
        );
        if !(distance > 0.0 && distance.is_finite()) {
            return Err(Error::Constant {
                at: at.to_string(),
                distance,
            });
        }
        let scale = (d_in as f64).sqrt() / distance;
        self.parameters.b_dec.value = mean.mul_scalar(scale).reshape([d_in]);
        self.state.scale = Some(scale);
        Ok(scale)
    }

    fn finish(self, config: SaeConfig, at: HookPoint) -> Trained {
        let Self { parameters, state } = self;
        // Latents, and with them the reconstruction, go back to the activations' own units; directions keep norm one.
        let back = 1.0 / state.scale.expect("set by the first step");
        let mut metadata = crate::Metadata {
            hook_name: Some(at.to_string()),
            ..Default::default()
        };
        metadata.other.insert("training_tokens".into(), state.tokens.into());
        let last = &state.log[state.log.len() - state.log.len().div_ceil(20)..];
        let mean = |of: fn(&LogRow) -> f64| last.iter().map(of).sum::<f64>() / last.len() as f64;
        let metrics = Metrics {
            fvu: mean(|row| row.fvu),
            l0: mean(|row| row.l0),
            dead_fraction: mean(|row| row.dead as f64) / config.d_sae as f64,
            tokens: state.tokens as usize,
        };
        let sae = Sae {
            activation: config.activation((state.threshold.unwrap_or(0.0) * back) as f32),
            w_enc: parameters.w_enc.value,
            b_enc: parameters.b_enc.value.mul_scalar(back),
            w_dec: parameters.w_dec.value,
            b_dec: parameters.b_dec.value.mul_scalar(back),
            metadata,
        };
        Trained {
            sae,
            log: state.log,
            metrics,
        }
    }

    fn save(&mut self, checkpoints: &Checkpoints, step: u64, settings: &str) -> Result<()> {
        let p = &self.parameters;
        let mut data = [
            p.w_enc.to_data(),
            p.w_dec.to_data(),
            p.b_enc.to_data(),
            p.b_dec.to_data(),
        ]
        .into_iter()
        .flatten();
        let tensors = NAMES.map(|name| {
            let data = data.next().expect("as many tensors as names");
            (name, Array::new(data.shape().to_vec(), data.iter::<f32>().collect()))
        });
        let weights = safetensors(tensors.iter().map(|(name, array)| (*name, array)), &[]);
        self.state.settings = Value::String(settings.to_owned());
        let state = serde_json::to_vec(&self.state).expect("the state has string keys only");
        checkpoints.save(step, &[(WEIGHTS, &weights), (STATE, &state)])?;
        Ok(())
    }

    fn resume(checkpoint: &Checkpoint, settings: &str, config: SaeConfig, device: &Device) -> Result<Self> {
        let SaeConfig { d_in, d_sae, .. } = config;
        let path = checkpoint.path().join(STATE);
        let malformed = |path, what: String| Error::Malformed { path, what };
        let state: State = serde_json::from_slice(&checkpoint.read(STATE)?)
            .map_err(|e| malformed(path.clone(), format!("not the state of a training: {e}")))?;
        let was = state.settings.as_str().unwrap_or_default();
        if was != settings {
            let (was, now) = (was.to_owned(), settings.to_owned());
            return Err(Error::OtherTraining {
                path: checkpoint.path().to_owned(),
                was,
                now,
            });
        }
        if state.last_active.len() != d_sae {
            let found = state.last_active.len();
            return Err(malformed(
                path,
                format!("field `last_active`: expected {d_sae} entries, found {found}"),
            ));
        }
        let path = checkpoint.path().join(WEIGHTS);
        let bytes = checkpoint.read(WEIGHTS)?;
        let mut arrays = Arrays::from_safetensors(path, &bytes)?;
        let parameters = Parameters {
            w_enc: parameter(&mut arrays, &NAMES[..3], [d_sae, d_in], device)?,
            w_dec: parameter(&mut arrays, &NAMES[3..6], [d_sae, d_in], device)?,
            b_enc: parameter(&mut arrays, &NAMES[6..9], [d_sae], device)?,
            b_dec: parameter(&mut arrays, &NAMES[9..], [d_in], device)?,
        };
        Ok(Self { parameters, state })
    }
}

/// A parameter and its moments out of a checkpoint.
fn parameter<const D: usize>(
    arrays: &mut Arrays,
    names: &[&str],
    shape: [usize; D],
    device: &Device,
) -> Result<Parameter<D>> {
    let mut tensor = |name: &str| -> Result<Tensor<D>> {
        let data = arrays.take(name, &shape)?;
        Ok(Tensor::from_data(TensorData::new(data, shape), device))
    };
    Ok(Parameter {
        value: tensor(names[0])?,
        first: tensor(names[1])?,
        second: tensor(names[2])?,
    })
}

/// The tensors of a checkpoint.
const NAMES: [&str; 12] = [
    "w_enc",
    "w_enc.first",
    "w_enc.second",
    "w_dec",
    "w_dec.first",
    "w_dec.second",
    "b_enc",
    "b_enc.first",
    "b_enc.second",
    "b_dec",
    "b_dec.first",
    "b_dec.second",
];

impl State {
    fn dead(&self, after: usize) -> Vec<u32> {
        let dead = |last: &u64| self.tokens - last >= after as u64;
        self.last_active
            .iter()
            .enumerate()
            .filter(|(_, last)| dead(last))
            .map(|(latent, _)| latent as u32)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use realign_tensor::test_device;
    use std::ops::ControlFlow;

    use super::*;
    use crate::Activation;
    use crate::toy::Toy;

    const AT: HookPoint = HookPoint::ResidPost(1);
    const SIZES: SaeConfig = SaeConfig {
        d_in: 32,
        d_sae: 192,
        k: 4,
        batch: false,
    };

    fn config(steps: usize) -> TrainConfig {
        TrainConfig {
            batch_tokens: 256,
            lr: Some(3e-3),
            warmup_steps: 10,
            aux_k: 16,
            dead_after_tokens: 256 * 8,
            checkpoint_every: 3,
            ..TrainConfig::new(256 * steps)
        }
    }

    fn toy() -> Toy {
        Toy::new(32, 48, 3, 256)
    }

    fn train(config: TrainConfig, checkpoints: Option<&Checkpoints>, stop_at: u64) -> Result<Trained> {
        let report = &mut |p: Progress<'_>| match p.done == stop_at {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        config.train(
            SIZES,
            &mut toy(),
            AT,
            &Seed::new(7),
            &test_device(),
            checkpoints,
            report,
        )
    }

    fn parts(trained: &Trained) -> [TensorData; 4] {
        let sae = &trained.sae;
        [
            sae.w_enc.to_data(),
            sae.b_enc.to_data(),
            sae.w_dec.to_data(),
            sae.b_dec.to_data(),
        ]
    }

    #[test]
    fn training_on_sparse_data_finds_its_directions() {
        let trained = train(config(400), None, u64::MAX).unwrap();
        let first = trained.log[0].fvu;
        assert!(
            first > 0.3 && trained.metrics.fvu < 0.06,
            "fvu fell from {first} to {:?}",
            trained.metrics
        );
        // The folded weights do the same on the data's own scale.
        let mut fresh = toy();
        fresh.skip(400);
        let measured = Metrics::measure(&trained.sae, (0..4).filter_map(|_| fresh.next_batch())).unwrap();
        assert!(
            (measured.fvu - trained.metrics.fvu).abs() < 0.02,
            "{measured:?} {:?}",
            trained.metrics
        );
        // Most of the true directions are a decoder row.
        let truth = SaeConfig::new(32, 48, 1).init(&Seed::new(99), &test_device()).w_dec;
        let cosines = truth
            .matmul(trained.sae.w_dec.clone().transpose())
            .max_dim(1)
            .into_data();
        let found = cosines.iter::<f32>().filter(|cosine| *cosine > 0.95).count();
        assert!(found >= 40, "{found} of 48 directions");
        assert_eq!(trained.sae.at(), Some(AT));
    }

    #[test]
    fn batch_top_k_finds_them_with_a_threshold_that_gives_its_sparsity_back() {
        // As many latents as the data has: a fourth would be noise, of any size.
        let sizes = SaeConfig {
            k: 3,
            batch: true,
            ..SIZES
        };
        let report = &mut |_: Progress<'_>| ControlFlow::Continue(());
        let trained = config(400)
            .train(sizes, &mut toy(), AT, &Seed::new(7), &test_device(), None, report)
            .unwrap();
        assert!(
            trained.log[0].fvu > 0.3 && trained.metrics.fvu < 0.08,
            "{:?}",
            trained.metrics
        );
        assert!(matches!(trained.sae.activation, Activation::BatchTopK { threshold } if threshold > 0.0));
        // Token by token, with the threshold instead of the batch.
        let mut fresh = toy();
        fresh.skip(400);
        let measured = Metrics::measure(&trained.sae, (0..4).filter_map(|_| fresh.next_batch())).unwrap();
        assert!((measured.fvu - trained.metrics.fvu).abs() < 0.02, "{measured:?}");
        assert!(
            (measured.l0 - trained.metrics.l0).abs() < 0.5,
            "{measured:?} {:?}",
            trained.metrics
        );
    }

    #[test]
    fn auxk_revives_dead_latents() {
        // Half of the encoder is too weak ever to be among the k, so that the main loss never reaches it.
        let dead = |aux_coefficient| {
            let config = TrainConfig {
                aux_coefficient,
                ..config(300)
            };
            let (mut run, mut toy) = (
                Run::begin(SIZES, &Seed::new(7), &test_device()),
                Toy::new(32, 192, 3, 256),
            );
            let w_enc = run.parameters.w_enc.value.clone();
            let [weak, strong] = [
                w_enc.clone().slice([0..96, 0..32]).mul_scalar(0.05),
                w_enc.slice([96..192, 0..32]),
            ];
            run.parameters.w_enc.value = Tensor::cat(vec![weak, strong], 0);
            for _ in 0..300 {
                run = run.step(&config, SIZES, toy.next_batch().unwrap(), AT).unwrap();
            }
            let fvu = run.state.log[280..].iter().map(|row| row.fvu).sum::<f64>() / 20.0;
            (run.state.log[299].dead, fvu)
        };
        let ((with, fvu), (without, fvu_without)) = (dead(1.0 / 32.0), dead(0.0));
        assert_eq!(
            without, 96,
            "the weak latents came alive, or strong ones died, by themselves"
        );
        assert!(with <= 75, "{with} of 96 are still dead with AuxK");
        assert!(
            fvu < 0.95 * fvu_without,
            "revived, but of no use: fvu {fvu}, {fvu_without} without"
        );
    }

    #[test]
    fn a_stopped_training_goes_on_to_the_same_numbers() {
        let config = |steps| TrainConfig {
            dead_after_tokens: 256,
            ..config(steps)
        };
        let whole = train(config(24), None, u64::MAX).unwrap();
        assert!(
            whole.log.iter().filter(|row| row.aux > 0.0).count() > 10,
            "AuxK had nothing to do"
        );
        for stop in [1, 8, 14, 23] {
            let folder = tempfile::tempdir().unwrap();
            let checkpoints = Checkpoints::new(folder.path(), 2);
            let stopped = train(config(24), Some(&checkpoints), stop).unwrap_err();
            assert!(matches!(stopped, Error::Run(realign_run::Error::Interrupted { done, .. }) if done == stop));
            let resumed = train(config(24), Some(&checkpoints), u64::MAX).unwrap();
            assert_eq!(resumed.log, whole.log, "stopped after {stop}");
            assert_eq!(parts(&resumed), parts(&whole), "stopped after {stop}");
        }
    }

    #[test]
    fn a_checkpoint_of_other_settings_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(folder.path(), 2);
        train(config(24), Some(&checkpoints), 4).unwrap_err();
        let error = train(
            TrainConfig {
                lr: Some(1e-3),
                ..config(24)
            },
            Some(&checkpoints),
            u64::MAX,
        )
        .unwrap_err();
        assert!(
            error.to_string().contains("0.003") && error.to_string().contains("0.001"),
            "{error}"
        );
        // How often checkpoints are written is no such setting.
        train(
            TrainConfig {
                checkpoint_every: 7,
                ..config(24)
            },
            Some(&checkpoints),
            u64::MAX,
        )
        .unwrap();
    }

    #[test]
    fn what_cannot_be_trained_is_refused() {
        let run = |config: TrainConfig, sizes, source: &mut dyn ActivationSource| {
            let report = &mut |_: Progress<'_>| ControlFlow::Continue(());
            config
                .train(sizes, source, AT, &Seed::new(7), &test_device(), None, report)
                .unwrap_err()
                .to_string()
        };
        struct Same(f32);
        impl ActivationSource for Same {
            fn next_batch(&mut self) -> Option<Tensor<2>> {
                (self.0 != 0.0).then(|| Tensor::full([8, 32], self.0, &test_device()))
            }
            fn skip(&mut self, _batches: usize) {}
        }
        assert!(run(config(5), SIZES, &mut Same(0.0)).contains("no token"));
        assert!(run(config(5), SIZES, &mut Same(1.0)).contains("does not vary"));
        assert!(run(config(5), SIZES, &mut Same(f32::NAN)).contains("does not vary"));
        assert!(run(config(5), SaeConfig { d_in: 33, ..SIZES }, &mut toy()).contains("32 wide"));
        assert!(run(config(5), SaeConfig { k: 193, ..SIZES }, &mut toy()).contains("k = 193"));
        assert!(
            run(
                TrainConfig {
                    batch_tokens: 0,
                    ..config(5)
                },
                SIZES,
                &mut toy()
            )
            .contains("batch_tokens")
        );
        assert!(
            run(
                TrainConfig {
                    lr: Some(f64::NAN),
                    ..config(5)
                },
                SIZES,
                &mut toy()
            )
            .contains("`lr`")
        );
        assert!(
            run(
                TrainConfig {
                    decay_share: 2.0,
                    ..config(5)
                },
                SIZES,
                &mut toy()
            )
            .contains("decay_share")
        );
    }

    #[test]
    fn the_learning_rate_warms_up_stays_and_decays() {
        let config = TrainConfig {
            decay_share: 0.5,
            ..config(100)
        };
        let at = |step| config.lr_at(step, 192) / 3e-3;
        assert!((at(5) - 0.5).abs() < 1e-9 && (at(50) - 1.0).abs() < 1e-9);
        assert!((at(76) - 0.5).abs() < 1e-9 && at(100) > 0.0 && at(100) < 0.03);
    }
}
