//! Products with a code's active latents: their work is what those need, and not what all latents would.

use burn::backend::{Cube, TensorMetadata};
use burn::tensor::DType;
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::{empty, units};
use crate::ops;

/// The kernels know f32 numbers and i32 indices.
fn are_known(floats: &[&CubeTensor], indices: &CubeTensor) -> bool {
    floats.iter().all(|tensor| tensor.dtype() == DType::F32) && indices.dtype() == DType::I32
}

pub(super) fn decode(values: CubeTensor, indices: CubeTensor, w_dec: CubeTensor) -> CubeTensor {
    let ([tokens, k], [_, d]) = (values.shape().dims(), w_dec.shape().dims());
    if !are_known(&[&values, &w_dec], &indices) || tokens * k * d == 0 {
        return ops::decoded::<Cube>(values, indices, w_dec);
    }
    let [values, indices, w_dec] = [values, indices, w_dec].map(into_contiguous);
    let out = empty(&w_dec, [tokens, d], DType::F32);
    let (client, count, dim) = units(&out, out.shape().num_elements());
    decoded::launch(
        &client,
        count,
        dim,
        values.into_tensor_arg(),
        indices.into_tensor_arg(),
        w_dec.into_tensor_arg(),
        out.clone().into_tensor_arg(),
        k,
        d,
    );
    out
}

pub(super) fn grad_of_values(grad: CubeTensor, indices: CubeTensor, w_dec: CubeTensor) -> CubeTensor {
    let ([tokens, k], [_, d]) = (indices.shape().dims(), w_dec.shape().dims());
    if !are_known(&[&grad, &w_dec], &indices) || tokens * k * d == 0 {
        return ops::grad_values::<Cube>(grad, indices, w_dec);
    }
    let [grad, indices, w_dec] = [grad, indices, w_dec].map(into_contiguous);
    let out = empty(&grad, [tokens, k], DType::F32);
    let (client, count, dim) = units(&out, out.shape().num_elements());
    grad_values::launch(
        &client,
        count,
        dim,
        grad.into_tensor_arg(),
        indices.into_tensor_arg(),
        w_dec.into_tensor_arg(),
        out.clone().into_tensor_arg(),
        k,
        d,
    );
    out
}

pub(super) fn grad_of_w_dec(grad: CubeTensor, values: CubeTensor, indices: CubeTensor, d_sae: usize) -> CubeTensor {
    let ([tokens, k], [_, d]) = (indices.shape().dims(), grad.shape().dims());
    if !are_known(&[&grad, &values], &indices) || tokens * k * d * d_sae == 0 {
        return ops::grad_w_dec::<Cube>(grad, values, indices, d_sae);
    }
    let (starts, order) = ops::by_latent::<Cube>(indices, d_sae);
    let [grad, values, starts, order] = [grad, values, starts, order].map(into_contiguous);
    let out = empty(&grad, [d_sae, d], DType::F32);
    let (client, count, dim) = units(&out, out.shape().num_elements());
    grad_w_dec::launch(
        &client,
        count,
        dim,
        grad.into_tensor_arg(),
        values.into_tensor_arg(),
        starts.into_tensor_arg(),
        order.into_tensor_arg(),
        out.clone().into_tensor_arg(),
        k,
        d,
    );
    out
}

/// `out[t, c] = Σ_j values[t, j] · w[indices[t, j], c]`.
#[cube(launch)]
fn decoded(values: &Tensor<f32>, indices: &Tensor<i32>, w: &Tensor<f32>, out: &mut Tensor<f32>, k: usize, d: usize) {
    if ABSOLUTE_POS >= out.len() {
        terminate!();
    }
    let (token, column) = (ABSOLUTE_POS / d, ABSOLUTE_POS % d);
    let mut sum = 0.0f32;
    for j in 0..k {
        let at = token * k + j;
        sum += values[at] * w[usize::cast_from(indices[at]) * d + column];
    }
    out[ABSOLUTE_POS] = sum;
}

/// `out[t, j] = grad[t] · w[indices[t, j]]`.
#[cube(launch)]
fn grad_values(grad: &Tensor<f32>, indices: &Tensor<i32>, w: &Tensor<f32>, out: &mut Tensor<f32>, k: usize, d: usize) {
    if ABSOLUTE_POS >= out.len() {
        terminate!();
    }
    let (from, row) = (ABSOLUTE_POS / k * d, usize::cast_from(indices[ABSOLUTE_POS]) * d);
    let mut sum = 0.0f32;
    for column in 0..d {
        sum += grad[from + column] * w[row + column];
    }
    out[ABSOLUTE_POS] = sum;
}

/// `out[l, c]`: the sum of `values[t, j] · grad[t, c]` over the places `(t, j)` of latent `l`, which are
/// `order[starts[l]..starts[l + 1]]`.
#[cube(launch)]
fn grad_w_dec(
    grad: &Tensor<f32>,
    values: &Tensor<f32>,
    starts: &Tensor<i32>,
    order: &Tensor<i32>,
    out: &mut Tensor<f32>,
    k: usize,
    d: usize,
) {
    if ABSOLUTE_POS >= out.len() {
        terminate!();
    }
    let (latent, column) = (ABSOLUTE_POS / d, ABSOLUTE_POS % d);
    let mut sum = 0.0f32;
    for i in usize::cast_from(starts[latent])..usize::cast_from(starts[latent + 1]) {
        let at = usize::cast_from(order[i]);
        sum += values[at] * grad[at / k * d + column];
    }
    out[ABSOLUTE_POS] = sum;
}
