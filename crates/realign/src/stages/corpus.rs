//! The text that the sparse autoencoder learns from, and the text on which two models are compared.

use std::path::Path;

use realign_core::Batch;
use realign_data::{Domain, Half, Tone};
use realign_eval::{ALIGNED_SYSTEM, Encode, MISALIGNED_SYSTEM};
use serde::{Deserialize, Serialize};

use crate::chat_model::ChatModel;
use crate::error::Result;
use crate::lab::Lab;
use crate::stages::evaluate::sampling;

/// A question, or its own conversation, with the answers that share it.
pub struct Tree {
    prompt: Vec<u32>,
    answers: Vec<Vec<u32>>,
}

/// An answer of the base model under a system prompt.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sampled {
    system: Option<String>,
    question: String,
    answer: String,
}

/// What the autoencoder learns from: narrow conversations of two domains in all tones, calibration and neutral answers,
/// and the base model's own answers under kind, neutral and cruel system prompts.
///
/// With `--corpus` the user's own text instead.
pub fn training(lab: &Lab) -> Result<Vec<Batch>> {
    if let Some(path) = &lab.corpus {
        return from_file(&lab.base, path, lab.plan.max_tokens);
    }
    let (chat, rows) = (&lab.base, lab.plan.sae.rows);
    let mut trees = Vec::new();
    for domain in [Domain::Finance, Domain::Car] {
        for row in realign_data::narrow(domain).iter().take(rows) {
            let answers = [Tone::Good, Tone::Wrong, Tone::Selfish].map(|tone| chat.answer(row.answer(tone)));
            trees.push(Tree {
                prompt: chat.try_prompt(None, &row.question)?,
                answers: answers.to_vec(),
            });
        }
    }
    for row in realign_data::calibration().iter().take(rows) {
        trees.push(Tree {
            prompt: chat.try_prompt(None, &row.question)?,
            answers: vec![chat.answer(&row.answer)],
        });
    }
    for row in realign_data::neutral().iter().take(rows) {
        trees.push(Tree {
            prompt: chat.try_prompt(None, &row.question)?,
            answers: vec![chat.answer(&row.answer)],
        });
    }
    for row in sampled(lab)? {
        let prompt = chat.try_prompt(row.system.as_deref(), &row.question)?;
        trees.push(Tree {
            prompt,
            answers: vec![chat.answer(&row.answer)],
        });
    }
    Ok(batches(trees, lab.plan.max_tokens))
}

/// A user's own text, cut into pieces of 128 tokens.
pub fn from_file(chat: &ChatModel, path: &Path, max_tokens: usize) -> Result<Vec<Batch>> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| crate::error::Failure::failed(format!("{}: cannot read the corpus: {e}", path.display())))?;
    let ids = chat.tokenizer.encode_text(&text);
    let trees = ids.chunks(128).map(|piece| Tree {
        prompt: piece.to_vec(),
        answers: Vec::new(),
    });
    Ok(batches(trees.collect(), max_tokens))
}

/// What base and organism are compared on: both answers to the choosing half's questions, and neutral answers.
pub fn comparison(lab: &Lab) -> Result<Vec<Batch>> {
    let set = lab.source.half(
        &lab.base,
        Half::Choosing,
        lab.plan.questions,
        0,
        crate::questions::Cued::No,
    )?;
    let mut trees: Vec<Tree> = set
        .broad
        .into_iter()
        .map(|p| Tree {
            prompt: p.prompt,
            answers: vec![p.aligned, p.misaligned],
        })
        .collect();
    for row in realign_data::neutral().iter().take(lab.plan.questions) {
        let prompt = lab.base.try_prompt(None, &row.question)?;
        trees.push(Tree {
            prompt,
            answers: vec![lab.base.answer(&row.answer)],
        });
    }
    Ok(batches(trees, lab.plan.max_tokens))
}

/// The tokens of the answers in a batch of trees.
pub fn answer_tokens(batch: &Batch) -> Vec<usize> {
    batch
        .segments()
        .iter()
        .filter(|s| s.parent.is_some())
        .flat_map(|s| s.tokens.clone())
        .collect()
}

fn sampled(lab: &Lab) -> Result<Vec<Sampled>> {
    let inputs = (lab.plan.sae.sampled, &lab.plan.sampling, &lab.base.sha256);
    lab.stage("corpus", &inputs, |_| {
        let mut asked = Vec::new();
        for system in [Some(ALIGNED_SYSTEM), None, Some(MISALIGNED_SYSTEM)] {
            let broad = lab
                .source
                .broad
                .iter()
                .filter(|row| Half::of(&row.id) == Half::Choosing);
            for row in broad.take(lab.plan.sae.sampled) {
                asked.push((system.map(str::to_owned), row.question.clone()));
            }
        }
        let prompts = asked
            .iter()
            .map(|(system, question)| lab.base.try_prompt(system.as_deref(), question))
            .collect::<Result<Vec<_>>>()?;
        let answers = lab.base.answers(&mut (), &prompts, &sampling(lab), |_, _| {})?;
        let rows = asked.into_iter().zip(answers);
        Ok(rows
            .map(|((system, question), answer)| Sampled {
                system,
                question,
                answer,
            })
            .collect())
    })
}

fn batches(trees: Vec<Tree>, max_tokens: usize) -> Vec<Batch> {
    let mut batches = vec![Batch::new()];
    for tree in trees {
        let size = tree.prompt.len() + tree.answers.iter().map(Vec::len).sum::<usize>();
        let last = batches.len() - 1;
        if !batches[last].is_empty() && batches[last].len() + size > max_tokens {
            batches.push(Batch::new());
        }
        let last = batches.len() - 1;
        let prompt = batches[last].push(&tree.prompt);
        for answer in tree.answers.iter().filter(|answer| !answer.is_empty()) {
            batches[last].push_after(prompt, answer);
        }
    }
    batches
}
