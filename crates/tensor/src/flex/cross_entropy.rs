//! Cross-entropy straight from hidden states: logits exist for one chunk of tokens at a time.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use rayon::prelude::*;

use super::product::product;
use super::simd::{exp_sum, max, with_simd};
use super::view::{contiguous, dims, float, indices, slice, slice_mut};
use crate::ops::CROSS_ENTROPY_CHUNK;

pub(super) fn loss(hidden: FlexTensor, unembed: FlexTensor, targets: &FlexTensor) -> FlexTensor {
    let targets = indices(targets);
    let mut nll = Vec::with_capacity(targets.len());
    for_each_chunk(hidden, unembed, &targets, |_, loss| nll.extend(loss));
    let tokens = nll.len();
    float(nll, &[tokens])
}

pub(super) fn loss_and_grad(hidden: FlexTensor, unembed: FlexTensor, targets: &FlexTensor) -> (FlexTensor, FlexTensor) {
    let [tokens, d] = dims(&hidden);
    let targets = indices(targets);
    let weight = contiguous(&unembed);
    let (mut nll, mut grad) = (Vec::with_capacity(tokens), Vec::with_capacity(tokens * d));
    for_each_chunk(hidden, unembed.clone(), &targets, |softmax, loss| {
        let start = nll.len();
        let mut rows = product(&softmax, &unembed);
        let rows = slice_mut(&mut rows);
        for (row, &target) in rows.chunks_exact_mut(d).zip(&targets[start..]) {
            for (g, w) in row.iter_mut().zip(&slice::<f32>(&weight)[target * d..][..d]) {
                *g -= w;
            }
        }
        nll.extend(loss);
        grad.extend_from_slice(rows);
    });
    (float(nll, &[tokens]), float(grad, &[tokens, d]))
}

/// Hands each chunk's softmax `[token, vocab]` and losses to `then`.
fn for_each_chunk(
    hidden: FlexTensor,
    unembed: FlexTensor,
    targets: &[usize],
    mut then: impl FnMut(FlexTensor, Vec<f32>),
) {
    let [tokens, _] = dims(&hidden);
    let [vocab, _] = dims(&unembed);
    for start in (0..tokens).step_by(CROSS_ENTROPY_CHUNK) {
        let n = CROSS_ENTROPY_CHUNK.min(tokens - start);
        let mut logits = product(&hidden.narrow(0, start, n), &Flex::float_transpose(unembed.clone()));
        let loss: Vec<f32> = slice_mut(&mut logits)
            .par_chunks_exact_mut(vocab)
            .zip(&targets[start..start + n])
            .map(|(row, &target)| {
                with_simd(
                    #[inline(always)]
                    || {
                        let (top, picked) = (max(row), row[target]);
                        let sum = exp_sum(row, top);
                        let inverse = 1.0 / sum;
                        for p in row.iter_mut() {
                            *p *= inverse;
                        }
                        sum.ln() + top - picked
                    },
                )
            })
            .collect();
        then(logits, loss);
    }
}
