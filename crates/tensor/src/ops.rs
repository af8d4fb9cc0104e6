//! The common tensor trait: every operation with its reference body in burn operations.

use std::cmp::Ordering;
use std::sync::Arc;

use burn::backend::tensor::{FloatTensor, IndexingUpdateOp, IntTensor};
use burn::backend::{Backend, TensorMetadata, backend_extension};
use burn::tensor::{Shape, TensorData, read_sync};

use crate::largest::{AT_A_TIME, Active, Columns, Largest};
use crate::{Activation, AdamWStep, AttentionOptions, Packed, Spans};

/// Tokens whose logits exist at one time in [`TensorOps::cross_entropy`].
pub(crate) const CROSS_ENTROPY_CHUNK: usize = 128;

/// What burn lacks, or does slowly, for work inside language models.
///
/// Each body here is composed of burn operations: it runs on every backend, it is what every
/// special body is tested against, and where `Autodiff` has no body of its own, it is the gradient.
/// Users call the functions of this crate on [`burn::tensor::Tensor`], not this trait.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(any(feature = "wgpu", feature = "cuda")),
    Remote: cfg(feature = "remote"),
    Autodiff
)]
pub trait TensorOps: Backend {
    /// Matrix product `[m, k] · [k, n]`; either operand may be a transposed view.
    fn product(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        let ([m, k], n) = (a.shape().dims(), b.shape()[1]);
        // burn's ndarray divides by zero over nothing.
        if m == 0 || k == 0 || n == 0 {
            return Self::float_zeros(Shape::from([m, n]), &a.device(), a.dtype().into());
        }
        Self::float_matmul(a, b)
    }

    /// `y + a · b`: `y [m, n]` or `[1, n]`, `a [m, k]`, `b [k, n]`.
    fn add_product(y: FloatTensor<Self>, a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_add(y, Self::product(a, b))
    }

    /// `x · wᵀ`, or `x · w` where `transposed`, for a packed weight `[d_out, d_in]`.
    fn packed_product(x: FloatTensor<Self>, w: Arc<Packed>, transposed: bool) -> FloatTensor<Self> {
        let w = Self::float_from_data(TensorData::new(w.to_vec(), w.shape()), &x.device());
        let w = if transposed { w } else { Self::float_transpose(w) };
        Self::product(x, w)
    }

