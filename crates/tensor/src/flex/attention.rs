//! Causal grouped-query attention over packed spans, without a pattern matrix in memory.
//!
//! Some queries' heads of one key/value head, "rows" below, lie side by side in the lanes of registers, and keys one below the
//! other: a softmax then adds whole registers. Every number is a sum in an order of its own, so that how rows come together
//! changes no bit.

#![expect(
    clippy::needless_range_loop,
    reason = "lane r of a tile indexes several arrays at once, which the compiler keeps in registers"
)]

use std::ops::Range;

use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::simd::{exp, tanh};
use super::sums::{Rows, Tile, add_sums, sums_down, write_sums};
use super::view::{contiguous, dims, float, slice, zeroed};
use super::wide::{LANES, Wide, Work, with_wide};
use crate::{AttentionOptions, Span, Spans};

/// Queries that one task of a forward pass handles.
const QUERIES: usize = 16;

/// Registers of rows that share one reading of keys and values.
const MOST_REGISTERS: usize = 3;

/// A backward pass cuts a span into this many tasks at most, each of which holds gradients of all keys that it sees ...
const MOST_PARTS: usize = 8;

/// ... and has at least so many queries.
const LEAST_QUERIES: usize = 64;

/// The score of a key that a row does not see: its exponential is zero.
const UNSEEN: f32 = -1e30;

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

/// Some queries of one span, and what they see.
struct Part<'a> {
    s: &'a Shape,
    /// The queries, within the batch.
    queries: Range<usize>,
    /// The key rows from the first query's first to the last query's last.
    keys: Vec<usize>,
    /// How many keys of the span lie before those, and how many the first query has with them; each next one has one more.
    unseen: usize,
    seen: usize,
}

impl<'a> Part<'a> {
    fn new(s: &'a Shape, span: &Span, queries: Range<usize>) -> Self {
        let (unseen, seen) = (s.options.first(span.n_keys(queries.start)), span.n_keys(queries.start));
        Self {
            s,
            keys: span.keys(queries.end - 1).skip(unseen).collect(),
            queries: span.queries.start + queries.start..span.queries.start + queries.end,
            unseen,
            seen,
        }
    }

    /// Its rows, some registers of them at a time.
    fn blocks(&self) -> impl Iterator<Item = Range<usize>> {
        let rows = self.queries.len() * self.s.group;
        (0..rows)
            .step_by(MOST_REGISTERS * LANES)
            .map(move |from| from..rows.min(from + MOST_REGISTERS * LANES))
    }

    /// The keys, of [`Part::keys`], that a row sees.
    fn sight(&self, row: usize) -> Range<usize> {
        let seen = self.seen + row / self.s.group;
        self.s.options.first(seen) - self.unseen..seen - self.unseen
    }

    /// One head of keys or values.
    fn matrix<'b>(&'b self, of: &'b [f32], kv: usize) -> Keys<'b> {
        Keys { of, part: self, kv }
    }

    /// A block of rows of queries, or of gradients.
    fn heads<'b>(&'b self, of: &'b [f32], kv: usize, block: &Range<usize>) -> Heads<'b> {
        Heads {
            of,
            part: self,
            kv,
            first: block.start,
        }
    }

    /// Where a row begins in a batch's heads.
    #[inline(always)]
    fn place(&self, kv: usize, row: usize) -> usize {
        let (s, query) = (self.s, self.queries.start + row / self.s.group);
        (query * s.heads + kv * s.group + row % s.group) * s.d
    }
}

/// One key/value head's row of every key.
#[derive(Clone, Copy)]
struct Keys<'a> {
    of: &'a [f32],
    part: &'a Part<'a>,
    kv: usize,
}

impl<'a> Keys<'a> {
    #[inline(always)]
    fn slice(&self, key: usize) -> &'a [f32] {
        let s = self.part.s;
        &self.of[(self.part.keys[key] * s.kv_heads + self.kv) * s.d..][..s.d]
    }
}

impl Rows for Keys<'_> {
    #[inline(always)]
    fn row(&self, key: usize) -> &[f32] {
        self.slice(key)
    }
}

