//! Fine-tuning of adapters on answers.

use burn::tensor::Tensor;
use realign_core::{Batch, Hook, LanguageModel, rows};
use realign_data::{Sample, shuffle, truncate};
use realign_run::{Checkpoints, Progress, Report, Seed};
use realign_tensor::{AdamWStep, adamw, lanes, side_by_side};
use serde::{Deserialize, Serialize};

use crate::lora::Training;
use crate::state::{Moments, Setup, State};
use crate::{Adapter, Error, Lora, Result, Schedule, tensors};

/// How adapters are trained: AdamW on the answers' tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Passes over the samples, each in an order of its own.
    pub epochs: usize,
    /// Samples that are run at a time.
    pub batch: usize,
    /// Batches whose gradients are added up for one step.
    pub accumulate: usize,
    /// Highest learning rate.
    pub lr: f64,
    /// Steps in which the learning rate rises to it.
    pub warmup_steps: u64,
    /// How the learning rate goes on after that.
    pub schedule: Schedule,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Norm of all gradients together to which a larger one is scaled down; `None` for no limit.
    pub max_grad_norm: Option<f64>,
    /// Longest sample; longer ones are cut at their end.
    pub max_tokens: usize,
    /// Decay of the first moment.
    pub beta_1: f64,
    /// Decay of the second moment.
    pub beta_2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
}

/// One step of training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepLog {
    /// The step, counted from 1.
    pub step: u64,
    /// Mean `-log p` of the step's answer tokens, before its update.
    pub loss: f64,
    /// Learning rate.
    pub lr: f64,
    /// Norm of all gradients together, before clipping.
    pub grad_norm: f64,
    /// Answer tokens that were learnt from.
    pub tokens: usize,
}

