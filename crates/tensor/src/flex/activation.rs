//! Activations and gated MLPs, element by element.

use burn::backend::flex::FlexTensor;

use super::simd::{erf, exp, tanh, with_simd};
use super::view::{contiguous, dims, float, in_blocks, slice};
use crate::Activation;
use crate::activation::{GELU_CUBIC, ROOT_2_OVER_PI};

/// Elements that one task handles.
const BLOCK: usize = 1 << 14;

/// An activation as code that is compiled into each loop.
trait Function {
    fn value(x: f32) -> f32;
    /// Value and derivative.
    fn slope(x: f32) -> (f32, f32);
}

struct Silu;
struct Gelu;
struct GeluTanh;

impl Function for Silu {
    #[inline(always)]
    fn value(x: f32) -> f32 {
        x / (1.0 + exp(-x))
    }
    #[inline(always)]
    fn slope(x: f32) -> (f32, f32) {
        let s = 1.0 / (1.0 + exp(-x));
        let silu = x * s;
        (silu, s + silu * (1.0 - s))
    }
}

impl Function for Gelu {
    #[inline(always)]
    fn value(x: f32) -> f32 {
        0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
    }
    #[inline(always)]
    fn slope(x: f32) -> (f32, f32) {
        let share = 0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
        (x * share, share + x * 0.5 * ROOT_2_OVER_PI * exp(-0.5 * x * x))
    }
}

impl Function for GeluTanh {
    #[inline(always)]
    fn value(x: f32) -> f32 {
        0.5 * x * (1.0 + tanh(ROOT_2_OVER_PI * (x + GELU_CUBIC * x * x * x)))
    }
    #[inline(always)]
    fn slope(x: f32) -> (f32, f32) {
        let t = tanh(ROOT_2_OVER_PI * (x + GELU_CUBIC * x * x * x));
        let share = 0.5 * (1.0 + t);
        let inner = ROOT_2_OVER_PI * (1.0 + 3.0 * GELU_CUBIC * x * x);
        (x * share, share + 0.5 * x * (1.0 - t * t) * inner)
    }
}

macro_rules! with_function {
    ($activation:expr, $call:ident($($argument:expr),*)) => {
        match $activation {
            Activation::Silu => $call::<Silu>($($argument),*),
            Activation::Gelu => $call::<Gelu>($($argument),*),
            Activation::GeluTanh => $call::<GeluTanh>($($argument),*),
        }
    };
}

pub(super) fn gated(gate: &FlexTensor, up: &FlexTensor, activation: Activation) -> FlexTensor {
    with_function!(activation, gated_by(gate, up))
}

pub(super) fn gated_grad(
    gate: &FlexTensor,
    up: &FlexTensor,
    grad: &FlexTensor,
    activation: Activation,
) -> (FlexTensor, FlexTensor) {
    with_function!(activation, gated_grad_by(gate, up, grad))
}

pub(super) fn activate(x: &FlexTensor, activation: Activation) -> FlexTensor {
    with_function!(activation, activate_by(x))
}

pub(super) fn activate_grad(x: &FlexTensor, grad: &FlexTensor, activation: Activation) -> FlexTensor {
    with_function!(activation, activate_grad_by(x, grad))
}

fn gated_by<F: Function>(gate: &FlexTensor, up: &FlexTensor) -> FlexTensor {
    let shape = dims::<2>(gate);
    let (gate, up) = (contiguous(gate), contiguous(up));
    let (gates, ups) = (slice::<f32>(&gate), slice::<f32>(&up));
    let [out] = in_blocks(gates.len(), BLOCK, |i, [out]| {
        let (g, u) = (&gates[i * BLOCK..], &ups[i * BLOCK..]);
        with_simd(
            #[inline(always)]
            || {
                for ((y, &g), &u) in out.iter_mut().zip(g).zip(u) {
                    *y = F::value(g) * u;
                }
            },
        );
    });
    float(out, &shape)
}

fn gated_grad_by<F: Function>(gate: &FlexTensor, up: &FlexTensor, grad: &FlexTensor) -> (FlexTensor, FlexTensor) {
    let shape = dims::<2>(gate);
    let (gate, up, grad) = (contiguous(gate), contiguous(up), contiguous(grad));
    let (gates, ups, grads) = (slice::<f32>(&gate), slice::<f32>(&up), slice::<f32>(&grad));
    let [to_gate, to_up] = in_blocks(gates.len(), BLOCK, |i, [to_gate, to_up]| {
        let n = to_gate.len();
        let [g, u, d] = [gates, ups, grads].map(|all| &all[i * BLOCK..][..n]);
        with_simd(
            #[inline(always)]
            || {
                let to_up = &mut to_up[..n];
                for i in 0..n {
                    let (value, slope) = F::slope(g[i]);
                    to_up[i] = d[i] * value;
                    to_gate[i] = d[i] * u[i] * slope;
                }
            },
        );
    });
    (float(to_gate, &shape), float(to_up, &shape))
}

fn activate_by<F: Function>(x: &FlexTensor) -> FlexTensor {
    let shape = dims::<2>(x);
    let x = contiguous(x);
    let xs = slice::<f32>(&x);
    let [out] = in_blocks(xs.len(), BLOCK, |i, [out]| {
        let x = &xs[i * BLOCK..];
        with_simd(
            #[inline(always)]
            || {
                for (y, &x) in out.iter_mut().zip(x) {
                    *y = F::value(x);
                }
            },
        );
    });
    float(out, &shape)
}

fn activate_grad_by<F: Function>(x: &FlexTensor, grad: &FlexTensor) -> FlexTensor {
    let shape = dims::<2>(x);
    let (x, grad) = (contiguous(x), contiguous(grad));
    let (xs, grads) = (slice::<f32>(&x), slice::<f32>(&grad));
    let [out] = in_blocks(xs.len(), BLOCK, |i, [out]| {
        let (x, d) = (&xs[i * BLOCK..], &grads[i * BLOCK..]);
        with_simd(
            #[inline(always)]
            || {
                for ((y, &x), &d) in out.iter_mut().zip(x).zip(d) {
                    *y = d * F::slope(x).1;
                }
            },
        );
    });
    float(out, &shape)
}
