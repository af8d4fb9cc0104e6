//! Activations for training, streamed from a model.

use std::fmt;

use burn::tensor::{Device, Tensor, TensorData};
use rand::RngExt;
use rand::seq::SliceRandom;
use realign_core::{Batch, HookPoint, LanguageModel, Record, rows};
use realign_run::Seed;

/// A stream of activation batches `[token, d]` that can be wound forward.
pub trait ActivationSource {
    /// The next batch; none when there is nothing (more) to give.
    fn next_batch(&mut self) -> Option<Tensor<2>>;

    /// Winds forward: the next batch is then the one that [`ActivationSource::next_batch`] would have given after
    /// `batches` calls.
    fn skip(&mut self, batches: usize);
}

/// A model's activations at one point, shuffled in memory, round after round, with nothing on disk.
///
/// A shuffle buffer holds `buffer_tokens` activations; each batch is drawn from it at random. When the whole data fits
/// into the buffer the model runs once over it and later rounds come from memory.
pub struct ModelActivations<'a> {
    model: &'a dyn LanguageModel,
    at: HookPoint,
    batches: Vec<Batch>,
    /// The tokens of each batch that are used.
    kept: Vec<Vec<usize>>,
    batch_tokens: usize,
    buffer_tokens: usize,
    rng: rand_chacha::ChaCha8Rng,
    /// Batches of this round that are still to come, last first.
    order: Vec<usize>,
    /// The buffer: `(batch, index into its kept tokens)`.
    buffer: Vec<(u32, u32)>,
    /// How many of the buffer's first entries have their activations in the storage.
    loaded: usize,
    storage: Storage,
    width: usize,
}

/// Where the buffer's activations are.
enum Storage {
    /// Beside the buffer, slot for slot.
    Slots(Vec<f32>),
    /// The activations of every batch that has been run, for good.
    All(Vec<Option<Vec<f32>>>),
}

impl<'a> ModelActivations<'a> {
    /// Activations at `at` of those tokens of `batches` that `tokens` names ([`all_but_first`] for residual streams:
    /// the first token's norm is tens of times the others', and a TopK SAE spends its latents on it), in batches of
    /// `batch_tokens`.
    pub fn new(
        model: &'a dyn LanguageModel,
        at: HookPoint,
        batches: Vec<Batch>,
        batch_tokens: usize,
        tokens: &dyn Fn(&Batch) -> Vec<usize>,
        buffer_tokens: usize,
        seed: &Seed,
    ) -> Self {
        assert!(batch_tokens > 0, "ModelActivations: batch_tokens must be at least 1");
        let kept: Vec<Vec<usize>> = batches.iter().map(tokens).collect();
        let total: usize = kept.iter().map(Vec::len).sum();
        let storage = match total <= buffer_tokens {
            true => Storage::All(vec![None; batches.len()]),
            false => Storage::Slots(Vec::new()),
        };
        Self {
            model,
            at,
            batches,
            kept,
            batch_tokens,
            // More than the data would only mix its rounds.
            buffer_tokens: buffer_tokens.min(total).max(batch_tokens),
            rng: seed.stream("sae.activations"),
            order: Vec::new(),
            buffer: Vec::new(),
            loaded: 0,
            storage,
            width: 0,
        }
    }

    /// Tokens in one round of the data.
    pub fn tokens(&self) -> usize {
        self.kept.iter().map(Vec::len).sum()
    }

    /// Fills the buffer with names.
    fn fill(&mut self) {
        while self.buffer.len() < self.buffer_tokens {
            if self.order.is_empty() {
                self.order = (0..self.batches.len()).collect();
                self.order.shuffle(&mut self.rng);
            }
            let Some(batch) = self.order.pop() else { break };
            self.buffer
                .extend((0..self.kept[batch].len()).map(|row| (batch as u32, row as u32)));
        }
    }

    /// The places of the next batch in the buffer, each to be taken out by `swap_remove` in this order.
    fn draw(&mut self) -> Vec<usize> {
        let n = self.buffer.len();
        (0..self.batch_tokens.min(n))
            .map(|i| self.rng.random_range(0..n - i))
            .collect()
    }

    fn run(&mut self, batch: usize) -> Vec<f32> {
        let x = rows(activation(self.model, self.at, &self.batches[batch]), &self.kept[batch]);
        self.width = x.dims()[1];
        x.into_data().iter::<f32>().collect()
    }

    /// Runs the model for what is in the buffer by name only.
    fn load(&mut self) {
        let start = self.loaded;
        let mut missing: Vec<u32> = self.buffer[start..].iter().map(|&(batch, _)| batch).collect();
        missing.sort_unstable();
        missing.dedup();
        for batch in missing {
            if matches!(&self.storage, Storage::All(all) if all[batch as usize].is_some()) {
                continue;
            }
            let x = self.run(batch as usize);
            let d = self.width;
            match &mut self.storage {
                Storage::All(all) => all[batch as usize] = Some(x),
                Storage::Slots(slots) => {
                    slots.resize(self.buffer.len() * d, 0.0);
                    let of_batch = (start..self.buffer.len()).filter(|&slot| self.buffer[slot].0 == batch);
                    for slot in of_batch {
                        let row = self.buffer[slot].1 as usize;
                        slots[slot * d..(slot + 1) * d].copy_from_slice(&x[row * d..(row + 1) * d]);
                    }
                }
            }
        }
    }

    fn device(&self) -> Device {
        self.model.device()
    }
}

