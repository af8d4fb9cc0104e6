//! Special bodies for libtorch: its own operators.
//!
//! What has no body here (plain products, the RMS norm, rotations) is already one libtorch operator for each burn operation, or
//! libtorch itself composes it of the same ones.

use std::sync::Arc;

use burn::backend::libtorch::TchTensor;
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{LibTorch, TensorMetadata};
use burn::tensor::TensorData;
use tch::{Kind, Reduction, Tensor};

use crate::ops::{CROSS_ENTROPY_CHUNK, attention_grads, attention_values};
use crate::packed::Numbers;
use crate::{Activation, AdamWStep, AttentionOptions, Packed, Span, Spans, TensorOps};

/// Most rows for which a bf16 weight is widened, so that a row gives the same whatever other rows there are.
const FEW_ROWS: i64 = 32;

impl TensorOps for LibTorch {
    fn add_product(y: FloatTensor<Self>, a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        if y.tensor.size()[0] == a.tensor.size()[0] && y.can_mut() {
            let mut y = y.tensor;
            let _ = y.addmm_(&a.tensor, &b.tensor);
            return TchTensor::new(y);
        }
        TchTensor::new(y.tensor.addmm(&a.tensor, &b.tensor))
    }

    /// A weight of 8 or 4 bits stays here in f32 once it was used.
    fn packed_product(x: FloatTensor<Self>, w: Arc<Packed>, transposed: bool) -> FloatTensor<Self> {
        let device = x.device();
        let x = x.tensor;
        let weight = w.on_device(
            |kept: &TchTensor| kept.device() == device,
            || {
                let weight = Self::float_from_data(TensorData::new(w.to_vec(), w.shape()), &device);
                match w.numbers {
                    Numbers::Bf16(_) => TchTensor::new(weight.tensor.to_kind(Kind::BFloat16)),
                    _ => weight,
                }
            },
        );
        let weight = if transposed { weight.tensor } else { weight.tensor.tr() };
        let native = weight.kind() == Kind::BFloat16 && x.size()[0] > FEW_ROWS && multiplies_bf16(x.device());
        TchTensor::new(if native {
            x.to_kind(Kind::BFloat16).matmul(&weight).to_kind(x.kind())
        } else {
            x.matmul(&weight.to_kind(x.kind()))
        })
    }

