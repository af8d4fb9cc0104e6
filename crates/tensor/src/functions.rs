//! The operations on burn's run-time tensors.

use std::sync::Arc;

use burn::backend::Dispatch;
use burn::tensor::{Int, Tensor};

use crate::{Activation, AdamWStep, AttentionOptions, Spans, TensorOps};

fn assert_shape<const D: usize>(operation: &str, operand: &str, found: [usize; D], wanted: [usize; D]) {
    assert_eq!(
        found, wanted,
        "{operation}: {operand} has shape {found:?}, expected {wanted:?}"
    );
}

/// Matrix product; a frozen operand costs no gradient.
///
/// # Shapes
/// - `a`: `[m, k]`, `b`: `[k, n]`, either of them possibly a transposed view
/// - output: `[m, n]`
pub fn product(a: Tensor<2>, b: Tensor<2>) -> Tensor<2> {
    assert_eq!(
        a.dims()[1],
        b.dims()[0],
        "product: a is {:?}, but b is {:?}",
        a.dims(),
        b.dims()
    );
    Tensor::from_dispatch(Dispatch::product(a.into_dispatch(), b.into_dispatch()))
}

/// RMS norm: `x / sqrt(mean(x²) + eps) · weight` per row (Zhang & Sennrich 2019).
///
/// # Shapes
/// - `x`: `[token, d]`, `weight`: `[d]`
/// - output: `[token, d]`
pub fn rms_norm(x: Tensor<2>, weight: Tensor<1>, eps: f64) -> Tensor<2> {
    assert_shape("rms_norm", "weight", weight.dims(), [x.dims()[1]]);
    Tensor::from_dispatch(Dispatch::rms_norm(x.into_dispatch(), weight.into_dispatch(), eps))
}

/// Residual add and RMS norm in one pass: `x + delta`, and the [`rms_norm`] of that.
///
/// # Shapes
/// - `x`, `delta`, both outputs: `[token, d]`, `weight`: `[d]`
pub fn add_rms_norm(x: Tensor<2>, delta: Tensor<2>, weight: Tensor<1>, eps: f64) -> (Tensor<2>, Tensor<2>) {
    assert_shape("add_rms_norm", "delta", delta.dims(), x.dims());
    assert_shape("add_rms_norm", "weight", weight.dims(), [x.dims()[1]]);
    let (sum, normed) = Dispatch::add_rms_norm(x.into_dispatch(), delta.into_dispatch(), weight.into_dispatch(), eps);
    (Tensor::from_dispatch(sum), Tensor::from_dispatch(normed))
}

/// Rotary position embedding, half-split layout (Su et al. 2021; the layout of Hugging Face's Llama).
///
/// # Shapes
/// - `x`: `[token, head, d_head]`, `cos` and `sin`: `[token, d_head / 2]`
/// - output: `[token, head, d_head]`
pub fn rotary(x: Tensor<3>, cos: Tensor<2>, sin: Tensor<2>) -> Tensor<3> {
    let [token, _, d] = x.dims();
    assert!(d.is_multiple_of(2), "rotary: x is {:?}: d_head must be even", x.dims());
    assert_shape("rotary", "cos", cos.dims(), [token, d / 2]);
    assert_shape("rotary", "sin", sin.dims(), [token, d / 2]);
    Tensor::from_dispatch(Dispatch::rotary(
        x.into_dispatch(),
        cos.into_dispatch(),
        sin.into_dispatch(),
    ))
}

/// Causal grouped-query attention over a packed batch, scaled by `1 / sqrt(d_head)`.
///
/// Key rows may outnumber the queries: with a key/value cache they hold earlier tokens too, and `spans` says
/// which query sees which.
///
/// # Shapes
/// - `q`: `[token, head, d_head]`, `k` and `v`: `[row, kv_head, d_head]`
/// - output: `[token, head, d_head]`
pub fn attention(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, spans: Arc<Spans>) -> Tensor<3> {
    let options = AttentionOptions::new(q.dims()[2]);
    attention_with(q, k, v, spans, options)
}

/// [`attention`] with another scale, capped scores or a sliding window.
///
/// # Shapes
/// - as [`attention`]
pub fn attention_with(
    q: Tensor<3>,
    k: Tensor<3>,
    v: Tensor<3>,
    spans: Arc<Spans>,
    options: AttentionOptions,
) -> Tensor<3> {
    let ([_, heads, d], [rows, kv_heads, _]) = (q.dims(), k.dims());
    assert_shape("attention", "k", k.dims(), [rows, kv_heads, d]);
    assert_shape("attention", "v", v.dims(), k.dims());
    assert_eq!(
        heads % kv_heads,
        0,
        "attention: {heads} heads do not divide into {kv_heads} key/value heads"
    );
    assert!(
        options.window != Some(0) && options.softcap.is_none_or(|cap| cap > 0.0),
        "attention: {options:?} leaves a query no key or its scores no range"
    );
    Tensor::from_dispatch(Dispatch::packed_attention(
        q.into_dispatch(),
        k.into_dispatch(),
        v.into_dispatch(),
        spans,
        options,
    ))
}

