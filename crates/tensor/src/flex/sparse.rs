//! Sparse decode and its gradients: only the rows that a token uses are touched.

use burn::backend::flex::FlexTensor;

use super::simd::{axpy, dot, with_simd};
use super::view::{contiguous, dims, float, in_blocks, indices, slice};
use crate::lists::by_latent;

/// Tokens that one task handles.
const TOKENS: usize = 16;
/// Latents that one task handles.
const LATENTS: usize = 64;

pub(super) fn decode(values: &FlexTensor, index: &FlexTensor, w_dec: &FlexTensor) -> FlexTensor {
    let ([n, k], [_, d]) = (dims(values), dims(w_dec));
    let (values, w_dec, index) = (contiguous(values), contiguous(w_dec), indices(index));
    let (v, w) = (slice::<f32>(&values), slice::<f32>(&w_dec));
    let [out] = in_blocks(n * d, TOKENS * d, |task, [out]| {
        with_simd(
            #[inline(always)]
            || {
                for (i, y) in out.chunks_exact_mut(d).enumerate() {
                    let row = task * TOKENS + i;
                    for j in row * k..(row + 1) * k {
                        axpy(y, v[j], &w[index[j] * d..][..d]);
                    }
                }
            },
        );
    });
    float(out, &[n, d])
}

pub(super) fn grad_values(grad: &FlexTensor, index: &FlexTensor, w_dec: &FlexTensor) -> FlexTensor {
    let ([n, k], [_, d]) = (dims(index), dims(w_dec));
    let (grad, w_dec, index) = (contiguous(grad), contiguous(w_dec), indices(index));
    let (g, w) = (slice::<f32>(&grad), slice::<f32>(&w_dec));
    let [out] = in_blocks(n * k, TOKENS * k, |task, [out]| {
        with_simd(
            #[inline(always)]
            || {
                for (i, out) in out.chunks_exact_mut(k).enumerate() {
                    let row = task * TOKENS + i;
                    for (out, &latent) in out.iter_mut().zip(&index[row * k..]) {
                        *out = dot(&g[row * d..][..d], &w[latent * d..][..d]);
                    }
                }
            },
        );
    });
    float(out, &[n, k])
}

pub(super) fn grad_w_dec(grad: &FlexTensor, values: &FlexTensor, index: &FlexTensor, d_sae: usize) -> FlexTensor {
    let ([_, k], [_, d]) = (dims(values), dims(grad));
    let (grad, values, index) = (contiguous(grad), contiguous(values), indices(index));
    let (g, v) = (slice::<f32>(&grad), slice::<f32>(&values));
    let (start, order) = by_latent(&index, d_sae);
    let [out] = in_blocks(d_sae * d, LATENTS * d, |task, [out]| {
        with_simd(
            #[inline(always)]
            || {
                for (i, out) in out.chunks_exact_mut(d).enumerate() {
                    let latent = task * LATENTS + i;
                    for &j in &order[start[latent]..start[latent + 1]] {
                        axpy(out, v[j], &g[j / k * d..][..d]);
                    }
                }
            },
        );
    });
    float(out, &[d_sae, d])
}
