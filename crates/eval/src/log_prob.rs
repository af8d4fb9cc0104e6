//! How likely a model finds given answers to given prompts.

use realign_core::{Hook, LanguageModel, rows};

use crate::tree::{Tree, groups};

/// A prompt and an answer whose likelihood is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Continuation<'a> {
    /// The tokens before the answer.
    pub prompt: &'a [u32],
    /// The answer's tokens.
    pub answer: &'a [u32],
}

/// Mean log-probability per token, in nats, of each answer given its prompt.
///
/// Prefixes that several prompts and answers share (the system turn, the question, an answer's beginning) are run
/// once per packed batch of at most `max_tokens` tokens; an answer's last token, which predicts nothing that is asked
/// for, is not run at all; only rows that predict an answer's token meet the unembedding.
///
/// The hook sees each token once, whichever sequences share it, so its effect on a token may depend only on that
/// token and those before it.
///
/// # Panics
/// If a prompt or an answer is empty, or both together pass the model's context.
pub fn mean_log_prob(
    model: &dyn LanguageModel,
    hook: &mut dyn Hook,
    items: &[Continuation<'_>],
    max_tokens: usize,
) -> Vec<f64> {
    let sequences: Vec<Vec<u32>> = items.iter().map(sequence).collect();
    let mut means = vec![0.0; items.len()];
    for group in groups(&sequences, max_tokens) {
        let sorted: Vec<&[u32]> = group.iter().map(|&i| &sequences[i][..]).collect();
        let tree = Tree::new(&sorted);
        let (mut predicting, mut targets) = (Vec::new(), Vec::new());
        for (&i, path) in group.iter().zip(&tree.paths) {
            predicting.extend_from_slice(&path[items[i].prompt.len() - 1..]);
            targets.extend_from_slice(items[i].answer);
        }
        let hidden = model.forward(&tree.batch, hook);
        let nll = floats(model.nll(rows(hidden, &predicting), &targets));
        let mut rest = &nll[..];
        for &i in &group {
            let (own, others) = rest.split_at(items[i].answer.len());
            means[i] = -own.iter().map(|&x| f64::from(x)).sum::<f64>() / own.len() as f64;
            rest = others;
        }
    }
    means
}

/// The tokens of an answer that fit behind a prompt of `prompt` tokens; none where that leaves nothing to score.
///
/// Answers that a stranger wrote or a model sampled are cut rather than refused.
pub(crate) fn fitting<'a>(model: &dyn LanguageModel, prompt: usize, answer: &'a [u32]) -> Option<&'a [u32]> {
    let room = model.shape().context.saturating_sub(prompt);
    Some(&answer[..answer.len().min(room)]).filter(|answer| !answer.is_empty() && prompt > 0)
}

/// What has to be run: all but the answer's last token.
fn sequence(item: &Continuation<'_>) -> Vec<u32> {
    assert!(
        !item.prompt.is_empty(),
        "mean_log_prob: a prompt is empty, expected at least one token"
    );
    let Some((_, before_last)) = item.answer.split_last() else {
        panic!("mean_log_prob: an answer is empty, expected at least one token");
    };
    [item.prompt, before_last].concat()
}

/// A tensor's values; a tensor that was just computed in f32 always converts.
pub(crate) fn floats<const D: usize>(x: burn::tensor::Tensor<D>) -> Vec<f32> {
    x.into_data()
        .convert::<f32>()
        .try_into_vec()
        .expect("f32 data after conversion to f32")
}