    fn packed_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        spans: Arc<Spans>,
        options: AttentionOptions,
    ) -> FloatTensor<Self> {
        if options.window.is_some() || options.softcap.is_some() {
            return attention_values::<Self>(q, k, v, &spans, options);
        }
        let scale = f64::from(options.scale);
        let (q, k, v) = (q.tensor, k.tensor, v.tensor);
        spans.check(q.size()[0] as usize, k.size()[0] as usize);
        let kv_heads = k.size()[1];
        let y = queries(&spans).map(|span| {
            let at = Rows::of(span, &k);
            let (k, v) = (at.heads_first(&k), at.heads_first(&v));
            let q = grouped(&at.queries(&q), kv_heads);
            ungrouped(&pattern(&q, &k, span, scale).bmm(&v), span)
        });
        TchTensor::new(cat(y.collect(), &q))
    }

    fn packed_attention_grad(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        spans: Arc<Spans>,
        options: AttentionOptions,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if options.window.is_some() || options.softcap.is_some() {
            return attention_grads::<Self>(q, k, v, grad, &spans, options);
        }
        let scale = f64::from(options.scale);
        let (q, k, v, grad) = (q.tensor, k.tensor, v.tensor, grad.tensor);
        let kv_heads = k.size()[1];
        let mut to_q = Vec::new();
        let [mut to_k, mut to_v] = [0; 2].map(|_| Tensor::zeros(k.size(), (k.kind(), k.device())));
        for span in queries(&spans) {
            let at = Rows::of(span, &k);
            let (k, v) = (at.heads_first(&k), at.heads_first(&v));
            let [q, grad] = [&q, &grad].map(|x| grouped(&at.queries(x), kv_heads));
            let pattern = pattern(&q, &k, span, scale);
            let to_pattern = grad.bmm(&v.transpose(1, 2));
            let to_scores = Tensor::internal_softmax_backward_data(&to_pattern, &pattern, -1, q.kind()) * scale;
            to_q.push(ungrouped(&to_scores.bmm(&k), span));
            // The sum over a group's queries is the sum over its heads too.
            at.add(&mut to_k, &to_scores.transpose(1, 2).bmm(&q));
            at.add(&mut to_v, &pattern.transpose(1, 2).bmm(&grad));
        }
        (
            TchTensor::new(cat(to_q, &q)),
            TchTensor::new(to_k),
            TchTensor::new(to_v),
        )
    }

    fn gated(gate: FloatTensor<Self>, up: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        TchTensor::new(values(&gate.tensor, activation) * up.tensor)
    }

    fn gated_grad(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let to_gate = slopes(&gate.tensor, &(&grad.tensor * up.tensor), activation);
        (
            TchTensor::new(to_gate),
            TchTensor::new(values(&gate.tensor, activation) * grad.tensor),
        )
    }

    fn activate(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        TchTensor::new(values(&x.tensor, activation))
    }

    fn activate_grad(x: FloatTensor<Self>, grad: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        TchTensor::new(slopes(&x.tensor, &grad.tensor, activation))
    }

    fn top_k(x: FloatTensor<Self>, k: usize) -> (FloatTensor<Self>, IntTensor<Self>) {
        let least = f64::NEG_INFINITY;
        let x = x.tensor.nan_to_num(least, f64::INFINITY, least);
        let (k, n) = (k as i64, x.size()[1]);
        // libtorch takes equal numbers in any order. One more than asked for shows where that matters: rarely, and those
        // rows are sorted whole.
        let some = (k + 1).min(n);
        let (values, columns) = x.topk(some, 1, true, true);
        let [mut first, mut first_columns] = [&values, &columns].map(|t| t.narrow(1, 0, k).copy());
        if some > 1 {
            let equal = values.narrow(1, 1, some - 1).eq_tensor(&values.narrow(1, 0, some - 1));
            let rows = equal.any_dim(1, false).nonzero().squeeze_dim(1);
            if rows.size()[0] > 0 {
                let (values, columns) = x.index_select(0, &rows).sort_stable(true, 1, true);
                let _ = first.index_copy_(0, &rows, &values.narrow(1, 0, k));
                let _ = first_columns.index_copy_(0, &rows, &columns.narrow(1, 0, k));
            }
        }
        (TchTensor::new(first), TchTensor::new(first_columns))
    }

    fn sparse_decode(
        values: FloatTensor<Self>,
        indices: IntTensor<Self>,
        w_dec: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let (values, w_dec) = (values.tensor, w_dec.tensor);
        let [tokens, k] = [values.size()[0], values.size()[1]];
        if k == 0 {
            return TchTensor::new(Tensor::zeros([tokens, w_dec.size()[1]], (w_dec.kind(), w_dec.device())));
        }
        let bags = Bags::of(&indices.tensor);
        let weights = Some(values.reshape([-1]));
        let (y, ..) = Tensor::embedding_bag(
            &w_dec,
            &bags.latents,
            &bags.starts,
            false,
            Bags::SUM,
            false,
            weights,
            false,
        );
        TchTensor::new(y)
    }

    fn sparse_decode_grad_values(
        grad: FloatTensor<Self>,
        indices: IntTensor<Self>,
        w_dec: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let size = indices.tensor.size();
        if size[1] == 0 {
            return TchTensor::new(Tensor::zeros(size, (grad.tensor.kind(), grad.tensor.device())));
        }
        let bags = Bags::of(&indices.tensor);
        let dots = Tensor::internal_embedding_bag_per_sample_weights_backward(
            &grad.tensor,
            &w_dec.tensor,
            &bags.latents,
            &bags.starts,
            &bags.tokens,
            Bags::SUM,
            Bags::NO_PADDING,
        );
        TchTensor::new(dots.reshape(size))
    }

    fn sparse_decode_grad_w_dec(
        grad: FloatTensor<Self>,
        values: FloatTensor<Self>,
        indices: IntTensor<Self>,
        d_sae: usize,
    ) -> FloatTensor<Self> {
        let (grad, size) = (grad.tensor, indices.tensor.size());
        if size[1] == 0 {
            let shape = [d_sae as i64, grad.size()[1]];
            return TchTensor::new(Tensor::zeros(shape, (grad.kind(), grad.device())));
        }
        let bags = Bags::of(&indices.tensor);
        let int = (Kind::Int64, grad.device());
        let sums = Tensor::internal_embedding_bag_dense_backward(
            &grad,
            &bags.latents,
            &bags.tokens,
            &Tensor::full([size[0]], size[1], int),
            &Tensor::empty([0], int),
            d_sae as i64,
            false,
            Bags::SUM,
            Some(values.tensor.reshape([-1])),
            Bags::NO_PADDING,
        );
        TchTensor::new(sums)
    }

    fn cross_entropy(
        hidden: FloatTensor<Self>,
        unembed: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        let (chunk, unembed) = (CROSS_ENTROPY_CHUNK as i64, unembed.tensor.tr());
        let pairs = hidden
            .tensor
            .split(chunk, 0)
            .into_iter()
            .zip(targets.tensor.split(chunk, 0));
        let nll = pairs.map(|(hidden, targets)| {
            let logits = hidden.matmul(&unembed);
            logits.cross_entropy_loss(&targets, None::<Tensor>, Reduction::None, -100, 0.0)
        });
        TchTensor::new(Tensor::cat(&nll.collect::<Vec<_>>(), 0))
    }

    fn cross_entropy_with_grad(
        hidden: FloatTensor<Self>,
        unembed: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (chunk, unembed) = (CROSS_ENTROPY_CHUNK as i64, unembed.tensor);
        let (mut nll, mut grads) = (Vec::new(), Vec::new());
        let pairs = hidden
            .tensor
            .split(chunk, 0)
            .into_iter()
            .zip(targets.tensor.split(chunk, 0));
        for (hidden, targets) in pairs {
            let mut log_probs = hidden.matmul(&unembed.tr()).log_softmax(1, None::<Kind>);
            nll.push(log_probs.gather(1, &targets.unsqueeze(1), false).squeeze_dim(1).neg());
            let softmax = log_probs.exp_();
            grads.push(softmax.matmul(&unembed) - unembed.index_select(0, &targets));
        }
        (
            TchTensor::new(Tensor::cat(&nll, 0)),
            TchTensor::new(Tensor::cat(&grads, 0)),
        )
    }

    fn adamw(
        param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        step: AdamWStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let grad = match step.clip {
            1.0 => grad.tensor,
            clip => grad.tensor * f64::from(clip),
        };
        let [mut param, mut first, mut second] = [param, first, second].map(in_place);
        let _ = first.lerp_(&grad, f64::from(1.0 - step.beta_1));
        let _ = second.lerp_(&grad.square(), f64::from(1.0 - step.beta_2));
        let root = (&second * f64::from(step.second_correction())).sqrt_() + f64::from(step.eps);
        let rate = f64::from(step.first_correction() * step.lr);
        let _ = param.g_mul_scalar_(f64::from(1.0 - step.lr * step.weight_decay));
        // The only division-and-add of tch adds the quotient itself, so the rate goes under the fraction.
        let _ = param.addcdiv_(&first, &(root * (-1.0 / rate)));
        (TchTensor::new(param), TchTensor::new(first), TchTensor::new(second))
    }
}

