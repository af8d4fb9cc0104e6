//! Causal grouped-query attention over packed spans, without a pattern matrix in memory.

#![expect(
    clippy::needless_range_loop,
    reason = "row r of a tile indexes several arrays at once, which the compiler keeps in registers"
)]

use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::simd::{dot, exp_sum, max, tanh};
use super::view::{contiguous, dims, float, slice};
use super::wide::{LANES, Wide, Work, with_wide};
use crate::{AttentionOptions, Span, Spans};

/// Queries that one task handles.
const QUERIES: usize = 16;

/// Heads and queries, "rows" below, that share one reading of keys and values. Every number is a sum in an order of its own,
/// so that how rows come together changes no bit.
const ROWS: usize = 4;

/// `q [token, head, d]`, `k`/`v [row, kv_head, d]`.
struct Shape {
    queries: usize,
    heads: usize,
    kv_heads: usize,
    rows: usize,
    d: usize,
    group: usize,
    options: AttentionOptions,
}

impl Shape {
    fn new(q: &FlexTensor, k: &FlexTensor, spans: &Spans, options: AttentionOptions) -> Self {
        let ([queries, heads, d], [rows, kv_heads, _]) = (dims(q), dims(k));
        spans.check(queries, rows);
        Self {
            queries,
            heads,
            kv_heads,
            rows,
            d,
            group: heads / kv_heads,
            options,
        }
    }
}

/// The tasks of a forward pass: spans, and in them some queries.
fn tasks(spans: &Spans) -> Vec<(&Span, std::ops::Range<usize>)> {
    let mut tasks = Vec::new();
    for span in &spans.spans {
        let n = span.queries.len();
        tasks.extend((0..n).step_by(QUERIES).map(|from| (span, from..n.min(from + QUERIES))));
    }
    tasks
}

pub(super) fn forward(
    q: &FlexTensor,
    k: &FlexTensor,
    v: &FlexTensor,
    spans: &Spans,
    options: AttentionOptions,
) -> FlexTensor {
    let s = Shape::new(q, k, spans, options);
    let (q, k, v) = (contiguous(q), contiguous(k), contiguous(v));
    let (q, k, v) = (slice::<f32>(&q), slice::<f32>(&k), slice::<f32>(&v));
    let row = s.heads * s.d;
    let mut out = vec![0f32; s.queries * row];
    // Tasks lie one after another in the output.
    let mut rest = &mut out[..];
    let tasks: Vec<_> = tasks(spans)
        .into_iter()
        .map(|(span, queries)| {
            let (part, after) = std::mem::take(&mut rest).split_at_mut(queries.len() * row);
            rest = after;
            (span, queries, part)
        })
        .collect();
    tasks.into_par_iter().for_each(|(span, queries, out)| {
        let mut scores = Vec::new();
        // What lies before the first query's window, none of them sees.
        let unseen = options.first(span.n_keys(queries.start));
        let rows: Vec<usize> = span.keys(queries.end - 1).skip(unseen).collect();
        let first = span.queries.start + queries.start;
        for kv in 0..s.kv_heads {
            with_wide(Forward {
                s: &s,
                q: &q[first * row..][..queries.len() * row],
                k,
                v,
                rows: &rows,
                kv,
                seen: span.n_keys(queries.start) - unseen,
                scores: &mut scores,
                out: &mut *out,
            });
        }
    });
    float(out, &[s.queries, s.heads, s.d])
}

/// Some queries' heads of one key/value head.
struct Forward<'a> {
    s: &'a Shape,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    /// The key rows from the first query's first to the last query's last.
    rows: &'a [usize],
    kv: usize,
    /// The end of the first query's keys in `rows`; each next one's is one further.
    seen: usize,
    scores: &'a mut Vec<f32>,
    out: &'a mut [f32],
}

impl Work for Forward<'_> {
    #[inline(always)]
    fn run<W: Wide>(self, wide: W) {
        let (s, d) = (self.s, self.s.d);
        let stride = self.rows.len();
        let matrix = |of| Matrix {
            of,
            rows: self.rows,
            s,
            kv: self.kv,
        };
        let (k, v) = (matrix(self.k), matrix(self.v));
        // Row r is query r / group and head r % group of this key/value head; where it begins in `q` and `out`.
        let place = |r: usize| (r / s.group * s.heads + self.kv * s.group + r % s.group) * d;
        self.scores.clear();
        self.scores.resize(ROWS * stride, 0.0);
        let rows = self.q.len() / (s.heads * d) * s.group;
        let mut row = 0;
        while row < rows {
            let count = ROWS.min(rows - row);
            let mut q = [&self.q[..d]; ROWS];
            for r in 0..count {
                q[r] = &self.q[place(row + r)..][..d];
            }
            let seen = |r: usize| self.seen + (row + r) / s.group;
            let (least, most) = (s.options.first(seen(0)), seen(count - 1));
            for key in least..most {
                let products = dots(wide, &q, k.row(key));
                for r in 0..count {
                    self.scores[r * stride + key] = products[r] * s.options.scale;
                }
            }
            for r in 0..count {
                let (first, seen) = (s.options.first(seen(r)), seen(r));
                let scores = &mut self.scores[r * stride..][..most];
                if let Some(cap) = s.options.softcap {
                    scores[first..seen]
                        .iter_mut()
                        .for_each(|score| *score = cap * tanh(*score / cap));
                }
                pattern(&mut scores[first..seen]);
                // Another row of these may see more.
                scores[least..first].fill(0.0);
                scores[seen..].fill(0.0);
            }
            let weights = &self.scores[..];
            for at in (0..d).step_by(2 * LANES) {
                let sums = weighted(wide, weights, &v, least..most, at);
                for r in 0..count {
                    let width = (d - at).min(2 * LANES);
                    self.out[place(row + r) + at..][..width].copy_from_slice(&sums[r][..width]);
                }
            }
            row += count;
        }
    }
}