    /// `y = x / sqrt(mean(x²) + eps) · weight`, per row.
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        let d = weight.shape()[0];
        let unit = Self::float_mul(x.clone(), inverse_rms::<Self>(x, eps));
        Self::float_mul(unit, Self::float_reshape(weight, Shape::from([1, d])))
    }

    /// Gradient of [`TensorOps::rms_norm`] with respect to `x`.
    fn rms_norm_grad(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        let d = weight.shape()[0];
        let inverse = inverse_rms::<Self>(x.clone(), eps);
        let scaled = Self::float_mul(grad, Self::float_reshape(weight, Shape::from([1, d])));
        let unit = Self::float_mul(x, inverse.clone());
        let along = Self::float_mean_dim(Self::float_mul(scaled.clone(), unit.clone()), 1);
        Self::float_mul(Self::float_sub(scaled, Self::float_mul(unit, along)), inverse)
    }

    /// `x + delta`, and the [`TensorOps::rms_norm`] of that: what a residual stream carries on, and what the next layer reads.
    fn add_rms_norm(
        x: FloatTensor<Self>,
        delta: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let sum = Self::float_add(x, delta);
        (sum.clone(), Self::rms_norm(sum, weight, eps))
    }

    /// Rotary position embedding in the half-split layout: `x [token, head, d]`, `cos`/`sin [token, d / 2]`.
    fn rotary(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>) -> FloatTensor<Self> {
        let [tokens, _, d] = x.shape().dims();
        let half = |range: std::ops::Range<usize>| {
            Self::float_slice(x.clone(), &[(0..tokens).into(), (..).into(), range.into()])
        };
        let (low, high) = (half(0..d / 2), half(d / 2..d));
        let cos = Self::float_reshape(cos, Shape::from([tokens, 1, d / 2]));
        let sin = Self::float_reshape(sin, Shape::from([tokens, 1, d / 2]));
        let first = Self::float_sub(
            Self::float_mul(low.clone(), cos.clone()),
            Self::float_mul(high.clone(), sin.clone()),
        );
        let second = Self::float_add(Self::float_mul(high, cos), Self::float_mul(low, sin));
        Self::float_cat(vec![first, second], 2)
    }

    /// Causal grouped-query attention over a packed batch: `q [token, head, d]`, `k`/`v [row, kv_head, d]`.
    fn packed_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        spans: Arc<Spans>,
        options: AttentionOptions,
    ) -> FloatTensor<Self> {
        attention_values::<Self>(q, k, v, &spans, options)
    }

    /// Gradients of [`TensorOps::packed_attention`] with respect to `q`, `k` and `v`.
    fn packed_attention_grad(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        spans: Arc<Spans>,
        options: AttentionOptions,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        attention_grads::<Self>(q, k, v, grad, &spans, options)
    }

    /// `activation(gate) · up`: the inner part of a gated MLP.
    fn gated(gate: FloatTensor<Self>, up: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        Self::float_mul(activation.values::<Self>(gate), up)
    }

    /// Gradients of [`TensorOps::gated`] with respect to `gate` and `up`.
    fn gated_grad(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (values, slopes) = activation.values_and_slopes::<Self>(gate);
        let to_gate = Self::float_mul(Self::float_mul(grad.clone(), up), slopes);
        (to_gate, Self::float_mul(grad, values))
    }

    /// `activation(x)`.
    fn activate(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        activation.values::<Self>(x)
    }

    /// Gradient of [`TensorOps::activate`].
    fn activate_grad(x: FloatTensor<Self>, grad: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        Self::float_mul(grad, activation.values_and_slopes::<Self>(x).1)
    }

    /// `y + scale · (x a) b`: `y [token, d_out]`, `x [token, d_in]`, `a [d_in, rank]`, `b [rank, d_out]`.
    fn low_rank_linear(
        y: FloatTensor<Self>,
        x: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        // The scale goes on the narrow side: rank columns instead of d_out.
        let narrow = Self::float_mul_scalar(Self::product(x, a), scale.into());
        Self::add_product(y, narrow, b)
    }

    /// The `k` largest of each row, largest first, and their columns; of equal numbers the lower column comes first, and what
    /// is not a number counts as minus infinity.
    ///
    /// This sorts the rows on the host: burn's sort promises no order of equal numbers.
    fn top_k(x: FloatTensor<Self>, k: usize) -> (FloatTensor<Self>, IntTensor<Self>) {
        sorted_top_k::<Self>(x, k)
    }

    /// The `k` largest of each row of `x w_encᵀ + b_enc`: `x [token, d_in]`, `w_enc [d_sae, d_in]`, `b_enc [d_sae]`.
    fn sparse_encode(
        x: FloatTensor<Self>,
        w_enc: FloatTensor<Self>,
        b_enc: FloatTensor<Self>,
        k: usize,
    ) -> (FloatTensor<Self>, IntTensor<Self>) {
        in_parts::<Self>(x, w_enc.shape()[0], AT_A_TIME, |x| {
            Self::top_k(pre_activations::<Self>(x, w_enc.clone(), b_enc.clone()), k)
        })
    }

    /// `relu` of those pre-activations `x w_encᵀ + b_enc` that are above their latent's `threshold [d_sae]`, largest first: as
    /// many columns as the busiest token needs, at least one. What a token leaves over is zeros.
    fn encode_above(
        x: FloatTensor<Self>,
        w_enc: FloatTensor<Self>,
        b_enc: FloatTensor<Self>,
        threshold: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, IntTensor<Self>) {
        in_parts::<Self>(x, w_enc.shape()[0], AT_A_TIME, |x| {
            above::<Self>(
                pre_activations::<Self>(x, w_enc.clone(), b_enc.clone()),
                threshold.clone(),
            )
        })
    }

    /// `relu` of the `k · token` largest pre-activations of the whole batch (BatchTopK, Bussmann et al. 2024), in the form of
    /// [`TensorOps::encode_above`]; of equal numbers the earlier token's are taken, then the lower latent's.
    fn encode_batch_top_k(
        x: FloatTensor<Self>,
        w_enc: FloatTensor<Self>,
        b_enc: FloatTensor<Self>,
        k: usize,
    ) -> (FloatTensor<Self>, IntTensor<Self>) {
        let ([tokens, d_in], d_sae) = (x.shape().dims(), w_enc.shape()[0]);
        let (device, dtype) = (x.device(), x.dtype());
        let mut largest = Largest::new(k * tokens);
        let at_a_time = (AT_A_TIME / d_sae.max(1)).max(1);
        for first in (0..tokens).step_by(at_a_time) {
            let range = first..tokens.min(first + at_a_time);
            let numbers = range.len() * d_sae;
            let part = Self::float_slice(x.clone(), &[range.into(), (0..d_in).into()]);
            let pre = pre_activations::<Self>(part, w_enc.clone(), b_enc.clone());
            let pre = Self::float_reshape(pre, Shape::from([1, numbers]));
            let (values, places) = Self::top_k(pre, numbers.min(k * tokens));
            let values = read_sync(Self::float_into_data(values)).expect("encode_batch_top_k: values can be read");
            let places = read_sync(Self::int_into_data(places)).expect("encode_batch_top_k: places can be read");
            for (value, place) in values.iter::<f32>().zip(places.iter::<i64>()) {
                let place = place as usize;
                largest.push(Active::new(value, first + place / d_sae, place % d_sae));
            }
        }
        let Columns { values, latents, wide } = largest.into_columns(tokens);
        let int = burn::backend::get_device_settings::<Self>(&device).int_dtype;
        let shape = [tokens, wide];
        (
            Self::float_from_data(TensorData::new(values, shape).convert_dtype(dtype), &device),
            Self::int_from_data(TensorData::new(latents, shape).convert_dtype(int.into()), &device),
        )
    }

    /// `y[t] = sum_k values[t, k] · w_dec[indices[t, k]]`: `values`/`indices [token, k]`, `w_dec [d_sae, d_in]`.
    fn sparse_decode(
        values: FloatTensor<Self>,
        indices: IntTensor<Self>,
        w_dec: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        decoded::<Self>(values, indices, w_dec)
    }

    /// `dL/dvalues[t, k] = grad[t] · w_dec[indices[t, k]]`.
    fn sparse_decode_grad_values(
        grad: FloatTensor<Self>,
        indices: IntTensor<Self>,
        w_dec: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        grad_values::<Self>(grad, indices, w_dec)
    }

    /// `dL/dw_dec[l] = sum of values[t, k] · grad[t] over all (t, k) with indices[t, k] = l`.
    fn sparse_decode_grad_w_dec(
        grad: FloatTensor<Self>,
        values: FloatTensor<Self>,
        indices: IntTensor<Self>,
        d_sae: usize,
    ) -> FloatTensor<Self> {
        grad_w_dec::<Self>(grad, values, indices, d_sae)
    }

    /// `-log softmax(hidden · unembedᵀ)[target]` per token, in chunks, so that `[token, vocab]` never exists.
    fn cross_entropy(
        hidden: FloatTensor<Self>,
        unembed: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        let tokens = hidden.shape()[0];
        let chunks = chunks(tokens).map(|range| {
            let (hidden, targets) = rows::<Self>(&hidden, &targets, range);
            cross_entropy_chunk::<Self>(hidden, unembed.clone(), targets).0
        });
        Self::float_cat(chunks.collect(), 0)
    }

    /// [`TensorOps::cross_entropy`] and, in the same pass, each token's own gradient `d nll[t] / d hidden[t]`.
    fn cross_entropy_with_grad(
        hidden: FloatTensor<Self>,
        unembed: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let tokens = hidden.shape()[0];
        let (mut nll, mut grads) = (Vec::new(), Vec::new());
        for range in chunks(tokens) {
            let (hidden, targets) = rows::<Self>(&hidden, &targets, range);
            let (loss, softmax) = cross_entropy_chunk::<Self>(hidden, unembed.clone(), targets.clone());
            let picked = Self::float_select(unembed.clone(), 0, targets);
            grads.push(Self::float_sub(Self::float_matmul(softmax, unembed.clone()), picked));
            nll.push(loss);
        }
        (Self::float_cat(nll, 0), Self::float_cat(grads, 0))
    }

    /// One AdamW update (Loshchilov & Hutter 2019): the new parameter and both moments.
    fn adamw(
        param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        step: AdamWStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let scaled = |t, by: f32| Self::float_mul_scalar(t, by.into());
        let grad = scaled(grad, step.clip);
        let square = Self::float_mul(grad.clone(), grad.clone());
        let first = Self::float_add(scaled(first, step.beta_1), scaled(grad, 1.0 - step.beta_1));
        let second = Self::float_add(scaled(second, step.beta_2), scaled(square, 1.0 - step.beta_2));
        let root = Self::float_add_scalar(
            Self::float_sqrt(scaled(second.clone(), step.second_correction())),
            step.eps.into(),
        );
        let update = Self::float_div(scaled(first.clone(), step.first_correction() * step.lr), root);
        let param = scaled(param, 1.0 - step.lr * step.weight_decay);
        (Self::float_sub(param, update), first, second)
    }
}