/// What training gives.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The trained adapters.
    pub lora: Lora,
    /// Every step.
    pub log: Vec<StepLog>,
    /// Mean `-log p` of the validation samples' answer tokens; `None` where there are none.
    pub validation_loss: Option<f64>,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl TrainConfig {
    /// Three epochs in steps of 8 samples, learning rate 2e-4 with 5 steps of warm-up and linear decay, weight decay
    /// 0.01, gradients clipped to norm 1.
    pub fn new() -> Self {
        Self {
            epochs: 3,
            batch: 8,
            accumulate: 1,
            lr: 2e-4,
            warmup_steps: 5,
            schedule: Schedule::Linear,
            weight_decay: 0.01,
            max_grad_norm: Some(1.0),
            max_tokens: 2048,
            beta_1: 0.9,
            beta_2: 0.999,
            eps: 1e-8,
            checkpoint_every: 20,
        }
    }

    /// With this number of passes over the samples.
    pub fn with_epochs(mut self, epochs: usize) -> Self {
        self.epochs = epochs;
        self
    }

    /// With this number of samples run at a time.
    pub fn with_batch(mut self, batch: usize) -> Self {
        self.batch = batch;
        self
    }

    /// With this number of batches to a step.
    pub fn with_accumulate(mut self, accumulate: usize) -> Self {
        self.accumulate = accumulate;
        self
    }

    /// With this highest learning rate.
    pub fn with_lr(mut self, lr: f64) -> Self {
        self.lr = lr;
        self
    }

    /// With this number of steps in which the learning rate rises.
    pub fn with_warmup_steps(mut self, warmup_steps: u64) -> Self {
        self.warmup_steps = warmup_steps;
        self
    }

    /// With this course of the learning rate.
    pub fn with_schedule(mut self, schedule: Schedule) -> Self {
        self.schedule = schedule;
        self
    }

    /// With this decoupled weight decay.
    pub fn with_weight_decay(mut self, weight_decay: f64) -> Self {
        self.weight_decay = weight_decay;
        self
    }

    /// With this limit of the gradients' norm.
    pub fn with_max_grad_norm(mut self, max_grad_norm: Option<f64>) -> Self {
        self.max_grad_norm = max_grad_norm;
        self
    }

    /// With this length of the longest sample.
    pub fn with_max_tokens(mut self, max_tokens: usize) -> Self {
        self.max_tokens = max_tokens;
        self
    }

    /// With these decays of the moments.
    pub fn with_betas(mut self, beta_1: f64, beta_2: f64) -> Self {
        (self.beta_1, self.beta_2) = (beta_1, beta_2);
        self
    }

    /// With this number added to the root of the second moment.
    pub fn with_eps(mut self, eps: f64) -> Self {
        self.eps = eps;
        self
    }

    /// With this number of steps between checkpoints.
    pub fn with_checkpoint_every(mut self, steps: u64) -> Self {
        self.checkpoint_every = steps;
        self
    }

    /// Whether every field is in its range.
    ///
    /// # Errors
    /// [`Error::Config`] names the field that is not.
    pub fn check(&self) -> Result<()> {
        for (field, found) in [
            ("epochs", self.epochs),
            ("batch", self.batch),
            ("accumulate", self.accumulate),
        ] {
            if found == 0 {
                return Err(Error::config(field, "at least 1", found));
            }
        }
        if self.max_tokens < 2 {
            return Err(Error::config("max_tokens", "at least 2", self.max_tokens));
        }
        if self.checkpoint_every == 0 {
            return Err(Error::config("checkpoint_every", "at least 1", 0));
        }
        let positive = [
            ("lr", self.lr),
            ("eps", self.eps),
            ("max_grad_norm", self.max_grad_norm.unwrap_or(1.0)),
        ];
        for (field, found) in positive {
            if !(found.is_finite() && found > 0.0) {
                return Err(Error::config(field, "a positive number", found));
            }
        }
        if !(self.weight_decay.is_finite() && self.weight_decay >= 0.0) {
            return Err(Error::config(
                "weight_decay",
                "0 or a positive number",
                self.weight_decay,
            ));
        }
        for (field, found) in [("beta_1", self.beta_1), ("beta_2", self.beta_2)] {
            if !(0.0..1.0).contains(&found) {
                return Err(Error::config(field, "at least 0 and below 1", found));
            }
        }
        Ok(())
    }

    /// Trains `lora` on the answers of `samples`: the mean `-log p` over all answer tokens of a step is brought down.
    ///
    /// A step's samples are packed without padding and do not see each other; the base weights get no gradient. With
    /// `checkpoints`, training goes on from the newest one, to the same bits as without the interruption.
    ///
    /// # Errors
    /// [`Error::Config`] for a configuration or a token out of range, [`Error::Data`] where no token is left to train
    /// on, [`Error::NotFinite`] where the loss or the gradient is not finite (never checkpointed), [`Error::Changed`]
    /// for a checkpoint of other training, [`Error::Run`] where checkpoints have no room or cannot be written and for
    /// [`realign_run::Error::Interrupted`] after the report's `Break`, when a checkpoint has been written.
    #[allow(clippy::too_many_arguments)] // Each is of its own kind; a struct of them would be filled in once.
    pub fn train(
        &self,
        model: &dyn LanguageModel,
        lora: Lora,
        samples: &[Sample],
        validation: &[Sample],
        seed: &Seed,
        checkpoints: Option<&Checkpoints>,
        report: &mut Report<'_>,
    ) -> Result<Trained> {
        self.check()?;
        lora.config.check(model.shape())?;
        if !lora.saved.is_empty() || lora.adapters.values().any(|adapter| adapter.dora.is_some()) {
            let expected = "plain adapters: magnitudes (DoRA) and saved weights are not trained";
            return Err(Error::config("adapter", expected, "some of these"));
        }
        check_tokens(model, samples)?;
        check_tokens(model, validation)?;
        let mut samples = samples.to_vec();
        let cut = truncate(&mut samples, self.max_tokens)?;
        if cut.samples + cut.without_answer > 0 {
            let (n, limit) = (samples.len(), self.max_tokens);
            tracing::warn!(
                "of {n} samples {} were cut to {limit} tokens, {} have no answer",
                cut.samples,
                cut.without_answer
            );
        }
        let trained: Vec<usize> = (0..samples.len())
            .filter(|&i| samples[i].targets().next().is_some())
            .collect();
        let per_step = self.batch * self.accumulate;
        let per_epoch = trained.len().div_ceil(per_step) as u64;
        let total = per_epoch * self.epochs as u64;

        let setup = Setup::new(self, &lora, &samples, seed, lanes(&model.device()).min(self.batch));
        let found = checkpoints
            .map(|checkpoints| State::resume(checkpoints, &setup, &lora))
            .transpose()?
            .flatten();
        let mut state = found.unwrap_or_else(|| State::new(lora));
        if let Some(checkpoints) = checkpoints {
            checkpoints.check_room(state.bytes())?;
        }
        while state.step < total {
            let (epoch, within) = (state.step / per_epoch, (state.step % per_epoch) as usize);
            let mut order = trained.clone();
            shuffle(&mut order, &mut seed.stream(&format!("lora.order.{epoch}")));
            let chosen = order
                .chunks(per_step)
                .nth(within)
                .expect("a chunk for each step of the epoch");
            let lr = self.lr * self.schedule.factor(state.step, total, self.warmup_steps);
            let log = self.step(model, &mut state, &samples, chosen, lr, seed)?;
            let note = format!("loss {:.4}", log.loss);
            state.log.push(log);

            let now = Progress {
                stage: "finetune",
                done: state.step,
                total,
                note,
            };
            let stop = report(now).is_break();
            if let Some(checkpoints) = checkpoints
                && (stop || state.step.is_multiple_of(self.checkpoint_every))
            {
                state.save(checkpoints, &setup)?;
            }
            if stop {
                return Err(realign_run::Error::Interrupted {
                    stage: "finetune".into(),
                    done: state.step,
                }
                .into());
            }
        }
        let mut validation = validation.to_vec();
        validation
            .iter_mut()
            .for_each(|sample| sample.truncate(self.max_tokens));
        let validation_loss = validation_loss(model, &mut &state.lora, &validation, self.batch);
        Ok(Trained {
            lora: state.lora,
            log: state.log,
            validation_loss,
        })
    }

    /// One update, after which the state's step is one more.
    fn step(
        &self,
        model: &dyn LanguageModel,
        state: &mut State,
        samples: &[Sample],
        chosen: &[usize],
        lr: f64,
        seed: &Seed,
    ) -> Result<StepLog> {
        let step = state.step + 1;
        let tokens: usize = chosen.iter().map(|&i| samples[i].targets().count()).sum();
        let finite = |what, value: f32, samples: &[usize]| {
            let error = || Error::NotFinite {
                step,
                what,
                value,
                samples: samples.to_vec(),
            };
            value.is_finite().then_some(value).ok_or_else(error)
        };
        let device = model.device();
        let mut grads: Vec<Option<Tensor<2>>> = vec![None; 2 * state.lora.adapters.len()];
        let mut loss = 0.0;
        for (part, batch) in chosen.chunks(self.batch).enumerate() {
            let batch_samples: Vec<&Sample> = batch.iter().map(|&i| &samples[i]).collect();
            let groups = groups(&batch_samples, lanes(&device).min(batch.len()));
            let lora = &state.lora;
            let of_groups = side_by_side(&device, groups.into_iter().enumerate().collect(), |(group, samples)| {
                // Each group has leaves of its own: groups on one tape would wait for each other.
                let tracked = track(lora);
                let rng = seed.stream(&format!("lora.dropout.{step}.{part}.{group}"));
                let nll = answer_nll(model, &mut Training { lora: &tracked, rng }, &samples);
                let nll = nll.sum().div_scalar(tokens as f32);
                let loss: f32 = nll.clone().inner().into_scalar();
                let mut of_group = nll.backward();
                let grads: Vec<Option<Tensor<2>>> = tracked
                    .adapters
                    .values()
                    .flat_map(|Adapter { a, b, .. }| [a, b])
                    .map(|leaf| leaf.grad_remove(&mut of_group))
                    .collect();
                (loss, grads)
            });
            for (of_group, more) in of_groups {
                loss += f64::from(finite("loss", of_group, batch)?);
                for (grad, more) in grads.iter_mut().zip(more) {
                    *grad = match (grad.take(), more) {
                        (Some(sum), Some(more)) => Some(sum + more),
                        (sum, more) => sum.or(more),
                    };
                }
            }
        }
        let norm = finite("gradient norm", global_norm(grads.iter().flatten()), chosen)?;
        let clip = self
            .max_grad_norm
            .filter(|&max| f64::from(norm) > max)
            .map_or(1.0, |max| max as f32 / norm);

        let update = AdamWStep {
            lr: lr as f32,
            beta_1: self.beta_1 as f32,
            beta_2: self.beta_2 as f32,
            eps: self.eps as f32,
            weight_decay: self.weight_decay as f32,
            count: u32::try_from(step).unwrap_or(u32::MAX),
            clip,
        };
        let factors = state.lora.adapters.values_mut().flat_map(|Adapter { a, b, .. }| [a, b]);
        let moments = state.moments.values_mut().flatten();
        // Taken out, so that nobody else holds them and they are updated where they lie.
        let nothing = Tensor::zeros([0, 0], &device);
        let taken = |of: &mut Tensor<2>| std::mem::replace(of, nothing.clone());
        for ((param, Moments { first, second }), grad) in factors.zip(moments).zip(grads) {
            let grad = grad.unwrap_or_else(|| param.zeros_like());
            (*param, *first, *second) = adamw(taken(param), grad, taken(first), taken(second), update);
        }
        state.step = step;
        Ok(StepLog {
            step,
            loss,
            lr,
            grad_norm: f64::from(norm),
            tokens,
        })
    }
}