/// SwiGLU: `silu(gate) · up` (Shazeer 2020).
///
/// # Shapes
/// - `gate`, `up`, output: `[token, d_mlp]`
pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    assert_shape("swiglu", "up", up.dims(), gate.dims());
    gated(gate, up, Activation::Silu)
}

/// A gated MLP's inner part: `activation(gate) · up` (Shazeer 2020).
///
/// # Shapes
/// - `gate`, `up`, output: `[token, d_mlp]`
pub fn gated(gate: Tensor<2>, up: Tensor<2>, activation: Activation) -> Tensor<2> {
    assert_shape("gated", "up", up.dims(), gate.dims());
    Tensor::from_dispatch(Dispatch::gated(gate.into_dispatch(), up.into_dispatch(), activation))
}

/// `activation(x)` of every element.
///
/// # Shapes
/// - `x`, output: `[token, d_mlp]`
pub fn activate(x: Tensor<2>, activation: Activation) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::activate(x.into_dispatch(), activation))
}

/// A linear map's output `y` with a low-rank map of its input: `y + scale · (x a) b` (LoRA, Hu et al. 2021).
///
/// # Shapes
/// - `x`: `[token, d_in]`, `a`: `[d_in, rank]`, `b`: `[rank, d_out]`
/// - `y`, output: `[token, d_out]`
pub fn low_rank_linear(y: Tensor<2>, x: Tensor<2>, a: Tensor<2>, b: Tensor<2>, scale: f64) -> Tensor<2> {
    assert_eq!(
        a.dims()[0],
        x.dims()[1],
        "low_rank_linear: a is {:?}, but x is {:?}",
        a.dims(),
        x.dims()
    );
    assert_eq!(
        b.dims()[0],
        a.dims()[1],
        "low_rank_linear: b is {:?}, but a is {:?}",
        b.dims(),
        a.dims()
    );
    assert_shape("low_rank_linear", "y", y.dims(), [x.dims()[0], b.dims()[1]]);
    Tensor::from_dispatch(Dispatch::low_rank_linear(
        y.into_dispatch(),
        x.into_dispatch(),
        a.into_dispatch(),
        b.into_dispatch(),
        scale,
    ))
}

/// The `k` largest of each row, largest first, and their columns.
///
/// # Shapes
/// - `x`: `[row, n]`; both outputs: `[row, k]`
pub fn top_k(x: Tensor<2>, k: usize) -> (Tensor<2>, Tensor<2, Int>) {
    assert!(k <= x.dims()[1], "top_k: k = {k}, but x is {:?}", x.dims());
    let (values, indices) = Dispatch::top_k(x.into_dispatch(), k);
    (Tensor::from_dispatch(values), Tensor::from_dispatch(indices))
}

/// The `k` largest pre-activations of each token, `x w_encᵀ + b_enc`, without a gradient in `[token, d_sae]`.
///
/// # Shapes
/// - `x`: `[token, d_in]`, `w_enc`: `[d_sae, d_in]`, `b_enc`: `[d_sae]`
/// - both outputs: `[token, k]`
pub fn sparse_encode(x: Tensor<2>, w_enc: Tensor<2>, b_enc: Tensor<1>, k: usize) -> (Tensor<2>, Tensor<2, Int>) {
    let d_sae = b_enc.dims()[0];
    assert_shape("sparse_encode", "w_enc", w_enc.dims(), [d_sae, x.dims()[1]]);
    assert!(k <= d_sae, "sparse_encode: k = {k}, but there are {d_sae} latents");
    let (values, indices) = Dispatch::sparse_encode(x.into_dispatch(), w_enc.into_dispatch(), b_enc.into_dispatch(), k);
    (Tensor::from_dispatch(values), Tensor::from_dispatch(indices))
}

