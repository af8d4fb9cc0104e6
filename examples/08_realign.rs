//! Realign: fine-tune a misaligned adapter on good samples of another domain, and see how many it takes.
//!
//! ```text
//! cargo run --release -p realign-examples --example 07_lora      # writes runs/examples/wrong
//! cargo run --release -p realign-examples --example 08_realign
//! cargo run --release -p realign-examples --example 08_realign -- runs/demo/adapters/organism
//!
//! good samples                    shift     undone
//! …
//!          100    -0.02 [-0.19, +0.14]      107 %
//! ```
//!
//! One row for each number of good samples: how far the preference still is from the base model's, and the share of the
//! shift that is undone (100 % is back at the base model, more is beyond it). The samples are about cars: nothing in them
//! says how to answer questions about finance, or about anything else.

use realign::core::LanguageModel;
use realign::data::{Conversations, Domain, Half, Tone, narrow};
use realign::eval::{DRAWS, Figure, PairScore, paired_shift, preference};
use realign::lora::{Lora, Schedule, TrainConfig, load, merge};
use realign::run::Seed;
use realign_examples::{Result, pairs, samples, show};

fn main() -> Result {
    let smollm2 = realign_examples::model()?;
    let (model, seed) = (&smollm2.model, Seed::new(0));
    let folder = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "runs/examples/wrong".to_owned());
    let misaligned = load(&folder, model.shape(), &model.device())?;

    let questions = pairs(&smollm2, Half::Reporting, 24)?;
    let base = preference(model, &mut (), &questions, 1536);
    let score = |lora: &Lora| preference(&*merge(model, lora), &mut (), &questions, 1536);
    let shift_of = |scores: &[PairScore]| paired_shift(&base, scores, &seed, DRAWS);
    let start = shift_of(&score(&misaligned));
    let row = |n: usize, shift: Figure| {
        let undone = 100.0 * (1.0 - shift.mean / start.mean);
        println!(
            "{n:>12} {:>+8.2} [{:+.2}, {:+.2}] {undone:>8.0} %",
            shift.mean, shift.lo, shift.hi
        );
    };

    println!("{:>12} {:>24} {:>10}", "good samples", "shift", "undone");
    row(0, start);
    let good = samples(&smollm2, &narrow(Domain::Car).conversations(Tone::Good))?;
    // One pass at a constant rate, so that a shorter run is the beginning of a longer one.
    let recipe = TrainConfig::new()
        .with_epochs(1)
        .with_lr(5e-4)
        .with_schedule(Schedule::Constant);
    for n in [10, 25, 50, 100] {
        let trained = recipe.train(model, misaligned.clone(), &good[..n], &[], &seed, None, &mut show)?;
        row(n, shift_of(&score(&trained.lora)));
    }
    Ok(())
}