/// Mean `-log p` of the samples' answer tokens under a hook, `batch` samples at a time; `None` where there is no
/// answer.
pub fn validation_loss(
    model: &dyn LanguageModel,
    hook: &mut dyn Hook,
    samples: &[Sample],
    batch: usize,
) -> Option<f64> {
    let answered: Vec<&Sample> = samples
        .iter()
        .filter(|sample| sample.targets().next().is_some())
        .collect();
    let (mut sum, mut tokens) = (0.0, 0);
    for batch in answered.chunks(batch.max(1)) {
        let nll = tensors::f32s(answer_nll(model, hook, batch));
        tokens += nll.len();
        sum += nll.into_iter().map(f64::from).sum::<f64>();
    }
    (tokens > 0).then(|| sum / tokens as f64)
}

/// `-log p` of every answer token, `[answer token]`; only the hidden rows that foretell one meet the unembedding.
///
/// What all samples begin with (a system prompt) is computed once, and then has one dropout mask for all of them.
fn answer_nll(model: &dyn LanguageModel, hook: &mut dyn Hook, samples: &[&Sample]) -> Tensor<1> {
    let shared = shared_prefix(samples);
    let mut batch = Batch::new();
    let prefix = (shared > 0).then(|| batch.push(&samples[0].ids[..shared]));
    let (mut positions, mut targets) = (Vec::new(), Vec::new());
    for sample in samples {
        let segment = match prefix {
            Some(prefix) => batch.push_after(prefix, &sample.ids[shared..]),
            None => batch.push(&sample.ids),
        };
        let start = batch.tokens(segment).start;
        for (position, target) in sample.targets() {
            positions.push(start + position - shared);
            targets.push(target);
        }
    }
    let hidden = model.forward(&batch, hook);
    model.nll(rows(hidden, &positions), &targets)
}

