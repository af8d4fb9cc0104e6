//! Blocks of 8 and 4 bits in registers: two sixteens of weights at a time.

use super::wide::{LANES, Wide};
use crate::packed::{Blocks, Numbers, Packed};

/// Weights that are unpacked at a time.
pub(super) const PAIR: usize = 2 * LANES;

/// How many of those ahead memory is asked for them: behind the few rows that are read side by side.
const AHEAD: usize = 512;

/// A row of a weight, in pairs of sixteen.
pub(super) trait Row: Copy {
    /// Pair number `p`. It asks memory for a later one, in whatever row that lies.
    fn pair<W: Wide>(self, wide: W, p: usize) -> [W::F; 2];
}

/// How a weight's numbers are packed.
pub(super) trait Form: Copy {
    /// The whole pairs of row number `row`, of `d` weights.
    fn row(self, row: usize, d: usize) -> impl Row;
}

/// Something to do with a weight in whatever form.
pub(super) trait WithForm {
    fn run(self, form: impl Form);
}

/// Does it with the weight's own form.
#[inline(always)]
pub(super) fn with_form(w: &Packed, work: impl WithForm) {
    match &w.numbers {
        Numbers::F32(_) | Numbers::Bf16(_) => unreachable!("panels have products of their own"),
        Numbers::Q8(quants, blocks) if blocks.mins.is_empty() => work.run(Bytes::<false>(quants, blocks)),
        Numbers::Q8(quants, blocks) => work.run(Bytes::<true>(quants, blocks)),
        Numbers::Q4(quants, blocks) if blocks.mins.is_empty() => work.run(Nibbles::<false>(quants, blocks)),
        Numbers::Q4(quants, blocks) => work.run(Nibbles::<true>(quants, blocks)),
    }
}

/// One of the weights that are left at the end of a row, where it is no whole number of pairs.
#[inline(always)]
pub(super) fn left_over(w: &Packed, at: usize) -> f32 {
    match &w.numbers {
        Numbers::Q8(quants, blocks) => {
            let (scale, min) = blocks.at(at / blocks.len);
            f32::from(quants[at]).mul_add(scale, min)
        }
        _ => unreachable!("blocks of 32 fill rows, and panels have products of their own"),
    }
}

/// With minima or without.
#[derive(Clone, Copy)]
struct Bytes<'a, const MINS: bool>(&'a [i8], &'a Blocks);

/// With minima or without.
#[derive(Clone, Copy)]
struct Nibbles<'a, const MINS: bool>(&'a [u8], &'a Blocks);

// All slices of a row are cut to the same length, from which the compiler sees that no index needs a check.

impl<const MINS: bool> Form for Bytes<'_, MINS> {
    #[inline(always)]
    fn row(self, row: usize, d: usize) -> impl Row {
        let (Self(quants, blocks), pairs) = (self, d / PAIR);
        let (first, each) = (row * (d / blocks.len), PAIR / blocks.len);
        ByteRow::<MINS> {
            pairs: &quants[row * d..].as_chunks().0[..pairs],
            scales: &blocks.scales[first..][..each * pairs],
            mins: if MINS {
                &blocks.mins[first..][..each * pairs]
            } else {
                &[]
            },
            each,
        }
    }
}

impl<const MINS: bool> Form for Nibbles<'_, MINS> {
    #[inline(always)]
    fn row(self, row: usize, d: usize) -> impl Row {
        let (Self(quants, blocks), pairs) = (self, d / PAIR);
        NibbleRow::<MINS> {
            pairs: &quants[row * d / 2..].as_chunks().0[..pairs],
            scales: &blocks.scales[row * pairs..][..pairs],
            mins: if MINS {
                &blocks.mins[row * pairs..][..pairs]
            } else {
                &[]
            },
        }
    }
}

#[derive(Clone, Copy)]
struct ByteRow<'a, const MINS: bool> {
    pairs: &'a [[i8; PAIR]],
    scales: &'a [f32],
    mins: &'a [f32],
    /// Blocks of a pair: one or two.
    each: usize,
}

#[derive(Clone, Copy)]
struct NibbleRow<'a, const MINS: bool> {
    pairs: &'a [[u8; LANES]],
    scales: &'a [f32],
    mins: &'a [f32],
}

impl<const MINS: bool> Row for ByteRow<'_, MINS> {
    #[inline(always)]
    fn pair<W: Wide>(self, wide: W, p: usize) -> [W::F; 2] {
        wide.prefetch_later(self.pairs, p + AHEAD);
        let halves = self.pairs[p].as_chunks::<LANES>().0;
        let (low, high) = (p * self.each, p * self.each + self.each - 1);
        let min = |block: usize| if MINS { self.mins[block] } else { 0.0 };
        [
            scaled(wide, &halves[0], self.scales[low], min(low)),
            scaled(wide, &halves[1], self.scales[high], min(high)),
        ]
    }
}

impl<const MINS: bool> Row for NibbleRow<'_, MINS> {
    #[inline(always)]
    fn pair<W: Wide>(self, wide: W, p: usize) -> [W::F; 2] {
        wide.prefetch_later(self.pairs, p + AHEAD);
        let min = if MINS { self.mins[p] } else { 0.0 };
        wide.nibbles(&self.pairs[p], self.scales[p], min)
    }
}

#[inline(always)]
fn scaled<W: Wide>(wide: W, quants: &[i8; LANES], scale: f32, min: f32) -> W::F {
    wide.mul_add(wide.bytes(quants), wide.splat(scale), wide.splat(min))
}