/// A code of `x`, some tokens at a time: no more than `numbers` pre-activations exist at once.
fn in_parts<B: TensorOps>(
    x: FloatTensor<B>,
    d_sae: usize,
    numbers: usize,
    encode: impl Fn(FloatTensor<B>) -> (FloatTensor<B>, IntTensor<B>),
) -> (FloatTensor<B>, IntTensor<B>) {
    let [tokens, d_in] = x.shape().dims();
    let at_a_time = (numbers / d_sae.max(1)).max(1);
    if tokens <= at_a_time {
        return encode(x);
    }
    let parts = (0..tokens).step_by(at_a_time).map(|first| {
        let range = first..tokens.min(first + at_a_time);
        encode(B::float_slice(x.clone(), &[range.into(), (0..d_in).into()]))
    });
    let parts: Vec<_> = parts.collect();
    let wide = parts.iter().map(|(values, _)| values.shape()[1]).max().unwrap_or(0);
    let (values, latents) = parts
        .into_iter()
        .map(|(values, latents)| widened::<B>(values, latents, wide))
        .unzip();
    (B::float_cat(values, 0), B::int_cat(latents, 0))
}

/// A code with zeros after its columns, up to `wide` of them.
fn widened<B: Backend>(values: FloatTensor<B>, latents: IntTensor<B>, wide: usize) -> (FloatTensor<B>, IntTensor<B>) {
    let [tokens, columns] = values.shape().dims();
    if columns == wide {
        return (values, latents);
    }
    let (device, shape) = (values.device(), Shape::from([tokens, wide - columns]));
    let zeros = B::float_zeros(shape.clone(), &device, values.dtype().into());
    let nowhere = B::int_zeros(shape, &device, latents.dtype().into());
    (
        B::float_cat(vec![values, zeros], 1),
        B::int_cat(vec![latents, nowhere], 1),
    )
}

