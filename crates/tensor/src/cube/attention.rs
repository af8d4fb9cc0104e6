//! Causal grouped-query attention over packed spans, tile by tile: no pattern matrix lies in memory, forward or backward
//! (Dao et al. 2022), and no sum depends on the order in which cubes run.

use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::backend::{Cube, TensorMetadata};
use burn::tensor::{DType, Shape, TensorData};
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use super::{cubes, empty, in_precision, numbers, sum_of_units};
use crate::{AttentionOptions, Spans};

/// Units of a cube: keys that a query looks at together, and queries whose gradients a key adds together.
const TILE: usize = 64;

/// What a score starts from: below every other one, and its exponential is zero.
const NOTHING: f32 = -1e30;

/// Numbers that say what a query sees: where its context begins and how long it is, its span's own first row, its first key
/// (a window's), and the end of its keys.
const PLACES: usize = 5;

pub(super) fn forward(
    q: CubeTensor,
    k: CubeTensor,
    v: CubeTensor,
    spans: &Spans,
    options: AttentionOptions,
) -> CubeTensor {
    let ([queries, heads, d], [rows, kv_heads, _]) = (q.shape().dims(), k.shape().dims());
    spans.check(queries, rows);
    let dtype = q.dtype();
    let [q, k, v] = [q, k, v].map(numbers);
    let out = empty(&q, [queries, heads, d], DType::F32);
    if queries * heads * d > 0 {
        let (client, seen) = (q.client.clone(), whole(seen(spans, options), &q));
        attended::launch(
            &client,
            cubes(queries * heads),
            CubeDim::new_1d(TILE as u32),
            q.into_tensor_arg(),
            k.into_tensor_arg(),
            v.into_tensor_arg(),
            seen.into_tensor_arg(),
            out.clone().into_tensor_arg(),
            queries,
            heads,
            kv_heads,
            options.scale,
            options.softcap.unwrap_or_default(),
            d,
            options.softcap.is_some(),
        );
    }
    in_precision(out, dtype)
}

pub(super) fn backward(
    q: CubeTensor,
    k: CubeTensor,
    v: CubeTensor,
    grad: CubeTensor,
    spans: &Spans,
    options: AttentionOptions,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let ([queries, heads, d], [rows, kv_heads, _]) = (q.shape().dims(), k.shape().dims());
    spans.check(queries, rows);
    let dtype = q.dtype();
    let [q, k, v, grad] = [q, k, v, grad].map(numbers);
    let client = q.client.clone();
    let (scale, softcap) = (options.scale, options.softcap.unwrap_or_default());
    let to_q = empty(&q, [queries, heads, d], DType::F32);
    let sums = empty(&q, [queries, heads, 2], DType::F32);
    if queries * heads * d > 0 {
        grad_of_queries::launch(
            &client,
            cubes(queries * heads),
            CubeDim::new_1d(TILE as u32),
            q.clone().into_tensor_arg(),
            k.clone().into_tensor_arg(),
            v.clone().into_tensor_arg(),
            grad.clone().into_tensor_arg(),
            whole(seen(spans, options), &q).into_tensor_arg(),
            to_q.clone().into_tensor_arg(),
            sums.clone().into_tensor_arg(),
            queries,
            heads,
            kv_heads,
            scale,
            softcap,
            d,
            options.softcap.is_some(),
        );
    }
    // One tensor for both, because WebGPU promises a kernel eight buffers.
    let to_kv = empty(&q, [2, rows, kv_heads, d], DType::F32);
    if rows * kv_heads * d > 0 {
        grad_of_keys::launch(
            &client,
            cubes(rows * kv_heads),
            CubeDim::new_1d(TILE as u32),
            q.clone().into_tensor_arg(),
            k.into_tensor_arg(),
            v.into_tensor_arg(),
            grad.into_tensor_arg(),
            sums.into_tensor_arg(),
            whole(seen_by(spans, options, rows), &q).into_tensor_arg(),
            to_kv.clone().into_tensor_arg(),
            rows,
            heads,
            kv_heads,
            scale,
            softcap,
            d,
            options.softcap.is_some(),
        );
    }
    let half = |i: usize| {
        let half = Cube::float_slice(to_kv.clone(), &[(i..i + 1).into()]);
        in_precision(Cube::float_reshape(half, Shape::from([rows, kv_heads, d])), dtype)
    };
    (in_precision(to_q, dtype), half(0), half(1))
}

