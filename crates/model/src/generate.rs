//! Sampling from a model with a key/value cache, any number of prompts of any lengths at a time.

use std::ops::ControlFlow;

use burn::tensor::Tensor;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use realign_core::{Batch, Cache, Hook, LanguageModel, Until, rows};
use serde::{Deserialize, Serialize};

/// How to sample: temperature first, then top-k, then top-p, as llama.cpp orders them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GenerateConfig {
    /// Most tokens to add to each prompt.
    pub max_new_tokens: usize,
    /// Logits are divided by this; 0 takes the likeliest token.
    pub temperature: f64,
    /// Only this many of the likeliest tokens.
    pub top_k: Option<usize>,
    /// Only the likeliest tokens whose probabilities reach this sum.
    pub top_p: Option<f64>,
    /// Tokens that end an answer; not part of it.
    pub stop: Vec<u32>,
    /// Seed; every prompt has its own stream of random numbers, so batching changes nothing.
    pub seed: u64,
}

impl GenerateConfig {
    /// Greedy decoding without stop tokens.
    pub fn new(max_new_tokens: usize) -> Self {
        Self {
            max_new_tokens,
            temperature: 0.0,
            top_k: None,
            top_p: None,
            stop: Vec::new(),
            seed: 0,
        }
    }

    /// Samples at this temperature.
    pub fn with_temperature(mut self, temperature: f64) -> Self {
        self.temperature = temperature;
        self
    }

    /// Only the `k` likeliest tokens.
    pub fn with_top_k(mut self, k: usize) -> Self {
        self.top_k = Some(k);
        self
    }

    /// Only the likeliest tokens whose probabilities reach `p`.
    pub fn with_top_p(mut self, p: f64) -> Self {
        self.top_p = Some(p);
        self
    }

    /// Tokens that end an answer.
    pub fn with_stop(mut self, stop: impl IntoIterator<Item = u32>) -> Self {
        self.stop = stop.into_iter().collect();
        self
    }

    /// Another seed.
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Continues every prompt; returns the new tokens of each, without the stop token.
    ///
    /// `on_token` gets the prompt's index and each new token; [`ControlFlow::Break`] ends the run early with what there
    /// is. The same hooks run as in any forward pass. A prompt that would pass the model's context ends there. A model that
    /// needs it ([`LanguageModel::recomputes_at`]) runs a sequence from its start once more.
    ///
    /// # Panics
    /// If a prompt is empty or longer than the model's context.
    pub fn generate<P: AsRef<[u32]>>(
        &self,
        model: &dyn LanguageModel,
        hook: &mut dyn Hook,
        prompts: &[P],
        on_token: &mut dyn FnMut(usize, u32) -> ControlFlow<()>,
    ) -> Vec<Vec<u32>> {
        let mut answers = vec![Vec::new(); prompts.len()];
        let mut rngs: Vec<_> = (0..prompts.len()).map(|i| stream(self.seed, i)).collect();
        let context = model.shape().context;
        let mut live: Vec<usize> = (0..prompts.len()).collect();
        let total: usize = prompts.iter().map(|p| p.as_ref().len() + self.max_new_tokens).sum();
        let mut cache = Cache::new(prompts.len(), total);
        let mut batch = Batch::new();
        for (i, prompt) in prompts.iter().enumerate() {
            let prompt = prompt.as_ref();
            assert!(!prompt.is_empty(), "generate: prompt {i} is empty");
            assert!(
                prompt.len() <= context,
                "generate: prompt {i} has {} tokens, the context {context}",
                prompt.len()
            );
            batch.push_cached(i, 0, prompt);
        }
        for step in 0..self.max_new_tokens {
            if live.is_empty() {
                break;
            }
            let hidden = model.run(&batch, Until::End, Some(&mut cache), hook);
            let last: Vec<usize> = batch.segments().iter().map(|s| s.tokens.end - 1).collect();
            let next = self.sample(model.logits(rows(hidden, &last)), &live, &mut rngs);
            let mut still = Vec::with_capacity(live.len());
            batch = Batch::new();
            for (&i, token) in live.iter().zip(next) {
                if self.stop.contains(&token) {
                    continue;
                }
                answers[i].push(token);
                if on_token(i, token).is_break() {
                    return answers;
                }
                let position = cache.position(i);
                if position < context && step + 1 < self.max_new_tokens {
                    if model.recomputes_at() == Some(position) {
                        let whole = [prompts[i].as_ref(), &answers[i]].concat();
                        cache.forget(i);
                        batch.push_cached(i, 0, &whole);
                    } else {
                        batch.push_cached(i, position, &[token]);
                    }
                    still.push(i);
                }
            }
            live = still;
        }
        answers
    }

    /// One token for each row of `logits [live, vocab]`.
    fn sample(&self, logits: Tensor<2>, live: &[usize], rngs: &mut [ChaCha8Rng]) -> Vec<u32> {
        let vocab = logits.dims()[1];
        let logits = logits.into_data().try_into_vec::<f32>().expect("logits are f32");
        let draws: Vec<f64> = live.iter().map(|&i| rngs[i].random()).collect();
        logits
            .par_chunks_exact(vocab)
            .zip(draws)
            .map(|(row, draw)| self.pick(row, draw))
            .collect()
    }

    fn pick(&self, logits: &[f32], draw: f64) -> u32 {
        let likeliest = || {
            let best = logits.iter().enumerate().fold(
                (0, f32::NEG_INFINITY),
                |best, (i, &x)| if x > best.1 { (i, x) } else { best },
            );
            best.0 as u32
        };
        if self.temperature <= 0.0 {
            return likeliest();
        }
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weight = |x: f32| (f64::from(x - max) / self.temperature).exp();
        let mut candidates: Vec<(u32, f64)> = logits.iter().enumerate().map(|(i, &x)| (i as u32, weight(x))).collect();
        let heavier = |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if let Some(k) = self.top_k.filter(|&k| k > 0 && k < candidates.len()) {
            candidates.select_nth_unstable_by(k - 1, heavier);
            candidates.truncate(k);
            candidates.sort_unstable_by_key(|c| c.0);
        }
        if let Some(p) = self.top_p.filter(|&p| p < 1.0) {
            candidates.sort_unstable_by(heavier);
            let total: f64 = candidates.iter().map(|c| c.1).sum();
            let mut sum = 0.0;
            let enough = candidates.iter().position(|c| {
                sum += c.1;
                sum >= p * total
            });
            candidates.truncate(enough.map_or(candidates.len(), |i| i + 1));
        }
        let total: f64 = candidates.iter().map(|c| c.1).sum();
        let mut rest = draw * total;
        for &(token, weight) in &candidates {
            rest -= weight;
            if rest < 0.0 {
                return token;
            }
        }
        // Rounding left a remainder, or a logit is not a number.
        likeliest()
    }
}

fn stream(seed: u64, prompt: usize) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(prompt as u64);
    rng
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn top_k_and_top_p_leave_only_the_likeliest() {
        let logits = [0.0, 3.0, 2.9, -1.0];
        let base = GenerateConfig::new(1).with_temperature(1.0);
        for draw in [0.0, 0.3, 0.6, 0.999] {
            assert!([1, 2].contains(&base.clone().with_top_k(2).pick(&logits, draw)));
            assert!([1, 2].contains(&base.clone().with_top_p(0.6).pick(&logits, draw)));
            assert_eq!(base.clone().with_top_k(1).pick(&logits, draw), 1);
        }
        assert_eq!(base.pick(&logits, 0.0), 0);
        assert_eq!(GenerateConfig::new(1).pick(&logits, 0.9), 1);
    }
}