/// The reference body of [`TensorOps::encode_above`], from pre-activations.
fn above<B: TensorOps>(pre: FloatTensor<B>, threshold: FloatTensor<B>) -> (FloatTensor<B>, IntTensor<B>) {
    let d_sae = pre.shape()[1];
    let settings = burn::backend::get_device_settings::<B>(&pre.device());
    let over = B::float_sub(pre.clone(), B::float_reshape(threshold, Shape::from([1, d_sae])));
    let over = B::float_greater_elem(over, 0f32.into(), settings.bool_dtype);
    // Not the comparison the other way round: what is not a number is not above.
    let active = B::float_mask_fill(B::relu(pre), B::bool_not(over), 0f32.into());
    let positive = B::float_greater_elem(active.clone(), 0f32.into(), settings.bool_dtype);
    let counts = B::int_sum_dim(B::bool_into_int(positive, settings.int_dtype), 1);
    let counts = read_sync(B::int_into_data(counts)).expect("encode_above: the counts can be read");
    let most = counts.iter::<i64>().max().unwrap_or(0);
    B::top_k(active, (most as usize).clamp(1, d_sae))
}

/// The reference body of [`TensorOps::top_k`].
pub(crate) fn sorted_top_k<B: Backend>(x: FloatTensor<B>, k: usize) -> (FloatTensor<B>, IntTensor<B>) {
    let ([rows, n], device, dtype) = (x.shape().dims(), x.device(), x.dtype());
    let x = read_sync(B::float_into_data(x)).expect("top_k: the rows can be read");
    let x: Vec<f32> = x.iter().collect();
    let (mut values, mut columns) = (Vec::with_capacity(rows * k), Vec::with_capacity(rows * k));
    for row in 0..rows {
        let row: Vec<f32> = x[row * n..][..n]
            .iter()
            .map(|x| if x.is_nan() { f32::NEG_INFINITY } else { *x })
            .collect();
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&i, &j| row[j].partial_cmp(&row[i]).unwrap_or(Ordering::Equal));
        values.extend(order[..k].iter().map(|&column| row[column]));
        columns.extend(order[..k].iter().map(|&column| column as i64));
    }
    let int = burn::backend::get_device_settings::<B>(&device).int_dtype;
    (
        B::float_from_data(TensorData::new(values, [rows, k]).convert_dtype(dtype), &device),
        B::int_from_data(TensorData::new(columns, [rows, k]).convert_dtype(int.into()), &device),
    )
}