/// [`PLACES`] numbers for each query, then the spans' contexts.
fn seen(spans: &Spans, options: AttentionOptions) -> Vec<usize> {
    let mut places = Vec::with_capacity(spans.n_queries() * PLACES);
    let mut context = spans.n_queries() * PLACES;
    for span in &spans.spans {
        for j in 0..span.queries.len() {
            let end = span.n_keys(j);
            places.extend([context, span.context.len(), span.own, options.first(end), end]);
        }
        context += span.context.len();
    }
    places.extend(
        spans
            .spans
            .iter()
            .flat_map(|span| &span.context)
            .map(|&row| row as usize),
    );
    places
}

/// The other way round: for each key row the runs of queries that see it. Where each row's begin, `[rows + 1]`, then first
/// query and end of each run.
fn seen_by(spans: &Spans, options: AttentionOptions, rows: usize) -> Vec<usize> {
    let mut runs = vec![Vec::new(); rows];
    for span in &spans.spans {
        let (n, context) = (span.queries.len(), span.context.len());
        if n == 0 {
            continue;
        }
        for (i, row) in span.keys(n - 1).enumerate() {
            // Key `i` is seen from the query that it belongs to on, until a window leaves it behind.
            let from = i.saturating_sub(context);
            let end = options
                .window
                .map_or(n, |window| n.min((i + window).saturating_sub(context)));
            if from < end {
                runs[row].push([span.queries.start + from, span.queries.start + end]);
            }
        }
    }
    let mut begin = 0;
    let mut lists = vec![0];
    lists.extend(runs.iter().map(|runs| {
        begin += runs.len();
        begin
    }));
    lists.extend(runs.iter().flatten().flatten());
    lists
}

fn whole(numbers: Vec<usize>, like: &CubeTensor) -> CubeTensor {
    let numbers: Vec<i32> = numbers.into_iter().map(|number| number as i32).collect();
    let shape = [numbers.len()];
    Cube::int_from_data(TensorData::new(numbers, shape), &like.device())
}

/// The largest of the units' numbers, for each of them.
#[cube]
fn largest_of_units(number: f32) -> f32 {
    let mut largest = Shared::<[f32]>::new_slice(TILE);
    let unit = UNIT_POS as usize;
    largest[unit] = number;
    sync_cube();
    #[unroll]
    for level in 0..comptime!(TILE.ilog2() as usize) {
        let half = comptime!(TILE >> (level + 1));
        if unit < half {
            let (own, other) = (largest[unit], largest[unit + half]);
            largest[unit] = max(own, other);
        }
        sync_cube();
    }
    let all = largest[0];
    sync_cube();
    all
}

/// The row of a query's key number `key`.
#[cube]
fn row_of(seen: &Tensor<i32>, query: usize, key: usize) -> usize {
    let places = query * PLACES;
    let context = usize::cast_from(seen[places + 1]);
    let mut row = usize::cast_from(seen[places + 2]) + key;
    if key < context {
        row = usize::cast_from(seen[usize::cast_from(seen[places]) + key]);
    } else {
        row -= context;
    }
    row
}

#[cube]
fn dot(a: &Tensor<f32>, at_a: usize, b: &Tensor<f32>, at_b: usize, #[comptime] d: usize) -> f32 {
    let mut sum = 0.0f32;
    for i in 0..d {
        sum += a[at_a + i] * b[at_b + i];
    }
    sum
}

/// A score, and what the cap leaves of its slope.
#[cube]
fn score_and_bend(product: f32, scale: f32, cap: f32, #[comptime] capped: bool) -> (f32, f32) {
    let score = product * scale;
    if comptime!(capped) {
        let bent = (score / cap).tanh();
        (cap * bent, 1.0f32 - bent * bent)
    } else {
        (score, 1.0f32)
    }
}

