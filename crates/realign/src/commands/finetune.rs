//! `realign finetune`: a LoRA adapter from conversations.

use realign_data::{Conversations, OnBad, Sample};
use realign_lora::{LoraConfig, TrainConfig};
use realign_run::{Checkpoints, FolderLock, Seed};
use serde::Serialize;

use super::Context;
use crate::args::FinetuneArgs;
use crate::error::Result;
use crate::progress::{Meter, Unit};

#[derive(Serialize)]
struct Done {
    out: String,
    steps: usize,
    samples: usize,
    first_loss: f64,
    last_loss: f64,
}

/// Trains and writes an adapter in PEFT's format.
pub fn run(context: &Context, args: FinetuneArgs) -> Result<()> {
    let folder = args.out.join("checkpoints");
    // Before anything that takes time: another process may work here, or nobody may write.
    let _lock = FolderLock::take(&folder)?;
    let base = context.model(&args.base.model)?;
    let conversations = match &args.data {
        Some(path) => realign_data::load_training(path, args.tone.into(), OnBad::Fail)?.rows,
        None => {
            let mut rows = realign_data::narrow(args.domain.into());
            rows.truncate(args.rows);
            rows.conversations(args.tone.into())
        }
    };
    let samples: Vec<Sample> = conversations
        .iter()
        .map(|c| base.sample(&c.messages))
        .collect::<Result<_>>()?;
    let seed = Seed::new(args.seed);
    let config = TrainConfig::new()
        .with_epochs(args.epochs)
        .with_lr(args.lr)
        .with_batch(args.batch);
    let lora = LoraConfig::new(args.rank).with_layers(args.from_layer..base.model.shape().n_layers);
    lora.check(base.model.shape())?;
    let lora = lora.init(base.model.shape(), &seed, &context.device);
    let checkpoints = Checkpoints::new(folder, 2);
    let mut meter = Meter::new(context.show, "finetune", Unit::Steps);
    let trained = config.train(
        &*base.model,
        lora,
        &samples,
        &[],
        &seed,
        Some(&checkpoints),
        &mut meter.report(),
    )?;
    realign_lora::save_for(&trained.lora, &*base.model, &base.name, &args.out)?;
    meter.finish("");
    let done = Done {
        out: args.out.display().to_string(),
        steps: trained.log.len(),
        samples: samples.len(),
        first_loss: trained.log.first().map_or(f64::NAN, |row| row.loss),
        last_loss: trained.log.last().map_or(f64::NAN, |row| row.loss),
    };
    let text = format!(
        "{} samples, {} steps, loss {:.3} → {:.3}\nadapter written to {}",
        done.samples, done.steps, done.first_loss, done.last_loss, done.out
    );
    context.print(&text, &done)
}
