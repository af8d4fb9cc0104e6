//! Products with packed weights: few rows read the packed numbers as they lie; many rows unpack them first, unless the machine
//! multiplies bf16 itself.

use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::product::product_of;
use super::view::{contiguous, dims, float, slice};
use super::wide::{LANES, Wide, Work, with_wide};
use crate::packed::{Numbers, Packed, widened};

/// Most rows for which reading packed numbers again for each eight of them beats unpacking them once.
const MOST_ROWS: usize = 32;

/// Rows of `x` that share one reading.
const ROWS: usize = 8;

/// Output columns of a task.
const COLUMNS: usize = 64;

/// `x · wᵀ`, or `x · w` where `transposed`: `w [d_out, d_in]`.
pub(super) fn product(x: &FlexTensor, w: &Packed, transposed: bool) -> FlexTensor {
    let [m, k] = dims(x);
    let x = contiguous(x);
    let n = if transposed { w.d_in } else { w.d_out };
    if m * n * k == 0 {
        return float(vec![0.0; m * n], &[m, n]);
    }
    if !transposed && m <= MOST_ROWS {
        return float(few_rows(slice(&x), w, m), &[m, n]);
    }
    #[cfg(all(target_arch = "x86_64", feature = "x86-v4"))]
    if let Numbers::Bf16(bits) = &w.numbers
        && super::bf16::available()
    {
        let out = super::bf16::product(slice(&x), bits, [m, w.d_out, w.d_in], transposed);
        return float(out, &[m, n]);
    }
    let dense = unpacked(w);
    // `w` lies [d_out, d_in]: row-major for `x · w`, column-major for `x · wᵀ`.
    let strides = if transposed { [n as isize, 1] } else { [1, k as isize] };
    float(
        product_of((slice(&x), [k as isize, 1]), (&dense, strides), [m, k, n]),
        &[m, n],
    )
}

/// All of `w` in f32.
fn unpacked(w: &Packed) -> Vec<f32> {
    let mut out = vec![0.0; w.d_out * w.d_in];
    out.par_chunks_mut(COLUMNS * w.d_in)
        .enumerate()
        .for_each(|(task, out)| {
            let first = task * COLUMNS;
            with_wide(Unpack { w, first, out });
        });
    out
}

/// Some rows of `w`, in f32.
struct Unpack<'a> {
    w: &'a Packed,
    first: usize,
    out: &'a mut [f32],
}

impl Work for Unpack<'_> {
    #[inline(always)]
    fn run<W: Wide>(self, wide: W) {
        let d = self.w.d_in;
        for i in 0..self.out.len() / d {
            let (row, out) = (self.first + i, &mut self.out[i * d..][..d]);
            each_pair(
                wide,
                self.w,
                row,
                #[inline(always)]
                |c, weights| {
                    for j in 0..2 {
                        out[(c + j) * LANES..][..LANES].copy_from_slice(&wide.store(weights[j]));
                    }
                },
            );
            each_left(self.w, row, |at, weight| out[at] = weight);
        }
    }
}

/// `x [m, d_in] · wᵀ`, the weight read in its own form.
fn few_rows(x: &[f32], w: &Packed, m: usize) -> Vec<f32> {
    // Task by task, and row by row within each.
    let mut parts = vec![0.0; m * w.d_out];
    parts.par_chunks_mut(m * COLUMNS).enumerate().for_each(|(task, out)| {
        let first = task * COLUMNS;
        with_wide(Dots { x, w, m, first, out });
    });
    if m == 1 {
        return parts;
    }
    let mut out = Vec::with_capacity(parts.len());
    for row in 0..m {
        for part in parts.chunks(m * COLUMNS) {
            let columns = part.len() / m;
            out.extend_from_slice(&part[row * columns..][..columns]);
        }
    }
    out
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
        let columns = self.out.len() / self.m;
        for column in 0..columns {
            let mut row = 0;
            while row < self.m {
                let x = &self.x[row * self.w.d_in..];
                let out = &mut self.out[row * columns + column..];
                let at = self.first + column;
                match self.m - row {
                    1 => dots::<W, 1>(wide, x, self.w, at, columns, out),
                    2 => dots::<W, 2>(wide, x, self.w, at, columns, out),
                    3 => dots::<W, 3>(wide, x, self.w, at, columns, out),
                    4 => dots::<W, 4>(wide, x, self.w, at, columns, out),
                    5 => dots::<W, 5>(wide, x, self.w, at, columns, out),
                    6 => dots::<W, 6>(wide, x, self.w, at, columns, out),
                    7 => dots::<W, 7>(wide, x, self.w, at, columns, out),
                    _ => dots::<W, ROWS>(wide, x, self.w, at, columns, out),
                }
                row += ROWS;
            }
        }
    }
}

