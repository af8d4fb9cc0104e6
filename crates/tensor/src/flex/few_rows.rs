//! The matrix product for few rows, as in generation: the weight is read once, as it lies, and not packed.
//!
//! With a handful of rows a product is as fast as its weight comes from memory; the gemm crate's packing for larger
//! products would read and write it once more.

use super::tiles::in_tiles;
use super::wide::{LANES, Wide, Work, with_wide};

/// Most rows for which this beats the gemm crate.
pub(super) const MOST_ROWS: usize = 32;

/// Output columns of a task where the weight lies by outputs.
const COLUMNS: usize = 64;

/// Numbers of a task's output where it lies by inputs: they stay in the nearest cache while all of the weight goes by.
const NEAR: usize = 8192;

/// `x [m, k] · w [k, n]`, both row-major. The weight comes from memory, which likes long runs: a task has as many columns as there are
/// tasks for, and adds up whole runs of them, not registers. A number is the same whatever other rows there are.
pub(super) fn product(x: &[f32], w: &[f32], [m, k, n]: [usize; 3]) -> Vec<f32> {
    let columns = n.div_ceil(rayon::current_num_threads()).min(NEAR / m);
    let columns = columns.next_multiple_of(LANES);
    in_tiles([m, n], [m, columns], |[_, columns]| {
        let mut sums = vec![[0.0; LANES]; m * columns.len().div_ceil(LANES)];
        with_wide(Runs {
            x,
            w,
            sizes: [m, k, n],
            first: columns.start,
            columns: columns.len(),
            sums: &mut sums,
        });
        let mut out = Vec::with_capacity(m * columns.len());
        for row in 0..m {
            let registers = sums.chunks_exact(m).map(|rows| &rows[row]);
            out.extend(registers.flatten().take(columns.len()));
        }
        out
    })
}

/// Some columns of `x · w`, a register of each row beside those of the other rows: rows one below the other would lie some power
/// of two apart, where caches mistake one for another.
struct Runs<'a> {
    x: &'a [f32],
    w: &'a [f32],
    sizes: [usize; 3],
    first: usize,
    columns: usize,
    sums: &'a mut [[f32; LANES]],
}

impl Work for Runs<'_> {
    #[inline(always)]
    fn run<W: Wide>(mut self, wide: W) {
        if W::REGISTERS >= 32 {
            self.all::<W, 8>(wide);
        } else {
            self.all::<W, 4>(wide);
        }
    }
}

impl Runs<'_> {
    #[inline(always)]
    fn all<W: Wide, const K: usize>(&mut self, wide: W) {
        let k = self.sizes[1];
        for i in (0..k / K * K).step_by(K) {
            self.add::<W, K>(wide, i);
        }
        for i in k / K * K..k {
            self.add::<W, 1>(wide, i);
        }
    }

    /// Adds what `K` rows of the weight from `i` on give.
    #[inline(always)]
    fn add<W: Wide, const K: usize>(&mut self, wide: W, i: usize) {
        let [m, k, n] = self.sizes;
        let mut x = [[0.0; K]; MOST_ROWS];
        for (x, row) in x.iter_mut().zip(self.x.chunks_exact(k)) {
            *x = *row[i..].first_chunk().expect("as many inputs as weights");
        }
        let mut runs = [&self.w[..0]; K];
        for (t, run) in runs.iter_mut().enumerate() {
            *run = &self.w[(i + t) * n + self.first..][..self.columns];
        }
        for (c, sums) in self.sums.chunks_exact_mut(m).enumerate() {
            // The next rows, while there is something to do with these: by itself the processor follows runs too late.
            for t in 0..K {
                wide.prefetch(self.w, (i + K + t) * n + self.first + c * LANES);
            }
            let mut registers = [wide.splat(0.0); K];
            for t in 0..K {
                registers[t] = match runs[t][c * LANES..].first_chunk() {
                    Some(whole) => wide.load(whole),
                    None => {
                        let (mut part, run) = ([0.0; LANES], &runs[t][c * LANES..]);
                        part[..run.len()].copy_from_slice(run);
                        wide.load(&part)
                    }
                };
            }
            for (sum, x) in sums.iter_mut().zip(&x) {
                let mut numbers = wide.load(sum);
                for t in 0..K {
                    numbers = wide.mul_add(wide.splat(x[t]), registers[t], numbers);
                }
                *sum = wide.store(numbers);
            }
        }
    }
}

/// `x [m, k] · wᵀ` for `w [n, k]`, both row-major.
pub(super) fn product_transposed(x: &[f32], w: &[f32], [m, k, n]: [usize; 3]) -> Vec<f32> {
    in_tiles([m, n], [m, COLUMNS], |[_, columns]| {
        let mut out = vec![0.0; m * columns.len()];
        with_wide(Dots {
            x,
            w: &w[columns.start * k..columns.end * k],
            sizes: [m, k],
            out: &mut out,
        });
        out
    })
}

/// Some columns of `x · wᵀ`: dot products with the rows of `w`.
struct Dots<'a> {
    x: &'a [f32],
    w: &'a [f32],
    sizes: [usize; 2],
    out: &'a mut [f32],
}

impl Work for Dots<'_> {
    #[inline(always)]
    fn run<W: Wide>(self, wide: W) {
        if self.sizes[0] == 1 {
            // Each row of `w` is read once: one after another is how memory likes it.
            let Self {
                x,
                w,
                sizes: [_, k],
                out,
            } = self;
            for (out, w) in out.iter_mut().zip(w.chunks_exact(k)) {
                tile::<W, 1, 1, 2>(wide, x, w, [k, 1], std::slice::from_mut(out));
            }
        } else if W::REGISTERS >= 32 {
            tiles::<W, 4, 4>(wide, self);
        } else {
            tiles::<W, 2, 2>(wide, self);
        }
    }
}