/// Whether products of bf16 are faster there than those of f32.
fn multiplies_bf16(device: tch::Device) -> bool {
    if device != tch::Device::Cpu {
        return true;
    }
    #[cfg(target_arch = "x86_64")]
    return std::is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

fn values(x: &Tensor, activation: Activation) -> Tensor {
    match activation {
        Activation::Silu => x.silu(),
        Activation::Gelu => x.gelu("none"),
        Activation::GeluTanh => x.gelu("tanh"),
    }
}

/// `grad` times the activation's derivative at `x`.
fn slopes(x: &Tensor, grad: &Tensor, activation: Activation) -> Tensor {
    match activation {
        Activation::Silu => x.silu_backward(grad),
        Activation::Gelu => x.gelu_backward(grad, "none"),
        Activation::GeluTanh => x.gelu_backward(grad, "tanh"),
    }
}

/// The tensor's own memory where nobody else holds it, else a copy.
fn in_place(x: TchTensor) -> Tensor {
    if x.can_mut() { x.tensor } else { x.tensor.copy() }
}

/// Spans that have queries.
fn queries(spans: &Spans) -> impl Iterator<Item = &Span> {
    spans.spans.iter().filter(|span| !span.queries.is_empty())
}

/// Where one span's queries and keys lie.
struct Rows<'a> {
    span: &'a Span,
    /// The key rows, where they are not one run.
    keys: Option<Tensor>,
}

