//! The texts on which a latent is most active.

use std::collections::HashSet;

use realign_core::{Batch, Hook, HookPoint, LanguageModel};
use realign_sae::Sae;
use serde::{Deserialize, Serialize};

use crate::diff::{encoded, record, recorded};
use crate::{Error, Result};

/// A piece of text on which a latent is active.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// The tokens, in order.
    pub tokens: Vec<u32>,
    /// The latent's activation on each of them.
    pub activations: Vec<f32>,
    /// Which of them has the largest activation that was looked for.
    pub peak: usize,
}

/// The `n` examples with the highest activation of each of `latents`, highest first; fewer where there are fewer.
///
/// An example is the peak and up to `window` tokens of its sequence on each side. Examples of one latent do not share a
/// token. A sequence's first token is no peak: SAEs are not trained on it (its norm is tens of times the others').
/// Of equal activations the one that comes first counts. One pass; only the best `n` are kept in memory.
///
/// # Errors
/// [`Error::Latent`], [`Error::Unreached`], [`Error::Width`].
#[expect(
    clippy::too_many_arguments,
    reason = "each is a different thing that the search needs"
)]
pub fn top_examples(
    model: &dyn LanguageModel,
    hook: &mut dyn Hook,
    sae: &Sae,
    at: HookPoint,
    latents: &[usize],
    batches: &[Batch],
    n: usize,
    window: usize,
) -> Result<Vec<Vec<Example>>> {
    let d_sae = sae.d_sae();
    if let Some(&latent) = latents.iter().find(|latent| **latent >= d_sae) {
        return Err(Error::Latent { latent, d_sae });
    }
    let mut best: Vec<Vec<Example>> = vec![Vec::new(); latents.len()];
    for batch in batches.iter().filter(|batch| !batch.is_empty()) {
        let seen = record(model, &mut *hook, &[at], batch)?;
        let active = encoded(sae, at, recorded(&seen, at)?)?;
        let columns = active.values.dims()[1];
        let (values, indices) = active.to_vecs();
        let places = Places::of(batch);
        for (best, &latent) in best.iter_mut().zip(latents) {
            let mut column = vec![0f32; batch.len()];
            for (j, _) in indices
                .iter()
                .enumerate()
                .filter(|(_, index)| **index as usize == latent)
            {
                column[j / columns] += values[j];
            }
            for example in peaks(batch, &places, &column, n, window) {
                insert(best, example, n);
            }
        }
    }
    Ok(best)
}

/// Where each token of a batch stands.
struct Places {
    segment: Vec<usize>,
    position: Vec<usize>,
}

impl Places {
    fn of(batch: &Batch) -> Self {
        let segments = batch.segments().iter().enumerate();
        let segment = segments
            .flat_map(|(i, segment)| vec![i; segment.tokens.len()])
            .collect();
        Self {
            segment,
            position: batch.positions(),
        }
    }
}

/// The batch's best examples: peaks from the highest down, each with a window that no earlier one touches.
fn peaks(batch: &Batch, places: &Places, column: &[f32], n: usize, window: usize) -> Vec<Example> {
    let mut order: Vec<usize> = (0..column.len())
        .filter(|&t| column[t] > 0.0 && places.position[t] > 0)
        .collect();
    order.sort_by(|&a, &b| column[b].total_cmp(&column[a]).then(a.cmp(&b)));
    let mut taken = HashSet::new();
    let mut examples = Vec::new();
    for peak in order {
        if examples.len() == n {
            break;
        }
        let path = batch.path(places.segment[peak]);
        let at = path
            .iter()
            .position(|&token| token == peak)
            .expect("a token lies on its own segment's path");
        let start = at.saturating_sub(window);
        let tokens = &path[start..(at + window + 1).min(path.len())];
        if tokens.iter().any(|token| taken.contains(token)) {
            continue;
        }
        taken.extend(tokens.iter().copied());
        examples.push(Example {
            tokens: tokens.iter().map(|&token| batch.ids()[token]).collect(),
            activations: tokens.iter().map(|&token| column[token]).collect(),
            peak: at - start,
        });
    }
    examples
}

