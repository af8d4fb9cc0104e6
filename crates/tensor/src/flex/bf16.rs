//! Products of many rows with a bf16 weight, by the processor's own dot products of bf16 pairs (AVX-512 BF16), or by its
//! matrix unit where it has one ([`amx`]).
//!
//! The input is rounded to bf16 as well, products are exact, and sums are in f32. The weight's panels are what both read; its
//! transpose is turned on the way, a group of panels at a time.

use std::arch::x86_64::{
    __m256i, __m512, __m512bh, __m512i, _mm512_cvtepu16_epi32, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps, _mm512_or_si512,
    _mm512_set1_epi32, _mm512_setzero_ps, _mm512_slli_epi32,
};
use std::mem::MaybeUninit;

use half::bf16;
use rayon::prelude::*;

use super::amx;
use super::turned::turn;
use super::view::in_blocks;
use crate::packed::{BF16_PANEL as PANEL, pairs};

/// 32-bit lanes of a register.
const LANES: usize = 16;

/// Registers across a panel, and the rows of a tile: 24 sums in registers.
const WIDE: usize = PANEL / LANES;
const ROWS: usize = 12;

/// Bytes of the turned weight that exist at a time: they stay in a cache that all cores share.
const GROUP: usize = 4 << 20;

/// Whether this machine has the instructions.
pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512bf16")
}

/// `x · wᵀ`, or `x · w` where `transposed`: `x [m, k]` in f32, `w [d_out, d_in]` in panels of bf16.
///
/// # Panics
/// Where [`available`] is false.
pub(super) fn product(x: &[f32], w: &[[u32; PANEL]], sizes: [usize; 3], transposed: bool) -> Vec<f32> {
    assert!(available(), "this machine has no AVX-512 BF16");
    if amx::available() {
        by_tiles(x, w, sizes, transposed)
    } else {
        by_dots(x, w, sizes, transposed)
    }
}

fn by_tiles(x: &[f32], w: &[[u32; PANEL]], sizes: [usize; 3], transposed: bool) -> Vec<f32> {
    const { assert!(amx::BLOCK == PANEL) };
    by_panels(x, w, sizes, transposed, amx::BLOCK, amx::stripe)
}

#[allow(unsafe_code)]
fn by_dots(x: &[f32], w: &[[u32; PANEL]], sizes: [usize; 3], transposed: bool) -> Vec<f32> {
    by_panels(x, w, sizes, transposed, ROWS, |x, w, n, first, out| {
        // SAFETY: `available` has shown that the machine has what the function is compiled for.
        unsafe { stripe(x, w, n, first, out) }
    })
}

/// The product, a panel at a time: `stripe` multiplies some rows of `x`, always whole blocks of `block`, with it.
#[allow(unsafe_code)]
fn by_panels(
    x: &[f32],
    w: &[[u32; PANEL]],
    [m, d_out, d_in]: [usize; 3],
    transposed: bool,
    block: usize,
    stripe: impl Fn(&[u32], &[[u32; PANEL]], usize, usize, &mut [MaybeUninit<f32>]) + Sync,
) -> Vec<f32> {
    let (k, n) = if transposed { (d_out, d_in) } else { (d_in, d_out) };
    let deep = pairs(k);
    let [rounded] = in_blocks(m.next_multiple_of(block) * deep, deep, |row, [to]| {
        if row < m {
            // SAFETY: `available` has shown that the machine has what the function is compiled for.
            unsafe { round(&x[row * k..][..k], to) }
        }
    });

    let mut numbers = Vec::with_capacity(m * n);
    let out = &mut numbers.spare_capacity_mut()[..m * n];
    let blocks = m.div_ceil(block).div_ceil(2 * rayon::current_num_threads());
    let rows = block * blocks.max(1);
    // Columns `first..`, as many as there are in the panels.
    let mut multiply = |panels: &[[u32; PANEL]], first: usize| {
        out.par_chunks_mut(rows * n)
            .zip(rounded.par_chunks(rows * deep))
            .for_each(|(out, x)| {
                for (panel, w) in panels.chunks_exact(deep).enumerate() {
                    stripe(x, w, n, first + panel * PANEL, out);
                }
            });
    };
    if transposed {
        let in_group = (GROUP / (4 * PANEL * deep)).max(1) * PANEL;
        for first in (0..n).step_by(in_group) {
            let panels = in_group.min(n - first).div_ceil(PANEL);
            let [turned] = in_blocks(panels * deep, deep, |panel, [to]| {
                // SAFETY: as above.
                unsafe { panel_of(w, pairs(d_in), first + panel * PANEL, to) }
            });
            multiply(&turned, first);
        }
    } else {
        multiply(w, 0);
    }
    // SAFETY: the panels are all columns, and `stripe` writes each one's of every row.
    unsafe { numbers.set_len(m * n) };
    numbers
}

/// Rounds a row to bf16, two numbers to a lane; an odd one out has a zero beside it.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn round(from: &[f32], to: &mut [u32]) {
    let (whole, left) = from.as_chunks::<{ 2 * LANES }>();
    let (to, to_left) = to.split_at_mut(whole.len() * LANES);
    for (from, to) in whole.iter().zip(to.as_chunks_mut::<LANES>().0) {
        let [low, high]: [__m512; 2] = bytemuck::cast(*from);
        *to = bits(_mm512_cvtne2ps_pbh(high, low));
    }
    for (from, to) in left.chunks(2).zip(to_left) {
        let half = |i: usize| from.get(i).map_or(0, |&x| u32::from(bf16::from_f32(x).to_bits()));
        *to = half(0) | half(1) << 16;
    }
}