/// One query and head a cube: `softmax(scores) · v`, with the sums so far made smaller where a larger score turns up.
#[cube(launch)]
fn attended(
    q: &Tensor<f32>,
    k: &Tensor<f32>,
    v: &Tensor<f32>,
    seen: &Tensor<i32>,
    out: &mut Tensor<f32>,
    queries: usize,
    heads: usize,
    kv_heads: usize,
    scale: f32,
    cap: f32,
    #[comptime] d: usize,
    #[comptime] capped: bool,
) {
    if CUBE_POS >= queries * heads {
        terminate!();
    }
    let (query, head) = (CUBE_POS / heads, CUBE_POS % heads);
    let (kv, unit) = (head / (heads / kv_heads), UNIT_POS as usize);
    let columns = comptime!(d.div_ceil(TILE));
    let mut sums = Array::<f32>::new(columns);
    for c in 0..columns {
        sums[c] = 0.0f32;
    }
    let mut pattern = Shared::<[f32]>::new_slice(TILE);
    let mut places = Shared::<[u32]>::new_slice(TILE);
    let first = usize::cast_from(seen[query * PLACES + 3]);
    let end = usize::cast_from(seen[query * PLACES + 4]);
    let mut largest = f32::new(NOTHING);
    let mut total = 0.0f32;
    for step in 0..(end - first).div_ceil(TILE) {
        let from = first + step * TILE;
        let mut score = f32::new(NOTHING);
        if from + unit < end {
            let at = (row_of(seen, query, from + unit) * kv_heads + kv) * d;
            let product = dot(q, CUBE_POS * d, k, at, d);
            let (found, _) = score_and_bend(product, scale, cap, capped);
            score = found;
            places[unit] = at as u32;
        }
        let now = max(largest, largest_of_units(score));
        let mut share = 0.0f32;
        if from + unit < end {
            share = (score - now).exp();
        }
        let left = (largest - now).exp();
        total = total * left + sum_of_units(share, TILE);
        pattern[unit] = share;
        sync_cube();
        for c in 0..columns {
            let column = c * TILE + unit;
            if column < d {
                let mut sum = sums[c] * left;
                for i in 0..min(TILE, end - from) {
                    sum += pattern[i] * v[places[i] as usize + column];
                }
                sums[c] = sum;
            }
        }
        sync_cube();
        largest = now;
    }
    for c in 0..columns {
        let column = c * TILE + unit;
        if column < d {
            out[CUBE_POS * d + column] = sums[c] / total;
        }
    }
}

/// One query and head a cube: the gradient of `q`, and in `sums` the scores' log-sum-exp and the mean of the pattern's gradient
/// under the pattern, which [`grad_of_keys`] needs.
#[cube(launch)]
fn grad_of_queries(
    q: &Tensor<f32>,
    k: &Tensor<f32>,
    v: &Tensor<f32>,
    grad: &Tensor<f32>,
    seen: &Tensor<i32>,
    to_q: &mut Tensor<f32>,
    sums: &mut Tensor<f32>,
    queries: usize,
    heads: usize,
    kv_heads: usize,
    scale: f32,
    cap: f32,
    #[comptime] d: usize,
    #[comptime] capped: bool,
) {
    if CUBE_POS >= queries * heads {
        terminate!();
    }
    let (query, head) = (CUBE_POS / heads, CUBE_POS % heads);
    let (kv, unit) = (head / (heads / kv_heads), UNIT_POS as usize);
    let first = usize::cast_from(seen[query * PLACES + 3]);
    let end = usize::cast_from(seen[query * PLACES + 4]);
    let mut largest = f32::new(NOTHING);
    let mut total = 0.0f32;
    let mut along = 0.0f32;
    for step in 0..(end - first).div_ceil(TILE) {
        let key = first + step * TILE + unit;
        let mut score = f32::new(NOTHING);
        let mut to_pattern = 0.0f32;
        if key < end {
            let at = (row_of(seen, query, key) * kv_heads + kv) * d;
            let (found, _) = score_and_bend(dot(q, CUBE_POS * d, k, at, d), scale, cap, capped);
            score = found;
            to_pattern = dot(grad, CUBE_POS * d, v, at, d);
        }
        let now = max(largest, largest_of_units(score));
        let mut share = 0.0f32;
        if key < end {
            share = (score - now).exp();
        }
        let left = (largest - now).exp();
        total = total * left + sum_of_units(share, TILE);
        along = along * left + sum_of_units(share * to_pattern, TILE);
        largest = now;
    }
    let log_sum = largest + total.ln();
    let mean = along / total;
    if unit == 0 {
        sums[CUBE_POS * 2] = log_sum;
        sums[CUBE_POS * 2 + 1] = mean;
    }
    let columns = comptime!(d.div_ceil(TILE));
    let mut to_own = Array::<f32>::new(columns);
    for c in 0..columns {
        to_own[c] = 0.0f32;
    }
    let mut to_score = Shared::<[f32]>::new_slice(TILE);
    let mut places = Shared::<[u32]>::new_slice(TILE);
    for step in 0..(end - first).div_ceil(TILE) {
        let from = first + step * TILE;
        if from + unit < end {
            let at = (row_of(seen, query, from + unit) * kv_heads + kv) * d;
            let (score, bend) = score_and_bend(dot(q, CUBE_POS * d, k, at, d), scale, cap, capped);
            let to_pattern = dot(grad, CUBE_POS * d, v, at, d);
            to_score[unit] = (score - log_sum).exp() * (to_pattern - mean) * bend * scale;
            places[unit] = at as u32;
        }
        sync_cube();
        for c in 0..columns {
            let column = c * TILE + unit;
            if column < d {
                let mut sum = to_own[c];
                for i in 0..min(TILE, end - from) {
                    sum += to_score[i] * k[places[i] as usize + column];
                }
                to_own[c] = sum;
            }
        }
        sync_cube();
    }
    for c in 0..columns {
        let column = c * TILE + unit;
        if column < d {
            to_q[CUBE_POS * d + column] = to_own[c];
        }
    }
}

