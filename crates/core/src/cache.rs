//! The key/value cache of generation.

use std::sync::Arc;

use burn::tensor::Tensor;
use realign_tensor::Spans;

use crate::Batch;

/// Keys and values of the tokens that were run before, for every layer, of several sequences of any lengths.
///
/// Rows are appended in the order in which tokens were run; each sequence knows its own rows.
#[derive(Clone, Debug, Default)]
pub struct Cache {
    layers: Vec<Option<(Tensor<3>, Tensor<3>)>>,
    sequences: Vec<Vec<u32>>,
    rows: usize,
    capacity: usize,
}

impl Cache {
    /// An empty cache of `sequences` sequences with room for `capacity` tokens in all; it grows when that is passed.
    pub fn new(sequences: usize, capacity: usize) -> Self {
        Self {
            layers: Vec::new(),
            sequences: vec![Vec::new(); sequences],
            rows: 0,
            capacity: capacity.max(1),
        }
    }

    /// Tokens that sequence `sequence` holds.
    pub fn position(&self, sequence: usize) -> usize {
        self.sequences[sequence].len()
    }

    /// Forgets what sequence `sequence` holds: it begins anew.
    pub fn forget(&mut self, sequence: usize) {
        self.sequences[sequence].clear();
    }

    /// The causal structure of a batch whose segments continue cached sequences.
    pub fn spans(&self, batch: &Batch) -> Arc<Spans> {
        batch.spans(self.rows, |sequence| &self.sequences[sequence])
    }

    /// Stores a layer's new keys and values `[token, kv_head, d_head]`; returns all rows, old and new.
    pub fn append(&mut self, layer: usize, k: Tensor<3>, v: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
        if self.layers.len() <= layer {
            self.layers.resize(layer + 1, None);
        }
        let [tokens, kv_heads, d_head] = k.dims();
        let end = self.rows + tokens;
        let grown = if end > self.capacity {
            (2 * self.capacity).max(end)
        } else {
            self.capacity
        };
        let place = |old: Option<Tensor<3>>, new: Tensor<3>| {
            let device = new.device();
            let room = match old {
                Some(old) if old.dims()[0] >= end => old,
                Some(old) => {
                    let more = Tensor::zeros([grown - old.dims()[0], kv_heads, d_head], &device);
                    Tensor::cat(vec![old, more], 0)
                }
                None => Tensor::zeros([grown, kv_heads, d_head], &device),
            };
            room.slice_assign([self.rows..end, 0..kv_heads, 0..d_head], new)
        };
        // Taken out, so that the buffers are written in place.
        let (old_k, old_v) = self.layers[layer].take().unzip();
        let (k, v) = (place(old_k, k), place(old_v, v));
        self.layers[layer] = Some((k.clone(), v.clone()));
        (k, v)
    }

    /// Accounts for a batch whose keys and values every layer has stored.
    pub fn advance(&mut self, batch: &Batch) {
        for segment in batch.segments() {
            if let Some(sequence) = segment.cached {
                self.sequences[sequence].extend(segment.tokens.clone().map(|t| (self.rows + t) as u32));
            }
        }
        self.rows += batch.len();
        if self.rows > self.capacity {
            self.capacity = (2 * self.capacity).max(self.rows);
        }
    }
}