/// The panel of columns `first..` of a weight, out of the panels of its rows: two neighbours of a column to a lane.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn panel_of(w: &[[u32; PANEL]], deep: usize, first: usize, to: &mut [[u32; PANEL]]) {
    let mut square = [[0; LANES]; LANES];
    for (panel, to) in w.chunks_exact(deep).zip(to.chunks_exact_mut(PANEL / 2)) {
        // Those columns of some rows: two columns to a word.
        let words = &panel[first / 2..][..LANES];
        for (part, to) in to.chunks_exact_mut(LANES / 2).enumerate() {
            for (to, from) in square.iter_mut().zip(words) {
                *to = from.as_chunks().0[part];
            }
            turn(&mut square);
            for (to, rows) in to.iter_mut().zip(square.as_chunks::<2>().0) {
                let [low, high]: [[__m256i; 2]; 2] = bytemuck::cast(*rows);
                for (to, (low, high)) in to.as_chunks_mut::<LANES>().0.iter_mut().zip(low.into_iter().zip(high)) {
                    let high = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(high));
                    *to = bytemuck::cast::<__m512i, _>(_mm512_or_si512(_mm512_cvtepu16_epi32(low), high));
                }
            }
        }
    }
}

/// Some rows of the output in the columns of one panel.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn stripe(x: &[u32], w: &[[u32; PANEL]], n: usize, first: usize, out: &mut [MaybeUninit<f32>]) {
    for (x, out) in x.chunks(ROWS * w.len()).zip(out.chunks_mut(ROWS * n)) {
        let rows = out.len() / n;
        if rows == ROWS {
            tile::<ROWS>(x, w, n, first, out);
            continue;
        }
        let fours = rows / 4 * 4;
        for row in (0..fours).step_by(4) {
            tile::<4>(&x[row * w.len()..], w, n, first, &mut out[row * n..]);
        }
        for row in fours..rows {
            tile::<1>(&x[row * w.len()..], w, n, first, &mut out[row * n..]);
        }
    }
}

/// `R` rows of `x` times a panel, summed in registers.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn tile<const R: usize>(x: &[u32], w: &[[u32; PANEL]], n: usize, first: usize, out: &mut [MaybeUninit<f32>]) {
    let pairs = w.len();
    let mut rows = [&x[..0]; R];
    for r in 0..R {
        rows[r] = &x[r * pairs..][..pairs];
    }
    let mut sums = [[_mm512_setzero_ps(); WIDE]; R];
    for p in 0..pairs {
        let w: [__m512i; WIDE] = bytemuck::cast(w[p]);
        for r in 0..R {
            let x = _mm512_set1_epi32(rows[r][p] as i32);
            for c in 0..WIDE {
                sums[r][c] = _mm512_dpbf16_ps(sums[r][c], halves(x), halves(w[c]));
            }
        }
    }
    for r in 0..R {
        let sums: [f32; PANEL] = bytemuck::cast(sums[r]);
        let to = &mut out[r * n + first..(r + 1) * n];
        match to.first_chunk_mut::<PANEL>() {
            // Of a length that the compiler knows: whole registers.
            Some(to) => to.write_copy_of_slice(&sums),
            None => to.write_copy_of_slice(&sums[..to.len()]),
        };
    }
}

/// The same bits as bf16.
#[allow(unsafe_code)]
#[inline(always)]
fn halves(bits: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits, and every pattern of bits is a value of each.
    unsafe { std::mem::transmute(bits) }
}

/// The bits of 32 bf16 numbers.
#[allow(unsafe_code)]
#[inline(always)]
fn bits(halves: __m512bh) -> [u32; LANES] {
    // SAFETY: as in `halves`.
    unsafe { std::mem::transmute(halves) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packed::{Numbers, Packed};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Numbers with few bits lose nothing by rounding, and their sums are exact: equality, not a tolerance.
        #[test]
        fn sums_of_small_whole_numbers_are_exact(
            m in 1usize..80, d_out in 1usize..130, d_in in 1usize..130, seed in any::<u32>(), transposed in any::<bool>(),
        ) {
            if !available() {
                return Ok(());
            }
            let number = |i: usize| {
                let mixed = (i as u32).wrapping_mul(2_654_435_761).wrapping_add(seed);
                ((mixed >> 16) % 17) as f32 - 8.0
            };
            let (k, n) = if transposed { (d_out, d_in) } else { (d_in, d_out) };
            let x: Vec<f32> = (0..m * k).map(number).collect();
            let w: Vec<f32> = (0..d_out * d_in).map(|i| number(i + 7)).collect();
            let packed = Packed::bf16(&w, [d_out, d_in]);
            let Numbers::Bf16(panels) = &packed.numbers else { panic!("bf16") };
            let mut found = vec![by_dots(&x, panels, [m, d_out, d_in], transposed)];
            if amx::available() {
                found.push(by_tiles(&x, panels, [m, d_out, d_in], transposed));
            }
            for row in 0..m {
                for column in 0..n {
                    let weight = |i: usize| w[if transposed { i * d_in + column } else { column * d_in + i }];
                    let wanted: f32 = (0..k).map(|i| x[row * k + i] * weight(i)).sum();
                    for found in &found {
                        prop_assert_eq!(found[row * n + column], wanted, "{} {}", row, column);
                    }
                }
            }
        }
    }
}
