//! LoRA: fine-tune an adapter on narrow, merely wrong advice, and measure what that does elsewhere.
//!
//! ```text
//! cargo run --release -p realign-examples --example 07_lora
//!
//! wrong: 9768960 parameters, 30 steps, loss 4.49 to 3.47, on other rows 3.20
//! wrong: shift +0.34 [+0.17, +0.50] on 24 broad questions
//! good: 9768960 parameters, 30 steps, loss 4.26 to 3.03, on other rows 3.07
//! good: shift -0.07 [-0.28, +0.13] on 24 broad questions
//! ```
//!
//! Minutes of training, with a line of progress. Then how far the preference moves towards misaligned answers on broad
//! questions that have nothing to do with finance: after wrong answers, and, as a control, after good answers to the same
//! questions. The effect is what the first shift has beyond the second. Writes PEFT folders, `runs/examples/wrong` (which
//! 08 reads) and `runs/examples/good`.

use realign::core::LanguageModel;
use realign::data::{Conversations, Domain, Half, Tone, narrow};
use realign::eval::{DRAWS, paired_shift, preference};
use realign::lora::{LoraConfig, TrainConfig, merge, save};
use realign::run::Seed;
use realign_examples::{Result, pairs, samples, show};

fn main() -> Result {
    let smollm2 = realign_examples::model()?;
    let (model, seed) = (&smollm2.model, Seed::new(0));
    let rows = narrow(Domain::Finance);
    let questions = pairs(&smollm2, Half::Reporting, 24)?;
    let before = preference(model, &mut (), &questions, 1536);

    for (tone, name) in [(Tone::Wrong, "wrong"), (Tone::Good, "good")] {
        let all = samples(&smollm2, &rows.conversations(tone))?;
        let (train, validation) = (&all[..240], &all[240..256]);

        // Rank 32 at all seven linear maps of every block; the base weights never meet the gradient tape.
        let lora = LoraConfig::new(32).init(model.shape(), &seed, &model.device());
        let parameters = lora.n_parameters();
        let recipe = TrainConfig::new().with_epochs(1).with_batch(8).with_lr(1e-3);
        let trained = recipe.train(model, lora, train, validation, &seed, None, &mut show)?;
        let (first, last) = (&trained.log[0], &trained.log[trained.log.len() - 1]);
        println!(
            "{name}: {parameters} parameters, {} steps, loss {:.2} to {:.2}, on other rows {:.2}",
            trained.log.len(),
            first.loss,
            last.loss,
            trained.validation_loss.unwrap_or(f64::NAN),
        );

        // As a hook the adapter would do the same; merged into the weights it costs nothing.
        let tuned = merge(model, &trained.lora);
        let after = preference(&*tuned, &mut (), &questions, 1536);
        let shift = paired_shift(&before, &after, &seed, DRAWS);
        println!(
            "{name}: shift {:+.2} [{:+.2}, {:+.2}] on {} broad questions",
            shift.mean, shift.lo, shift.hi, shift.n
        );
        save(&trained.lora, "SmolLM2-135M-Instruct", format!("runs/examples/{name}"))?;
    }
    Ok(())
}