/// The rows of a block.
#[derive(Clone, Copy)]
struct Heads<'a> {
    of: &'a [f32],
    part: &'a Part<'a>,
    kv: usize,
    first: usize,
}

impl Rows for Heads<'_> {
    #[inline(always)]
    fn row(&self, row: usize) -> &[f32] {
        &self.of[self.part.place(self.kv, self.first + row)..][..self.part.s.d]
    }
}

#[allow(unsafe_code)]
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
    let mut out = Vec::with_capacity(s.queries * row);
    // Parts lie one after another in the output.
    let mut rest = &mut out.spare_capacity_mut()[..s.queries * row];
    let mut tasks = Vec::new();
    for span in &spans.spans {
        let n = span.queries.len();
        for from in (0..n).step_by(QUERIES) {
            let queries = from..n.min(from + QUERIES);
            let (out, after) = std::mem::take(&mut rest).split_at_mut(queries.len() * row);
            rest = after;
            tasks.push((span, queries, out));
        }
    }
    tasks.into_par_iter().for_each(|(span, queries, out)| {
        let (part, out) = (Part::new(&s, span, queries), zeroed(out));
        let mut scratch = [const { Vec::new() }; 2];
        for kv in 0..s.kv_heads {
            let (part, scratch) = (&part, &mut scratch);
            with_wide(Forward {
                part,
                q,
                k,
                v,
                kv,
                scratch,
                out: &mut *out,
            });
        }
    });
    // SAFETY: `Shape::new` has checked that the spans cover all queries, and `zeroed` has written each one's numbers.
    unsafe { out.set_len(s.queries * row) };
    float(out, &[s.queries, s.heads, s.d])
}

/// A part's rows of one key/value head.
struct Forward<'a> {
    part: &'a Part<'a>,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    kv: usize,
    scratch: &'a mut [Vec<f32>; 2],
    /// The part's own.
    out: &'a mut [f32],
}

impl Work for Forward<'_> {
    #[inline(always)]
    fn run<W: Wide>(mut self, wide: W) {
        for block in self.part.blocks() {
            match block.len().div_ceil(LANES) {
                1 => self.block::<W, 1>(wide, block),
                2 => self.block::<W, 2>(wide, block),
                _ => self.block::<W, MOST_REGISTERS>(wide, block),
            }
        }
    }
}

impl Forward<'_> {
    #[inline(always)]
    fn block<W: Wide, const R: usize>(&mut self, wide: W, block: Range<usize>) {
        let (part, d) = (self.part, self.part.s.d);
        let [turned, scores] = &mut *self.scratch;
        turn::<R>(part.heads(self.q, self.kv, &block), block.len(), d, turned);
        products::<W, R>(wide, part.matrix(self.k, self.kv), part.keys.len(), turned, scores);
        let scores = lanes_mut::<R>(scores);
        bend::<R>(scores, part.s.options, &mut []);
        hide(scores, part, &block);
        let inverse = exponentials(scores);
        // The part's own place in the batch.
        let start = part.queries.start * part.s.heads * d;
        let patterns = Tile {
            of: scores.as_flattened().as_flattened(),
            width: R * LANES,
        };
        sums_down(
            wide,
            patterns,
            block.len(),
            part.matrix(self.v, self.kv),
            d,
            |row, at, sums| {
                let factor = inverse.as_flattened()[row];
                let to = &mut self.out[part.place(self.kv, block.start + row) - start + at..][..sums.len()];
                for i in 0..sums.len() {
                    to[i] = sums[i] * factor;
                }
            },
        );
    }
}

/// A block's rows as columns, zeros beside them: `[d, R · LANES]`.
#[inline(always)]
fn turn<const R: usize>(rows: Heads<'_>, count: usize, d: usize, turned: &mut Vec<f32>) {
    turned.clear();
    turned.resize(d * R * LANES, 0.0);
    for r in 0..count {
        let row = rows.row(r);
        for i in 0..d {
            turned[i * R * LANES + r] = row[i];
        }
    }
}

/// The product of each key with each row: `[key, R · LANES]`.
#[inline(always)]
fn products<W: Wide, const R: usize>(wide: W, keys: Keys<'_>, count: usize, turned: &[f32], out: &mut Vec<f32>) {
    let width = R * LANES;
    out.resize(count * width, 0.0);
    let turned = Tile { of: turned, width };
    write_sums(wide, |key| keys.slice(key), count, turned, width, out);
}

