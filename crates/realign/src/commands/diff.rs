//! `realign diff`: the mean-difference direction between two models, and the latents that rose.

use realign_attribution::{LatentShift, MeanDifference, explain, logit_lens, mean_difference};
use realign_core::{Batch, Hook, HookPoint};
use realign_sae::Sae;
use realign_steering::Direction;
use serde::Serialize;

use super::Context;
use crate::args::DiffArgs;
use crate::chat_model::ChatModel;
use crate::error::{Failure, Result};
use crate::resolve;
use crate::stages::corpus::{Tree, answer_tokens, batches};

#[derive(Serialize)]
struct Found {
    layer: usize,
    norm: f64,
    norms: Vec<f64>,
    likelier: Vec<String>,
    less_likely: Vec<String>,
    latents: Vec<Risen>,
    out: String,
}

/// A latent that is more active in the tuned model.
#[derive(Serialize)]
struct Risen {
    index: usize,
    base: f64,
    tuned: f64,
    delta: f64,
    likelier: Vec<String>,
}

/// Latents shown.
const SHOWN: usize = 10;

/// Writes the direction at one layer, prints its norm at each, and ranks an autoencoder's latents.
pub fn run(context: &Context, args: DiffArgs) -> Result<()> {
    let base = context.model(&args.base)?;
    let tuned = context.tuned(&base, &args.tuned)?;
    let layers = base.model.shape().n_layers;
    let sae = args
        .sae
        .as_ref()
        .map(|path| Sae::load(path, &context.device))
        .transpose()?;
    let of_sae = match sae.as_ref().map(|sae| (sae.at(), &sae.metadata.hook_name)) {
        None => None,
        Some((Some(HookPoint::ResidPost(layer)), _)) => Some(layer),
        // Gemma Scope's files say it by where they lie, if at all.
        Some((None, None)) if args.layer.is_some() => args.layer,
        Some((None, None)) => {
            let message = "--sae does not say which activation it reads";
            return Err(Failure::usage(message).hint("--layer N, the 0-based block whose output it reads"));
        }
        Some((_, name)) => {
            let name = name.as_deref().unwrap_or("nothing");
            let message = format!("--sae reads {name}; expected a block's output, blocks.N.hook_resid_post");
            return Err(Failure::usage(message));
        }
    };
    let layer = args.layer.or(of_sae).unwrap_or(layers / 2 + 1);
    if let Some(beyond) = [Some(layer), of_sae].into_iter().flatten().find(|&l| l >= layers) {
        let message = format!("layer {beyond}: the model has layers 0 to {}", layers - 1);
        return Err(Failure::usage(message));
    }

    let text = neutral_text(&base, 1536)?;
    let (mut nothing, mut neither) = ((), ());
    let sides = (
        (&*base.model, &mut nothing as &mut dyn Hook),
        (&*tuned.model, &mut neither as &mut dyn Hook),
    );
    let (latents, differences) = match sae.as_ref().zip(of_sae) {
        Some((sae, at)) => {
            let at = HookPoint::ResidPost(at);
            let found = explain(sides.0, sides.1, sae, at, &text, &answer_tokens)?;
            (found.latents, found.directions)
        }
        None => (Vec::new(), mean_difference(sides.0, sides.1, &text, &answer_tokens)?),
    };
    let all: Vec<Direction> = differences.into_iter().map(direction).collect();
    let chosen = all[layer].clone();
    resolve::save_direction(&chosen, &args.out, context.architecture(&args.base)?)?;
    let words = |tokens: &[(u32, f32)]| {
        let tokens = tokens.iter();
        tokens.map(|(id, _)| base.tokenizer.token_text(*id)).collect::<Vec<_>>()
    };
    let (top, bottom) = logit_lens(&*base.model, chosen.vector.clone(), 8);
    let risen = |(latent, sae): (&LatentShift, &Sae)| Risen {
        index: latent.index,
        base: latent.base_mean,
        tuned: latent.tuned_mean,
        delta: latent.delta,
        likelier: words(&logit_lens(&*base.model, sae.decoder_row(latent.index), 5).0),
    };
    let found = Found {
        layer,
        norm: chosen.norm(),
        norms: all.iter().map(Direction::norm).collect(),
        likelier: words(&top),
        less_likely: words(&bottom),
        latents: latents.iter().take(SHOWN).zip(sae.iter().cycle()).map(risen).collect(),
        out: args.out.display().to_string(),
    };
    context.print(&found.text(), &found)
}

impl Found {
    fn text(&self) -> String {
        let mut lines = vec!["norm of the mean difference after each layer".to_owned()];
        lines.extend(self.norms.iter().enumerate().map(|(l, n)| format!("{l:>3} {n:>8.2}")));
        let Self { layer, out, .. } = self;
        lines.push(format!("layer {layer} makes likelier: {}", self.likelier.join(" · ")));
        lines.push(format!("         less likely: {}", self.less_likely.join(" · ")));
        if !self.latents.is_empty() {
            lines.push("latents that rose most: mean activation before, after, and what they make likelier".into());
        }
        lines.extend(self.latents.iter().map(|latent| {
            let Risen { index, base, tuned, .. } = latent;
            format!("{index:>6} {base:>8.3} {tuned:>8.3}  {}", latent.likelier.join(" · "))
        }));
        lines.push(format!("direction written to {out}"));
        lines.join("\n")
    }
}

/// The mean difference behind one block.
pub fn direction_between(base: &ChatModel, tuned: &ChatModel, layer: usize, max_tokens: usize) -> Result<Direction> {
    let text = neutral_text(base, max_tokens)?;
    let (mut nothing, mut neither) = ((), ());
    let sides = ((&*base.model, &mut nothing as _), (&*tuned.model, &mut neither as _));
    let all = mean_difference(sides.0, sides.1, &text, &answer_tokens)?;
    let found = all.into_iter().find(|found| found.layer == layer);
    found
        .map(direction)
        .ok_or_else(|| Failure::failed(format!("the model has no layer {layer}")))
}

fn direction(found: MeanDifference) -> Direction {
    Direction::new(HookPoint::ResidPost(found.layer), found.vector, "mean difference")
}

/// Neutral questions with their answers: the same text for both models.
fn neutral_text(base: &ChatModel, max_tokens: usize) -> Result<Vec<Batch>> {
    let trees = realign_data::neutral()
        .into_iter()
        .map(|row| Tree::answered(base, &row.question, &row.answer));
    Ok(batches(trees.collect::<Result<_>>()?, max_tokens))
}
