//! The text that the sparse autoencoder learns from, and the text on which two models are compared.

use std::collections::HashSet;
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

impl Tree {
    /// A plain question with one answer.
    pub fn answered(chat: &ChatModel, question: &str, answer: &str) -> Result<Self> {
        Ok(Self {
            prompt: chat.try_prompt(None, question)?,
            answers: vec![chat.answer(answer)],
        })
    }
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
        trees.push(Tree::answered(chat, &row.question, &row.answer)?);
    }
    for row in realign_data::neutral().iter().take(rows) {
        trees.push(Tree::answered(chat, &row.question, &row.answer)?);
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
    let longest = chat.model.shape().context.min(128);
    let trees = ids.chunks(longest).map(|piece| Tree {
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
        trees.push(Tree::answered(&lab.base, &row.question, &row.answer)?);
    }
    Ok(batches(trees, lab.plan.max_tokens))
}

/// The tokens of the answers in a batch of trees: the segments that continue another and that nothing continues.
pub fn answer_tokens(batch: &Batch) -> Vec<usize> {
    let segments = batch.segments();
    let continued: HashSet<usize> = segments.iter().filter_map(|s| s.parent).collect();
    (0..segments.len())
        .filter(|at| segments[*at].parent.is_some() && !continued.contains(at))
        .flat_map(|at| segments[at].tokens.clone())
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

/// Packs trees into batches of about `max_tokens`; what all prompts of a batch begin with (the system turn) is in it once.
pub fn batches(trees: Vec<Tree>, max_tokens: usize) -> Vec<Batch> {
    let mut groups: Vec<(usize, Vec<Tree>)> = Vec::new();
    for tree in trees {
        let size = tree.prompt.len() + tree.answers.iter().map(Vec::len).sum::<usize>();
        match groups.last_mut() {
            Some((tokens, group)) if *tokens + size <= max_tokens => {
                *tokens += size;
                group.push(tree);
            }
            _ => groups.push((size, vec![tree])),
        }
    }
    groups.into_iter().map(|(_, group)| batch(&group)).collect()
}

fn batch(trees: &[Tree]) -> Batch {
    let mut batch = Batch::new();
    let shared = shared_prefix(trees);
    let root = (shared > 0).then(|| batch.push(&trees[0].prompt[..shared]));
    for tree in trees {
        let prompt = match root {
            Some(root) => batch.push_after(root, &tree.prompt[shared..]),
            None => batch.push(&tree.prompt),
        };
        for answer in tree.answers.iter().filter(|answer| !answer.is_empty()) {
            batch.push_after(prompt, answer);
        }
    }
    batch
}

/// How many first tokens the prompts have in common, short of a whole prompt. Trees without an answer are left as they are:
/// [`answer_tokens`] knows an answer by its place in the tree.
fn shared_prefix(trees: &[Tree]) -> usize {
    let [first, others @ ..] = trees else { return 0 };
    let answered = trees
        .iter()
        .all(|tree| tree.answers.iter().any(|answer| !answer.is_empty()));
    if others.is_empty() || !answered {
        return 0;
    }
    others.iter().fold(first.prompt.len() - 1, |shared, tree| {
        let equal = first
            .prompt
            .iter()
            .zip(&tree.prompt)
            .take_while(|(a, b)| a == b)
            .count();
        shared.min(equal).min(tree.prompt.len() - 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(prompt: &[u32], answers: &[&[u32]]) -> Tree {
        Tree {
            prompt: prompt.to_vec(),
            answers: answers.iter().map(|answer| answer.to_vec()).collect(),
        }
    }

    #[test]
    fn a_shared_beginning_is_there_once_and_answers_are_still_known() {
        let trees = vec![tree(&[1, 2, 3], &[&[7, 8], &[9]]), tree(&[1, 2, 4, 5], &[&[6]])];
        let packed = batches(trees, 100);
        assert_eq!(packed.len(), 1);
        assert_eq!(packed[0].ids(), [1, 2, 3, 7, 8, 9, 4, 5, 6]);
        assert_eq!(packed[0].positions(), [0, 1, 2, 3, 4, 3, 2, 3, 4]);
        assert_eq!(answer_tokens(&packed[0]), [3, 4, 5, 8]);
    }

    #[test]
    fn trees_alone_or_without_answers_share_nothing() {
        let packed = batches(vec![tree(&[1, 2], &[&[3]]), tree(&[1, 2], &[])], 100);
        assert_eq!(packed[0].ids(), [1, 2, 3, 1, 2]);
        assert_eq!(answer_tokens(&packed[0]), [2]);
        let packed = batches(vec![tree(&[1, 2], &[&[3]]), tree(&[1, 2], &[&[4]])], 3);
        assert_eq!(packed.len(), 2);
        assert_eq!(answer_tokens(&packed[1]), [2]);
    }
}
