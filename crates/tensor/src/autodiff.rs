//! Hand-written gradients, generic over the inner backend, that call the backend's own kernels.
//!
//! An input that needs no gradient costs none: a frozen weight is never differentiated.

use std::sync::Arc;

use burn::backend::autodiff::{
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::ops::ActivationOps;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, TensorMetadata};
use burn::tensor::Shape;

use crate::{Activation, AttentionOptions, Packed, Spans, TensorOps};

#[derive(Debug)]
struct Product;
#[derive(Debug)]
struct PackedProduct;
#[derive(Debug)]
struct LowRank;
#[derive(Debug)]
struct RmsNorm;
#[derive(Debug)]
struct Add;
#[derive(Debug)]
struct Rotary;
#[derive(Debug)]
struct Attention;
#[derive(Debug)]
struct Gated;
#[derive(Debug)]
struct Activate;
#[derive(Debug)]
struct TopK;
#[derive(Debug)]
struct SparseEncode;
#[derive(Debug)]
struct SparseDecode;
#[derive(Debug)]
struct CrossEntropy;

impl<B: TensorOps> Backward<B, 2> for Product {
    /// What the other operand's gradient needs; none where that operand is frozen.
    type State = (Option<FloatTensor<B>>, Option<FloatTensor<B>>);
    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (a, b) = ops.state;
        let [a_node, b_node] = ops.parents;
        if let (Some(node), Some(b)) = (a_node, b) {
            grads.register::<B>(node.id, B::product(grad.clone(), B::float_transpose(b)));
        }
        if let (Some(node), Some(a)) = (b_node, a) {
            grads.register::<B>(node.id, B::product(B::float_transpose(a), grad));
        }
    }
}

impl<B: TensorOps> Backward<B, 1> for PackedProduct {
    type State = (Arc<Packed>, bool);
    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (w, transposed) = ops.state;
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::packed_product(grad, w, !transposed));
        }
    }
}

impl<B: TensorOps> Backward<B, 4> for LowRank {
    type State = LowRankState<B>;
    fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let LowRankState { x, narrow, a, b, scale } = ops.state;
        let [y_node, x_node, a_node, b_node] = ops.parents;
        if let (Some(node), Some(narrow)) = (b_node, narrow) {
            grads.register::<B>(node.id, B::product(B::float_transpose(narrow), grad.clone()));
        }
        if let Some(b) = b {
            let to_narrow = B::product(grad.clone(), B::float_transpose(b));
            let to_narrow = B::float_mul_scalar(to_narrow, scale.into());
            if let (Some(node), Some(x)) = (a_node, x) {
                grads.register::<B>(node.id, B::product(B::float_transpose(x), to_narrow.clone()));
            }
            if let (Some(node), Some(a)) = (x_node, a) {
                grads.register::<B>(node.id, B::product(to_narrow, B::float_transpose(a)));
            }
        }
        if let Some(node) = y_node {
            grads.register::<B>(node.id, grad);
        }
    }
}

/// What the gradients of [`TensorOps::low_rank_linear`] need; none where that gradient is not asked for.
#[derive(Clone, Debug)]
struct LowRankState<B: Backend> {
    /// For `a`.
    x: Option<FloatTensor<B>>,
    /// `scale · x a`, for `b`.
    narrow: Option<FloatTensor<B>>,
    /// For `x`.
    a: Option<FloatTensor<B>>,
    /// For `x` and `a`.
    b: Option<FloatTensor<B>>,
    scale: f64,
}

impl<B: TensorOps> Backward<B, 2> for RmsNorm {
    type State = (FloatTensor<B>, FloatTensor<B>, f64);
    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (x, weight, eps) = ops.state;
        let [x_node, weight_node] = ops.parents;
        if let Some(node) = weight_node {
            // With a weight of ones the norm is x / rms(x).
            let d = weight.shape()[0];
            let ones = B::float_ones(Shape::from([d]), &weight.device(), weight.dtype().into());
            let unit = B::rms_norm(x.clone(), ones, eps);
            let sum = B::float_sum_dim(B::float_mul(grad.clone(), unit), 0);
            grads.register::<B>(node.id, B::float_reshape(sum, Shape::from([d])));
        }
        if let Some(node) = x_node {
            grads.register::<B>(node.id, B::rms_norm_grad(x, weight, grad, eps));
        }
    }
}

