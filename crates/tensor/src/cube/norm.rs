//! RMS norm: one cube a row.

use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use super::{UNITS, cubes, empty, in_precision, numbers, sum_of_units};

pub(super) fn rms_norm(x: CubeTensor, weight: CubeTensor, eps: f32) -> CubeTensor {
    let ([rows, d], dtype) = (x.shape().dims(), x.dtype());
    let [x, weight] = [x, weight].map(numbers);
    let out = empty(&x, [rows, d], DType::F32);
    if rows * d > 0 {
        let client = x.client.clone();
        normed::launch(
            &client,
            cubes(rows),
            CubeDim::new_1d(UNITS as u32),
            x.into_tensor_arg(),
            weight.into_tensor_arg(),
            out.clone().into_tensor_arg(),
            rows,
            d,
            eps,
        );
    }
    in_precision(out, dtype)
}

pub(super) fn add_rms_norm(x: CubeTensor, delta: CubeTensor, weight: CubeTensor, eps: f32) -> (CubeTensor, CubeTensor) {
    let ([rows, d], dtype) = (x.shape().dims(), x.dtype());
    let [x, delta, weight] = [x, delta, weight].map(numbers);
    let [sum, out] = [0; 2].map(|_| empty(&x, [rows, d], DType::F32));
    if rows * d > 0 {
        let client = x.client.clone();
        add_normed::launch(
            &client,
            cubes(rows),
            CubeDim::new_1d(UNITS as u32),
            x.into_tensor_arg(),
            delta.into_tensor_arg(),
            weight.into_tensor_arg(),
            sum.clone().into_tensor_arg(),
            out.clone().into_tensor_arg(),
            rows,
            d,
            eps,
        );
    }
    (in_precision(sum, dtype), in_precision(out, dtype))
}

pub(super) fn rms_norm_grad(x: CubeTensor, weight: CubeTensor, grad: CubeTensor, eps: f32) -> CubeTensor {
    let ([rows, d], dtype) = (x.shape().dims(), x.dtype());
    let [x, weight, grad] = [x, weight, grad].map(numbers);
    let out = empty(&x, [rows, d], DType::F32);
    if rows * d > 0 {
        let client = x.client.clone();
        grad_normed::launch(
            &client,
            cubes(rows),
            CubeDim::new_1d(UNITS as u32),
            x.into_tensor_arg(),
            weight.into_tensor_arg(),
            grad.into_tensor_arg(),
            out.clone().into_tensor_arg(),
            rows,
            d,
            eps,
        );
    }
    in_precision(out, dtype)
}

/// `x / rms(x) · weight`.
#[cube(launch)]
fn normed(x: &Tensor<f32>, weight: &Tensor<f32>, out: &mut Tensor<f32>, rows: usize, d: usize, eps: f32) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let mut squares = 0.0f32;
    for step in 0..d.div_ceil(UNITS) {
        let column = step * UNITS + unit;
        if column < d {
            let value = x[row * d + column];
            squares += value * value;
        }
    }
    let mean = sum_of_units(squares, UNITS) / f32::cast_from(d);
    let inverse = 1.0f32 / (mean + eps).sqrt();
    for step in 0..d.div_ceil(UNITS) {
        let column = step * UNITS + unit;
        if column < d {
            out[row * d + column] = x[row * d + column] * inverse * weight[column];
        }
    }
}

/// `x + delta`, and what [`normed`] makes of it. A unit reads back only what it wrote.
#[cube(launch)]
fn add_normed(
    x: &Tensor<f32>,
    delta: &Tensor<f32>,
    weight: &Tensor<f32>,
    sum: &mut Tensor<f32>,
    out: &mut Tensor<f32>,
    rows: usize,
    d: usize,
    eps: f32,
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let mut squares = 0.0f32;
    for step in 0..d.div_ceil(UNITS) {
        let column = step * UNITS + unit;
        if column < d {
            let at = row * d + column;
            let value = x[at] + delta[at];
            sum[at] = value;
            squares += value * value;
        }
    }
    let mean = sum_of_units(squares, UNITS) / f32::cast_from(d);
    let inverse = 1.0f32 / (mean + eps).sqrt();
    for step in 0..d.div_ceil(UNITS) {
        let column = step * UNITS + unit;
        if column < d {
            let at = row * d + column;
            out[at] = sum[at] * inverse * weight[column];
        }
    }
}

/// With `u = x / rms(x)` and `g = grad · weight`: `(g - u · mean(g u)) / rms(x)`.
#[cube(launch)]
fn grad_normed(
    x: &Tensor<f32>,
    weight: &Tensor<f32>,
    grad: &Tensor<f32>,
    out: &mut Tensor<f32>,
    rows: usize,
    d: usize,
    eps: f32,
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let mut squares = 0.0f32;
    let mut products = 0.0f32;
    for step in 0..d.div_ceil(UNITS) {
        let column = step * UNITS + unit;
        if column < d {
            let value = x[row * d + column];
            squares += value * value;
            products += value * grad[row * d + column] * weight[column];
        }
    }
    let mean = sum_of_units(squares, UNITS) / f32::cast_from(d);
    let inverse = 1.0f32 / (mean + eps).sqrt();
    let along = sum_of_units(products, UNITS) / f32::cast_from(d) * inverse;
    for step in 0..d.div_ceil(UNITS) {
        let column = step * UNITS + unit;
        if column < d {
            let at = row * d + column;
            out[at] = (grad[at] * weight[column] - x[at] * inverse * along) * inverse;
        }
    }
}