/// Dot products of `R` rows of `x` with one row of `w`; row `r` goes to `out[r · stride]`.
#[inline(always)]
fn dots<W: Wide, const R: usize>(wide: W, x: &[f32], w: &Packed, row: usize, stride: usize, out: &mut [f32]) {
    let (d, chunks) = (w.d_in, w.d_in / LANES);
    let mut x_chunks: [&[[f32; LANES]]; R] = [&[]; R];
    for r in 0..R {
        x_chunks[r] = &x[r * d..][..d].as_chunks().0[..chunks];
    }
    // Two sums of each, so that one need not wait for the other.
    let mut sums = [[wide.splat(0.0); 2]; R];
    each_pair(
        wide,
        w,
        row,
        #[inline(always)]
        |c, weights| {
            for r in 0..R {
                for i in 0..2 {
                    sums[r][i] = wide.mul_add(wide.load(&x_chunks[r][c + i]), weights[i], sums[r][i]);
                }
            }
        },
    );
    let mut totals = [0f32; R];
    for r in 0..R {
        totals[r] = wide.sum(wide.mul_add(wide.splat(1.0), sums[r][0], sums[r][1]));
    }
    each_left(w, row, |at, weight| {
        for r in 0..R {
            totals[r] = x[r * d + at].mul_add(weight, totals[r]);
        }
    });
    for r in 0..R {
        out[r * stride] = totals[r];
    }
}

/// Hands out the weights of a row in pairs of sixteen, with the first one's place in sixteens.
#[inline(always)]
fn each_pair<W: Wide>(wide: W, w: &Packed, row: usize, mut each: impl FnMut(usize, [W::F; 2])) {
    let d = w.d_in;
    match &w.numbers {
        Numbers::Bf16(bits) => {
            let (pairs, _) = bits[row * d..][..d].as_chunks::<{ 2 * LANES }>();
            for (p, pair) in pairs.iter().enumerate() {
                let (halves, _) = pair.as_chunks::<LANES>();
                each(2 * p, [wide.halves(&halves[0]), wide.halves(&halves[1])]);
            }
        }
        Numbers::Q8(quants, blocks) => {
            let (pairs, _) = quants[row * d..][..d].as_chunks::<{ 2 * LANES }>();
            // A pair is one block or two.
            let (first, per_pair) = (row * d / blocks.len, 2 * LANES / blocks.len);
            for (p, pair) in pairs.iter().enumerate() {
                let (halves, _) = pair.as_chunks::<LANES>();
                let block = first + p * per_pair;
                let (low, high) = (blocks.at(block), blocks.at(block + per_pair - 1));
                each(2 * p, [bytes(wide, &halves[0], low), bytes(wide, &halves[1], high)]);
            }
        }
        Numbers::Q4(quants, blocks) => {
            let (pairs, _) = quants[row * d / 2..][..d / 2].as_chunks::<LANES>();
            let first = row * d / blocks.len;
            for (p, pair) in pairs.iter().enumerate() {
                let (scale, min) = blocks.at(first + p);
                each(2 * p, wide.nibbles(pair, scale, min));
            }
        }
    }
}

#[inline(always)]
fn bytes<W: Wide>(wide: W, quants: &[i8; LANES], (scale, min): (f32, f32)) -> W::F {
    wide.mul_add(wide.bytes(quants), wide.splat(scale), wide.splat(min))
}

/// Hands out the weights at the end of a row that are no whole pair, with their columns.
#[inline(always)]
fn each_left(w: &Packed, row: usize, mut each: impl FnMut(usize, f32)) {
    let d = w.d_in;
    for at in d / (2 * LANES) * (2 * LANES)..d {
        let weight = match &w.numbers {
            Numbers::Bf16(bits) => widened(bits[row * d + at]),
            Numbers::Q8(quants, blocks) => {
                let (scale, min) = blocks.at((row * d + at) / blocks.len);
                f32::from(quants[row * d + at]).mul_add(scale, min)
            }
            Numbers::Q4(..) => unreachable!("blocks of 32 fill rows"),
        };
        each(at, weight);
    }
}