fn inverse_rms<B: Backend>(x: FloatTensor<B>, eps: f64) -> FloatTensor<B> {
    let mean = B::float_mean_dim(B::float_mul(x.clone(), x), 1);
    B::float_recip(B::float_sqrt(B::float_add_scalar(mean, eps.into())))
}

/// `[row, kv_head, d]` to `[head, row, d]`, each key/value head repeated for its group of query heads.
fn heads_first<B: Backend>(kv: FloatTensor<B>, heads: usize) -> FloatTensor<B> {
    let [rows, kv_heads, d] = kv.shape().dims();
    let kv = B::float_reshape(B::float_permute(kv, &[1, 0, 2]), Shape::from([kv_heads, 1, rows, d]));
    let kv = B::float_repeat_dim(kv, 1, heads / kv_heads);
    B::float_reshape(kv, Shape::from([heads, rows, d]))
}

/// The reverse of [`heads_first`] for gradients: `[head, row, d]` summed over each group to `[row, kv_head, d]`.
fn sum_groups<B: Backend>(grad: FloatTensor<B>, kv_heads: usize) -> FloatTensor<B> {
    let [heads, rows, d] = grad.shape().dims();
    let grad = B::float_reshape(grad, Shape::from([kv_heads, heads / kv_heads, rows, d]));
    let grad = B::float_reshape(B::float_sum_dim(grad, 1), Shape::from([kv_heads, rows, d]));
    B::float_permute(grad, &[1, 0, 2])
}

/// The reference body of [`TensorOps::packed_attention`].
pub(crate) fn attention_values<B: TensorOps>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    spans: &Spans,
    options: AttentionOptions,
) -> FloatTensor<B> {
    let heads = q.shape()[1];
    let (pattern, _) = attention_pattern::<B>(q, k, spans, options);
    B::float_permute(B::float_matmul(pattern, heads_first::<B>(v, heads)), &[1, 0, 2])
}

/// The reference body of [`TensorOps::packed_attention_grad`].
pub(crate) fn attention_grads<B: TensorOps>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    grad: FloatTensor<B>,
    spans: &Spans,
    options: AttentionOptions,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let (heads, kv_heads) = (q.shape()[1], k.shape()[1]);
    let (pattern, bend) = attention_pattern::<B>(q.clone(), k.clone(), spans, options);
    let grad = B::float_permute(grad, &[1, 0, 2]);
    let (k, v) = (heads_first::<B>(k, heads), heads_first::<B>(v, heads));
    let q = B::float_permute(q, &[1, 0, 2]);
    let grad_v = B::float_matmul(B::float_transpose(pattern.clone()), grad.clone());
    let grad_pattern = B::float_matmul(grad, B::float_transpose(v));
    let mean = B::float_sum_dim(B::float_mul(grad_pattern.clone(), pattern.clone()), 2);
    let mut grad_scores = B::float_mul_scalar(
        B::float_mul(B::float_sub(grad_pattern, mean), pattern),
        options.scale.into(),
    );
    if let Some(bend) = bend {
        grad_scores = B::float_mul(grad_scores, bend);
    }
    let grad_q = B::float_matmul(grad_scores.clone(), k);
    let grad_k = B::float_matmul(B::float_transpose(grad_scores), q);
    (
        B::float_permute(grad_q, &[1, 0, 2]),
        sum_groups::<B>(grad_k, kv_heads),
        sum_groups::<B>(grad_v, kv_heads),
    )
}

