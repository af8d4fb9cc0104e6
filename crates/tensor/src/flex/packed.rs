//! Products with packed weights: few rows read the packed numbers as they lie; many rows unpack them first.

use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::product::product_of;
use super::simd::{dot, with_simd};
use super::view::{contiguous, dims, float, slice};
use crate::packed::{Numbers, Packed, widened};

/// Most rows for which reading packed numbers again for each four of them beats unpacking them once.
const MOST_ROWS: usize = 16;

/// Rows of `x` that share one reading.
const ROWS: usize = 4;

/// Output columns of a task.
const COLUMNS: usize = 32;

/// Numbers in one register of AVX-512; two of AVX2.
const LANES: usize = 16;

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
            with_simd(
                #[inline(always)]
                || {
                    for i in 0..out.len() / w.d_in {
                        w.row(task * COLUMNS + i, &mut out[i * w.d_in..][..w.d_in]);
                    }
                },
            );
        });
    out
}

/// `x [m, d_in] · wᵀ`, the weight read in its own form.
fn few_rows(x: &[f32], w: &Packed, m: usize) -> Vec<f32> {
    let sums = block_sums(x, w);
    let columns: Vec<Vec<f32>> = (0..w.d_out.div_ceil(COLUMNS))
        .into_par_iter()
        .map(|task| {
            let from = task * COLUMNS;
            let count = COLUMNS.min(w.d_out - from);
            let mut out = vec![0.0; m * count];
            with_simd(
                #[inline(always)]
                || {
                    for column in 0..count {
                        let mut row = 0;
                        while row < m {
                            let x = &x[row * w.d_in..];
                            let sums = &sums[row * (sums.len() / m)..];
                            let out = &mut out[row * count + column..];
                            match m - row {
                                1 => dots::<1>(x, sums, w, from + column, count, out),
                                2 => dots::<2>(x, sums, w, from + column, count, out),
                                3 => dots::<3>(x, sums, w, from + column, count, out),
                                _ => dots::<ROWS>(x, sums, w, from + column, count, out),
                            }
                            row += ROWS;
                        }
                    }
                },
            );
            out
        })
        .collect();
    let mut out = Vec::with_capacity(m * w.d_out);
    for row in 0..m {
        for column in &columns {
            let width = column.len() / m;
            out.extend_from_slice(&column[row * width..][..width]);
        }
    }
    out
}

/// The sum of `x` over each block: what the blocks' minima are multiplied by. Empty where there are none.
fn block_sums(x: &[f32], w: &Packed) -> Vec<f32> {
    match &w.numbers {
        Numbers::Q8(_, blocks) | Numbers::Q4(_, blocks) if !blocks.mins.is_empty() => {
            x.chunks_exact(blocks.len).map(|block| block.iter().sum()).collect()
        }
        _ => Vec::new(),
    }
}

/// Dot products of `R` rows of `x` with one row of `w`; row `r` goes to `out[r · stride]`.
#[inline(always)]
fn dots<const R: usize>(x: &[f32], sums: &[f32], w: &Packed, row: usize, stride: usize, out: &mut [f32]) {
    let d = w.d_in;
    let mut lanes = [[0f32; LANES]; R];
    match &w.numbers {
        Numbers::Bf16(bits) => {
            let bits = &bits[row * d..][..d];
            let whole = d / LANES * LANES;
            for at in (0..whole).step_by(LANES) {
                let mut weights = [0f32; LANES];
                for i in 0..LANES {
                    weights[i] = widened(bits[at + i]);
                }
                add::<R>(&mut lanes, x, d, at, &weights);
            }
            for r in 0..R {
                for i in whole..d {
                    lanes[r][0] = x[r * d + i].mul_add(widened(bits[i]), lanes[r][0]);
                }
            }
        }
        Numbers::Q8(quants, blocks) => {
            let (quants, len) = (&quants[row * d..][..d], blocks.len);
            let scales = &blocks.scales[row * (d / len)..][..d / len];
            for b in 0..d / len {
                let mut block = [[0f32; LANES]; R];
                for at in (b * len..(b + 1) * len).step_by(LANES) {
                    let mut weights = [0f32; LANES];
                    for i in 0..LANES {
                        weights[i] = f32::from(quants[at + i]);
                    }
                    add::<R>(&mut block, x, d, at, &weights);
                }
                scale_add::<R>(&mut lanes, scales[b], &block);
            }
        }
        Numbers::Q4(quants, blocks) => {
            let (quants, len) = (&quants[row * d / 2..][..d / 2], blocks.len);
            let scales = &blocks.scales[row * (d / len)..][..d / len];
            for b in 0..d / len {
                let bytes = &quants[b * LANES..][..LANES];
                let (mut low, mut high) = ([0f32; LANES], [0f32; LANES]);
                for i in 0..LANES {
                    low[i] = f32::from(bytes[i] & 15);
                    high[i] = f32::from(bytes[i] >> 4);
                }
                let mut block = [[0f32; LANES]; R];
                add::<R>(&mut block, x, d, b * len, &low);
                add::<R>(&mut block, x, d, b * len + LANES, &high);
                scale_add::<R>(&mut lanes, scales[b], &block);
            }
        }
    }
    for r in 0..R {
        out[r * stride] = total(&lanes[r]) + minima(sums, w, row, r);
    }
}

/// `lanes[r] += x[r][at..] · weights`.
#[inline(always)]
fn add<const R: usize>(lanes: &mut [[f32; LANES]; R], x: &[f32], d: usize, at: usize, weights: &[f32; LANES]) {
    for r in 0..R {
        let x = &x[r * d + at..][..LANES];
        for i in 0..LANES {
            lanes[r][i] = x[i].mul_add(weights[i], lanes[r][i]);
        }
    }
}

/// `lanes += scale · block`.
#[inline(always)]
fn scale_add<const R: usize>(lanes: &mut [[f32; LANES]; R], scale: f32, block: &[[f32; LANES]; R]) {
    for r in 0..R {
        for i in 0..LANES {
            lanes[r][i] = block[r][i].mul_add(scale, lanes[r][i]);
        }
    }
}

/// The minima's part of the dot product of one row of `x` and one of `w`.
#[inline(always)]
fn minima(sums: &[f32], w: &Packed, row: usize, r: usize) -> f32 {
    match &w.numbers {
        Numbers::Q8(_, blocks) | Numbers::Q4(_, blocks) if !blocks.mins.is_empty() => {
            let count = w.d_in / blocks.len;
            dot(&sums[r * count..][..count], &blocks.mins[row * count..][..count])
        }
        _ => 0.0,
    }
}

#[inline(always)]
fn total(lanes: &[f32; LANES]) -> f32 {
    let mut sums = *lanes;
    for width in [8, 4, 2, 1] {
        for i in 0..width {
            sums[i] += sums[i + width];
        }
    }
    sums[0]
}
