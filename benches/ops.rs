//! Each operation on flex at SmolLM2-135M's sizes: this project's kernel beside the same thing composed of burn operations.

use std::hint::black_box;
use std::sync::Arc;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
use realign::burn::tensor::{Bool, Device, Int, Tensor, TensorData, activation};
use realign::tensor::{
    AdamWStep, Spans, adamw, attention, cross_entropy, low_rank_linear, product, rms_norm, rotary, sparse_decode,
    sparse_encode, swiglu, top_k,
};
use realign_bench::{numbers, whole};

const TOKENS: usize = 512;
const D_MODEL: usize = 576;
const D_MLP: usize = 1536;
const HEADS: usize = 9;
const KV_HEADS: usize = 3;
const D_HEAD: usize = 64;
const VOCAB: usize = 49_152;
const D_SAE: usize = 8192;
const K: usize = 32;
const RANK: usize = 16;
const EPS: f64 = 1e-5;

/// The two bodies of one operation.
fn pair<A, B>(c: &mut Criterion, name: &str, mut ours: impl FnMut() -> A, mut composed: impl FnMut() -> B) {
    let mut group: BenchmarkGroup<'_, WallTime> = c.benchmark_group(name);
    group.sample_size(20);
    group.bench_function("ours", |b| b.iter(|| black_box(ours())));
    group.bench_function("composed", |b| b.iter(|| black_box(composed())));
    group.finish();
}

/// A forward pass and the gradient of the sum of its squares with respect to `x`.
fn with_gradient<const D: usize, const E: usize>(x: &Tensor<D>, f: impl Fn(Tensor<D>) -> Tensor<E>) -> Tensor<D> {
    let x = x.clone().autodiff().require_grad();
    let grads = f(x.clone()).powi_scalar(2).sum().backward();
    x.grad(&grads).expect("a parameter has a gradient")
}

fn forward_and_backward<const D: usize, const E: usize>(
    c: &mut Criterion,
    name: &str,
    x: Tensor<D>,
    ours: impl Fn(Tensor<D>) -> Tensor<E>,
    composed: impl Fn(Tensor<D>) -> Tensor<E>,
) {
    pair(c, name, || ours(x.clone()), || composed(x.clone()));
    pair(
        c,
        &format!("{name}, gradient"),
        || with_gradient(&x, &ours),
        || with_gradient(&x, &composed),
    );
}

fn blocks(c: &mut Criterion) {
    let device = Device::flex();
    let x = numbers([TOKENS, D_MODEL], &device);

    let weight = numbers([D_MODEL, D_MLP], &device);
    let (w, v) = (weight.clone(), weight);
    forward_and_backward(
        c,
        "product",
        x.clone(),
        |x| product(x, w.clone()),
        |x| x.matmul(v.clone()),
    );

    let gain = numbers([D_MODEL], &device);
    let composed = |x: Tensor<2>| {
        let inverse = x.clone().powi_scalar(2).mean_dim(1).add_scalar(EPS).sqrt().recip();
        x * inverse * gain.clone().unsqueeze()
    };
    forward_and_backward(c, "rms_norm", x.clone(), |x| rms_norm(x, gain.clone(), EPS), composed);

    let angle = numbers([TOKENS, D_HEAD / 2], &device);
    let (cos, sin) = (angle.clone().cos(), angle.sin());
    let composed = |x: Tensor<3>| {
        let halves = |y: Tensor<3>| (y.clone().narrow(2, 0, D_HEAD / 2), y.narrow(2, D_HEAD / 2, D_HEAD / 2));
        let (low, high) = halves(x);
        let (cos, sin) = (cos.clone().unsqueeze_dim::<3>(1), sin.clone().unsqueeze_dim::<3>(1));
        let first = low.clone() * cos.clone() - high.clone() * sin.clone();
        Tensor::cat(vec![first, high * cos + low * sin], 2)
    };
    let q = numbers([TOKENS, HEADS, D_HEAD], &device);
    forward_and_backward(c, "rotary", q, |x| rotary(x, cos.clone(), sin.clone()), composed);

    let up = numbers([TOKENS, D_MLP], &device);
    let composed = |gate: Tensor<2>| activation::silu(gate) * up.clone();
    forward_and_backward(
        c,
        "swiglu",
        numbers([TOKENS, D_MLP], &device),
        |gate| swiglu(gate, up.clone()),
        composed,
    );

    let (a, b) = (numbers([D_MODEL, RANK], &device), numbers([RANK, D_MLP], &device));
    let y = numbers([TOKENS, D_MLP], &device);
    let composed = |x: Tensor<2>| y.clone() + x.matmul(a.clone()).matmul(b.clone()).mul_scalar(2.0);
    forward_and_backward(
        c,
        "low_rank_linear",
        x,
        |x| low_rank_linear(y.clone(), x, a.clone(), b.clone(), 2.0),
        composed,
    );
}

