//! Special bodies on CubeCL, which is wgpu and CUDA: top-k, and the sparse products, whose work is what a code's active latents
//! need and not what all latents would.

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Cube, TensorMetadata, get_device_settings};
use burn::tensor::{DType, IntDType, Shape};
use burn_cubecl::cubecl::{self, calculate_cube_count_elemwise, prelude::*};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;

use crate::{TensorOps, ops};

impl TensorOps for Cube {
    /// Not CubeCL's own kernel: of equal numbers it takes any.
    fn top_k(x: FloatTensor<Self>, k: usize) -> (FloatTensor<Self>, IntTensor<Self>) {
        let ([rows, n], settings) = (x.shape().dims(), get_device_settings::<Self>(&x.device()));
        if x.dtype() != DType::F32 || settings.int_dtype != IntDType::I32 || rows * k == 0 || k > MOST_PASSES {
            return ops::sorted_top_k::<Self>(x, k);
        }
        let nan = Self::float_is_nan(x.clone(), settings.bool_dtype);
        let x = into_contiguous(Self::float_mask_fill(x, nan, f32::NEG_INFINITY.into()));
        let values = empty(&x, [rows, k], DType::F32);
        let columns = empty(&x, [rows, k], DType::I32);
        let client = x.client.clone();
        // WGSL allows 65,535 cubes along an axis.
        let across = rows.min(1 << 15);
        let cubes = CubeCount::Static(across as u32, rows.div_ceil(across) as u32, 1);
        largest_of_rows::launch(
            &client,
            cubes,
            CubeDim::new_1d(UNITS as u32),
            x.into_tensor_arg(),
            values.clone().into_tensor_arg(),
            columns.clone().into_tensor_arg(),
            rows,
            n,
            k,
        );
        (values, columns)
    }

    fn sparse_decode(
        values: FloatTensor<Self>,
        indices: IntTensor<Self>,
        w_dec: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let ([tokens, k], [_, d]) = (values.shape().dims(), w_dec.shape().dims());
        if !are_known(&[&values, &w_dec], &indices) || tokens * k * d == 0 {
            return ops::decoded::<Self>(values, indices, w_dec);
        }
        let [values, indices, w_dec] = [values, indices, w_dec].map(into_contiguous);
        let out = empty(&w_dec, [tokens, d], DType::F32);
        let (client, count, dim) = units(&out);
        decode::launch(
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

    fn sparse_decode_grad_values(
        grad: FloatTensor<Self>,
        indices: IntTensor<Self>,
        w_dec: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let ([tokens, k], [_, d]) = (indices.shape().dims(), w_dec.shape().dims());
        if !are_known(&[&grad, &w_dec], &indices) || tokens * k * d == 0 {
            return ops::grad_values::<Self>(grad, indices, w_dec);
        }
        let [grad, indices, w_dec] = [grad, indices, w_dec].map(into_contiguous);
        let out = empty(&grad, [tokens, k], DType::F32);
        let (client, count, dim) = units(&out);
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

    fn sparse_decode_grad_w_dec(
        grad: FloatTensor<Self>,
        values: FloatTensor<Self>,
        indices: IntTensor<Self>,
        d_sae: usize,
    ) -> FloatTensor<Self> {
        let ([tokens, k], [_, d]) = (indices.shape().dims(), grad.shape().dims());
        if !are_known(&[&grad, &values], &indices) || tokens * k * d * d_sae == 0 {
            return ops::grad_w_dec::<Self>(grad, values, indices, d_sae);
        }
        let (starts, order) = ops::by_latent::<Self>(indices, d_sae);
        let [grad, values, starts, order] = [grad, values, starts, order].map(into_contiguous);
        let out = empty(&grad, [d_sae, d], DType::F32);
        let (client, count, dim) = units(&out);
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
}

/// Units of a cube that look through a row together.
const UNITS: usize = 256;

/// Halvings of them until one is left.
const LEVELS: usize = UNITS.ilog2() as usize;

/// A pass over a row finds one number: for more of them the host sorts.
const MOST_PASSES: usize = 256;

/// The kernels know f32 numbers and i32 indices.
fn are_known(floats: &[&CubeTensor], indices: &CubeTensor) -> bool {
    floats.iter().all(|tensor| tensor.dtype() == DType::F32) && indices.dtype() == DType::I32
}

fn empty(like: &CubeTensor, shape: [usize; 2], dtype: DType) -> CubeTensor {
    empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), Shape::from(shape), dtype)
}

/// One unit for each number of `out`.
fn units(out: &CubeTensor) -> (Client, CubeCount, CubeDim) {
    let (client, numbers) = (out.client.clone(), out.shape().num_elements());
    let dim = CubeDim::new(&client, numbers);
    let count = calculate_cube_count_elemwise(&client, numbers, dim);
    (client, count, dim)
}

/// The `k` largest of each row, one cube a row, one pass over it a number: the largest of those that come after the last one
/// found, where of equal numbers the lower column comes first.
#[cube(launch)]
fn largest_of_rows(
    x: &Tensor<f32>,
    values: &mut Tensor<f32>,
    columns: &mut Tensor<i32>,
    rows: usize,
    n: usize,
    k: usize,
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    // `n` stands for none.
    let mut best = Shared::<[f32]>::new_slice(UNITS);
    let mut places = Shared::<[u32]>::new_slice(UNITS);
    let mut last = 0.0f32;
    let mut last_at = n;
    for j in 0..k {
        let mut value = 0.0f32;
        let mut at = n;
        for step in 0..n.div_ceil(UNITS) {
            let column = step * UNITS + unit;
            if column < n {
                let found = x[row * n + column];
                let after = j == 0 || found < last || (found == last && column > last_at);
                if after && (at == n || found > value) {
                    value = found;
                    at = column;
                }
            }
        }
        best[unit] = value;
        places[unit] = at as u32;
        sync_cube();
        #[unroll]
        for level in 0..LEVELS {
            let half = comptime!(UNITS >> (level + 1));
            if unit < half {
                let (found, other) = (best[unit + half], places[unit + half] as usize);
                let (own, own_at) = (best[unit], places[unit] as usize);
                if other < n && (own_at == n || found > own || (found == own && other < own_at)) {
                    best[unit] = found;
                    places[unit] = other as u32;
                }
            }
            sync_cube();
        }
        last = best[0];
        last_at = places[0] as usize;
        if unit == 0 {
            values[row * k + j] = last;
            columns[row * k + j] = last_at as i32;
        }
        sync_cube();
    }
}

/// `out[t, c] = Σ_j values[t, j] · w[indices[t, j], c]`.
#[cube(launch)]
fn decode(values: &Tensor<f32>, indices: &Tensor<i32>, w: &Tensor<f32>, out: &mut Tensor<f32>, k: usize, d: usize) {
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
