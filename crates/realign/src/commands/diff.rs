//! `realign diff`: the mean-difference direction between two models.

use realign_attribution::{logit_lens, mean_difference};
use realign_core::{Batch, HookPoint};
use realign_steering::Direction;
use serde::Serialize;

use super::Context;
use crate::args::DiffArgs;
use crate::chat_model::ChatModel;
use crate::error::{Failure, Result};
use crate::stages::corpus::answer_tokens;

#[derive(Serialize)]
struct Found {
    layer: usize,
    norm: f64,
    norms: Vec<f64>,
    likelier: Vec<String>,
    less_likely: Vec<String>,
    out: String,
}

/// Writes the direction at one layer and prints its norm at each.
pub fn run(context: &Context, args: DiffArgs) -> Result<()> {
    let base = context.model(&args.base)?;
    let tuned = context.tuned(&base, &args.tuned)?;
    let layers = base.model.shape().n_layers;
    let layer = args.layer.unwrap_or(layers / 2 + 1);
    if layer >= layers {
        return Err(Failure::usage(format!(
            "--layer {layer}: the model has layers 0 to {}",
            layers - 1
        )));
    }
    let all = differences(&base, &tuned, 1536)?;
    let direction = all[layer].clone();
    direction.save(&args.out)?;
    let (top, bottom) = logit_lens(&*base.model, direction.vector.clone(), 8);
    let text = |tokens: &[(u32, f32)]| {
        tokens
            .iter()
            .map(|(id, _)| base.tokenizer.token_text(*id))
            .collect::<Vec<_>>()
    };
    let found = Found {
        layer,
        norm: direction.norm(),
        norms: all.iter().map(Direction::norm).collect(),
        likelier: text(&top),
        less_likely: text(&bottom),
        out: args.out.display().to_string(),
    };
    let norms: Vec<String> = found
        .norms
        .iter()
        .enumerate()
        .map(|(l, n)| format!("{l:>3} {n:>8.2}"))
        .collect();
    let words = format!(
        "norm of the mean difference after each layer\n{}\nlayer {layer} makes likelier: {}\n         less likely: {}\nwritten to {}",
        norms.join("\n"),
        found.likelier.join(" · "),
        found.less_likely.join(" · "),
        found.out,
    );
    context.print(&words, &found)
}

/// The mean difference behind one block.
pub fn direction_between(base: &ChatModel, tuned: &ChatModel, layer: usize, max_tokens: usize) -> Result<Direction> {
    differences(base, tuned, max_tokens)?
        .into_iter()
        .nth(layer)
        .ok_or_else(|| Failure::failed(format!("the model has no layer {layer}")))
}

/// The mean difference behind every block, over neutral answers: the same text through both models.
fn differences(base: &ChatModel, tuned: &ChatModel, max_tokens: usize) -> Result<Vec<Direction>> {
    let mut batches = vec![Batch::new()];
    for row in realign_data::neutral() {
        let (prompt, answer) = (
            base.try_prompt(None, &row.question)?,
            base.tokenizer.encode_text(&row.answer),
        );
        if batches
            .last()
            .is_some_and(|b| b.len() + prompt.len() + answer.len() > max_tokens)
        {
            batches.push(Batch::new());
        }
        if let Some(batch) = batches.last_mut() {
            let prompt = batch.push(&prompt);
            batch.push_after(prompt, &answer);
        }
    }
    let (mut nothing, mut neither) = ((), ());
    let found = mean_difference(
        (&*base.model, &mut nothing),
        (&*tuned.model, &mut neither),
        &batches,
        &answer_tokens,
    )?;
    Ok(found
        .into_iter()
        .map(|d| Direction::new(HookPoint::ResidPost(d.layer), d.vector, "mean difference"))
        .collect())
}