fn attentions(c: &mut Criterion) {
    let device = Device::flex();
    let q = numbers([TOKENS, HEADS, D_HEAD], &device);
    let (k, v) = (
        numbers([TOKENS, KV_HEADS, D_HEAD], &device),
        numbers([TOKENS, KV_HEADS, D_HEAD], &device),
    );
    for (name, lengths) in [("one text", vec![TOKENS]), ("eight texts", vec![TOKENS / 8; 8])] {
        let spans = Arc::new(Spans::packed(&lengths));
        let hidden = TensorData::new(spans.mask(TOKENS), [1, TOKENS, TOKENS]);
        let hidden: Tensor<3, Bool> = Tensor::<3>::from_data(hidden, &device).lower_elem(-1.0);
        let composed = |q: Tensor<3>| {
            let repeated = |x: Tensor<3>| {
                let x = x.swap_dims(0, 1).unsqueeze_dim::<4>(1).repeat_dim(1, HEADS / KV_HEADS);
                x.reshape([HEADS, TOKENS, D_HEAD])
            };
            let scores = q.swap_dims(0, 1).matmul(repeated(k.clone()).swap_dims(1, 2)) / (D_HEAD as f64).sqrt();
            let pattern = activation::softmax(
                scores.mask_fill(hidden.clone().expand([HEADS, TOKENS, TOKENS]), -1e30),
                2,
            );
            pattern.matmul(repeated(v.clone())).swap_dims(0, 1)
        };
        let ours = |q: Tensor<3>| attention(q, k.clone(), v.clone(), spans.clone());
        forward_and_backward(c, &format!("attention, {name}"), q.clone(), ours, composed);
    }
}

fn losses(c: &mut Criterion) {
    let device = Device::flex();
    let (hidden, unembed) = (numbers([TOKENS, D_MODEL], &device), numbers([VOCAB, D_MODEL], &device));
    let targets: Tensor<1, Int> = whole([TOKENS], VOCAB, &device);
    let composed = |hidden: Tensor<2>| {
        let log_p = activation::log_softmax(hidden.matmul(unembed.clone().transpose()), 1);
        log_p
            .gather(1, targets.clone().unsqueeze_dim(1))
            .neg()
            .reshape([TOKENS])
    };
    let ours = |hidden: Tensor<2>| cross_entropy(hidden, unembed.clone(), targets.clone());
    forward_and_backward(c, "cross_entropy", hidden, ours, composed);
}

fn sparse(c: &mut Criterion) {
    let device = Device::flex();
    let pre = numbers([TOKENS, D_SAE], &device);
    pair(
        c,
        "top_k",
        || top_k(pre.clone(), K),
        || pre.clone().topk_with_indices(K, 1),
    );

    let (w_enc, b_enc) = (numbers([D_SAE, D_MODEL], &device), numbers([D_SAE], &device));
    let x = numbers([TOKENS, D_MODEL], &device);
    let composed = |x: Tensor<2>| {
        (x.matmul(w_enc.clone().transpose()) + b_enc.clone().unsqueeze())
            .topk_with_indices(K, 1)
            .0
    };
    let ours = |x: Tensor<2>| sparse_encode(x, w_enc.clone(), b_enc.clone(), K).0;
    forward_and_backward(c, "sparse_encode", x, ours, composed);

    let (columns, w_dec) = (whole([TOKENS, K], D_SAE, &device), numbers([D_SAE, D_MODEL], &device));
    let composed = |values: Tensor<2>| {
        let rows = w_dec.clone().select(0, columns.clone().reshape([TOKENS * K]));
        (rows.reshape([TOKENS, K, D_MODEL]) * values.unsqueeze_dim(2))
            .sum_dim(1)
            .reshape([TOKENS, D_MODEL])
    };
    let ours = |values: Tensor<2>| sparse_decode(values, columns.clone(), w_dec.clone());
    forward_and_backward(c, "sparse_decode", numbers([TOKENS, K], &device), ours, composed);
}

fn optimiser(c: &mut Criterion) {
    let device = Device::flex();
    let fresh = || numbers([D_SAE, D_MODEL], &device);
    let (grad, step) = (fresh(), AdamWStep::new(1e-3, 10));
    // As in training: each step takes the last one's tensors, which nobody else holds.
    let mut state = Some((fresh(), fresh(), fresh().abs()));
    let mut other = state
        .as_ref()
        .map(|(p, m, v)| (p.clone() + 0.0, m.clone() + 0.0, v.clone() + 0.0));
    let ours = || {
        let (param, first, second) = state.take().expect("put back below");
        state = Some(adamw(param, grad.clone(), first, second, step));
    };
    let composed = || {
        let (param, first, second) = other.take().expect("put back below");
        let first = first * step.beta_1 + grad.clone() * (1.0 - step.beta_1);
        let second = second * step.beta_2 + grad.clone().powi_scalar(2) * (1.0 - step.beta_2);
        let root = (second.clone() * step.second_correction()).sqrt() + step.eps;
        let param = param - first.clone() * (step.first_correction() * step.lr) / root;
        other = Some((param, first, second));
    };
    pair(c, "adamw", ours, composed);
}

criterion_group!(ops, blocks, attentions, losses, sparse, optimiser);
criterion_main!(ops);