/// A whole number of registers for each key.
#[inline(always)]
fn lanes_mut<const R: usize>(scores: &mut [f32]) -> &mut [[[f32; LANES]; R]] {
    scores.as_chunks_mut::<LANES>().0.as_chunks_mut::<R>().0
}

/// Products become scores; what a cap leaves of the slope goes to `slopes`, where there is room for it.
#[inline(always)]
fn bend<const R: usize>(scores: &mut [[[f32; LANES]; R]], options: AttentionOptions, slopes: &mut [f32]) {
    let scores = scores.as_flattened_mut().as_flattened_mut();
    for score in &mut *scores {
        *score *= options.scale;
    }
    let Some(cap) = options.softcap else { return };
    for i in 0..scores.len() {
        let t = tanh(scores[i] / cap);
        scores[i] = cap * t;
        if let Some(slope) = slopes.get_mut(i) {
            *slope = 1.0 - t * t;
        }
    }
}

/// Marks what rows do not see: the last keys of the earlier ones, and where there is a window, the first of the later ones.
#[inline(always)]
fn hide<const R: usize>(scores: &mut [[[f32; LANES]; R]], part: &Part<'_>, block: &Range<usize>) {
    for (lane, row) in block.clone().enumerate() {
        let sight = part.sight(row);
        let mut hide = |key: usize| scores[key].as_flattened_mut()[lane] = UNSEEN;
        (0..sight.start).for_each(&mut hide);
        (sight.end..part.keys.len()).for_each(&mut hide);
    }
}

/// `exp(score - largest)` in each lane; returns the inverse of its sum.
#[inline(always)]
fn exponentials<const R: usize>(scores: &mut [[[f32; LANES]; R]]) -> [[f32; LANES]; R] {
    let (mut largest, mut total) = ([[UNSEEN; LANES]; R], [[0.0; LANES]; R]);
    for scores in &*scores {
        for r in 0..R {
            for i in 0..LANES {
                largest[r][i] = if scores[r][i] > largest[r][i] {
                    scores[r][i]
                } else {
                    largest[r][i]
                };
            }
        }
    }
    for scores in scores {
        for r in 0..R {
            for i in 0..LANES {
                let e = exp(scores[r][i] - largest[r][i]);
                scores[r][i] = e;
                total[r][i] += e;
            }
        }
    }
    total.map(|total| total.map(|total| 1.0 / total))
}

/// A part's gradients of one key/value head: `[query, head of the group, d]` and `[key, d]`.
struct Grads {
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
    let mut parts = Vec::new();
    for span in &spans.spans {
        let n = span.queries.len();
        let queries = n.div_ceil(MOST_PARTS).max(LEAST_QUERIES);
        parts.extend(
            (0..n)
                .step_by(queries)
                .map(|from| Part::new(&s, span, from..n.min(from + queries))),
        );
    }
    let tasks: Vec<(&Part<'_>, usize)> = parts
        .iter()
        .flat_map(|part| (0..s.kv_heads).map(move |kv| (part, kv)))
        .collect();
    let grads: Vec<Grads> = tasks
        .par_iter()
        .map(|&(part, kv)| {
            let numbers = |rows: usize| vec![0.0; rows * s.d];
            let mut out = Grads {
                q: numbers(part.queries.len() * s.group),
                k: numbers(part.keys.len()),
                v: numbers(part.keys.len()),
            };
            with_wide(Backward {
                part,
                q,
                grad,
                k,
                v,
                kv,
                out: &mut out,
            });
            out
        })
        .collect();
    let (mut to_q, mut to_k, mut to_v) = (
        vec![0f32; s.queries * s.heads * s.d],
        vec![0f32; s.rows * s.kv_heads * s.d],
        vec![0f32; s.rows * s.kv_heads * s.d],
    );
    // In the order of the parts: the same bits whatever the number of threads.
    for (&(part, kv), grads) in tasks.iter().zip(grads) {
        let width = s.group * s.d;
        for (query, from) in part.queries.clone().zip(grads.q.chunks_exact(width)) {
            to_q[(query * s.kv_heads + kv) * width..][..width].copy_from_slice(from);
        }
        for (to, from) in [(&mut to_k, &grads.k), (&mut to_v, &grads.v)] {
            for (&row, from) in part.keys.iter().zip(from.chunks_exact(s.d)) {
                let to = &mut to[(row * s.kv_heads + kv) * s.d..][..s.d];
                to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
            }
        }
    }
    (
        float(to_q, &[s.queries, s.heads, s.d]),
        float(to_k, &[s.rows, s.kv_heads, s.d]),
        float(to_v, &[s.rows, s.kv_heads, s.d]),
    )
}

/// The gradients of a part and one key/value head.
struct Backward<'a> {
    part: &'a Part<'a>,
    q: &'a [f32],
    grad: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    kv: usize,
    out: &'a mut Grads,
}