/// Turns one row's scores into its attention pattern.
#[inline(always)]
fn pattern(scores: &mut [f32]) {
    let top = max(scores);
    let inverse = 1.0 / exp_sum(scores, top);
    scores.iter_mut().for_each(|score| *score *= inverse);
}

/// Dot products of some rows with one.
#[inline(always)]
fn dots<W: Wide>(wide: W, rows: &[&[f32]; ROWS], with: &[f32]) -> [f32; ROWS] {
    let (chunks, rest) = with.as_chunks::<LANES>();
    let mut sums = [wide.splat(0.0); ROWS];
    for c in 0..chunks.len() {
        let with = wide.load(&chunks[c]);
        for r in 0..ROWS {
            let x = rows[r][c * LANES..].first_chunk().expect("rows are as long");
            sums[r] = wide.mul_add(wide.load(x), with, sums[r]);
        }
    }
    let mut totals = [0f32; ROWS];
    for r in 0..ROWS {
        totals[r] = wide.sum(sums[r]);
        for i in 0..rest.len() {
            totals[r] += rows[r][chunks.len() * LANES + i] * rest[i];
        }
    }
    totals
}

/// One key/value head's row of every key.
struct Matrix<'a> {
    of: &'a [f32],
    rows: &'a [usize],
    s: &'a Shape,
    kv: usize,
}

impl<'a> Matrix<'a> {
    #[inline(always)]
    fn row(&self, key: usize) -> &'a [f32] {
        &self.of[(self.rows[key] * self.s.kv_heads + self.kv) * self.s.d..][..self.s.d]
    }
}

/// Columns `at..at + 32` of the sums of some rows of a matrix, weighted by `weights [ROWS, stride]`.
#[inline(always)]
fn weighted<W: Wide>(
    wide: W,
    weights: &[f32],
    matrix: &Matrix<'_>,
    keys: std::ops::Range<usize>,
    at: usize,
) -> [[f32; 2 * LANES]; ROWS] {
    let (d, stride) = (matrix.s.d, matrix.rows.len());
    let mut out = [[0f32; 2 * LANES]; ROWS];
    if d - at >= 2 * LANES {
        let mut sums = [[wide.splat(0.0); 2]; ROWS];
        for key in keys {
            let row = &matrix.row(key)[at..][..2 * LANES];
            let (low, high) = row.split_at(LANES);
            let low = wide.load(low.first_chunk().expect("sixteen of them"));
            let high = wide.load(high.first_chunk().expect("sixteen of them"));
            for r in 0..ROWS {
                let weight = wide.splat(weights[r * stride + key]);
                sums[r] = [
                    wide.mul_add(weight, low, sums[r][0]),
                    wide.mul_add(weight, high, sums[r][1]),
                ];
            }
        }
        for r in 0..ROWS {
            out[r][..LANES].copy_from_slice(&wide.store(sums[r][0]));
            out[r][LANES..].copy_from_slice(&wide.store(sums[r][1]));
        }
        return out;
    }
    // The end of a row that is no whole number of them.
    for key in keys {
        let row = &matrix.row(key)[at..];
        for r in 0..ROWS {
            for i in 0..row.len() {
                out[r][i] = weights[r * stride + key].mul_add(row[i], out[r][i]);
            }
        }
    }
    out
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
    options: AttentionOptions,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let s = Shape::new(q, k, spans, options);
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
    let mut scratch = [const { Vec::new() }; 3];
    let (width, group) = (s.heads * s.d, s.group * s.d);
    for span in spans.spans.iter().filter(|span| !span.queries.is_empty()) {
        let rows: Vec<usize> = span.keys(span.queries.len() - 1).collect();
        let queries = span.queries.clone();
        with_wide(Backward {
            s,
            q: &q[queries.start * width..queries.end * width],
            grad: &grad[queries.start * width..queries.end * width],
            k,
            v,
            rows: &rows,
            kv,
            seen: span.n_keys(0),
            scratch: &mut scratch,
            to_q: &mut out.q[queries.start * group..queries.end * group],
            to_k: &mut out.k,
            to_v: &mut out.v,
        });
    }
    out
}

