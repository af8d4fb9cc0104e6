//! The k largest of each row in one pass, without sorting the row, and of an encoder's rows without keeping them.

use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::product::product;
use super::simd::{max, with_simd};
use super::view::{contiguous, dims, float, int, slice};

/// Elements that are compared with the threshold at once: most blocks are skipped whole.
const BLOCK: usize = 64;

/// Numbers `[token, d_sae]` that exist at a time in [`encode`]: 64 MiB.
const AT_A_TIME: usize = 1 << 24;

/// Largest first; of equal values the lower column first; NaN last.
pub(super) fn top_k(x: &FlexTensor, k: usize) -> (FlexTensor, FlexTensor) {
    let [rows, n] = dims(x);
    assert!(k <= n, "top_k: k = {k}, but rows have {n} elements");
    let x = contiguous(x);
    let (mut values, mut columns) = (vec![0f32; rows * k], vec![0i32; rows * k]);
    rows_top_k(slice(&x), None, k, n, &mut values, &mut columns);
    (float(values, &[rows, k]), int(columns, &[rows, k]))
}

/// The same of `x wᵀ + b`, some rows at a time, so that memory does not grow with `[token, d_sae]`.
pub(super) fn encode(x: &FlexTensor, w: &FlexTensor, b: &FlexTensor, k: usize) -> (FlexTensor, FlexTensor) {
    let ([rows, d_in], [n, _]) = (dims(x), dims(w));
    assert!(k <= n, "sparse_encode: k = {k} of {n} latents");
    let (x, b) = (contiguous(x), contiguous(b));
    let (mut values, mut columns) = (vec![0f32; rows * k], vec![0i32; rows * k]);
    let w = w.transpose(0, 1);
    let at_a_time = (AT_A_TIME / n.max(1)).max(1);
    for first in (0..rows).step_by(at_a_time) {
        let range = first..rows.min(first + at_a_time);
        let part = slice::<f32>(&x)[range.start * d_in..range.end * d_in].to_vec();
        let pre = product(&float(part, &[range.len(), d_in]), &w);
        let of = range.start * k..range.end * k;
        rows_top_k(
            slice(&pre),
            Some(slice(&b)),
            k,
            n,
            &mut values[of.clone()],
            &mut columns[of],
        );
    }
    (float(values, &[rows, k]), int(columns, &[rows, k]))
}

/// Rows of `n` numbers, to which `bias` is added before.
fn rows_top_k(x: &[f32], bias: Option<&[f32]>, k: usize, n: usize, values: &mut [f32], columns: &mut [i32]) {
    if k == 0 {
        return;
    }
    values
        .par_chunks_exact_mut(k)
        .zip(columns.par_chunks_exact_mut(k))
        .zip(x.par_chunks_exact(n))
        .for_each(|((values, columns), row)| {
            with_simd(
                #[inline(always)]
                || row_top_k(row, bias, values, columns),
            );
        });
}

#[inline(always)]
fn row_top_k(row: &[f32], bias: Option<&[f32]>, values: &mut [f32], columns: &mut [i32]) {
    let k = values.len();
    values.fill(f32::NEG_INFINITY);
    for (i, column) in columns.iter_mut().enumerate() {
        *column = i as i32;
    }
    let mut filled = 0;
    let mut block = [0f32; BLOCK];
    for (b, chunk) in row.chunks(BLOCK).enumerate() {
        let block = &mut block[..chunk.len()];
        block.copy_from_slice(chunk);
        if let Some(bias) = bias {
            for (x, b) in block.iter_mut().zip(&bias[b * BLOCK..]) {
                *x += b;
            }
        }
        if filled == k && max(block) <= values[k - 1] {
            continue;
        }
        for (i, &x) in block.iter().enumerate() {
            let x = if x.is_nan() { f32::NEG_INFINITY } else { x };
            if filled == k && x <= values[k - 1] {
                continue;
            }
            let at = values[..filled].partition_point(|&v| v >= x);
            let end = if filled == k { k - 1 } else { filled };
            values.copy_within(at..end, at + 1);
            columns.copy_within(at..end, at + 1);
            values[at] = x;
            columns[at] = (b * BLOCK + i) as i32;
            filled = (filled + 1).min(k);
        }
    }
}