/// One key row and head a cube: the gradients of `k` and `v`, summed over the queries that see the row and the heads that share it.
#[cube(launch)]
fn grad_of_keys(
    q: &Tensor<f32>,
    k: &Tensor<f32>,
    v: &Tensor<f32>,
    grad: &Tensor<f32>,
    sums: &Tensor<f32>,
    seen_by: &Tensor<i32>,
    to_kv: &mut Tensor<f32>,
    rows: usize,
    heads: usize,
    kv_heads: usize,
    scale: f32,
    cap: f32,
    #[comptime] d: usize,
    #[comptime] capped: bool,
) {
    if CUBE_POS >= rows * kv_heads {
        terminate!();
    }
    let (row, kv) = (CUBE_POS / kv_heads, CUBE_POS % kv_heads);
    let (group, unit) = (heads / kv_heads, UNIT_POS as usize);
    let columns = comptime!(d.div_ceil(TILE));
    let mut to_key = Array::<f32>::new(columns);
    let mut to_value = Array::<f32>::new(columns);
    for c in 0..columns {
        to_key[c] = 0.0f32;
        to_value[c] = 0.0f32;
    }
    let mut pattern = Shared::<[f32]>::new_slice(TILE);
    let mut to_score = Shared::<[f32]>::new_slice(TILE);
    for run in usize::cast_from(seen_by[row])..usize::cast_from(seen_by[row + 1]) {
        let first = usize::cast_from(seen_by[rows + 1 + 2 * run]);
        let end = usize::cast_from(seen_by[rows + 2 + 2 * run]);
        for step in 0..(end - first).div_ceil(TILE) {
            let from = first + step * TILE;
            for head in kv * group..(kv + 1) * group {
                if from + unit < end {
                    let at = (from + unit) * heads + head;
                    let product = dot(q, at * d, k, CUBE_POS * d, d);
                    let (score, bend) = score_and_bend(product, scale, cap, capped);
                    let share = (score - sums[at * 2]).exp();
                    let to_pattern = dot(grad, at * d, v, CUBE_POS * d, d);
                    pattern[unit] = share;
                    to_score[unit] = share * (to_pattern - sums[at * 2 + 1]) * bend * scale;
                }
                sync_cube();
                for c in 0..columns {
                    let column = c * TILE + unit;
                    if column < d {
                        let mut sum = to_key[c];
                        let mut sum_of_values = to_value[c];
                        for i in 0..min(TILE, end - from) {
                            let at = ((from + i) * heads + head) * d + column;
                            sum += to_score[i] * q[at];
                            sum_of_values += pattern[i] * grad[at];
                        }
                        to_key[c] = sum;
                        to_value[c] = sum_of_values;
                    }
                }
                sync_cube();
            }
        }
    }
    for c in 0..columns {
        let column = c * TILE + unit;
        if column < d {
            to_kv[CUBE_POS * d + column] = to_key[c];
            to_kv[(rows * kv_heads + CUBE_POS) * d + column] = to_value[c];
        }
    }
}