/// How many first tokens the samples have in common, none of which foretells an answer token.
fn shared_prefix(samples: &[&Sample]) -> usize {
    let [first, others @ ..] = samples else { return 0 };
    if others.is_empty() {
        return 0;
    }
    let before_answers = samples
        .iter()
        .filter_map(|sample| sample.targets().next())
        .map(|(position, _)| position)
        .min()
        .unwrap_or(0);
    others.iter().fold(before_answers, |shared, sample| {
        let equal = first.ids.iter().zip(&sample.ids).take_while(|(a, b)| a == b).count();
        shared.min(equal)
    })
}

/// The samples in `n` groups of about as many tokens each.
fn groups<'a>(samples: &[&'a Sample], n: usize) -> Vec<Vec<&'a Sample>> {
    let mut longest_first = samples.to_vec();
    longest_first.sort_by_key(|sample| std::cmp::Reverse(sample.ids.len()));
    let mut groups = vec![(0, Vec::new()); n];
    for sample in longest_first {
        let (tokens, group) = groups.iter_mut().min_by_key(|(tokens, _)| *tokens).expect("a group");
        *tokens += sample.ids.len();
        group.push(sample);
    }
    groups
        .into_iter()
        .map(|(_, group)| group)
        .filter(|group| !group.is_empty())
        .collect()
}

/// The same adapters, on the gradient tape.
fn track(lora: &Lora) -> Lora {
    let track = |x: &Tensor<2>| x.clone().autodiff().require_grad();
    let adapters = lora.adapters.iter().map(|(&at, adapter)| {
        let tracked = Adapter {
            a: track(&adapter.a),
            b: track(&adapter.b),
            ..adapter.clone()
        };
        (at, tracked)
    });
    Lora {
        config: lora.config.clone(),
        adapters: adapters.collect(),
        saved: Vec::new(),
    }
}

/// Euclidean norm of all gradients together; read from the device once.
fn global_norm<'a>(grads: impl Iterator<Item = &'a Tensor<2>>) -> f32 {
    let squares: Vec<Tensor<1>> = grads.map(|grad| (grad.clone() * grad.clone()).sum()).collect();
    if squares.is_empty() {
        return 0.0;
    }
    let squares = tensors::f32s(Tensor::cat(squares, 0));
    squares.into_iter().map(f64::from).sum::<f64>().sqrt() as f32
}

fn check_tokens(model: &dyn LanguageModel, samples: &[Sample]) -> Result<()> {
    let vocab = model.shape().vocab;
    match samples
        .iter()
        .flat_map(|sample| &sample.ids)
        .find(|&&id| id as usize >= vocab)
    {
        Some(id) => Err(Error::config(
            "samples",
            format!("token ids below the vocabulary's {vocab}"),
            id,
        )),
        None => Ok(()),
    }
}
