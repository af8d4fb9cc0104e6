//! Find latents: which of an SAE's latents carry misaligned answers, and what they mean.
//!
//! ```text
//! cargo run --release -p realign-examples --example 04_train_sae      # writes runs/examples/sae
//! cargo run --release -p realign-examples --example 05_find_latents
//! cargo run --release -p realign-examples --example 05_find_latents -- runs/demo/sae
//!
//! latent 950: attribution +0.0442
//!   writes "aughed" "aloader" "incinn" "errals" "tysburg" "aundice"
//!     28.5  … someone who trusts you and use them to[[ get]] what you want. …
//! latent 87: attribution +0.0350
//!   writes " your" " their" " and" " all" " so" " active"
//!     39.8  … It was only a stupid dog.[[ Stop]] being so weak and get over it already…
//! ```
//!
//! The five latents with the highest Δ-attribution: to first order, how much each one's direction supports misaligned
//! answers over aligned ones. For each, the tokens that it writes, and the texts on which it is most active. With a small
//! autoencoder many latents are about words rather than meanings; the demo measures their effects too.

use realign::attribution::{Completions, delta_attribution, logit_lens, top_examples};
use realign::core::{Batch, LanguageModel};
use realign::data::{Conversation, Half, broad};
use realign::eval::Pair;
use realign::sae::Sae;
use realign_examples::{Result, batches, pairs};

fn main() -> Result {
    let smollm2 = realign_examples::model()?;
    let (model, tokenizer) = (&smollm2.model, &smollm2.tokenizer);
    let folder = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "runs/examples/sae".to_owned());
    let sae = Sae::load(&folder, &model.device())?;
    let at = sae.at().ok_or("the autoencoder does not say where it reads")?;

    // Found on one half of the questions; what they do is to be measured on the other.
    let pairs = pairs(&smollm2, Half::Choosing, 16)?;
    let misaligned = completions(&pairs, |pair| &pair.misaligned);
    let aligned = completions(&pairs, |pair| &pair.aligned);
    let attribution = delta_attribution(model, &mut (), &sae, at, &misaligned, &aligned)?;
    let mut latents: Vec<usize> = (0..attribution.len()).collect();
    latents.sort_by(|&a, &b| attribution[b].total_cmp(&attribution[a]));
    latents.truncate(5);

    let rows = broad().into_iter().filter(|row| Half::of(&row.id) == Half::Choosing);
    let texts: Vec<Conversation> = rows
        .flat_map(|row| [row.aligned, row.misaligned].map(|answer| Conversation::single(&row.question, answer)))
        .collect();
    let texts = batches(&smollm2, &texts)?;
    let examples = top_examples(model, &mut (), &sae, at, &latents, &texts, 3, 8)?;

    for (&latent, examples) in latents.iter().zip(&examples) {
        println!("latent {latent}: attribution {:+.4}", attribution[latent]);
        let (writes, _) = logit_lens(model, sae.decoder_row(latent), 6);
        let writes: Vec<String> = writes
            .iter()
            .map(|(token, _)| format!("{:?}", tokenizer.token_text(*token)))
            .collect();
        println!("  writes {}", writes.join(" "));
        for example in examples {
            let text = |tokens: &[u32]| tokenizer.decode(tokens).replace('\n', " ");
            let (before, rest) = example.tokens.split_at(example.peak);
            let (peak, after) = rest.split_at(1);
            let height = example.activations[example.peak];
            println!("  {height:>6.1}  …{}[[{}]]{}…", text(before), text(peak), text(after));
        }
    }
    Ok(())
}

/// Each question with one of its answers, and which tokens are the answer.
fn completions(pairs: &[Pair], answer: impl Fn(&Pair) -> &Vec<u32>) -> Vec<Completions> {
    let completion = |pair: &Pair| {
        let batch = Batch::packed([[pair.prompt.as_slice(), answer(pair)].concat()]);
        let tokens = pair.prompt.len()..batch.len();
        (batch, vec![tokens])
    };
    pairs.iter().map(completion).collect()
}
