//! Blocks of 8 and 4 bits as panels of f32.

#![expect(
    clippy::needless_range_loop,
    reason = "row r of a block indexes several arrays at once, and what is left of it another"
)]

use super::forms::{Form, PAIR, Row, WithForm, left_over, with_form};
use super::wide::{LANES, Wide, Work};
use crate::packed::{PANEL, Packed};

/// Rows `first..` of `w` as a panel.
pub(super) struct RowsOf<'a> {
    pub(super) w: &'a Packed,
    pub(super) first: usize,
    pub(super) to: &'a mut [[f32; PANEL]],
}

/// Columns `first..` of `w` as a panel.
pub(super) struct ColumnsOf<'a> {
    pub(super) w: &'a Packed,
    pub(super) first: usize,
    pub(super) to: &'a mut [[f32; PANEL]],
}

impl Work for RowsOf<'_> {
    #[inline(always)]
    fn run<W: Wide>(self, wide: W) {
        let w = self.w;
        with_form(w, (wide, self));
    }
}

impl Work for ColumnsOf<'_> {
    #[inline(always)]
    fn run<W: Wide>(self, wide: W) {
        let w = self.w;
        with_form(w, (wide, self));
    }
}

impl<W: Wide> WithForm for (W, RowsOf<'_>) {
    #[inline(always)]
    fn run(self, form: impl Form) {
        let (wide, RowsOf { w, first, to }) = self;
        let (d, rows) = (w.d_in, PANEL.min(w.d_out - first));
        let mut squares = [[[0.0; LANES]; LANES]; 2];
        for block in (0..rows).step_by(LANES) {
            let here = LANES.min(rows - block);
            for p in 0..d / PAIR {
                for r in 0..here {
                    let [low, high] = form.row(first + block + r, d).pair(wide, p);
                    squares[0][r] = wide.store(low);
                    squares[1][r] = wide.store(high);
                }
                for (i, square) in squares.iter_mut().enumerate() {
                    wide.turn(square);
                    for (to, turned) in to[p * PAIR + i * LANES..].iter_mut().zip(square) {
                        to[block..][..LANES].copy_from_slice(turned);
                    }
                }
            }
        }
        for at in d / PAIR * PAIR..d {
            for r in 0..rows {
                to[at][r] = left_over(w, (first + r) * d + at);
            }
        }
    }
}

impl<W: Wide> WithForm for (W, ColumnsOf<'_>) {
    #[inline(always)]
    fn run(self, form: impl Form) {
        let (wide, ColumnsOf { w, first, to }) = self;
        let (d, columns) = (w.d_in, PANEL.min(w.d_in - first));
        // Whole pairs from the one that the first column lies in, and what is left behind them.
        let (from, whole) = (first / PAIR * PAIR, d / PAIR);
        for (row, to) in to.iter_mut().enumerate() {
            let mut weights = [0.0; 2 * PAIR];
            let numbers = form.row(row, d);
            for (at, weights) in (from..first + columns).step_by(PAIR).zip(weights.chunks_mut(PAIR)) {
                if at / PAIR < whole {
                    let [low, high] = numbers.pair(wide, at / PAIR);
                    weights[..LANES].copy_from_slice(&wide.store(low));
                    weights[LANES..PAIR].copy_from_slice(&wide.store(high));
                } else {
                    for (i, weight) in weights.iter_mut().enumerate().take(d - at) {
                        *weight = left_over(w, row * d + at + i);
                    }
                }
            }
            to[..columns].copy_from_slice(&weights[first - from..][..columns]);
        }
    }
}
