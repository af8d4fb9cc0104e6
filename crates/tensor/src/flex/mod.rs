//! Special bodies for burn's CPU backend: SIMD chosen at run time, threads by rayon.

mod above;
mod activation;
#[cfg(all(target_arch = "x86_64", feature = "x86-v4"))]
mod amx;
mod attention;
#[cfg(all(target_arch = "x86_64", feature = "x86-v4"))]
mod bf16;
mod cross_entropy;
mod elementwise;
mod few_rows;
mod forms;
mod packed;
mod panels;
mod product;
mod simd;
mod sparse;
mod sums;
mod tiles;
mod top_k;
#[cfg(target_arch = "x86_64")]
mod turned;
mod unpacked;
mod view;
mod wide;

use std::sync::Arc;

use burn::backend::Flex;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::DType;

use crate::{Activation, AdamWStep, AttentionOptions, Packed, Spans, TensorOps};

/// Everything here computes in f32; other precisions take the reference bodies' route in the caller.
pub(crate) fn assert_f32(tensor: &FloatTensor<Flex>) {
    assert_eq!(tensor.dtype(), DType::F32, "flex kernels compute in f32");
}

impl TensorOps for Flex {
    fn product(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        product::product(&a, &b)
    }

    fn add_product(y: FloatTensor<Self>, a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        product::add_product(y, &a, &b)
    }

    fn packed_product(x: FloatTensor<Self>, w: Arc<Packed>, transposed: bool) -> FloatTensor<Self> {
        packed::product(&x, &w, transposed)
    }

    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        elementwise::rms_norm(&x, &weight, eps as f32)
    }

    fn rms_norm_grad(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        elementwise::rms_norm_grad(&x, &weight, &grad, eps as f32)
    }

    fn add_rms_norm(
        x: FloatTensor<Self>,
        delta: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        elementwise::add_rms_norm(&x, &delta, &weight, eps as f32)
    }

    fn rotary(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>) -> FloatTensor<Self> {
        elementwise::rotary(&x, &cos, &sin)
    }

    fn packed_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        spans: Arc<Spans>,
        options: AttentionOptions,
    ) -> FloatTensor<Self> {
        attention::forward(&q, &k, &v, &spans, options)
    }

    fn packed_attention_grad(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        spans: Arc<Spans>,
        options: AttentionOptions,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        attention::backward(&q, &k, &v, &grad, &spans, options)
    }

    fn gated(gate: FloatTensor<Self>, up: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        activation::gated(&gate, &up, activation)
    }

    fn gated_grad(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        activation::gated_grad(&gate, &up, &grad, activation)
    }

    fn activate(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        activation::activate(&x, activation)
    }

    fn activate_grad(x: FloatTensor<Self>, grad: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        activation::activate_grad(&x, &grad, activation)
    }

    fn top_k(x: FloatTensor<Self>, k: usize) -> (FloatTensor<Self>, IntTensor<Self>) {
        top_k::top_k(&x, k)
    }

    fn sparse_encode(
        x: FloatTensor<Self>,
        w_enc: FloatTensor<Self>,
        b_enc: FloatTensor<Self>,
        k: usize,
    ) -> (FloatTensor<Self>, IntTensor<Self>) {
        top_k::encode(&x, &w_enc, &b_enc, k)
    }

    fn encode_above(
        x: FloatTensor<Self>,
        w_enc: FloatTensor<Self>,
        b_enc: FloatTensor<Self>,
        threshold: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, IntTensor<Self>) {
        above::encode_above(&x, &w_enc, &b_enc, &threshold)
    }

    fn encode_batch_top_k(
        x: FloatTensor<Self>,
        w_enc: FloatTensor<Self>,
        b_enc: FloatTensor<Self>,
        k: usize,
    ) -> (FloatTensor<Self>, IntTensor<Self>) {
        above::encode_batch_top_k(&x, &w_enc, &b_enc, k)
    }

    fn sparse_decode(
        values: FloatTensor<Self>,
        indices: IntTensor<Self>,
        w_dec: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        sparse::decode(&values, &indices, &w_dec)
    }

    fn sparse_decode_grad_values(
        grad: FloatTensor<Self>,
        indices: IntTensor<Self>,
        w_dec: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        sparse::grad_values(&grad, &indices, &w_dec)
    }

    fn sparse_decode_grad_w_dec(
        grad: FloatTensor<Self>,
        values: FloatTensor<Self>,
        indices: IntTensor<Self>,
        d_sae: usize,
    ) -> FloatTensor<Self> {
        sparse::grad_w_dec(&grad, &values, &indices, d_sae)
    }

    fn cross_entropy(
        hidden: FloatTensor<Self>,
        unembed: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        cross_entropy::loss(hidden, unembed, &targets)
    }

    fn cross_entropy_with_grad(
        hidden: FloatTensor<Self>,
        unembed: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        cross_entropy::loss_and_grad(hidden, unembed, &targets)
    }

    fn adamw(
        param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        step: AdamWStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        elementwise::adamw(param, &grad, first, second, step)
    }
}