impl<B: Backend> Backward<B, 2> for Add {
    type State = ();
    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        for node in ops.parents.into_iter().flatten() {
            grads.register::<B>(node.id, grad.clone());
        }
    }
}

impl<B: TensorOps> Backward<B, 1> for Rotary {
    type State = (FloatTensor<B>, FloatTensor<B>);
    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (cos, sin) = ops.state;
        if let [Some(node)] = ops.parents {
            // A rotation's transpose is the rotation by the opposite angle.
            grads.register::<B>(node.id, B::rotary(grad, cos, B::float_neg(sin)));
        }
    }
}

impl<B: TensorOps> Backward<B, 3> for Attention {
    type State = (
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        Arc<Spans>,
        AttentionOptions,
    );
    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (q, k, v, spans, options) = ops.state;
        let (to_q, to_k, to_v) = B::packed_attention_grad(q, k, v, grad, spans, options);
        for (node, to) in ops.parents.into_iter().zip([to_q, to_k, to_v]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, to);
            }
        }
    }
}

impl<B: TensorOps> Backward<B, 2> for Gated {
    type State = (FloatTensor<B>, FloatTensor<B>, Activation);
    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (gate, up, activation) = ops.state;
        let (to_gate, to_up) = B::gated_grad(gate, up, grad, activation);
        for (node, to) in ops.parents.into_iter().zip([to_gate, to_up]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, to);
            }
        }
    }
}

impl<B: TensorOps> Backward<B, 1> for Activate {
    type State = (FloatTensor<B>, Activation);
    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (x, activation) = ops.state;
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, B::activate_grad(x, grad, activation));
        }
    }
}

impl<B: TensorOps> Backward<B, 1> for TopK {
    type State = (IntTensor<B>, Shape);
    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (indices, shape) = ops.state;
        if let [Some(node)] = ops.parents {
            let zeros = B::float_zeros(shape, &grad.device(), grad.dtype().into());
            let update = burn::backend::tensor::IndexingUpdateOp::Add;
            grads.register::<B>(node.id, B::float_scatter(1, zeros, indices, grad, update));
        }
    }
}

impl<B: TensorOps> Backward<B, 3> for SparseEncode {
    type State = (FloatTensor<B>, FloatTensor<B>, IntTensor<B>);
    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (x, w_enc, indices) = ops.state;
        let d_sae = w_enc.shape()[0];
        let [x_node, w_node, b_node] = ops.parents;
        if let Some(node) = b_node {
            let ones = B::float_ones(Shape::from([x.shape()[0], 1]), &x.device(), x.dtype().into());
            let sum = B::sparse_decode_grad_w_dec(ones, grad.clone(), indices.clone(), d_sae);
            grads.register::<B>(node.id, B::float_reshape(sum, Shape::from([d_sae])));
        }
        if let Some(node) = x_node {
            grads.register::<B>(node.id, B::sparse_decode(grad.clone(), indices.clone(), w_enc));
        }
        if let Some(node) = w_node {
            grads.register::<B>(node.id, B::sparse_decode_grad_w_dec(x, grad, indices, d_sae));
        }
    }
}

impl<B: TensorOps> Backward<B, 2> for SparseDecode {
    type State = (FloatTensor<B>, IntTensor<B>, FloatTensor<B>);
    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (values, indices, w_dec) = ops.state;
        let [values_node, w_node] = ops.parents;
        if let Some(node) = values_node {
            let to = B::sparse_decode_grad_values(grad.clone(), indices.clone(), w_dec.clone());
            grads.register::<B>(node.id, to);
        }
        if let Some(node) = w_node {
            let d_sae = w_dec.shape()[0];
            grads.register::<B>(node.id, B::sparse_decode_grad_w_dec(grad, values, indices, d_sae));
        }
    }
}

impl<B: Backend> Backward<B, 2> for CrossEntropy {
    /// Each token's own gradient, made in the forward pass.
    type State = FloatTensor<B>;
    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let [hidden_node, unembed_node] = ops.parents;
        assert!(
            unembed_node.is_none(),
            "cross_entropy: the unembedding is frozen; it must not require a gradient"
        );
        if let Some(node) = hidden_node {
            let tokens = grad.shape()[0];
            let grad = B::float_reshape(grad, Shape::from([tokens, 1]));
            grads.register::<B>(node.id, B::float_mul(ops.state, grad));
        }
    }
}

