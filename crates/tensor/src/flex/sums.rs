//! Weighted sums of rows, a tile of them in registers: the small products inside attention. Terms are added one after another,
//! whatever else is in the tile.

#![expect(
    clippy::needless_range_loop,
    reason = "sum m of a tile indexes several arrays at once, which the compiler keeps in registers"
)]

use super::wide::{LANES, Wide};

/// Rows of equal length, wherever they lie.
pub(super) trait Rows: Copy {
    fn row(&self, t: usize) -> &[f32];
}

/// Rows one after another.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    pub(super) of: &'a [f32],
    pub(super) width: usize,
}

impl Rows for Tile<'_> {
    #[inline(always)]
    fn row(&self, t: usize) -> &[f32] {
        &self.of[t * self.width..][..self.width]
    }
}

/// `out[m] = Σ_t weights(m)[t] · of.row(t)`, for `count` rows of `d` numbers.
#[inline(always)]
pub(super) fn write_sums<'a, W: Wide>(
    wide: W,
    weights: impl Fn(usize) -> &'a [f32] + Copy,
    count: usize,
    of: impl Rows,
    d: usize,
    out: &mut [f32],
) {
    let weights = Across(weights);
    sums(wide, weights, count, of, d, |m, at, sums| {
        out[m * d + at..][..sums.len()].copy_from_slice(sums);
    });
}

/// As [`write_sums`], onto what is there.
#[inline(always)]
pub(super) fn add_sums<'a, W: Wide>(
    wide: W,
    weights: impl Fn(usize) -> &'a [f32] + Copy,
    count: usize,
    of: impl Rows,
    d: usize,
    out: &mut [f32],
) {
    let weights = Across(weights);
    sums(wide, weights, count, of, d, |m, at, sums| {
        let out = &mut out[m * d + at..][..sums.len()];
        for i in 0..sums.len() {
            out[i] += sums[i];
        }
    });
}

/// `Σ_t weights[t, m] · of.row(t)`, for `count` rows of `d` numbers: `put` takes row, first column and numbers.
#[inline(always)]
pub(super) fn sums_down<W: Wide>(
    wide: W,
    weights: Tile<'_>,
    count: usize,
    of: impl Rows,
    d: usize,
    put: impl FnMut(usize, usize, &[f32]),
) {
    sums(wide, Down(weights), count, of, d, put);
}

/// Where weights lie.
trait Weights: Copy {
    /// Of `M` sums from `first` on.
    fn of<const M: usize>(&self, first: usize) -> impl Weight<M>;
}

/// Of some sums.
trait Weight<const M: usize>: Copy {
    /// Numbers that are summed.
    fn len(&self) -> usize;
    fn at(&self, t: usize) -> [f32; M];
}

/// A slice for each sum.
#[derive(Clone, Copy)]
struct Across<F>(F);

impl<'a, F: Fn(usize) -> &'a [f32] + Copy> Weights for Across<F> {
    #[inline(always)]
    fn of<const M: usize>(&self, first: usize) -> impl Weight<M> {
        let len = (self.0)(first).len();
        let mut slices = [&[][..]; M];
        for m in 0..M {
            slices[m] = &(self.0)(first + m)[..len];
        }
        slices
    }
}

impl<const M: usize> Weight<M> for [&[f32]; M] {
    #[inline(always)]
    fn len(&self) -> usize {
        self[0].len()
    }
    #[inline(always)]
    fn at(&self, t: usize) -> [f32; M] {
        let mut weights = [0.0; M];
        for m in 0..M {
            weights[m] = self[m][t];
        }
        weights
    }
}

/// The weights of a number that is summed beside each other.
#[derive(Clone, Copy)]
struct Down<'a>(Tile<'a>);

impl Weights for Down<'_> {
    #[inline(always)]
    fn of<const M: usize>(&self, first: usize) -> impl Weight<M> {
        (self.0, first)
    }
}