/// Puts an example behind those that are at least as good; drops what is then too many.
fn insert(best: &mut Vec<Example>, example: Example, n: usize) {
    let height = |example: &Example| example.activations[example.peak];
    let at = best.partition_point(|other| height(other) >= height(&example));
    if at < n {
        best.insert(at, example);
        best.truncate(n);
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use realign_core::Record;
    use realign_model::{Llama, LlamaConfig};
    use realign_run::Seed;
    use realign_sae::{Activation, SaeConfig};

    use super::*;

    const AT: HookPoint = HookPoint::ResidPost(1);

    fn model() -> Llama {
        Llama::random(&LlamaConfig::tiny(), 5, &Device::flex())
    }

    fn batches() -> Vec<Batch> {
        let sequence = |seed: u32, n: u32| (0..n).map(|i| (i * i * 7 + seed * 13 + 5) % 64).collect::<Vec<u32>>();
        (0..5)
            .map(|i| Batch::packed([sequence(i, 14), sequence(i + 20, 6 + i), sequence(i + 9, 1)]))
            .collect()
    }

    /// Every window of every sequence, the highest that overlaps no higher one first.
    fn brute_force(sae: &Sae, latent: usize, n: usize, window: usize) -> Vec<Example> {
        let mut all = Vec::new();
        for (b, batch) in batches().iter().enumerate() {
            let mut record = Record::new([AT]);
            model().watch(batch, &mut record);
            let column = sae
                .encode(record.take(AT).unwrap())
                .dense_column(latent)
                .into_data()
                .try_into_vec::<f32>()
                .unwrap();
            for (s, segment) in batch.segments().iter().enumerate() {
                for t in segment.tokens.clone().skip(1).filter(|t| column[*t] > 0.0) {
                    let low = t.saturating_sub(window).max(segment.tokens.start);
                    let high = (t + window + 1).min(segment.tokens.end);
                    let tokens = batch.ids()[low..high].to_vec();
                    all.push((
                        (b, s),
                        low..high,
                        Example {
                            tokens,
                            activations: column[low..high].to_vec(),
                            peak: t - low,
                        },
                    ));
                }
            }
        }
        let mut found: Vec<((usize, usize), std::ops::Range<usize>, Example)> = Vec::new();
        while let Some(i) = (0..all.len()).reduce(|a, b| {
            let height = |i: usize| all[i].2.activations[all[i].2.peak];
            if height(b) > height(a) { b } else { a }
        }) {
            let next = all.remove(i);
            if found
                .iter()
                .all(|(place, range, _)| *place != next.0 || range.end <= next.1.start || next.1.end <= range.start)
            {
                found.push(next);
            }
        }
        found.into_iter().take(n).map(|(_, _, example)| example).collect()
    }

    #[test]
    fn the_search_finds_what_brute_force_finds() {
        let mut sae = SaeConfig::new(32, 24, 6).init(&Seed::new(1), &Device::flex());
        let latents: Vec<usize> = (0..24).collect();
        let mut several = 0;
        let (topk, threshold) = (sae.activation.clone(), Activation::BatchTopK { threshold: 0.1 });
        for (n, window, activation) in [
            (3, 2, topk.clone()),
            (50, 1, topk.clone()),
            (1, 100, topk.clone()),
            (4, 0, topk),
            (3, 2, threshold),
            (3, 1, Activation::Relu),
        ] {
            sae.activation = activation;
            let found = top_examples(&model(), &mut (), &sae, AT, &latents, &batches(), n, window).unwrap();
            for (latent, found) in found.into_iter().enumerate() {
                several += usize::from(found.len() > 1);
                assert_eq!(
                    found,
                    brute_force(&sae, latent, n, window),
                    "latent {latent}, n {n}, window {window}"
                );
            }
        }
        assert!(several > 10);
    }

    #[test]
    fn of_equal_activations_the_first_is_kept() {
        let sae = SaeConfig::new(32, 24, 6).init(&Seed::new(1), &Device::flex());
        let twice: Vec<Batch> = batches().into_iter().chain(batches()).collect();
        let latents: Vec<usize> = (0..24).collect();
        let once = top_examples(&model(), &mut (), &sae, AT, &latents, &batches(), 1, 3).unwrap();
        assert_eq!(
            top_examples(&model(), &mut (), &sae, AT, &latents, &twice, 1, 3).unwrap(),
            once
        );
        assert!(top_examples(&model(), &mut (), &sae, AT, &[24], &twice, 1, 3).is_err());
    }

    #[test]
    fn a_continuations_window_reaches_into_what_it_continues() {
        let mut batch = Batch::new();
        let question = batch.push(&[10, 11, 12]);
        batch.push_after(question, &[20, 21]);
        batch.push_after(question, &[30, 31]);
        let mut column = vec![0.0; 7];
        (column[3], column[5], column[1]) = (1.0, 3.0, 2.0);
        let found = peaks(&batch, &Places::of(&batch), &column, 5, 1);
        let tokens: Vec<&[u32]> = found.iter().map(|example| &example.tokens[..]).collect();
        // The other answer's peak at 20 and the question's at 11 would share token 12.
        assert_eq!(tokens, [&[12, 30, 31]]);
        assert_eq!(found[0].peak, 1);
    }
}
