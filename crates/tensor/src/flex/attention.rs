//! Causal grouped-query attention over packed spans, without a pattern matrix in memory.

use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::simd::{axpy, dot, exp_sum, max, with_simd};
use super::view::{contiguous, dims, float, slice};
use crate::{Span, Spans};

/// Queries that one task handles.
const QUERIES: usize = 4;

/// `q [token, head, d]`, `k`/`v [row, kv_head, d]`.
struct Shape {
    queries: usize,
    heads: usize,
    kv_heads: usize,
    rows: usize,
    d: usize,
    group: usize,
    scale: f32,
}

impl Shape {
    fn new(q: &FlexTensor, k: &FlexTensor, spans: &Spans) -> Self {
        let ([queries, heads, d], [rows, kv_heads, _]) = (dims(q), dims(k));
        spans.check(queries, rows);
        Self {
            queries,
            heads,
            kv_heads,
            rows,
            d,
            group: heads / kv_heads,
            scale: 1.0 / (d as f32).sqrt(),
        }
    }
}

/// The span and the offset inside it of every query.
fn locate(spans: &Spans) -> Vec<(&Span, usize)> {
    spans
        .spans
        .iter()
        .flat_map(|span| (0..span.queries.len()).map(move |j| (span, j)))
        .collect()
}

/// The key rows that a query sees. Plain loops over slices from here on: what an iterator's adaptor runs in a function of
/// its own is compiled without the instruction set that [`with_simd`] chose.
fn key_rows(span: &Span, j: usize, rows: &mut Vec<usize>) {
    rows.clear();
    rows.extend(span.keys(j));
}

pub(super) fn forward(q: &FlexTensor, k: &FlexTensor, v: &FlexTensor, spans: &Spans) -> FlexTensor {
    let s = Shape::new(q, k, spans);
    let (q, k, v) = (contiguous(q), contiguous(k), contiguous(v));
    let (q, k, v) = (slice::<f32>(&q), slice::<f32>(&k), slice::<f32>(&v));
    let located = locate(spans);
    let row = s.heads * s.d;
    let mut out = vec![0f32; s.queries * row];
    out.par_chunks_mut(QUERIES * row).enumerate().for_each(|(task, out)| {
        let (mut scores, mut rows) = (Vec::new(), Vec::new());
        for (i, out) in out.chunks_exact_mut(row).enumerate() {
            let t = task * QUERIES + i;
            let (span, j) = located[t];
            key_rows(span, j, &mut rows);
            scores.resize(rows.len(), 0.0);
            with_simd(
                #[inline(always)]
                || {
                    for h in 0..s.heads {
                        let kv = h / s.group;
                        softmax(&s, &q[t * row + h * s.d..][..s.d], k, kv, &rows, &mut scores);
                        let out = &mut out[h * s.d..][..s.d];
                        for i in 0..rows.len() {
                            axpy(out, scores[i], &v[(rows[i] * s.kv_heads + kv) * s.d..][..s.d]);
                        }
                    }
                },
            );
        }
    });
    float(out, &[s.queries, s.heads, s.d])
}

/// Fills `scores` with the attention pattern of one query and head over `rows`.
#[inline(always)]
fn softmax(s: &Shape, q: &[f32], k: &[f32], kv: usize, rows: &[usize], scores: &mut [f32]) {
    for i in 0..rows.len() {
        scores[i] = dot(q, &k[(rows[i] * s.kv_heads + kv) * s.d..][..s.d]) * s.scale;
    }
    let top = max(scores);
    let inverse = 1.0 / exp_sum(scores, top);
    for p in scores.iter_mut() {
        *p *= inverse;
    }
}

/// One key/value head's share of the gradients, in its own rows.
struct HeadGrads {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

pub(super) fn backward(
    q: &FlexTensor,
    k: &FlexTensor,
    v: &FlexTensor,
    grad: &FlexTensor,
    spans: &Spans,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let s = Shape::new(q, k, spans);
    let (q, k, v, grad) = (contiguous(q), contiguous(k), contiguous(v), contiguous(grad));
    let (q, k, v, grad) = (
        slice::<f32>(&q),
        slice::<f32>(&k),
        slice::<f32>(&v),
        slice::<f32>(&grad),
    );
    // A key/value head's rows are written by its own group of query heads only, so heads run in parallel
    // and each sums in a fixed order: the same bits whatever the number of threads.
    let heads: Vec<HeadGrads> = (0..s.kv_heads)
        .into_par_iter()
        .map(|kv| head_backward(&s, q, k, v, grad, spans, kv))
        .collect();
    let (mut to_q, mut to_k, mut to_v) = (
        vec![0f32; s.queries * s.heads * s.d],
        vec![0f32; s.rows * s.kv_heads * s.d],
        vec![0f32; s.rows * s.kv_heads * s.d],
    );
    for (kv, head) in heads.iter().enumerate() {
        interleave(&mut to_q, &head.q, s.group * s.d, s.kv_heads, kv);
        interleave(&mut to_k, &head.k, s.d, s.kv_heads, kv);
        interleave(&mut to_v, &head.v, s.d, s.kv_heads, kv);
    }
    (
        float(to_q, &[s.queries, s.heads, s.d]),
        float(to_k, &[s.rows, s.kv_heads, s.d]),
        float(to_v, &[s.rows, s.kv_heads, s.d]),
    )
}

fn head_backward(s: &Shape, q: &[f32], k: &[f32], v: &[f32], grad: &[f32], spans: &Spans, kv: usize) -> HeadGrads {
    let mut out = HeadGrads {
        q: vec![0.0; s.queries * s.group * s.d],
        k: vec![0.0; s.rows * s.d],
        v: vec![0.0; s.rows * s.d],
    };
    let (mut pattern, mut slope, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    for (t, (span, j)) in locate(spans).into_iter().enumerate() {
        key_rows(span, j, &mut rows);
        pattern.resize(rows.len(), 0.0);
        slope.resize(rows.len(), 0.0);
        with_simd(
            #[inline(always)]
            || {
                for g in 0..s.group {
                    let at = (t * s.heads + kv * s.group + g) * s.d;
                    let (q, grad) = (&q[at..][..s.d], &grad[at..][..s.d]);
                    softmax(s, q, k, kv, &rows, &mut pattern);
                    for i in 0..rows.len() {
                        slope[i] = dot(grad, &v[(rows[i] * s.kv_heads + kv) * s.d..][..s.d]);
                    }
                    let mean = dot(&pattern, &slope);
                    let to_q = &mut out.q[(t * s.group + g) * s.d..][..s.d];
                    for i in 0..rows.len() {
                        let r = rows[i];
                        let to_score = pattern[i] * (slope[i] - mean) * s.scale;
                        axpy(to_q, to_score, &k[(r * s.kv_heads + kv) * s.d..][..s.d]);
                        axpy(&mut out.k[r * s.d..][..s.d], to_score, q);
                        axpy(&mut out.v[r * s.d..][..s.d], pattern[i], grad);
                    }
                }
            },
        );
    }
    out
}

/// Writes block `index` of each row of `whole`, whose rows are `count` blocks of `width`.
fn interleave(whole: &mut [f32], part: &[f32], width: usize, count: usize, index: usize) {
    for (whole, part) in whole.chunks_exact_mut(width * count).zip(part.chunks_exact(width)) {
        whole[index * width..][..width].copy_from_slice(part);
    }
}
