//! Products of many rows with a bf16 weight, by the processor's own dot products of bf16 pairs (AVX-512 BF16), or by its
//! matrix unit where it has one ([`amx`]).
//!
//! The input is rounded to bf16 as well, products are exact, and sums are in f32. The weight is rearranged on the way, a group of
//! columns at a time: once for all rows, so that no second copy of the weight is kept.

use std::arch::x86_64::{
    __m256i, __m512, __m512bh, __m512i, _mm512_cvtepu16_epi32, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps, _mm512_or_si512,
    _mm512_set1_epi32, _mm512_setzero_ps, _mm512_slli_epi32,
};
use std::mem::MaybeUninit;

use half::bf16;
use rayon::prelude::*;

use super::amx;
use super::turned::turned;
use super::view::in_blocks;

/// 32-bit lanes of a register.
const LANES: usize = 16;

/// Registers across of a tile, and its rows: 24 sums in registers.
const WIDE: usize = 3;
const ROWS: usize = 8;

/// Output columns of a panel.
const COLUMNS: usize = WIDE * LANES;

/// Bytes of the rearranged weight that exist at a time: they stay in a cache that all cores share.
const GROUP: usize = 4 << 20;

/// Whether this machine has the instructions.
pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512bf16")
}

/// `x · wᵀ`, or `x · w` where `transposed`: `x [m, k]` in f32, `w [d_out, d_in]` in bf16.
///
/// # Panics
/// Where [`available`] is false.
pub(super) fn product(x: &[f32], w: &[u16], sizes: [usize; 3], transposed: bool) -> Vec<f32> {
    assert!(available(), "this machine has no AVX-512 BF16");
    if amx::available() {
        by_tiles(x, w, sizes, transposed)
    } else {
        by_dots(x, w, sizes, transposed)
    }
}

fn by_tiles(x: &[f32], w: &[u16], sizes: [usize; 3], transposed: bool) -> Vec<f32> {
    by_panels(x, w, sizes, transposed, amx::BLOCK, amx::stripe)
}

#[allow(unsafe_code)]
fn by_dots(x: &[f32], w: &[u16], sizes: [usize; 3], transposed: bool) -> Vec<f32> {
    by_panels(x, w, sizes, transposed, ROWS, |x, w, n, first, out| {
        // SAFETY: `available` has shown that the machine has what the function is compiled for.
        unsafe { stripe(x, w, n, first, out) }
    })
}

/// The product, a panel of `C` columns at a time: `stripe` multiplies some rows of `x`, always whole blocks of `block`, with it.
/// Two numbers of the summed axis lie in a lane, and their count is a multiple of [`LANES`] lanes; zeros fill up.
#[allow(unsafe_code)]
fn by_panels<const C: usize>(
    x: &[f32],
    w: &[u16],
    [m, d_out, d_in]: [usize; 3],
    transposed: bool,
    block: usize,
    stripe: impl Fn(&[u32], &[[u32; C]], usize, usize, &mut [MaybeUninit<f32>]) + Sync,
) -> Vec<f32> {
    let (k, n) = if transposed { (d_out, d_in) } else { (d_in, d_out) };
    let pairs = k.div_ceil(2).next_multiple_of(LANES);
    let [rounded] = in_blocks(m.next_multiple_of(block) * pairs, pairs, |row, [to]| {
        if row < m {
            // SAFETY: `available` has shown that the machine has what the function is compiled for.
            unsafe { round(&x[row * k..][..k], to) }
        }
    });

    let mut numbers = Vec::with_capacity(m * n);
    let out = &mut numbers.spare_capacity_mut()[..m * n];
    let blocks = m.div_ceil(block).div_ceil(2 * rayon::current_num_threads());
    let rows = block * blocks.max(1);
    let in_group = (GROUP / (4 * C * pairs)).clamp(1, n.div_ceil(C));
    for first in (0..n).step_by(in_group * C) {
        let panels = in_group.min((n - first).div_ceil(C));
        let [panels] = in_blocks(panels * pairs, pairs, |panel, [to]| {
            let first = first + panel * C;
            // SAFETY: as above.
            unsafe {
                if transposed {
                    pair_rows(w, [d_out, d_in], first, to);
                } else {
                    pair_columns(w, [d_out, d_in], first, to);
                }
            }
        });
        out.par_chunks_mut(rows * n)
            .zip(rounded.par_chunks(rows * pairs))
            .for_each(|(out, x)| {
                for (panel, w) in panels.chunks_exact(pairs).enumerate() {
                    stripe(x, w, n, first + panel * C, out);
                }
            });
    }
    // SAFETY: each group's panels wrote their columns of every row, and the groups are all columns.
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

/// The panel of rows `first..` of `w` as columns, two neighbours of a row to a lane.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn pair_columns<const C: usize>(w: &[u16], [d_out, d_in]: [usize; 2], first: usize, to: &mut [[u32; C]]) {
    let columns = C.min(d_out - first);
    for block in (0..columns).step_by(LANES) {
        let rows = LANES.min(columns - block);
        for (at, to) in to.chunks_mut(LANES).enumerate() {
            let mut lanes = [[0u16; 2 * LANES]; LANES];
            let (start, len) = (at * 2 * LANES, (d_in - at * 2 * LANES).min(2 * LANES));
            for row in 0..rows {
                let from = &w[(first + block + row) * d_in + start..][..len];
                match from.try_into() {
                    Ok(whole) => lanes[row] = whole,
                    Err(_) => lanes[row][..len].copy_from_slice(from),
                }
            }
            for (to, turned) in to.iter_mut().zip(turned(bytemuck::cast(lanes))) {
                to[block..][..LANES].copy_from_slice(&turned);
            }
        }
    }
}