/// `relu` of those pre-activations `x w_encᵀ + b_enc` that are above their latent's threshold: JumpReLU (Rajamanoharan et al.
/// 2024), and BatchTopK after training.
///
/// Largest first; as many columns as the busiest token needs, at least one. What a token leaves over is zeros.
///
/// # Shapes
/// - `x`: `[token, d_in]`, `w_enc`: `[d_sae, d_in]`, `b_enc`, `threshold`: `[d_sae]`
/// - both outputs: `[token, most]`
pub fn encode_above(
    x: Tensor<2>,
    w_enc: Tensor<2>,
    b_enc: Tensor<1>,
    threshold: Tensor<1>,
) -> (Tensor<2>, Tensor<2, Int>) {
    let d_sae = b_enc.dims()[0];
    assert_shape("encode_above", "w_enc", w_enc.dims(), [d_sae, x.dims()[1]]);
    assert_shape("encode_above", "threshold", threshold.dims(), [d_sae]);
    let (values, indices) = Dispatch::encode_above(
        x.into_dispatch(),
        w_enc.into_dispatch(),
        b_enc.into_dispatch(),
        threshold.into_dispatch(),
    );
    (Tensor::from_dispatch(values), Tensor::from_dispatch(indices))
}

/// `relu` of the `k · token` largest pre-activations of the whole batch: BatchTopK in training (Bussmann et al. 2024).
///
/// The form of [`encode_above`]; of equal numbers the earlier token's are taken, then the lower latent's.
///
/// # Shapes
/// - `x`: `[token, d_in]`, `w_enc`: `[d_sae, d_in]`, `b_enc`: `[d_sae]`
/// - both outputs: `[token, most]`
pub fn encode_batch_top_k(x: Tensor<2>, w_enc: Tensor<2>, b_enc: Tensor<1>, k: usize) -> (Tensor<2>, Tensor<2, Int>) {
    let d_sae = b_enc.dims()[0];
    assert_shape("encode_batch_top_k", "w_enc", w_enc.dims(), [d_sae, x.dims()[1]]);
    assert!(k <= d_sae, "encode_batch_top_k: k = {k}, but there are {d_sae} latents");
    let (values, indices) =
        Dispatch::encode_batch_top_k(x.into_dispatch(), w_enc.into_dispatch(), b_enc.into_dispatch(), k);
    (Tensor::from_dispatch(values), Tensor::from_dispatch(indices))
}

/// Sparse decode: `y[t] = sum_k values[t, k] · w_dec[indices[t, k]]`.
///
/// # Shapes
/// - `values`, `indices`: `[token, k]`, `w_dec`: `[d_sae, d_in]`
/// - output: `[token, d_in]`
pub fn sparse_decode(values: Tensor<2>, indices: Tensor<2, Int>, w_dec: Tensor<2>) -> Tensor<2> {
    assert_shape("sparse_decode", "indices", indices.dims(), values.dims());
    Tensor::from_dispatch(Dispatch::sparse_decode(
        values.into_dispatch(),
        indices.into_dispatch(),
        w_dec.into_dispatch(),
    ))
}

/// `-log softmax(hidden · unembedᵀ)[target]` of every token, without a `[token, vocab]` matrix.
///
/// The unembedding is frozen: it gets no gradient.
///
/// # Shapes
/// - `hidden`: `[token, d_model]`, `unembed`: `[vocab, d_model]`, `targets`: `[token]`
/// - output: `[token]`, in nats
pub fn cross_entropy(hidden: Tensor<2>, unembed: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    assert_shape("cross_entropy", "targets", targets.dims(), [hidden.dims()[0]]);
    assert_eq!(
        hidden.dims()[1],
        unembed.dims()[1],
        "cross_entropy: hidden is {:?}, but unembed is {:?}",
        hidden.dims(),
        unembed.dims()
    );
    Tensor::from_dispatch(Dispatch::cross_entropy(
        hidden.into_dispatch(),
        unembed.into_dispatch(),
        targets.into_dispatch(),
    ))
}

/// One AdamW update of `param` in one pass; returns the new parameter and both moments.
///
/// # Shapes
/// - all inputs and outputs: the parameter's
pub fn adamw<const D: usize>(
    param: Tensor<D>,
    grad: Tensor<D>,
    first: Tensor<D>,
    second: Tensor<D>,
    step: AdamWStep,
) -> (Tensor<D>, Tensor<D>, Tensor<D>) {
    assert_shape("adamw", "grad", grad.dims(), param.dims());
    assert_shape("adamw", "first", first.dims(), param.dims());
    assert_shape("adamw", "second", second.dims(), param.dims());
    let (param, first, second) = Dispatch::adamw(
        param.into_dispatch(),
        grad.into_dispatch(),
        first.into_dispatch(),
        second.into_dispatch(),
        step,
    );
    (
        Tensor::from_dispatch(param),
        Tensor::from_dispatch(first),
        Tensor::from_dispatch(second),
    )
}