/// The gradients of one span and one key/value head.
struct Backward<'a> {
    s: &'a Shape,
    q: &'a [f32],
    grad: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    /// The key rows from the first query's first to the last query's last.
    rows: &'a [usize],
    kv: usize,
    /// The end of the first query's keys in `rows`; each next one's is one further.
    seen: usize,
    scratch: &'a mut [Vec<f32>; 3],
    /// `[query, head of the group, d]`.
    to_q: &'a mut [f32],
    /// `[key row, d]`.
    to_k: &'a mut [f32],
    to_v: &'a mut [f32],
}

impl Work for Backward<'_> {
    #[inline(always)]
    fn run<W: Wide>(self, wide: W) {
        let (s, d) = (self.s, self.s.d);
        let stride = self.rows.len();
        let matrix = |of| Matrix {
            of,
            rows: self.rows,
            s,
            kv: self.kv,
        };
        let (k, v) = (matrix(self.k), matrix(self.v));
        let [patterns, slopes, caps] = self.scratch;
        for buffer in [&mut *patterns, &mut *slopes, &mut *caps] {
            buffer.clear();
            buffer.resize(ROWS * stride, 0.0);
        }
        let rows = self.to_q.len() / d;
        let place = |r: usize| (r / s.group * s.heads + self.kv * s.group + r % s.group) * d;
        let mut row = 0;
        while row < rows {
            let count = ROWS.min(rows - row);
            let (mut q, mut grad) = ([&self.q[..d]; ROWS], [&self.grad[..d]; ROWS]);
            for r in 0..count {
                q[r] = &self.q[place(row + r)..][..d];
                grad[r] = &self.grad[place(row + r)..][..d];
            }
            let seen = |r: usize| self.seen + (row + r) / s.group;
            let (least, most) = (s.options.first(seen(0)), seen(count - 1));
            for key in least..most {
                let products = dots(wide, &q, k.row(key));
                let to_patterns = dots(wide, &grad, v.row(key));
                for r in 0..ROWS {
                    patterns[r * stride + key] = products[r] * s.options.scale;
                    slopes[r * stride + key] = to_patterns[r];
                }
            }
            for r in 0..ROWS {
                let (patterns, slopes) = (&mut patterns[r * stride..][..most], &mut slopes[r * stride..][..most]);
                // Rows that are not there see nothing, and another one of these may see more.
                let seen = if r < count { seen(r) } else { least };
                let first = s.options.first(seen).max(least);
                if first < seen {
                    let caps = &mut caps[r * stride..][..most];
                    if let Some(cap) = s.options.softcap {
                        for i in first..seen {
                            let t = tanh(patterns[i] / cap);
                            patterns[i] = cap * t;
                            caps[i] = 1.0 - t * t;
                        }
                    }
                    pattern(&mut patterns[first..seen]);
                    let mean = dot(&patterns[first..seen], &slopes[first..seen]);
                    for i in first..seen {
                        slopes[i] = patterns[i] * (slopes[i] - mean) * s.options.scale;
                    }
                    if s.options.softcap.is_some() {
                        for i in first..seen {
                            slopes[i] *= caps[i];
                        }
                    }
                }
                for buffer in [patterns, slopes] {
                    buffer[least..first].fill(0.0);
                    buffer[seen..].fill(0.0);
                }
            }
            for at in (0..d).step_by(2 * LANES) {
                let sums = weighted(wide, slopes, &k, least..most, at);
                for r in 0..count {
                    let width = (d - at).min(2 * LANES);
                    self.to_q[(row + r) * d + at..][..width].copy_from_slice(&sums[r][..width]);
                }
            }
            for key in least..most {
                let to = self.rows[key] * d..(self.rows[key] + 1) * d;
                spread(wide, slopes, stride, key, &q, &mut self.to_k[to.clone()]);
                spread(wide, patterns, stride, key, &grad, &mut self.to_v[to]);
            }
            row += count;
        }
    }
}

/// `out += weights[r, key] · rows[r]` for every row.
#[inline(always)]
fn spread<W: Wide>(wide: W, weights: &[f32], stride: usize, key: usize, rows: &[&[f32]; ROWS], out: &mut [f32]) {
    let (chunks, rest) = out.as_chunks_mut::<LANES>();
    let whole = chunks.len() * LANES;
    for c in 0..chunks.len() {
        let mut sum = wide.load(&chunks[c]);
        for r in 0..ROWS {
            let x = rows[r][c * LANES..].first_chunk().expect("rows are as long");
            sum = wide.mul_add(wide.splat(weights[r * stride + key]), wide.load(x), sum);
        }
        chunks[c] = wide.store(sum);
    }
    for i in 0..rest.len() {
        for r in 0..ROWS {
            rest[i] = weights[r * stride + key].mul_add(rows[r][whole + i], rest[i]);
        }
    }
}

/// Writes block `index` of each row of `whole`, whose rows are `count` blocks of `width`.
fn interleave(whole: &mut [f32], part: &[f32], width: usize, count: usize, index: usize) {
    for (whole, part) in whole.chunks_exact_mut(width * count).zip(part.chunks_exact(width)) {
        whole[index * width..][..width].copy_from_slice(part);
    }
}
