//! A square of sixteen by sixteen numbers of 32 bits, its rows as columns.

use std::arch::x86_64::{
    __m512i, _mm512_shuffle_i32x4, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
    _mm512_unpacklo_epi64,
};

use super::wide::LANES;

/// A square of 32-bit numbers, turned.
#[target_feature(enable = "avx512f")]
pub(super) fn turned(rows: [[u32; LANES]; LANES]) -> [[u32; LANES]; LANES] {
    let r: [__m512i; LANES] = bytemuck::cast(rows);
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
        let (low, high) = ([b[j], b[8 + j]], [b[4 + j], b[12 + j]]);
        let first = [0, 1].map(|i| _mm512_shuffle_i32x4::<0x44>(low[i], high[i]));
        let last = [0, 1].map(|i| _mm512_shuffle_i32x4::<0xEE>(low[i], high[i]));
        a[j] = _mm512_shuffle_i32x4::<0x88>(first[0], first[1]);
        a[4 + j] = _mm512_shuffle_i32x4::<0xDD>(first[0], first[1]);
        a[8 + j] = _mm512_shuffle_i32x4::<0x88>(last[0], last[1]);
        a[12 + j] = _mm512_shuffle_i32x4::<0xDD>(last[0], last[1]);
    }
    bytemuck::cast(a)
}
