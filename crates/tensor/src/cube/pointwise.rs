//! Functions of one number or a pair, forward and backward: a unit for each.

use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use super::{empty, in_precision, numbers, units};
use crate::Activation;
use crate::activation::{GELU_CUBIC, ROOT_2_OVER_PI};

pub(super) fn activate(x: CubeTensor, activation: Activation) -> CubeTensor {
    let ([rows, d], dtype) = (x.shape().dims(), x.dtype());
    let x = numbers(x);
    let out = empty(&x, [rows, d], DType::F32);
    if rows * d > 0 {
        let (client, count, dim) = units(&x, rows * d);
        activated::launch(
            &client,
            count,
            dim,
            x.into_tensor_arg(),
            out.clone().into_tensor_arg(),
            activation,
        );
    }
    in_precision(out, dtype)
}

pub(super) fn activate_grad(x: CubeTensor, grad: CubeTensor, activation: Activation) -> CubeTensor {
    let ([rows, d], dtype) = (x.shape().dims(), x.dtype());
    let [x, grad] = [x, grad].map(numbers);
    let out = empty(&x, [rows, d], DType::F32);
    if rows * d > 0 {
        let (client, count, dim) = units(&x, rows * d);
        grad_activated::launch(
            &client,
            count,
            dim,
            x.into_tensor_arg(),
            grad.into_tensor_arg(),
            out.clone().into_tensor_arg(),
            activation,
        );
    }
    in_precision(out, dtype)
}

pub(super) fn gated(gate: CubeTensor, up: CubeTensor, activation: Activation) -> CubeTensor {
    let ([rows, d], dtype) = (gate.shape().dims(), gate.dtype());
    let [gate, up] = [gate, up].map(numbers);
    let out = empty(&gate, [rows, d], DType::F32);
    if rows * d > 0 {
        let (client, count, dim) = units(&gate, rows * d);
        gated_up::launch(
            &client,
            count,
            dim,
            gate.into_tensor_arg(),
            up.into_tensor_arg(),
            out.clone().into_tensor_arg(),
            activation,
        );
    }
    in_precision(out, dtype)
}

pub(super) fn gated_grad(
    gate: CubeTensor,
    up: CubeTensor,
    grad: CubeTensor,
    activation: Activation,
) -> (CubeTensor, CubeTensor) {
    let ([rows, d], dtype) = (gate.shape().dims(), gate.dtype());
    let [gate, up, grad] = [gate, up, grad].map(numbers);
    let (to_gate, to_up) = (empty(&gate, [rows, d], DType::F32), empty(&gate, [rows, d], DType::F32));
    if rows * d > 0 {
        let (client, count, dim) = units(&gate, rows * d);
        grad_gated::launch(
            &client,
            count,
            dim,
            gate.into_tensor_arg(),
            up.into_tensor_arg(),
            grad.into_tensor_arg(),
            to_gate.clone().into_tensor_arg(),
            to_up.clone().into_tensor_arg(),
            activation,
        );
    }
    (in_precision(to_gate, dtype), in_precision(to_up, dtype))
}

pub(super) fn rotary(x: CubeTensor, cos: CubeTensor, sin: CubeTensor) -> CubeTensor {
    let ([tokens, heads, d], dtype) = (x.shape().dims(), x.dtype());
    let [x, cos, sin] = [x, cos, sin].map(numbers);
    let out = empty(&x, [tokens, heads, d], DType::F32);
    let pairs = tokens * heads * (d / 2);
    if pairs > 0 {
        let (client, count, dim) = units(&x, pairs);
        rotated::launch(
            &client,
            count,
            dim,
            x.into_tensor_arg(),
            cos.into_tensor_arg(),
            sin.into_tensor_arg(),
            out.clone().into_tensor_arg(),
            pairs,
            heads,
            d / 2,
        );
    }
    in_precision(out, dtype)
}

