//! Row and element kernels: RMS norm, rotary embedding, AdamW.

use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::simd::{dot, sum_squares, with_simd};
use super::view::{contiguous, contiguous_owned, dims, float, in_blocks, slice, slice_mut};
use crate::AdamWStep;

/// Rows that one task handles: enough work to hide the cost of a task.
const ROWS: usize = 16;
/// Elements that one task handles.
const BLOCK: usize = 1 << 14;

pub(super) fn rms_norm(x: &FlexTensor, weight: &FlexTensor, eps: f32) -> FlexTensor {
    let [rows, d] = dims(x);
    let (x, weight) = (contiguous(x), contiguous(weight));
    let (xs, w) = (slice::<f32>(&x), slice::<f32>(&weight));
    let [out] = in_blocks(rows * d, ROWS * d, |i, [out]| {
        let x = &xs[i * ROWS * d..];
        with_simd(
            #[inline(always)]
            || {
                norm_rows(x, w, eps, out);
            },
        );
    });
    float(out, &[rows, d])
}

pub(super) fn add_rms_norm(
    x: &FlexTensor,
    delta: &FlexTensor,
    weight: &FlexTensor,
    eps: f32,
) -> (FlexTensor, FlexTensor) {
    let [rows, d] = dims(x);
    let (x, delta, weight) = (contiguous(x), contiguous(delta), contiguous(weight));
    let (xs, deltas, w) = (slice::<f32>(&x), slice::<f32>(&delta), slice::<f32>(&weight));
    let [sums, normed] = in_blocks(rows * d, ROWS * d, |i, [sums, normed]| {
        let (x, delta) = (&xs[i * ROWS * d..], &deltas[i * ROWS * d..]);
        with_simd(
            #[inline(always)]
            || {
                for ((x, delta), sum) in x.iter().zip(delta).zip(sums.iter_mut()) {
                    *sum = x + delta;
                }
                norm_rows(sums, w, eps, normed);
            },
        );
    });
    (float(sums, &[rows, d]), float(normed, &[rows, d]))
}

/// The norm of each row of `x`.
#[inline(always)]
fn norm_rows(x: &[f32], w: &[f32], eps: f32, out: &mut [f32]) {
    let d = w.len();
    for (out, x) in out.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
        let inverse = 1.0 / (sum_squares(x) / d as f32 + eps).sqrt();
        for ((y, x), w) in out.iter_mut().zip(x).zip(w) {
            *y = x * inverse * w;
        }
    }
}

pub(super) fn rms_norm_grad(x: &FlexTensor, weight: &FlexTensor, grad: &FlexTensor, eps: f32) -> FlexTensor {
    let [rows, d] = dims(x);
    let (x, weight, grad) = (contiguous(x), contiguous(weight), contiguous(grad));
    let (xs, w, gs) = (slice::<f32>(&x), slice::<f32>(&weight), slice::<f32>(&grad));
    let [out] = in_blocks(rows * d, ROWS * d, |i, [out]| {
        let (x, g) = (&xs[i * ROWS * d..], &gs[i * ROWS * d..]);
        with_simd(
            #[inline(always)]
            || {
                for ((out, x), g) in out.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(g.chunks_exact(d)) {
                    let inverse = 1.0 / (sum_squares(x) / d as f32 + eps).sqrt();
                    for ((y, g), w) in out.iter_mut().zip(g).zip(w) {
                        *y = g * w;
                    }
                    let along = dot(out, x) * inverse * inverse / d as f32;
                    for (y, x) in out.iter_mut().zip(x) {
                        *y = (*y - x * along) * inverse;
                    }
                }
            },
        );
    });
    float(out, &[rows, d])
}

pub(super) fn rotary(x: &FlexTensor, cos: &FlexTensor, sin: &FlexTensor) -> FlexTensor {
    let [tokens, heads, d] = dims(x);
    let (x, cos, sin) = (contiguous(x), contiguous(cos), contiguous(sin));
    let (xs, cos, sin) = (slice::<f32>(&x), slice::<f32>(&cos), slice::<f32>(&sin));
    let (half, row) = (d / 2, heads * d);
    let [out] = in_blocks(tokens * row, ROWS * row, |task, [out]| {
        with_simd(
            #[inline(always)]
            || {
                for (i, out) in out.chunks_exact_mut(row).enumerate() {
                    let t = task * ROWS + i;
                    let (cos, sin) = (&cos[t * half..][..half], &sin[t * half..][..half]);
                    let x = &xs[t * row..][..row];
                    for (out, x) in out.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
                        let ((x1, x2), (y1, y2)) = (x.split_at(half), out.split_at_mut(half));
                        // Of one length, so that no index is checked inside the loop.
                        let (x2, y1, y2) = (&x2[..half], &mut y1[..half], &mut y2[..half]);
                        for j in 0..half {
                            y1[j] = x1[j] * cos[j] - x2[j] * sin[j];
                            y2[j] = x2[j] * cos[j] + x1[j] * sin[j];
                        }
                    }
                }
            },
        );
    });
    float(out, &[tokens, heads, d])
}

pub(super) fn adamw(
    param: FlexTensor,
    grad: &FlexTensor,
    first: FlexTensor,
    second: FlexTensor,
    step: AdamWStep,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let grad = contiguous(grad);
    let [mut param, mut first, mut second] = [param, first, second].map(contiguous_owned);
    let (c1, c2) = (step.first_correction() * step.lr, step.second_correction());
    let keep = 1.0 - step.lr * step.weight_decay;
    slice_mut(&mut param)
        .par_chunks_mut(BLOCK)
        .zip(slice_mut(&mut first).par_chunks_mut(BLOCK))
        .zip(slice_mut(&mut second).par_chunks_mut(BLOCK))
        .zip(slice::<f32>(&grad).par_chunks(BLOCK))
        .for_each(|(((p, m), v), g)| {
            with_simd(
                #[inline(always)]
                || {
                    for i in 0..p.len() {
                        let g = step.clip * g[i];
                        m[i] = step.beta_1 * m[i] + (1.0 - step.beta_1) * g;
                        v[i] = step.beta_2 * v[i] + (1.0 - step.beta_2) * g * g;
                        p[i] = p[i] * keep - c1 * m[i] / ((v[i] * c2).sqrt() + step.eps);
                    }
                },
            );
        });
    (param, first, second)
}