/// The panel of columns `first..` of `w`, two neighbours of a column to a lane.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn pair_rows<const C: usize>(w: &[u16], [d_out, d_in]: [usize; 2], first: usize, to: &mut [[u32; C]]) {
    let columns = C.min(d_in - first);
    let row = |row: usize, block: usize| -> [u16; LANES] {
        let mut lanes = [0; LANES];
        if row < d_out && block < columns {
            let len = LANES.min(columns - block);
            lanes[..len].copy_from_slice(&w[row * d_in + first + block..][..len]);
        }
        lanes
    };
    for (pair, to) in to.iter_mut().enumerate() {
        for block in (0..C).step_by(LANES) {
            let [low, high]: [__m256i; 2] = [0, 1].map(|i| bytemuck::cast(row(2 * pair + i, block)));
            let high = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(high));
            let both = _mm512_or_si512(_mm512_cvtepu16_epi32(low), high);
            to[block..][..LANES].copy_from_slice(&bytemuck::cast::<__m512i, [u32; LANES]>(both));
        }
    }
}

/// Some rows of the output in the columns of one panel.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn stripe(x: &[u32], w: &[[u32; COLUMNS]], n: usize, first: usize, out: &mut [MaybeUninit<f32>]) {
    let columns = COLUMNS.min(n - first);
    for (x, out) in x.chunks(ROWS * w.len()).zip(out.chunks_mut(ROWS * n)) {
        let rows = out.len() / n;
        let mut sums = [[0.0; COLUMNS]; ROWS];
        match rows {
            ROWS => tile::<ROWS>(x, w, &mut sums),
            4.. => {
                tile::<4>(x, w, &mut sums);
                for row in 4..rows {
                    tile::<1>(&x[row * w.len()..], w, &mut sums[row..]);
                }
            }
            _ => {
                for row in 0..rows {
                    tile::<1>(&x[row * w.len()..], w, &mut sums[row..]);
                }
            }
        }
        for row in 0..rows {
            out[row * n + first..][..columns].write_copy_of_slice(&sums[row][..columns]);
        }
    }
}

/// `R` rows of `x` times a panel, summed in registers.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn tile<const R: usize>(x: &[u32], w: &[[u32; COLUMNS]], out: &mut [[f32; COLUMNS]]) {
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
        out[r] = bytemuck::cast(sums[r]);
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
    use crate::packed::widened;
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
            let w: Vec<u16> = (0..d_out * d_in).map(|i| bf16::from_f32(number(i + 7)).to_bits()).collect();
            let mut found = vec![by_dots(&x, &w, [m, d_out, d_in], transposed)];
            if amx::available() {
                found.push(by_tiles(&x, &w, [m, d_out, d_in], transposed));
            }
            for row in 0..m {
                for column in 0..n {
                    let weight = |i: usize| widened(w[if transposed { i * d_in + column } else { column * d_in + i }]);
                    let wanted: f32 = (0..k).map(|i| x[row * k + i] * weight(i)).sum();
                    for found in &found {
                        prop_assert_eq!(found[row * n + column], wanted, "{} {}", row, column);
                    }
                }
            }
        }
    }
}