/// The function's value at `x`, and its slope there.
#[cube]
fn value_and_slope(x: f32, #[comptime] activation: Activation) -> (f32, f32) {
    match comptime!(activation) {
        Activation::Silu => {
            let share = 1.0f32 / (1.0f32 + (-x).exp());
            let value = x * share;
            (value, share + value * (1.0f32 - share))
        }
        Activation::Gelu => {
            let share = 0.5f32 * (1.0f32 + Erf::erf(x * comptime!(std::f32::consts::FRAC_1_SQRT_2)));
            let bell = comptime!(0.5 * ROOT_2_OVER_PI) * (-0.5f32 * x * x).exp();
            (x * share, share + x * bell)
        }
        Activation::GeluTanh => {
            let square = x * x;
            let bent = (comptime!(ROOT_2_OVER_PI) * x * (1.0f32 + comptime!(GELU_CUBIC) * square)).tanh();
            let share = 0.5f32 * (1.0f32 + bent);
            let inner = comptime!(ROOT_2_OVER_PI) * (1.0f32 + comptime!(3.0 * GELU_CUBIC) * square);
            (x * share, share + 0.5f32 * x * (1.0f32 - bent * bent) * inner)
        }
    }
}

#[cube(launch)]
fn activated(x: &Tensor<f32>, out: &mut Tensor<f32>, #[comptime] activation: Activation) {
    if ABSOLUTE_POS >= out.len() {
        terminate!();
    }
    let (value, _) = value_and_slope(x[ABSOLUTE_POS], activation);
    out[ABSOLUTE_POS] = value;
}

#[cube(launch)]
fn grad_activated(x: &Tensor<f32>, grad: &Tensor<f32>, out: &mut Tensor<f32>, #[comptime] activation: Activation) {
    if ABSOLUTE_POS >= out.len() {
        terminate!();
    }
    let (_, slope) = value_and_slope(x[ABSOLUTE_POS], activation);
    out[ABSOLUTE_POS] = grad[ABSOLUTE_POS] * slope;
}

#[cube(launch)]
fn gated_up(gate: &Tensor<f32>, up: &Tensor<f32>, out: &mut Tensor<f32>, #[comptime] activation: Activation) {
    if ABSOLUTE_POS >= out.len() {
        terminate!();
    }
    let (value, _) = value_and_slope(gate[ABSOLUTE_POS], activation);
    out[ABSOLUTE_POS] = value * up[ABSOLUTE_POS];
}

#[cube(launch)]
fn grad_gated(
    gate: &Tensor<f32>,
    up: &Tensor<f32>,
    grad: &Tensor<f32>,
    to_gate: &mut Tensor<f32>,
    to_up: &mut Tensor<f32>,
    #[comptime] activation: Activation,
) {
    if ABSOLUTE_POS >= to_gate.len() {
        terminate!();
    }
    let (value, slope) = value_and_slope(gate[ABSOLUTE_POS], activation);
    to_gate[ABSOLUTE_POS] = grad[ABSOLUTE_POS] * up[ABSOLUTE_POS] * slope;
    to_up[ABSOLUTE_POS] = grad[ABSOLUTE_POS] * value;
}

/// Number `i` of a head's first half and number `i` of its second turn together.
#[cube(launch)]
fn rotated(
    x: &Tensor<f32>,
    cos: &Tensor<f32>,
    sin: &Tensor<f32>,
    out: &mut Tensor<f32>,
    pairs: usize,
    heads: usize,
    half: usize,
) {
    if ABSOLUTE_POS >= pairs {
        terminate!();
    }
    let (head, i) = (ABSOLUTE_POS / half, ABSOLUTE_POS % half);
    let (low, turn) = (head * 2 * half + i, head / heads * half + i);
    let high = low + half;
    out[low] = x[low] * cos[turn] - x[high] * sin[turn];
    out[high] = x[high] * cos[turn] + x[low] * sin[turn];
}
