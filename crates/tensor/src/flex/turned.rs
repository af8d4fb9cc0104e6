//! A square of sixteen by sixteen numbers of 32 bits, its rows as columns.

use std::arch::x86_64::__m256d;
#[cfg(feature = "x86-v4")]
use std::arch::x86_64::{
    __m512i, _mm512_shuffle_i32x4, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
    _mm512_unpacklo_epi64,
};

use super::wide::LANES;

/// By AVX2: quarters of the square, turned, change places.
#[inline(always)]
pub(super) fn turn_by_quarters(wide: pulp::x86::V3, square: &mut [[f32; LANES]; LANES]) {
    let mut columns = [[0.0; LANES]; LANES];
    for (i, rows) in square.as_chunks::<8>().0.iter().enumerate() {
        for (j, columns) in columns.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let mut quarter = [[0.0; 8]; 8];
            for (to, row) in quarter.iter_mut().zip(rows) {
                *to = row.as_chunks::<8>().0[j];
            }
            for (column, turned) in columns.iter_mut().zip(eight(wide, quarter)) {
                column.as_chunks_mut::<8>().0[i] = turned;
            }
        }
    }
    *square = columns;
}

#[inline(always)]
fn eight(wide: pulp::x86::V3, [a, b, c, d, e, f, g, h]: [[f32; 8]; 8]) -> [[f32; 8]; 8] {
    // Half i of number j is column 4 i + j, of the first four rows and of the last four.
    let (first, last) = (four(wide, [a, b, c, d]), four(wide, [e, f, g, h]));
    let mut columns = [[0.0; 8]; 8];
    for (j, (first, last)) in first.into_iter().zip(last).enumerate() {
        columns[j] = bytemuck::cast(wide.avx._mm256_permute2f128_pd::<0x20>(first, last));
        columns[4 + j] = bytemuck::cast(wide.avx._mm256_permute2f128_pd::<0x31>(first, last));
    }
    columns
}

#[inline(always)]
fn four(wide: pulp::x86::V3, [a, b, c, d]: [[f32; 8]; 4]) -> [__m256d; 4] {
    let avx = wide.avx;
    let (a, b, c, d) = (
        bytemuck::cast(a),
        bytemuck::cast(b),
        bytemuck::cast(c),
        bytemuck::cast(d),
    );
    let ab = avx._mm256_castps_pd(avx._mm256_unpacklo_ps(a, b));
    let cd = avx._mm256_castps_pd(avx._mm256_unpacklo_ps(c, d));
    let ab_high = avx._mm256_castps_pd(avx._mm256_unpackhi_ps(a, b));
    let cd_high = avx._mm256_castps_pd(avx._mm256_unpackhi_ps(c, d));
    [
        avx._mm256_unpacklo_pd(ab, cd),
        avx._mm256_unpackhi_pd(ab, cd),
        avx._mm256_unpacklo_pd(ab_high, cd_high),
        avx._mm256_unpackhi_pd(ab_high, cd_high),
    ]
}

/// By AVX-512.
#[cfg(feature = "x86-v4")]
#[target_feature(enable = "avx512f")]
pub(super) fn turn(square: &mut [[u32; LANES]; LANES]) {
    let r: [__m512i; LANES] = bytemuck::cast(*square);
    let (mut a, mut b) = (r, r);
    for i in (0..LANES).step_by(2) {
        a[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        a[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for i in (0..LANES).step_by(4) {
        for j in 0..2 {
            b[i + 2 * j] = _mm512_unpacklo_epi64(a[i + j], a[i + 2 + j]);
            b[i + 2 * j + 1] = _mm512_unpackhi_epi64(a[i + j], a[i + 2 + j]);
        }
    }
    // Quarter q of b[4 i + j] is now column 4 q + j of rows 4 i to 4 i + 3.
    for j in 0..4 {
        let first = _mm512_shuffle_i32x4::<0x44>(b[j], b[4 + j]);
        let second = _mm512_shuffle_i32x4::<0x44>(b[8 + j], b[12 + j]);
        let third = _mm512_shuffle_i32x4::<0xEE>(b[j], b[4 + j]);
        let last = _mm512_shuffle_i32x4::<0xEE>(b[8 + j], b[12 + j]);
        a[j] = _mm512_shuffle_i32x4::<0x88>(first, second);
        a[4 + j] = _mm512_shuffle_i32x4::<0xDD>(first, second);
        a[8 + j] = _mm512_shuffle_i32x4::<0x88>(third, last);
        a[12 + j] = _mm512_shuffle_i32x4::<0xDD>(third, last);
    }
    *square = bytemuck::cast(a);
}