/// Softmax of the masked scores, `[head, query, row]`, and where they are capped, the cap's slope at each.
fn attention_pattern<B: Backend>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    spans: &Spans,
    options: AttentionOptions,
) -> (FloatTensor<B>, Option<FloatTensor<B>>) {
    let [queries, heads, _] = q.shape().dims();
    let rows = k.shape()[0];
    spans.check(queries, rows);
    let mask = TensorData::new(spans.mask_within(rows, options.window), [1, queries, rows]);
    let mask = B::float_from_data(mask, &q.device());
    let q = B::float_mul_scalar(B::float_permute(q, &[1, 0, 2]), options.scale.into());
    let mut scores = B::float_matmul(q, B::float_transpose(heads_first::<B>(k, heads)));
    let mut bend = None;
    if let Some(cap) = options.softcap {
        let t = B::float_tanh(B::float_mul_scalar(scores, (1.0 / cap).into()));
        let square = B::float_mul(t.clone(), t.clone());
        bend = Some(B::float_add_scalar(B::float_neg(square), 1f32.into()));
        scores = B::float_mul_scalar(t, cap.into());
    }
    (B::softmax(B::float_add(scores, mask), 2), bend)
}

/// `x w_encᵀ + b_enc`, `[token, d_sae]`.
fn pre_activations<B: TensorOps>(x: FloatTensor<B>, w_enc: FloatTensor<B>, b_enc: FloatTensor<B>) -> FloatTensor<B> {
    let d_sae = w_enc.shape()[0];
    let bias = B::float_reshape(b_enc, Shape::from([1, d_sae]));
    B::add_product(bias, x, B::float_transpose(w_enc))
}

/// The reference body of [`TensorOps::sparse_decode`].
pub(crate) fn decoded<B: Backend>(
    values: FloatTensor<B>,
    indices: IntTensor<B>,
    w_dec: FloatTensor<B>,
) -> FloatTensor<B> {
    let d_sae = w_dec.shape()[0];
    B::float_matmul(densify::<B>(values, indices, d_sae), w_dec)
}

/// The reference body of [`TensorOps::sparse_decode_grad_values`].
pub(crate) fn grad_values<B: Backend>(
    grad: FloatTensor<B>,
    indices: IntTensor<B>,
    w_dec: FloatTensor<B>,
) -> FloatTensor<B> {
    B::float_gather(1, B::float_matmul(grad, B::float_transpose(w_dec)), indices)
}

/// The reference body of [`TensorOps::sparse_decode_grad_w_dec`].
pub(crate) fn grad_w_dec<B: Backend>(
    grad: FloatTensor<B>,
    values: FloatTensor<B>,
    indices: IntTensor<B>,
    d_sae: usize,
) -> FloatTensor<B> {
    B::float_matmul(B::float_transpose(densify::<B>(values, indices, d_sae)), grad)
}

/// The places of `indices [token, k]` in the order of their latents, and where each latent's begin: `[d_sae + 1]`.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
pub(crate) fn by_latent<B: Backend>(indices: IntTensor<B>, d_sae: usize) -> (IntTensor<B>, IntTensor<B>) {
    let device = indices.device();
    let indices = read_sync(B::int_into_data(indices)).expect("by_latent: the indices can be read");
    let indices: Vec<usize> = indices.iter::<i64>().map(|latent| latent as usize).collect();
    let (starts, order) = crate::lists::by_latent(&indices, d_sae);
    let ints = |list: Vec<usize>| {
        let list: Vec<i32> = list.into_iter().map(|place| place as i32).collect();
        let len = list.len();
        B::int_from_data(TensorData::new(list, [len]), &device)
    };
    (ints(starts), ints(order))
}

