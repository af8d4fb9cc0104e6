//! `realign sae train`.

use realign_core::{Batch, HookPoint};
use realign_run::{Checkpoints, FolderLock, Seed};
use realign_sae::{ModelActivations, SaeConfig, TrainConfig, all_but_first};
use serde::Serialize;

use super::Context;
use crate::args::SaeCommand;
use crate::error::{Failure, Result};
use crate::progress::{Meter, Unit};
use crate::stages::corpus::from_file;

#[derive(Serialize)]
struct Done {
    out: String,
    layer: usize,
    d_sae: usize,
    k: usize,
    tokens: usize,
    fvu: f64,
    l0: f64,
    dead: f64,
}

/// Tokens of activations that are held in memory to be shuffled.
const BUFFER: usize = 1 << 16;

/// Trains an autoencoder on the text of a file and writes a SAELens folder.
pub fn run(context: &Context, command: SaeCommand) -> Result<()> {
    let SaeCommand::Train(args) = command;
    let folder = args.out.join("checkpoints");
    // Before anything that takes time: another process may work here, or nobody may write.
    let _lock = FolderLock::take(&folder)?;
    let base = context.model(&args.base.model)?;
    let shape = base.model.shape();
    let layer = args.layer.unwrap_or((shape.n_layers / 2 + 1).min(shape.n_layers - 1));
    if layer >= shape.n_layers {
        return Err(Failure::usage(format!(
            "--layer {layer}: the model has layers 0 to {}",
            shape.n_layers - 1
        )));
    }
    let text = from_file(&base, &args.corpus, 1536)?;
    if text.iter().map(Batch::len).sum::<usize>() < 2 {
        return Err(Failure::failed(format!(
            "{}: the corpus holds no text",
            args.corpus.display()
        )));
    }
    let (at, seed) = (HookPoint::ResidPost(layer), Seed::new(args.seed));
    let config = TrainConfig::new(args.tokens);
    let mut source = ModelActivations::new(
        &*base.model,
        at,
        text,
        config.batch_tokens,
        &all_but_first,
        BUFFER,
        &seed,
    );
    let checkpoints = Checkpoints::new(folder, 2);
    let mut meter = Meter::new(context.show, "sae train", Unit::Steps);
    let sizes = SaeConfig {
        batch: args.batch_top_k,
        ..SaeConfig::new(shape.d_model, args.d_sae, args.k)
    };
    let trained = config.train(
        sizes,
        &mut source,
        at,
        &seed,
        &context.device,
        Some(&checkpoints),
        &mut meter.report(),
    )?;
    trained.sae.save(&args.out)?;
    meter.finish("");
    let m = trained.metrics;
    let done = Done {
        out: args.out.display().to_string(),
        layer,
        d_sae: args.d_sae,
        k: args.k,
        tokens: args.tokens,
        fvu: m.fvu,
        l0: m.l0,
        dead: m.dead_fraction,
    };
    let text = format!(
        "fvu {:.3}, l0 {:.1}, dead {:.1} %\nautoencoder written to {}",
        done.fvu,
        done.l0,
        100.0 * done.dead,
        done.out
    );
    context.print(&text, &done)
}
