//! Train an SAE: a TopK sparse autoencoder on the residual stream of a middle block, streamed from the model.
//!
//! ```text
//! cargo run --release -p realign-examples --example 04_train_sae
//! cargo run --release -p realign-examples --example 04_train_sae -- my_text.txt
//!
//! 135885 tokens of text; training on blocks.16.hook_resid_post
//! fvu 0.248   l0 32.0   dead 0.0 %
//! loss: 4.029 as it is, 4.777 spliced, 15.820 with the activation zeroed; 93.7 % recovered
//! saved in runs/examples/sae
//! ```
//!
//! Minutes, with a line of progress. Then, on text that was not trained on, fvu (fraction of variance unexplained), l0 and
//! the share of the loss recovered; the share of latents that are dead after training; and a SAELens folder in
//! `runs/examples/sae`, which 05 reads. A good autoencoder takes billions of tokens; this one takes a small book, so
//! expect a rough one.

use realign::core::{Batch, HookPoint, LanguageModel};
use realign::data::{Conversation, Conversations, Domain, Tone, narrow, neutral};
use realign::run::Seed;
use realign::sae::{Metrics, ModelActivations, SaeConfig, TrainConfig, all_but_first, loss_recovered};
use realign_examples::{Result, batches, show};

fn main() -> Result {
    let smollm2 = realign_examples::model()?;
    let model = &smollm2.model;
    let at = HookPoint::ResidPost(model.shape().n_layers / 2 + 1);

    let text: Vec<Batch> = match std::env::args().nth(1) {
        Some(file) => {
            let ids = smollm2.tokenizer.encode_text(&std::fs::read_to_string(file)?);
            ids.chunks(1024).map(|chunk| Batch::packed(chunk.chunks(128))).collect()
        }
        None => {
            let domains = [Domain::Finance, Domain::Car].map(narrow);
            let tones = [Tone::Good, Tone::Wrong, Tone::Selfish];
            let all = domains
                .iter()
                .flat_map(|rows| tones.map(|tone| rows.conversations(tone)))
                .flatten();
            batches(&smollm2, &all.collect::<Vec<_>>())?
        }
    };
    let tokens: usize = text.iter().map(Batch::len).sum();
    println!("{tokens} tokens of text; training on {at}");

    let seed = Seed::new(0);
    let mut config = TrainConfig::new(160_000);
    config.batch_tokens = 1024;
    let mut source = ModelActivations::new(model, at, text, config.batch_tokens, &all_but_first, tokens, &seed);
    let sizes = SaeConfig::new(model.shape().d_model, 2048, 32);
    let trained = config.train(sizes, &mut source, at, &seed, &model.device(), None, &mut show)?;
    let sae = trained.sae;

    // Text of another kind, so that these figures are harder to reach than those of the training text.
    let other: Vec<Conversation> = neutral()
        .iter()
        .take(24)
        .map(|row| Conversation::single(&row.question, &row.answer))
        .collect();
    let other = batches(&smollm2, &other)?;
    let metrics = Metrics::on_model(&sae, model, at, &other)?;
    let loss = loss_recovered(model, &sae, at, &other)?;
    println!(
        "fvu {:.3}   l0 {:.1}   dead {:.1} %",
        metrics.fvu,
        metrics.l0,
        100.0 * trained.metrics.dead_fraction
    );
    println!(
        "loss: {:.3} as it is, {:.3} spliced, {:.3} with the activation zeroed; {:.1} % recovered",
        loss.clean,
        loss.spliced,
        loss.ablated,
        100.0 * loss.recovered
    );
    sae.save("runs/examples/sae")?;
    println!("saved in runs/examples/sae");
    Ok(())
}