impl Work for Backward<'_> {
    #[inline(always)]
    fn run<W: Wide>(mut self, wide: W) {
        let mut scratch = [const { Vec::new() }; 4];
        for block in self.part.blocks() {
            match block.len().div_ceil(LANES) {
                1 => self.block::<W, 1>(wide, block, &mut scratch),
                2 => self.block::<W, 2>(wide, block, &mut scratch),
                _ => self.block::<W, MOST_REGISTERS>(wide, block, &mut scratch),
            }
        }
    }
}

impl Backward<'_> {
    #[inline(always)]
    fn block<W: Wide, const R: usize>(&mut self, wide: W, block: Range<usize>, scratch: &mut [Vec<f32>; 4]) {
        let (part, d, keys, width) = (self.part, self.part.s.d, self.part.keys.len(), R * LANES);
        let [turned, scores, to_scores, caps] = scratch;
        let (k, v) = (part.matrix(self.k, self.kv), part.matrix(self.v, self.kv));
        let (q, grad) = (
            part.heads(self.q, self.kv, &block),
            part.heads(self.grad, self.kv, &block),
        );
        turn::<R>(q, block.len(), d, turned);
        products::<W, R>(wide, k, keys, turned, scores);
        turn::<R>(grad, block.len(), d, turned);
        products::<W, R>(wide, v, keys, turned, to_scores);
        if part.s.options.softcap.is_some() {
            caps.resize(keys * width, 0.0);
        }
        let patterns = lanes_mut::<R>(scores);
        bend::<R>(patterns, part.s.options, caps);
        hide(patterns, part, &block);
        let inverse = exponentials(patterns);
        slopes(patterns, &inverse, lanes_mut::<R>(to_scores), part.s.options.scale);
        if part.s.options.softcap.is_some() {
            to_scores.iter_mut().zip(&*caps).for_each(|(to, cap)| *to *= cap);
        }
        let Grads {
            q: to_q,
            k: to_k,
            v: to_v,
        } = &mut *self.out;
        sums_down(
            wide,
            Tile { of: to_scores, width },
            block.len(),
            k,
            d,
            |row, at, sums| {
                to_q[(block.start + row) * d + at..][..sums.len()].copy_from_slice(sums);
            },
        );
        add_sums(wide, |key| &to_scores[key * width..][..block.len()], keys, q, d, to_k);
        add_sums(wide, |key| &scores[key * width..][..block.len()], keys, grad, d, to_v);
    }
}

/// Exponentials become the pattern, and the pattern's gradient that of the scores' products.
#[inline(always)]
fn slopes<const R: usize>(
    patterns: &mut [[[f32; LANES]; R]],
    inverse: &[[f32; LANES]; R],
    to_scores: &mut [[[f32; LANES]; R]],
    scale: f32,
) {
    let mut mean = [[0.0f32; LANES]; R];
    for (pattern, to) in patterns.iter_mut().zip(&*to_scores) {
        for r in 0..R {
            for i in 0..LANES {
                pattern[r][i] *= inverse[r][i];
                mean[r][i] += pattern[r][i] * to[r][i];
            }
        }
    }
    for (pattern, to) in patterns.iter().zip(to_scores) {
        for r in 0..R {
            for i in 0..LANES {
                to[r][i] = pattern[r][i] * (to[r][i] - mean[r][i]) * scale;
            }
        }
    }
}
