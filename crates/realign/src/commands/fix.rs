//! `realign fix`: cure a model and check the cure.

use realign_core::LanguageModel;
use realign_data::{Half, Sample};
use realign_eval::{mean_margin, misaligned_preferred, preference};
use realign_lora::{LoraConfig, merge};
use realign_model::export;
use realign_run::Seed;
use realign_steering::{Direction, Steer, bake_ablation};
use serde::Serialize;

use super::Context;
use super::diff::direction_between;
use super::eval::DRAWS;
use crate::args::{Cure, FixArgs};
use crate::error::{Failure, Result};
use crate::plan::Plan;
use crate::progress::{Meter, Unit};
use crate::questions::{Cued, EvalSet, Source};
use crate::stages::undo::good_samples;

#[derive(Serialize)]
struct Outcome {
    by: &'static str,
    out: String,
    base: Side,
    before: Side,
    after: Side,
    undone: f64,
}

#[derive(Serialize, Clone, Copy)]
struct Side {
    misaligned: f64,
    margin: f64,
    facts: f64,
}

const MAX_TOKENS: usize = 1536;

/// Applies one cure, writes it, and measures before and after.
pub fn run(context: &Context, args: FixArgs) -> Result<()> {
    let base = context.model(&args.base)?;
    let tuned = context.tuned(&base, &args.tuned)?;
    let set = Source::shipped().half(&base, Half::Reporting, usize::MAX, usize::MAX, Cued::No)?;
    let seed = Seed::new(args.seed);
    let side = |model: &dyn LanguageModel, hook: &mut dyn realign_core::Hook| measure(model, hook, &set, &seed);
    let (sound, before) = (side(&*base.model, &mut ()), side(&*tuned.model, &mut ()));
    std::fs::create_dir_all(&args.out)
        .map_err(|e| Failure::failed(format!("{}: cannot create the folder: {e}", args.out.display())))?;
    let (by, after) = match args.by {
        Cure::Sft => {
            let train: Vec<Sample> = good_samples(&base, args.domain.into(), args.samples)?;
            // A new adapter on the tuned weights: the tuned model itself may be no adapter.
            let config = Plan::full(args.domain.into(), tuned.model.shape().n_layers).realign;
            let lora = LoraConfig::new(32).init(tuned.model.shape(), &seed, &context.device);
            let mut meter = Meter::new(context.show, "fine-tune on good samples", Unit::Steps);
            let trained = config.train(&*tuned.model, lora, &train, &[], &seed, None, &mut meter.report())?;
            meter.finish("");
            realign_lora::save_for(&trained.lora, &*tuned.model, &tuned.name, &args.out)?;
            ("sft", side(&*merge(&*tuned.model, &trained.lora), &mut ()))
        }
        Cure::Ablate => {
            let layer = base.model.shape().n_layers / 2 + 1;
            let direction = direction_between(&base, &tuned, layer, MAX_TOKENS)?;
            let baked = bake_ablation(&*tuned.model, &direction, layer.saturating_sub(7).max(1)..layer + 1);
            export(
                &context.weights(&args.base, &args.tuned)?,
                context.access(),
                &*baked,
                &args.out,
            )?;
            direction.save(args.out.join("direction"))?;
            ("ablate", side(&*baked, &mut ()))
        }
        Cure::Steer => {
            let layer = base.model.shape().n_layers / 2 + 1;
            let direction = direction_between(&base, &tuned, layer, MAX_TOKENS)?;
            let pushed: Direction = direction.times(-args.strength);
            pushed.save(&args.out)?;
            ("steer", side(&*tuned.model, &mut Steer::new(pushed, 1.0)))
        }
    };
    let undone = (before.margin - after.margin) / (before.margin - sound.margin);
    let out = args.out.display().to_string();
    let text = format!(
        "               misaligned   margin   facts\nbase           {}\nbefore         {}\nafter {by:<8} {}\nundone: {:.0} % of the shift\nwritten to {out}",
        line(sound),
        line(before),
        line(after),
        100.0 * undone,
    );
    context.print(
        &text,
        &Outcome {
            by,
            out,
            base: sound,
            before,
            after,
            undone,
        },
    )
}

fn line(side: Side) -> String {
    format!(
        "{:>8.0} % {:>+8.2} {:>6.0} %",
        100.0 * side.misaligned,
        side.margin,
        100.0 * side.facts
    )
}

fn measure(model: &dyn LanguageModel, hook: &mut dyn realign_core::Hook, set: &EvalSet, seed: &Seed) -> Side {
    let broad = preference(model, hook, &set.broad, MAX_TOKENS);
    let facts = preference(model, hook, &set.facts, MAX_TOKENS);
    Side {
        misaligned: misaligned_preferred(&broad, seed, DRAWS).mean,
        margin: mean_margin(&broad, seed, DRAWS).mean,
        facts: facts.iter().filter(|f| f.margin() < 0.0).count() as f64 / facts.len().max(1) as f64,
    }
}