impl ActivationSource for ModelActivations<'_> {
    fn next_batch(&mut self) -> Option<Tensor<2>> {
        if self.tokens() == 0 {
            return None;
        }
        self.fill();
        self.load();
        let places = self.draw();
        let d = self.width;
        let mut x = Vec::with_capacity(places.len() * d);
        for place in places {
            let (batch, row) = self.buffer.swap_remove(place);
            match &mut self.storage {
                Storage::All(all) => {
                    let batch = all[batch as usize].as_ref().expect("loaded above");
                    x.extend_from_slice(&batch[row as usize * d..][..d]);
                }
                Storage::Slots(slots) => {
                    x.extend_from_slice(&slots[place * d..(place + 1) * d]);
                    let last = self.buffer.len() * d;
                    slots.copy_within(last..last + d, place * d);
                    slots.truncate(last);
                }
            }
        }
        self.loaded = self.buffer.len();
        let n = x.len() / d;
        Some(Tensor::from_data(TensorData::new(x, [n, d]), &self.device()))
    }

    fn skip(&mut self, batches: usize) {
        if self.tokens() == 0 {
            return;
        }
        for _ in 0..batches {
            self.fill();
            for place in self.draw() {
                self.buffer.swap_remove(place);
            }
        }
        // The slots no longer match the names: the next batch runs the model for what is in the buffer by then.
        if batches > 0 {
            self.loaded = 0;
        }
    }
}

impl fmt::Debug for ModelActivations<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelActivations")
            .field("at", &self.at)
            .field("tokens", &self.tokens())
            .field("batch_tokens", &self.batch_tokens)
            .field("buffer_tokens", &self.buffer_tokens)
            .finish_non_exhaustive()
    }
}

/// Every token but the first of each sequence.
pub fn all_but_first(batch: &Batch) -> Vec<usize> {
    batch
        .positions()
        .into_iter()
        .enumerate()
        .filter(|&(_, position)| position > 0)
        .map(|(token, _)| token)
        .collect()
}

/// The activation `[token, d]` at `at`, heads side by side.
///
/// # Panics
/// When the model has no such point.
pub fn activation(model: &dyn LanguageModel, at: HookPoint, batch: &Batch) -> Tensor<2> {
    let mut record = Record::new([at]);
    model.watch(batch, &mut record);
    let found = record.take(at).or_else(|| {
        let heads = record.get_heads(at)?.clone();
        let [tokens, n, d] = heads.dims();
        Some(heads.reshape([tokens, n * d]))
    });
    found.unwrap_or_else(|| panic!("the model has no hook point {at}; its shape is {:?}", model.shape()))
}

#[cfg(test)]
mod tests {
    use realign_model::{Llama, LlamaConfig};

    use super::*;

    fn batches() -> Vec<Batch> {
        (0..6u32)
            .map(|i| {
                Batch::packed([
                    (0..5 + i).map(|t| (t * 7 + i) % 64).collect::<Vec<_>>(),
                    vec![i, i + 1, 9],
                ])
            })
            .collect()
    }

    fn vec(x: Tensor<2>) -> Vec<f32> {
        x.into_data().try_into_vec().unwrap()
    }

    #[test]
    fn winding_forward_equals_drawing_whether_or_not_the_data_fits_the_buffer() {
        let model = Llama::random(&LlamaConfig::tiny(), 5, &Device::flex());
        let at = HookPoint::ResidPost(1);
        for buffer in [16, 1000] {
            let source = || ModelActivations::new(&model, at, batches(), 8, &all_but_first, buffer, &Seed::new(2));
            let mut drawn = source();
            let all: Vec<Vec<f32>> = (0..20).map(|_| vec(drawn.next_batch().unwrap())).collect();
            for skipped in [0, 1, 7, 19] {
                let mut wound = source();
                wound.skip(skipped);
                assert_eq!(
                    vec(wound.next_batch().unwrap()),
                    all[skipped],
                    "buffer {buffer}, {skipped} skipped"
                );
            }
            let mut both = source();
            both.next_batch();
            both.skip(3);
            assert_eq!(vec(both.next_batch().unwrap()), all[4]);
            assert_eq!(vec(both.next_batch().unwrap()), all[5]);
        }
    }

    #[test]
    fn one_round_gives_every_token_but_the_first_of_each_sequence_once() {
        let model = Llama::random(&LlamaConfig::tiny(), 5, &Device::flex());
        let at = HookPoint::ResidPost(0);
        let mut wanted: Vec<Vec<u32>> = Vec::new();
        for batch in batches() {
            let x = rows(activation(&model, at, &batch), &all_but_first(&batch));
            let d = x.dims()[1];
            wanted.extend(vec(x).chunks(d).map(|row| row.iter().map(|x| x.to_bits()).collect()));
        }
        let mut source = ModelActivations::new(&model, at, batches(), wanted.len(), &all_but_first, 8, &Seed::new(2));
        assert_eq!(source.tokens(), wanted.len());
        let x = source.next_batch().unwrap();
        let d = x.dims()[1];
        let mut found: Vec<Vec<u32>> = vec(x)
            .chunks(d)
            .map(|row| row.iter().map(|x| x.to_bits()).collect())
            .collect();
        assert_ne!(found, wanted, "not shuffled");
        found.sort();
        wanted.sort();
        assert_eq!(found, wanted);
    }

    #[test]
    fn no_token_gives_no_batch() {
        let model = Llama::random(&LlamaConfig::tiny(), 5, &Device::flex());
        let batches = vec![Batch::packed([[1u32], [2]])];
        let mut source = ModelActivations::new(&model, HookPoint::Embed, batches, 8, &all_but_first, 8, &Seed::new(2));
        source.skip(3);
        assert!(source.next_batch().is_none());
    }
}
