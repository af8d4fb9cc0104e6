//! Codes of as many latents as are above a threshold, a part of the tokens at a time.

use std::cmp::Ordering;
use std::ops::Range;

use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::product::product;
use super::simd::with_simd;
use super::view::{contiguous, dims, float, int, slice};
use crate::largest::{AT_A_TIME, Active, Columns, Largest};

/// Elements that are compared at once: most blocks are skipped whole.
const BLOCK: usize = 64;

/// The latents of one token that are above their threshold, by column.
type Row = Vec<(f32, i32)>;

/// Largest first; of equal values the lower latent first.
pub(super) fn encode_above(
    x: &FlexTensor,
    w: &FlexTensor,
    b: &FlexTensor,
    threshold: &FlexTensor,
) -> (FlexTensor, FlexTensor) {
    let (b, threshold) = (contiguous(b), contiguous(threshold));
    let mut rows = Vec::new();
    each_part(x, w, |_, pre| {
        let mut part = rows_above(pre, slice(&b), |at| slice(&threshold)[at]);
        part.par_iter_mut()
            .for_each(|row| row.sort_by(|(a, _), (b, _)| b.partial_cmp(a).unwrap_or(Ordering::Equal)));
        rows.append(&mut part);
    });
    tensors(Columns::new(&rows), rows.len())
}

/// The `k · token` largest of all tokens; of equal values the earlier token's, then the lower latent.
pub(super) fn encode_batch_top_k(x: &FlexTensor, w: &FlexTensor, b: &FlexTensor, k: usize) -> (FlexTensor, FlexTensor) {
    let [tokens, _] = dims(x);
    let b = contiguous(b);
    let mut largest = Largest::new(k * tokens);
    each_part(x, w, |range, pre| {
        let least = largest.least();
        let rows = rows_above(pre, slice(&b), |_| least);
        for (token, row) in range.zip(rows) {
            for (value, latent) in row {
                largest.push(Active::new(value, token, latent as usize));
            }
        }
    });
    tensors(largest.into_columns(tokens), tokens)
}

/// Hands out `x wᵀ` of some tokens after others, so that memory does not grow with `[token, d_sae]`.
fn each_part(x: &FlexTensor, w: &FlexTensor, mut each: impl FnMut(Range<usize>, &[f32])) {
    let ([tokens, d_in], [n, _]) = (dims(x), dims(w));
    let x = contiguous(x);
    let w = w.transpose(0, 1);
    let at_a_time = (AT_A_TIME / n.max(1)).max(1);
    for first in (0..tokens).step_by(at_a_time) {
        let range = first..tokens.min(first + at_a_time);
        let part = slice::<f32>(&x)[range.start * d_in..range.end * d_in].to_vec();
        let pre = product(&float(part, &[range.len(), d_in]), &w);
        each(range, slice(&pre));
    }
}

/// For each row of `pre`, with `bias` added, what is positive and above the threshold of its column.
fn rows_above(pre: &[f32], bias: &[f32], threshold: impl Fn(usize) -> f32 + Sync) -> Vec<Row> {
    let above: Vec<f32> = (0..bias.len()).map(|at| threshold(at).max(0.0)).collect();
    pre.par_chunks_exact(bias.len())
        .map(|row| {
            with_simd(
                #[inline(always)]
                || row_above(row, bias, &above),
            )
        })
        .collect()
}

#[inline(always)]
fn row_above(row: &[f32], bias: &[f32], above: &[f32]) -> Row {
    let mut found = Vec::new();
    let mut block = [0f32; BLOCK];
    for (b, chunk) in row.chunks(BLOCK).enumerate() {
        let (block, first) = (&mut block[..chunk.len()], b * BLOCK);
        let (bias, above) = (&bias[first..][..chunk.len()], &above[first..][..chunk.len()]);
        let mut any = false;
        for i in 0..chunk.len() {
            block[i] = chunk[i] + bias[i];
            any |= block[i] > above[i];
        }
        if any {
            for i in 0..chunk.len() {
                if block[i] > above[i] {
                    found.push((block[i], (first + i) as i32));
                }
            }
        }
    }
    found
}

fn tensors(columns: Columns, tokens: usize) -> (FlexTensor, FlexTensor) {
    let shape = [tokens, columns.wide];
    (float(columns.values, &shape), int(columns.latents, &shape))
}