impl<'a> Rows<'a> {
    fn of(span: &'a Span, k: &Tensor) -> Self {
        let keys = (!span.context.is_empty()).then(|| {
            let rows: Vec<i64> = span.keys(span.queries.len() - 1).map(|row| row as i64).collect();
            Tensor::from_slice(&rows).to_device(k.device())
        });
        Self { span, keys }
    }

    fn len(&self) -> i64 {
        self.span.queries.len() as i64
    }

    /// `[query, head, d]` of all queries.
    fn queries(&self, q: &Tensor) -> Tensor {
        q.narrow(0, self.span.queries.start as i64, self.len())
    }

    /// `[row, kv_head, d]` to the span's `[kv_head, key, d]`.
    fn heads_first(&self, kv: &Tensor) -> Tensor {
        let rows = match &self.keys {
            Some(keys) => kv.index_select(0, keys),
            None => kv.narrow(0, self.span.own as i64, self.len()),
        };
        rows.transpose(0, 1)
    }

    /// Adds the span's `[kv_head, key, d]` to `[row, kv_head, d]`.
    fn add(&self, to: &mut Tensor, part: &Tensor) {
        let part = part.transpose(0, 1);
        let _ = match &self.keys {
            Some(keys) => to.index_add_(0, keys, &part),
            None => to.narrow(0, self.span.own as i64, self.len()).g_add_(&part),
        };
    }
}

/// `[query, head, d]` to `[kv_head, group · query, d]`: each key/value head meets all queries of its group in one product.
fn grouped(q: &Tensor, kv_heads: i64) -> Tensor {
    let [queries, heads, d] = [0, 1, 2].map(|axis| q.size()[axis]);
    q.reshape([queries, kv_heads, heads / kv_heads, d])
        .permute([1, 2, 0, 3])
        .reshape([kv_heads, heads / kv_heads * queries, d])
}

/// The reverse of [`grouped`].
fn ungrouped(y: &Tensor, span: &Span) -> Tensor {
    let [kv_heads, rows, d] = [0, 1, 2].map(|axis| y.size()[axis]);
    let queries = span.queries.len() as i64;
    y.reshape([kv_heads, rows / queries, queries, d])
        .permute([2, 0, 1, 3])
        .reshape([queries, kv_heads * (rows / queries), d])
}

/// Softmax of the scores `[kv_head, group · query, key]`, where no query sees a later key.
fn pattern(q: &Tensor, k: &Tensor, span: &Span, scale: f64) -> Tensor {
    let (queries, keys) = (span.queries.len() as i64, k.size()[1]);
    let scores = (q * scale).bmm(&k.transpose(1, 2));
    if queries > 1 {
        let later = Tensor::ones([queries, keys], (Kind::Bool, q.device())).triu(keys - queries + 1);
        let mut by_query = scores.view([k.size()[0], -1, queries, keys]);
        let _ = by_query.masked_fill_(&later, f64::NEG_INFINITY);
    }
    scores.softmax(-1, None::<Kind>)
}

/// The parts one after another; without a part, none of `like`.
fn cat(parts: Vec<Tensor>, like: &Tensor) -> Tensor {
    match parts.is_empty() {
        true => like.zeros_like(),
        false => Tensor::cat(&parts, 0),
    }
}

/// A sparse code as bags of libtorch's `embedding_bag`: one bag a token, `k` latents in each.
struct Bags {
    /// The latent of each entry.
    latents: Tensor,
    /// The first entry of each token.
    starts: Tensor,
    /// The token of each entry.
    tokens: Tensor,
}

impl Bags {
    /// The mode that adds the latents up.
    const SUM: i64 = 0;
    const NO_PADDING: i64 = -1;

    fn of(indices: &Tensor) -> Self {
        let [tokens, k] = [indices.size()[0], indices.size()[1]];
        let int = (Kind::Int64, indices.device());
        Self {
            latents: indices.reshape([-1]),
            starts: Tensor::arange_start_step(0, tokens * k, k, int),
            tokens: Tensor::arange(tokens, int).repeat_interleave_self_int(k, None, None),
        }
    }
}