impl<const M: usize> Weight<M> for (Tile<'_>, usize) {
    #[inline(always)]
    fn len(&self) -> usize {
        self.0.of.len() / self.0.width
    }
    #[inline(always)]
    fn at(&self, t: usize) -> [f32; M] {
        *self.0.row(t)[self.1..].first_chunk().expect("a tile of weights")
    }
}

#[inline(always)]
fn sums<W: Wide>(
    wide: W,
    weights: impl Weights,
    count: usize,
    of: impl Rows,
    d: usize,
    mut put: impl FnMut(usize, usize, &[f32]),
) {
    let mut at = 0;
    while at < d {
        match (d - at) / LANES {
            0 => {
                tail(weights, count, of, at, &mut put);
                at = d;
            }
            1 => {
                columns::<W, 1>(wide, weights, count, of, at, &mut put);
                at += LANES;
            }
            2 => {
                columns::<W, 2>(wide, weights, count, of, at, &mut put);
                at += 2 * LANES;
            }
            3 => {
                columns::<W, 3>(wide, weights, count, of, at, &mut put);
                at += 3 * LANES;
            }
            _ => {
                columns::<W, 4>(wide, weights, count, of, at, &mut put);
                at += 4 * LANES;
            }
        }
    }
}

/// `R` registers of every sum, in tiles that leave few registers free.
#[inline(always)]
fn columns<W: Wide, const R: usize>(
    wide: W,
    weights: impl Weights,
    count: usize,
    of: impl Rows,
    at: usize,
    put: &mut impl FnMut(usize, usize, &[f32]),
) {
    let mut m = 0;
    if W::REGISTERS >= 32 {
        while R < 4 && count - m >= 8 {
            tile::<W, 8, R>(wide, weights, m, of, at, put);
            m += 8;
        }
        while count - m >= 6 {
            tile::<W, 6, R>(wide, weights, m, of, at, put);
            m += 6;
        }
        while count - m >= 3 {
            tile::<W, 3, R>(wide, weights, m, of, at, put);
            m += 3;
        }
    } else {
        while R < 4 && count - m >= 2 {
            tile::<W, 2, R>(wide, weights, m, of, at, put);
            m += 2;
        }
    }
    while m < count {
        tile::<W, 1, R>(wide, weights, m, of, at, put);
        m += 1;
    }
}

/// `M` sums, `R` registers of each.
#[inline(always)]
fn tile<W: Wide, const M: usize, const R: usize>(
    wide: W,
    weights: impl Weights,
    first: usize,
    of: impl Rows,
    at: usize,
    put: &mut impl FnMut(usize, usize, &[f32]),
) {
    let weights = weights.of::<M>(first);
    let mut sums = [[wide.splat(0.0); R]; M];
    for t in 0..weights.len() {
        let chunks: &[[f32; LANES]; R] = of.row(t)[at..]
            .as_chunks()
            .0
            .first_chunk()
            .expect("so many registers are left");
        let weights = weights.at(t);
        for r in 0..R {
            let x = wide.load(&chunks[r]);
            for m in 0..M {
                sums[m][r] = wide.mul_add(wide.splat(weights[m]), x, sums[m][r]);
            }
        }
    }
    for m in 0..M {
        let mut numbers = [[0.0; LANES]; R];
        for r in 0..R {
            numbers[r] = wide.store(sums[m][r]);
        }
        put(first + m, at, numbers.as_flattened());
    }
}

/// The end of rows that are no whole number of registers.
#[inline(always)]
fn tail(weights: impl Weights, count: usize, of: impl Rows, at: usize, put: &mut impl FnMut(usize, usize, &[f32])) {
    for m in 0..count {
        let weights = weights.of::<1>(m);
        let mut sums = [0.0; LANES];
        let mut width = 0;
        for t in 0..weights.len() {
            let row = &of.row(t)[at..];
            width = row.len();
            for i in 0..width {
                sums[i] = weights.at(t)[0].mul_add(row[i], sums[i]);
            }
        }
        put(m, at, &sums[..width]);
    }
}