/// Tiles of `R` rows and `C` columns, and what is left over in tiles of one.
#[inline(always)]
fn tiles<W: Wide, const R: usize, const C: usize>(wide: W, dots: Dots<'_>) {
    let [m, k] = dots.sizes;
    let columns = dots.out.len() / m;
    for column in (0..columns).step_by(C) {
        let w = &dots.w[column * k..];
        for row in (0..m).step_by(R) {
            let (x, out) = (&dots.x[row * k..], &mut dots.out[row * columns + column..]);
            let (rows, across) = (R.min(m - row), C.min(columns - column));
            if (rows, across) == (R, C) {
                tile::<W, R, C, 1>(wide, x, w, [k, columns], out);
            } else if across == C {
                for r in 0..rows {
                    tile::<W, 1, C, 1>(wide, &x[r * k..], w, [k, columns], &mut out[r * columns..]);
                }
            } else {
                for r in 0..rows {
                    for c in 0..across {
                        let out = &mut out[r * columns + c..];
                        tile::<W, 1, 1, 2>(wide, &x[r * k..], &w[c * k..], [k, columns], out);
                    }
                }
            }
        }
    }
}

/// Dot products of `R` rows with `C`, each read once for all of the others; `A` sums of each, so that one need not wait for the
/// other where there are few.
#[inline(always)]
fn tile<W: Wide, const R: usize, const C: usize, const A: usize>(
    wide: W,
    x: &[f32],
    w: &[f32],
    [k, columns]: [usize; 2],
    out: &mut [f32],
) {
    let (mut x_rows, mut w_rows) = ([&x[..0]; R], [&w[..0]; C]);
    for r in 0..R {
        x_rows[r] = &x[r * k..][..k];
    }
    for c in 0..C {
        w_rows[c] = &w[c * k..][..k];
    }
    let whole = k / LANES;
    let mut sums = [[[wide.splat(0.0); C]; R]; A];
    for step in 0..whole / A {
        for (a, sums) in sums.iter_mut().enumerate() {
            add(wide, x_rows, w_rows, step * A + a, sums);
        }
    }
    for i in whole / A * A..whole {
        add(wide, x_rows, w_rows, i, &mut sums[0]);
    }
    let one = wide.splat(1.0);
    for r in 0..R {
        let mut row = sums[0][r];
        for more in &sums[1..] {
            for (sum, more) in row.iter_mut().zip(more[r]) {
                *sum = wide.mul_add(one, *sum, more);
            }
        }
        let mut totals = [0.0; C];
        if C == 4 {
            // `min` only for shorter tiles to compile.
            let four = [row[0], row[1.min(C - 1)], row[2.min(C - 1)], row[3.min(C - 1)]];
            totals.copy_from_slice(&wide.sums(four));
        } else {
            for (total, sum) in totals.iter_mut().zip(row) {
                *total = wide.sum(sum);
            }
        }
        for c in 0..C {
            for i in whole * LANES..k {
                totals[c] += x_rows[r][i] * w_rows[c][i];
            }
            out[r * columns + c] = totals[c];
        }
    }
}

/// Adds the products of the `i`-th sixteen of each row.
#[inline(always)]
fn add<W: Wide, const R: usize, const C: usize>(
    wide: W,
    x: [&[f32]; R],
    w: [&[f32]; C],
    i: usize,
    sums: &mut [[W::F; C]; R],
) {
    let mut registers = [wide.splat(0.0); C];
    for c in 0..C {
        registers[c] = wide.load(chunk(w[c], i));
    }
    for r in 0..R {
        let x = wide.load(chunk(x[r], i));
        for c in 0..C {
            sums[r][c] = wide.mul_add(x, registers[c], sums[r][c]);
        }
    }
}

#[inline(always)]
fn chunk(row: &[f32], i: usize) -> &[f32; LANES] {
    row[i * LANES..][..LANES].try_into().expect("as many as asked for")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_the_sums_that_they_say_for_any_sizes() {
        for [m, k, n] in [
            [1, 1, 1],
            [2, 7, 65],
            [3, 64, 64],
            [4, 33, 200],
            [7, 96, 130],
            [32, 5, 3],
            [16, 576, 67],
            [1, 43, 131],
        ] {
            let x: Vec<f32> = (0..m * k).map(|i| (i as f32 * 0.7).sin()).collect();
            let w: Vec<f32> = (0..k * n).map(|i| (i as f32 * 1.3).cos()).collect();
            let transposed: Vec<f32> = (0..n * k).map(|at| w[at % k * n + at / k]).collect();
            let (plain, turned) = (
                product(&x, &w, [m, k, n]),
                product_transposed(&x, &transposed, [m, k, n]),
            );
            for row in 0..m {
                for column in 0..n {
                    let wanted: f64 = (0..k)
                        .map(|i| f64::from(x[row * k + i]) * f64::from(w[i * n + column]))
                        .sum();
                    for found in [plain[row * n + column], turned[row * n + column]] {
                        assert!(
                            (f64::from(found) - wanted).abs() < 1e-5 * k as f64,
                            "{m} {k} {n}: {found} {wanted}"
                        );
                    }
                }
            }
        }
    }
}