impl<B: TensorOps, C: CheckpointStrategy> TensorOps for Autodiff<B, C> {
    fn product(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        let (tracks_a, tracks_b) = (a.is_tracked(), b.is_tracked());
        let ((a, a_guard), (b, b_guard)) = (a.into_parts(), b.into_parts());
        match Product.prepare::<C>([a_guard, b_guard]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let y = B::product(a.clone(), b.clone());
                prep.finish((tracks_b.then_some(a), tracks_a.then_some(b)), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::product(a, b)),
        }
    }

    fn packed_product(x: FloatTensor<Self>, w: Arc<Packed>, transposed: bool) -> FloatTensor<Self> {
        let (x, guard) = x.into_parts();
        match PackedProduct.prepare::<C>([guard]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let y = B::packed_product(x, w.clone(), transposed);
                prep.finish((w, transposed), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::packed_product(x, w, transposed)),
        }
    }

    fn low_rank_linear(
        y: FloatTensor<Self>,
        x: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        let [to_x, to_a, to_b] = [&x, &a, &b].map(|operand| operand.is_tracked());
        let ((y, y_guard), (x, x_guard)) = (y.into_parts(), x.into_parts());
        let ((a, a_guard), (b, b_guard)) = (a.into_parts(), b.into_parts());
        let prep = LowRank.prepare::<C>([y_guard, x_guard, a_guard, b_guard]);
        match prep.compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let narrow = B::float_mul_scalar(B::product(x.clone(), a.clone()), scale.into());
                let sum = B::add_product(y, narrow.clone(), b.clone());
                let state = LowRankState {
                    x: to_a.then_some(x),
                    narrow: to_b.then_some(narrow),
                    a: to_x.then_some(a),
                    b: (to_x || to_a).then_some(b),
                    scale,
                };
                prep.finish(state, sum)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::low_rank_linear(y, x, a, b, scale)),
        }
    }

    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        let ((x, x_guard), (weight, weight_guard)) = (x.into_parts(), weight.into_parts());
        match RmsNorm.prepare::<C>([x_guard, weight_guard]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let y = B::rms_norm(x.clone(), weight.clone(), eps);
                prep.finish((x, weight, eps), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::rms_norm(x, weight, eps)),
        }
    }

    fn add_rms_norm(
        x: FloatTensor<Self>,
        delta: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let ((x, x_guard), (delta, delta_guard)) = (x.into_parts(), delta.into_parts());
        let (weight, weight_guard) = weight.into_parts();
        let (sum, normed) = B::add_rms_norm(x, delta, weight.clone(), eps);
        let kept = sum.clone();
        let sum: FloatTensor<Self> = match Add.prepare::<C>([x_guard, delta_guard]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((), sum),
            OpsKind::UnTracked(prep) => prep.finish(sum),
        };
        let (_, sum_guard) = sum.clone().into_parts();
        let normed = match RmsNorm
            .prepare::<C>([sum_guard, weight_guard])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish((kept, weight, eps), normed),
            OpsKind::UnTracked(prep) => prep.finish(normed),
        };
        (sum, normed)
    }

    fn rotary(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>) -> FloatTensor<Self> {
        let ((x, guard), (cos, _), (sin, _)) = (x.into_parts(), cos.into_parts(), sin.into_parts());
        match Rotary.prepare::<C>([guard]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let y = B::rotary(x, cos.clone(), sin.clone());
                prep.finish((cos, sin), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::rotary(x, cos, sin)),
        }
    }

    fn packed_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        spans: Arc<Spans>,
        options: AttentionOptions,
    ) -> FloatTensor<Self> {
        let ((q, q_guard), (k, k_guard), (v, v_guard)) = (q.into_parts(), k.into_parts(), v.into_parts());
        match Attention
            .prepare::<C>([q_guard, k_guard, v_guard])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let y = B::packed_attention(q.clone(), k.clone(), v.clone(), spans.clone(), options);
                prep.finish((q, k, v, spans, options), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::packed_attention(q, k, v, spans, options)),
        }
    }

    fn gated(gate: FloatTensor<Self>, up: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        let ((gate, gate_guard), (up, up_guard)) = (gate.into_parts(), up.into_parts());
        match Gated.prepare::<C>([gate_guard, up_guard]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let y = B::gated(gate.clone(), up.clone(), activation);
                prep.finish((gate, up, activation), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::gated(gate, up, activation)),
        }
    }

    fn activate(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        let (x, guard) = x.into_parts();
        match Activate.prepare::<C>([guard]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let y = B::activate(x.clone(), activation);
                prep.finish((x, activation), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::activate(x, activation)),
        }
    }

    fn top_k(x: FloatTensor<Self>, k: usize) -> (FloatTensor<Self>, IntTensor<Self>) {
        let (x, guard) = x.into_parts();
        let shape = x.shape();
        let (values, indices) = B::top_k(x, k);
        let values = match TopK.prepare::<C>([guard]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((indices.clone(), shape), values),
            OpsKind::UnTracked(prep) => prep.finish(values),
        };
        (values, indices)
    }

    fn sparse_encode(
        x: FloatTensor<Self>,
        w_enc: FloatTensor<Self>,
        b_enc: FloatTensor<Self>,
        k: usize,
    ) -> (FloatTensor<Self>, IntTensor<Self>) {
        tracked_code::<B, C>(x, w_enc, b_enc, |x, w_enc, b_enc| B::sparse_encode(x, w_enc, b_enc, k))
    }

    fn encode_above(
        x: FloatTensor<Self>,
        w_enc: FloatTensor<Self>,
        b_enc: FloatTensor<Self>,
        threshold: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, IntTensor<Self>) {
        let (threshold, _) = threshold.into_parts();
        let (values, indices) = tracked_code::<B, C>(x, w_enc, b_enc, |x, w_enc, b_enc| {
            B::encode_above(x, w_enc, b_enc, threshold)
        });
        // Changes no value; what only fills a row up gets no gradient.
        (<Self as ActivationOps<Self>>::relu(values), indices)
    }

    fn encode_batch_top_k(
        x: FloatTensor<Self>,
        w_enc: FloatTensor<Self>,
        b_enc: FloatTensor<Self>,
        k: usize,
    ) -> (FloatTensor<Self>, IntTensor<Self>) {
        let (values, indices) = tracked_code::<B, C>(x, w_enc, b_enc, |x, w_enc, b_enc| {
            B::encode_batch_top_k(x, w_enc, b_enc, k)
        });
        (<Self as ActivationOps<Self>>::relu(values), indices)
    }

    fn sparse_decode(
        values: FloatTensor<Self>,
        indices: IntTensor<Self>,
        w_dec: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let ((values, v_guard), (w_dec, w_guard)) = (values.into_parts(), w_dec.into_parts());
        match SparseDecode.prepare::<C>([v_guard, w_guard]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let y = B::sparse_decode(values.clone(), indices.clone(), w_dec.clone());
                prep.finish((values, indices, w_dec), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::sparse_decode(values, indices, w_dec)),
        }
    }

    fn cross_entropy(
        hidden: FloatTensor<Self>,
        unembed: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        let ((hidden, guard), (unembed, unembed_guard)) = (hidden.into_parts(), unembed.into_parts());
        match CrossEntropy
            .prepare::<C>([guard, unembed_guard])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let (nll, grad) = B::cross_entropy_with_grad(hidden, unembed, targets);
                prep.finish(grad, nll)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::cross_entropy(hidden, unembed, targets)),
        }
    }
}

/// A code whose values have the gradient of the pre-activations that they are.
fn tracked_code<B: TensorOps, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
    w_enc: FloatTensor<Autodiff<B, C>>,
    b_enc: FloatTensor<Autodiff<B, C>>,
    encode: impl FnOnce(FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) -> (FloatTensor<B>, IntTensor<B>),
) -> (FloatTensor<Autodiff<B, C>>, IntTensor<B>) {
    let ((x, x_guard), (w_enc, w_guard), (b_enc, b_guard)) = (x.into_parts(), w_enc.into_parts(), b_enc.into_parts());
    let (values, indices) = encode(x.clone(), w_enc.clone(), b_enc);
    let values = match SparseEncode
        .prepare::<C>([x_guard, w_guard, b_guard])
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(prep) => prep.finish((x, w_enc, indices.clone()), values),
        OpsKind::UnTracked(prep) => prep.finish(values),
    };
    (values, indices)
}