fn densify<B: Backend>(values: FloatTensor<B>, indices: IntTensor<B>, d_sae: usize) -> FloatTensor<B> {
    let zeros = B::float_zeros(
        Shape::from([values.shape()[0], d_sae]),
        &values.device(),
        values.dtype().into(),
    );
    B::float_scatter(1, zeros, indices, values, IndexingUpdateOp::Add)
}

fn chunks(tokens: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..tokens)
        .step_by(CROSS_ENTROPY_CHUNK)
        .map(move |start| start..(start + CROSS_ENTROPY_CHUNK).min(tokens))
}

fn rows<B: Backend>(
    hidden: &FloatTensor<B>,
    targets: &IntTensor<B>,
    range: std::ops::Range<usize>,
) -> (FloatTensor<B>, IntTensor<B>) {
    (
        B::float_slice(hidden.clone(), &[range.clone().into(), (..).into()]),
        B::int_slice(targets.clone(), &[range.into()]),
    )
}

/// Loss `[token]` and softmax `[token, vocab]` of one chunk.
fn cross_entropy_chunk<B: Backend>(
    hidden: FloatTensor<B>,
    unembed: FloatTensor<B>,
    targets: IntTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let tokens = hidden.shape()[0];
    let logits = B::float_matmul(hidden, B::float_transpose(unembed));
    let max = B::float_max_dim(logits.clone(), 1);
    let exp = B::float_exp(B::float_sub(logits.clone(), max.clone()));
    let sum = B::float_sum_dim(exp.clone(), 1);
    let target = B::float_gather(1, logits, B::int_reshape(targets, Shape::from([tokens, 1])));
    let nll = B::float_sub(B::float_add(B::float_log(sum.clone()), max), target);
    (B::float_reshape(nll, Shape::from([tokens])), B::float_div(exp, sum))
}

#[cfg(all(test, feature = "ndarray"))]
mod tests {
    use burn::backend::NdArray;
    use burn::backend::ops::{FloatTensorOps, IntTensorOps};

    use super::*;

    fn tensor<const D: usize>(shape: [usize; D], seed: f32) -> FloatTensor<NdArray> {
        let numbers: Vec<f32> = (0..shape.iter().product()).map(|i| (i as f32 * seed).sin()).collect();
        NdArray::float_from_data(TensorData::new(numbers, shape), &Default::default())
    }

    /// Shape, values, and the latents of those that are not the zeros that fill a row up.
    fn numbers((values, latents): (FloatTensor<NdArray>, IntTensor<NdArray>)) -> (Vec<usize>, Vec<f32>, Vec<i64>) {
        let shape = values.shape().to_vec();
        let values = read_sync(NdArray::float_into_data(values)).unwrap();
        let latents = read_sync(NdArray::int_into_data(latents)).unwrap();
        let values: Vec<f32> = values.iter().collect();
        let latents = latents.iter::<i64>().zip(&values);
        let latents = latents
            .filter(|(_, value)| **value != 0.0)
            .map(|(latent, _)| latent)
            .collect();
        (shape, values, latents)
    }

    #[test]
    fn a_code_in_parts_is_the_code() {
        let (x, w, b) = (tensor([7, 5], 0.7), tensor([11, 5], 1.3), tensor([11], 0.9));
        let pre = |x| pre_activations::<NdArray>(x, w.clone(), b.clone());
        // A threshold that some tokens have more latents above than others.
        let threshold = NdArray::float_from_data(TensorData::new(vec![0.4f32; 11], [11]), &Default::default());
        let top = |x| NdArray::top_k(pre(x), 3);
        let over = |x| above::<NdArray>(pre(x), threshold.clone());
        for tokens_at_a_time in [1, 2, 3, 6] {
            let part = 11 * tokens_at_a_time;
            assert_eq!(
                numbers(in_parts::<NdArray>(x.clone(), 11, part, top)),
                numbers(top(x.clone()))
            );
            assert_eq!(
                numbers(in_parts::<NdArray>(x.clone(), 11, part, over)),
                numbers(over(x.clone()))
            );
        }
    }
}
