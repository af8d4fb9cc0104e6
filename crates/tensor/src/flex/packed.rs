//! Products with packed weights. Of blocks, few rows read the packed numbers as they lie, and many unpack them into panels, some at a
//! time; f32 and bf16 lie in panels already.

#![expect(
    clippy::needless_range_loop,
    reason = "row r and column c index several arrays at once, which the compiler keeps in registers"
)]

use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::forms::{Form, PAIR, Row, WithForm, left_over, with_form};
use super::panels::{self, Panels};
use super::tiles::in_tiles;
use super::unpacked::{ColumnsOf, RowsOf};
use super::view::{contiguous, dims, float, slice};
use super::wide::{LANES, Wide, Work, with_wide};
use crate::packed::{Numbers, Packed, pairs};

/// Most rows that are not rounded to bf16.
const MOST_ROWS: usize = 32;

/// Most rows for which unpacking blocks again for each eight of them beats unpacking them once.
const MOST_ROWS_OF_BLOCKS: usize = 16;

/// Rows of `x` that share one reading.
const ROWS: usize = 8;

/// Rows of the weight that one row of `x` meets side by side.
const TOGETHER: usize = 4;

/// Most output columns of a task.
const COLUMNS: usize = 96;

/// `x · wᵀ`, or `x · w` where `transposed`: `w [d_out, d_in]`.
pub(super) fn product(x: &FlexTensor, w: &Packed, transposed: bool) -> FlexTensor {
    let [m, k] = dims(x);
    let x = contiguous(x);
    let n = if transposed { w.d_in } else { w.d_out };
    if m * n * k == 0 {
        return float(vec![0.0; m * n], &[m, n]);
    }
    let (x, sizes) = (slice(&x), [m, w.d_out, w.d_in]);
    let out = match &w.numbers {
        Numbers::F32(lines) => panels::product(x, Panels { lines, deep: w.d_in }, sizes, transposed),
        #[cfg(all(target_arch = "x86_64", feature = "x86-v4"))]
        Numbers::Bf16(lines) if m > MOST_ROWS && super::bf16::available() => {
            super::bf16::product(x, lines, sizes, transposed)
        }
        Numbers::Bf16(lines) => {
            let deep = pairs(w.d_in);
            panels::product(x, Panels { lines, deep }, sizes, transposed)
        }
        Numbers::Q8(..) | Numbers::Q4(..) if !transposed && m <= MOST_ROWS_OF_BLOCKS => few_rows(x, w, m),
        Numbers::Q8(..) | Numbers::Q4(..) => panels::product_of(x, [m, k, n], k, |first, to| match transposed {
            true => with_wide(ColumnsOf { w, first, to }),
            false => with_wide(RowsOf { w, first, to }),
        }),
    };
    float(out, &[m, n])
}

/// `x [m, d_in] · wᵀ`, the weight read in its own form.
fn few_rows(x: &[f32], w: &Packed, m: usize) -> Vec<f32> {
    // As many tasks for each thread, where there are few.
    let columns = w.d_out.div_ceil(4 * rayon::current_num_threads());
    let columns = columns.next_multiple_of(TOGETHER).min(COLUMNS);
    if m == 1 {
        let mut out = vec![0.0; w.d_out];
        out.par_chunks_mut(columns).enumerate().for_each(|(i, out)| {
            let first = i * columns;
            with_wide(Dots { x, w, m, first, out });
        });
        return out;
    }
    in_tiles([m, w.d_out], [m, columns], |[_, columns]| {
        let mut out = vec![0.0; m * columns.len()];
        with_wide(Dots {
            x,
            w,
            m,
            first: columns.start,
            out: &mut out,
        });
        out
    })
}

/// Some columns of `x · wᵀ`.
struct Dots<'a> {
    x: &'a [f32],
    w: &'a Packed,
    m: usize,
    first: usize,
    out: &'a mut [f32],
}

impl Work for Dots<'_> {
    #[inline(always)]
    fn run<W: Wide>(self, wide: W) {
        let w = self.w;
        with_form(w, (wide, self));
    }
}

impl<W: Wide> WithForm for (W, Dots<'_>) {
    #[inline(always)]
    fn run(self, form: impl Form) {
        let (wide, mut dots) = self;
        let columns = dots.out.len() / dots.m;
        if dots.m > 1 {
            for column in 0..columns {
                dots.column(wide, form, column, columns);
            }
            return;
        }
        // Rows of the weight side by side: one need not wait for the other's bytes, and sums fold four at a time.
        let Dots { x, w, first, out, .. } = dots;
        for (i, out) in out.chunks_mut(TOGETHER).enumerate() {
            let at = first + i * TOGETHER;
            match out.try_into() {
                Ok(out) => one_row::<W, TOGETHER>(wide, form, x, w, at, out),
                Err(_) => {
                    for (c, out) in out.iter_mut().enumerate() {
                        one_row::<W, 1>(wide, form, x, w, at + c, std::array::from_mut(out));
                    }
                }
            }
        }
    }
}

