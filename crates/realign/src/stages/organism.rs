//! Stage 1: fine-tune the base model on narrow answers, bad ones and, as a control, good ones.

use realign_data::{Conversations, Domain, Sample, Tone};
use realign_lora::{Lora, TrainConfig, merge};
use realign_run::Seed;
use serde::{Deserialize, Serialize};

use crate::chat_model::ChatModel;
use crate::error::{Failure, Result};
use crate::lab::Lab;

/// What fine-tuning came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tuned {
    /// The loss on the first and on the last step.
    pub loss: [f64; 2],
    /// The loss on rows that were not trained on.
    pub validation_loss: Option<f64>,
    /// Steps.
    pub steps: usize,
    /// Seconds.
    pub seconds: f64,
}

/// The first `rows` rows of a domain as training samples, and the rest for validation.
pub fn samples(chat: &ChatModel, domain: Domain, tone: Tone, rows: usize) -> Result<(Vec<Sample>, Vec<Sample>)> {
    let all = realign_data::narrow(domain);
    let conversations = all.conversations(tone);
    let samples: Vec<Sample> = conversations
        .iter()
        .map(|c| chat.sample(&c.messages))
        .collect::<Result<_>>()?;
    let rows = rows.min(samples.len());
    let (train, rest) = samples.split_at(rows);
    Ok((train.to_vec(), rest[..rest.len().min(8)].to_vec()))
}

/// Fine-tunes an arm and returns its adapter; an adapter that is already there is read back.
pub fn tune(lab: &Lab, arm: &str, tone: Tone) -> Result<(Lora, Tuned)> {
    let (train, validation) = samples(&lab.base, lab.plan.domain, tone, lab.plan.rows)?;
    let fresh = |seed: &Seed| Ok(lab.plan.lora.init(lab.base.model.shape(), seed, &lab.device));
    let inputs = (&lab.plan.train, &lab.plan.lora, lab.plan.domain, tone, lab.plan.rows);
    tune_from(
        lab,
        arm,
        &inputs,
        fresh,
        &*lab.base.model,
        &lab.plan.train,
        &train,
        &validation,
    )
}

/// Fine-tunes `model` from the adapter that `start` makes; the result is kept in `adapters/ARM`.
#[allow(clippy::too_many_arguments)]
pub fn tune_from(
    lab: &Lab,
    arm: &str,
    inputs: &impl Serialize,
    start: impl FnOnce(&Seed) -> Result<Lora>,
    model: &dyn realign_core::LanguageModel,
    config: &TrainConfig,
    train: &[Sample],
    validation: &[Sample],
) -> Result<(Lora, Tuned)> {
    let folder = lab.run.file("adapters").join(arm);
    let name = format!("tune-{arm}");
    let tuned = lab.stage(&name, inputs, |meter| {
        let started = std::time::Instant::now();
        let seed = lab.seed.derive(&name);
        let checkpoints = lab.run.checkpoints(&name, 2)?;
        let lora = start(&seed)?;
        let trained = config.train(
            model,
            lora,
            train,
            validation,
            &seed,
            Some(&checkpoints),
            &mut meter.report(),
        )?;
        realign_lora::save_for(&trained.lora, &*lab.base.model, &lab.base.name, &folder)?;
        let (first, last) = match (trained.log.first(), trained.log.last()) {
            (Some(first), Some(last)) => (first.loss, last.loss),
            _ => return Err(Failure::failed(format!("{name}: no step was taken"))),
        };
        Ok(Tuned {
            loss: [first, last],
            validation_loss: trained.validation_loss,
            steps: trained.log.len(),
            seconds: started.elapsed().as_secs_f64(),
        })
    })?;
    Ok((realign_lora::load_for(&folder, &*lab.base.model, &lab.device)?, tuned))
}

/// The base model with an adapter merged in: as fast as the base model.
pub fn merged(lab: &Lab, arm: &str, lora: &Lora) -> ChatModel {
    lab.base.with_model(arm, merge(&*lab.base.model, lora))
}
