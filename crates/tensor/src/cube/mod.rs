//! Special bodies on CubeCL, which is wgpu and CUDA: one kernel where burn's operations would be many, and none that keeps what
//! grows faster than the work.

mod attention;
mod norm;
mod packed;
mod pointwise;
mod sparse;
mod top_k;

use std::sync::Arc;

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Cube, TensorMetadata};
use burn::tensor::{DType, FloatDType, Shape};
use burn_cubecl::cubecl::{self, calculate_cube_count_elemwise, prelude::*};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;

use crate::{Activation, AttentionOptions, Packed, Spans, TensorOps};

impl TensorOps for Cube {
    fn packed_product(x: FloatTensor<Self>, w: Arc<Packed>, transposed: bool) -> FloatTensor<Self> {
        packed::product(x, &w, transposed)
    }

    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        norm::rms_norm(x, weight, eps as f32)
    }

    fn rms_norm_grad(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        norm::rms_norm_grad(x, weight, grad, eps as f32)
    }

    fn add_rms_norm(
        x: FloatTensor<Self>,
        delta: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        norm::add_rms_norm(x, delta, weight, eps as f32)
    }

    fn rotary(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>) -> FloatTensor<Self> {
        pointwise::rotary(x, cos, sin)
    }

    fn packed_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        spans: Arc<Spans>,
        options: AttentionOptions,
    ) -> FloatTensor<Self> {
        attention::forward(q, k, v, &spans, options)
    }

    fn packed_attention_grad(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        spans: Arc<Spans>,
        options: AttentionOptions,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        attention::backward(q, k, v, grad, &spans, options)
    }

    fn gated(gate: FloatTensor<Self>, up: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        pointwise::gated(gate, up, activation)
    }

    fn gated_grad(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        pointwise::gated_grad(gate, up, grad, activation)
    }

    fn activate(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        pointwise::activate(x, activation)
    }

    fn activate_grad(x: FloatTensor<Self>, grad: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        pointwise::activate_grad(x, grad, activation)
    }

    fn top_k(x: FloatTensor<Self>, k: usize) -> (FloatTensor<Self>, IntTensor<Self>) {
        top_k::top_k(x, k)
    }

    fn sparse_decode(
        values: FloatTensor<Self>,
        indices: IntTensor<Self>,
        w_dec: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        sparse::decode(values, indices, w_dec)
    }

    fn sparse_decode_grad_values(
        grad: FloatTensor<Self>,
        indices: IntTensor<Self>,
        w_dec: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        sparse::grad_of_values(grad, indices, w_dec)
    }

    fn sparse_decode_grad_w_dec(
        grad: FloatTensor<Self>,
        values: FloatTensor<Self>,
        indices: IntTensor<Self>,
        d_sae: usize,
    ) -> FloatTensor<Self> {
        sparse::grad_of_w_dec(grad, values, indices, d_sae)
    }
}

/// Units of a cube that work on one row together.
const UNITS: usize = 256;

/// Halvings of them until one is left.
const LEVELS: usize = UNITS.ilog2() as usize;

/// The numbers one after another in f32, which is what the kernels compute in.
fn numbers(tensor: CubeTensor) -> CubeTensor {
    into_contiguous(in_precision(tensor, DType::F32))
}

/// A kernel's result in the precision of what it was made from.
fn in_precision(tensor: CubeTensor, dtype: DType) -> CubeTensor {
    if tensor.dtype() == dtype {
        return tensor;
    }
    let dtype = FloatDType::from(dtype);
    Cube::float_cast(tensor, dtype)
}

fn empty<const D: usize>(like: &CubeTensor, shape: [usize; D], dtype: DType) -> CubeTensor {
    empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), Shape::from(shape), dtype)
}

/// One unit for each of so many numbers.
fn units(like: &CubeTensor, numbers: usize) -> (Client, CubeCount, CubeDim) {
    let client = like.client.clone();
    let dim = CubeDim::new(&client, numbers);
    let count = calculate_cube_count_elemwise(&client, numbers, dim);
    (client, count, dim)
}

/// At least so many cubes: WGSL allows 65,535 of them along an axis.
fn cubes(least: usize) -> CubeCount {
    let across = least.min(1 << 15);
    CubeCount::Static(across as u32, least.div_ceil(across) as u32, 1)
}

/// The sum of the units' numbers, for each of them.
#[cube]
fn sum_of_units(part: f32, #[comptime] units: usize) -> f32 {
    let mut parts = Shared::<[f32]>::new_slice(units);
    let unit = UNIT_POS as usize;
    parts[unit] = part;
    sync_cube();
    #[unroll]
    for level in 0..comptime!(units.ilog2() as usize) {
        let half = comptime!(units >> (level + 1));
        if unit < half {
            let other = parts[unit + half];
            parts[unit] += other;
        }
        sync_cube();
    }
    let sum = parts[0];
    // Nobody writes the next sum before all have read this one.
    sync_cube();
    sum
}