impl Dots<'_> {
    /// One column of the output.
    #[inline(always)]
    fn column<W: Wide>(&mut self, wide: W, form: impl Form, column: usize, columns: usize) {
        let (w, at) = (self.w, self.first + column);
        for row in (0..self.m).step_by(ROWS) {
            let x = &self.x[row * w.d_in..];
            let out = &mut self.out[row * columns + column..];
            match self.m - row {
                1 => some_rows::<W, 1>(wide, form, x, w, at, columns, out),
                2 => some_rows::<W, 2>(wide, form, x, w, at, columns, out),
                3 => some_rows::<W, 3>(wide, form, x, w, at, columns, out),
                4 => some_rows::<W, 4>(wide, form, x, w, at, columns, out),
                5 => some_rows::<W, 5>(wide, form, x, w, at, columns, out),
                6 => some_rows::<W, 6>(wide, form, x, w, at, columns, out),
                7 => some_rows::<W, 7>(wide, form, x, w, at, columns, out),
                _ => some_rows::<W, ROWS>(wide, form, x, w, at, columns, out),
            }
        }
    }
}

/// Dot products of one row of `x` with `C` rows of `w`.
#[inline(always)]
fn one_row<W: Wide, const C: usize>(wide: W, form: impl Form, x: &[f32], w: &Packed, row: usize, out: &mut [f32; C]) {
    let d = w.d_in;
    let mut rows = [form.row(row, d); C];
    for c in 1..C {
        rows[c] = form.row(row + c, d);
    }
    let mut sums = [[wide.splat(0.0); 2]; C];
    for (p, x) in x[..d].as_chunks::<PAIR>().0.iter().enumerate() {
        let x = x.as_chunks::<LANES>().0;
        let x = [wide.load(&x[0]), wide.load(&x[1])];
        for c in 0..C {
            add(wide, x, rows[c].pair(wide, p), &mut sums[c]);
        }
    }
    *out = folded(wide, sums);
    for at in d / PAIR * PAIR..d {
        for c in 0..C {
            out[c] = x[at].mul_add(left_over(w, (row + c) * d + at), out[c]);
        }
    }
}

/// Dot products of `R` rows of `x` with one row of `w`; row `r` goes to `out[r · stride]`.
#[inline(always)]
fn some_rows<W: Wide, const R: usize>(
    wide: W,
    form: impl Form,
    x: &[f32],
    w: &Packed,
    row: usize,
    stride: usize,
    out: &mut [f32],
) {
    let d = w.d_in;
    let mut rows: [&[[f32; LANES]]; R] = [&[]; R];
    for r in 0..R {
        rows[r] = &x[r * d..][..d].as_chunks().0[..d / LANES];
    }
    let (mut sums, weights) = ([[wide.splat(0.0); 2]; R], form.row(row, d));
    for p in 0..d / PAIR {
        let weights = weights.pair(wide, p);
        for r in 0..R {
            let x = [wide.load(&rows[r][2 * p]), wide.load(&rows[r][2 * p + 1])];
            add(wide, x, weights, &mut sums[r]);
        }
    }
    let mut totals = folded(wide, sums);
    for at in d / PAIR * PAIR..d {
        let weight = left_over(w, row * d + at);
        for r in 0..R {
            totals[r] = x[r * d + at].mul_add(weight, totals[r]);
        }
    }
    for r in 0..R {
        out[r * stride] = totals[r];
    }
}

/// Adds products to two sums, so that one need not wait for the other.
#[inline(always)]
fn add<W: Wide>(wide: W, x: [W::F; 2], weights: [W::F; 2], sums: &mut [W::F; 2]) {
    for i in 0..2 {
        sums[i] = wide.mul_add(x[i], weights[i], sums[i]);
    }
}

/// The total of each two sums; the same bits, however many there are.
#[inline(always)]
fn folded<W: Wide, const N: usize>(wide: W, sums: [[W::F; 2]; N]) -> [f32; N] {
    let mut totals = [0.0; N];
    for first in (0..N).step_by(4) {
        let mut four = [sums[first][0]; 4];
        for i in 0..4 {
            let [a, b] = sums[(first + i).min(N - 1)];
            four[i] = wide.mul_add(wide.splat(1.0), a, b);
        }
        for (total, sum) in totals[first..].iter_mut().zip(wide.sums(four)) {
            *total = sum;
        }
    }
    totals
}
