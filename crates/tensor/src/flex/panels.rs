//! Products with a frozen weight that lies in panels: some outputs side by side, one input below the other. Few rows read it as one
//! stream, many need no packing, and its transpose is turned a panel at a time.
//!
//! A number of the output is a sum over inputs in their order, whatever other rows there are.

use std::cell::RefCell;
use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::tiles::in_tiles;
use super::wide::{LANES, Wide, Work, with_wide};
use crate::packed::PANEL;

/// Most registers across a panel.
const WIDE: usize = 3;

/// Most sums of a tile: they stay in registers.
const SUMS: usize = 24;

/// Most sums where there are half as many registers, and they are half as wide. More rows than a whole panel leaves registers for
/// read strips of one register across, six rows at a time: a third of what three registers across would have to read for two rows.
const FEWER_SUMS: usize = 6;

/// Most rows for which threads share the columns and not the rows.
const FEW_ROWS: usize = 32;

/// Lines of a panel ahead that memory is asked for them: by itself the processor follows too late.
const AHEAD: usize = 48;

/// A panel's lane: the weights of one input, or of several, in f32 bits or fewer.
pub(super) trait Lane: bytemuck::NoUninit + Sync {
    const INPUTS: usize;
    /// The weights of input `i` of those in the lanes.
    fn weights<W: Wide>(wide: W, lanes: &[Self; LANES], i: usize) -> W::F;
}

impl Lane for f32 {
    const INPUTS: usize = 1;
    #[inline(always)]
    fn weights<W: Wide>(wide: W, lanes: &[Self; LANES], _: usize) -> W::F {
        wide.load(lanes)
    }
}

/// Two bf16 numbers.
impl Lane for u32 {
    const INPUTS: usize = 2;
    #[inline(always)]
    fn weights<W: Wide>(wide: W, lanes: &[Self; LANES], i: usize) -> W::F {
        if i == 0 {
            wide.low_halves(lanes)
        } else {
            wide.high_halves(lanes)
        }
    }
}

/// A weight in panels, each of them `deep` lines.
#[derive(Clone, Copy)]
pub(super) struct Panels<'a, L, const P: usize> {
    pub(super) lines: &'a [[L; P]],
    pub(super) deep: usize,
}

/// `x · wᵀ`, or `x · w` where `transposed`, for `w [d_out, d_in]`.
pub(super) fn product<L: Lane, const P: usize>(
    x: &[f32],
    w: Panels<'_, L, P>,
    [m, d_out, d_in]: [usize; 3],
    transposed: bool,
) -> Vec<f32> {
    if !transposed {
        let sizes = [m, d_in, d_out];
        return match m {
            ..=FEW_ROWS => few_rows(x, w, sizes),
            _ => with_output([m, d_out], |out| many_rows(x, w, sizes, out)),
        };
    }
    // The lines behind the last output are zeros.
    let deep = d_out.next_multiple_of(P);
    product_of(x, [m, d_out, d_in], deep, |first, to| {
        with_wide(Turn { w, d_in, first, to });
    })
}

/// `x [m, k]` times a weight `[k, n]` that lies in no panels: `panel` makes those of `deep` lines, by their first column. What is behind
/// the last column says nothing.
///
/// A task makes a panel for itself: one that another core has made would have to come from there (docs/log.md).
pub(super) fn product_of(
    x: &[f32],
    [m, k, n]: [usize; 3],
    deep: usize,
    panel: impl Fn(usize, &mut [[f32; PANEL]]) + Sync,
) -> Vec<f32> {
    thread_local! {
        /// The panel of this thread, which stays in a near cache.
        static LINES: RefCell<Vec<[f32; PANEL]>> = const { RefCell::new(Vec::new()) };
    }
    let panels = n.div_ceil(PANEL);
    // Where there are fewer panels than threads, several of these make the same one.
    let rows = m
        .div_ceil(rayon::current_num_threads().div_ceil(panels))
        .next_multiple_of(SUMS * LANES / PANEL);
    in_tiles([m, n], [rows, PANEL], |[rows, columns]| {
        LINES.with_borrow_mut(|lines| {
            lines.resize(lines.len().max(deep), [0.0; PANEL]);
            let lines = &mut lines[..deep];
            panel(columns.start, lines);
            with_output([rows.len(), columns.len()], |out| {
                let (x, sizes) = (&x[rows.start * k..rows.end * k], [k, columns.len()]);
                let panels = Panels { lines, deep };
                with_wide(Rows { x, panels, sizes, out });
            })
        })
    })
}

/// The numbers that `fill` writes: all of them.
#[allow(unsafe_code)]
fn with_output([m, n]: [usize; 2], fill: impl FnOnce(&mut [MaybeUninit<f32>])) -> Vec<f32> {
    let mut out = Vec::with_capacity(m * n);
    fill(&mut out.spare_capacity_mut()[..m * n]);
    // SAFETY: every caller's panels are all columns, and `many_rows` and `Rows` write each panel's columns of every row.
    unsafe { out.set_len(m * n) };
    out
}

fn few_rows<L: Lane, const P: usize>(x: &[f32], w: Panels<'_, L, P>, [m, k, n]: [usize; 3]) -> Vec<f32> {
    let each = n.div_ceil(P).div_ceil(4 * rayon::current_num_threads());
    in_tiles([m, n], [m, each * P], |[_, columns]| {
        let lines = &w.lines[columns.start / P * w.deep..columns.end.div_ceil(P) * w.deep];
        let (panels, sizes) = (Panels { lines, ..w }, [k, columns.len()]);
        with_output([m, columns.len()], |out| {
            with_wide(Rows { x, panels, sizes, out });
        })
    })
}

/// Some rows to a task, each of which reads all of the panels.
fn many_rows<L: Lane, const P: usize>(
    x: &[f32],
    panels: Panels<'_, L, P>,
    [m, k, n]: [usize; 3],
    out: &mut [MaybeUninit<f32>],
) {
    let rows = m
        .div_ceil(2 * rayon::current_num_threads())
        .next_multiple_of(SUMS * LANES / P);
    let sizes = [k, n];
    out.par_chunks_mut(rows * n)
        .zip(x.par_chunks(rows * k))
        .for_each(|(out, x)| with_wide(Rows { x, panels, sizes, out }));
}

/// The panel of columns `first..` of `w`, out of the panels of its rows.
struct Turn<'a, L, const P: usize> {
    w: Panels<'a, L, P>,
    d_in: usize,
    first: usize,
    to: &'a mut [[f32; PANEL]],
}

impl<L: Lane, const P: usize> Work for Turn<'_, L, P> {
    #[inline(always)]
    fn run<W: Wide>(self, wide: W) {
        let Self { w, d_in, first, to } = self;
        let columns = PANEL.min(d_in - first);
        let mut square = [[0.0; LANES]; LANES];
        for (panel, to) in w.lines.chunks_exact(w.deep).zip(to.chunks_exact_mut(P)) {
            for block in 0..columns.div_ceil(LANES) {
                let columns = first + block * LANES..d_in.min(first + (block + 1) * LANES);
                for (part, to) in to.chunks_exact_mut(LANES).enumerate() {
                    for (to, column) in square.iter_mut().zip(columns.clone()) {
                        let lanes = &panel[column / L::INPUTS].as_chunks().0[part];
                        *to = wide.store(L::weights(wide, lanes, column % L::INPUTS));
                    }
                    wide.turn(&mut square);
                    for (to, row) in to.iter_mut().zip(&square) {
                        to.as_chunks_mut().0[block] = *row;
                    }
                }
            }
        }
    }
}

/// Some rows of `x` times some panels: all columns of `out [row, n]`.
struct Rows<'a, L, const P: usize> {
    x: &'a [f32],
    panels: Panels<'a, L, P>,
    /// `[k, n]`
    sizes: [usize; 2],
    out: &'a mut [MaybeUninit<f32>],
}

impl<L: Lane, const P: usize> Work for Rows<'_, L, P> {
    #[inline(always)]
    fn run<W: Wide>(self, wide: W) {
        let rows = self.out.len() / self.sizes[1];
        if W::REGISTERS >= 32 || rows * P / LANES <= FEWER_SUMS {
            self.by_panels(wide, rows);
        } else {
            self.by_strips(wide, rows);
        }
    }
}

impl<L: Lane, const P: usize> Rows<'_, L, P> {
    /// A whole panel at once.
    #[inline(always)]
    fn by_panels<W: Wide>(self, wide: W, rows: usize) {
        let (x, [k, n], out, deep) = (self.x, self.sizes, self.out, self.panels.deep);
        let most = if W::REGISTERS >= 32 {
            SUMS * LANES / P
        } else {
            FEWER_SUMS
        };
        let together = of_a_tile(rows, most);
        let words: &[u32] = bytemuck::cast_slice(self.panels.lines.as_flattened());
        for (i, panel) in self.panels.lines.chunks_exact(deep).enumerate() {
            let soon = &words[words.len().min((i * deep + AHEAD) * P)..];
            for (x, out) in x.chunks(together * k).zip(out.chunks_mut(together * n)) {
                let range = i * P..n.min((i + 1) * P);
                rows_of::<W, L, P, WIDE>(wide, x, k, panel, soon, Columns { out, n, range });
            }
        }
    }

    /// One register of a panel at a time, for all rows.
    #[inline(always)]
    fn by_strips<W: Wide>(self, wide: W, rows: usize) {
        let (x, [k, n], out, deep) = (self.x, self.sizes, self.out, self.panels.deep);
        let together = of_a_tile(rows, FEWER_SUMS);
        let words: &[u32] = bytemuck::cast_slice(self.panels.lines.as_flattened());
        // Not in a closure: that would be compiled without the instruction set.
        let mut strips = STRIPS.take();
        for (i, panel) in self.panels.lines.chunks_exact(deep).enumerate() {
            unpack(wide, panel, k, &mut strips);
            let next = &words[(i + 1) * deep * P..];
            for (strip, first) in (i * P..n.min((i + 1) * P)).step_by(LANES).enumerate() {
                let lines = &strips[strip * k..][..k];
                // The next panel comes from memory while the first tile is computed.
                let mut soon = next.get(strip * k * LANES..).filter(|words| !words.is_empty());
                for (x, out) in x.chunks(together * k).zip(out.chunks_mut(together * n)) {
                    let soon = soon.take().unwrap_or(bytemuck::cast_slice(lines.as_flattened()));
                    let range = first..n.min(first + LANES);
                    rows_of::<W, f32, LANES, 1>(wide, x, k, lines, soon, Columns { out, n, range });
                }
            }
        }
        STRIPS.set(strips);
    }
}

/// Rows of a tile, of which all are of much the same size: a small one keeps no more than one sum waiting.
fn of_a_tile(rows: usize, most: usize) -> usize {
    rows.div_ceil(rows.div_ceil(most))
}

thread_local! {
    /// A panel's registers apart, which stay in a near cache.
    static STRIPS: RefCell<Vec<[f32; LANES]>> = const { RefCell::new(Vec::new()) };
}

/// The `k` inputs of a panel for each of its registers, one register after the other: read by many rows, a strip stays in the nearest
/// cache, which of a whole panel's lines would hold a third.
#[inline(always)]
fn unpack<W: Wide, L: Lane, const P: usize>(wide: W, panel: &[[L; P]], k: usize, strips: &mut Vec<[f32; LANES]>) {
    strips.resize(P / LANES * k, [0.0; LANES]);
    for at in 0..k {
        let lanes = panel[at / L::INPUTS].as_chunks::<LANES>().0;
        for (strip, lanes) in lanes.iter().enumerate() {
            strips[strip * k + at] = wide.store(L::weights(wide, lanes, at % L::INPUTS));
        }
    }
}

/// A tile of as many rows as there are in `x [row, k]`.
#[inline(always)]
fn rows_of<W: Wide, L: Lane, const P: usize, const C: usize>(
    wide: W,
    x: &[f32],
    k: usize,
    panel: &[[L; P]],
    soon: &[u32],
    to: Columns<'_>,
) {
    match x.len() / k {
        1 => tile::<W, L, P, 1, C>(wide, x, panel, soon, to),
        2 => tile::<W, L, P, 2, C>(wide, x, panel, soon, to),
        3 => tile::<W, L, P, 3, C>(wide, x, panel, soon, to),
        4 => tile::<W, L, P, 4, C>(wide, x, panel, soon, to),
        5 => tile::<W, L, P, 5, C>(wide, x, panel, soon, to),
        6 => tile::<W, L, P, 6, C>(wide, x, panel, soon, to),
        7 => tile::<W, L, P, 7, C>(wide, x, panel, soon, to),
        8 => tile::<W, L, P, 8, C>(wide, x, panel, soon, to),
        9 => tile::<W, L, P, 9, C>(wide, x, panel, soon, to),
        10 => tile::<W, L, P, 10, C>(wide, x, panel, soon, to),
        11 => tile::<W, L, P, 11, C>(wide, x, panel, soon, to),
        _ => tile::<W, L, P, 12, C>(wide, x, panel, soon, to),
    }
}

/// Some columns of `out [row, n]`.
struct Columns<'a> {
    out: &'a mut [MaybeUninit<f32>],
    n: usize,
    range: std::ops::Range<usize>,
}

/// `R` rows times `C` registers across a panel, or as many as it has: summed in registers. Memory is asked for as many lines of `soon`.
#[inline(always)]
fn tile<W: Wide, L: Lane, const P: usize, const R: usize, const C: usize>(
    wide: W,
    x: &[f32],
    panel: &[[L; P]],
    soon: &[u32],
    to: Columns<'_>,
) {
    let (k, across) = (x.len() / R, C.min(P / LANES));
    let mut rows = [&x[..0]; R];
    for r in 0..R {
        rows[r] = &x[r * k..][..k];
    }
    let mut sums = [[wide.splat(0.0); C]; R];
    let (whole, left) = (k / L::INPUTS, k % L::INPUTS);
    for (at, line) in panel[..whole].iter().enumerate() {
        for c in 0..across {
            // One row or two are at those lines soon.
            if R <= 2 {
                wide.prefetch(soon, at * P + c * LANES);
            } else {
                wide.prefetch_later(soon, at * P + c * LANES);
            }
        }
        for i in 0..L::INPUTS {
            add::<W, L, P, R, C>(wide, rows, at * L::INPUTS + i, line, i, &mut sums);
        }
    }
    for i in 0..left {
        add::<W, L, P, R, C>(wide, rows, whole * L::INPUTS + i, &panel[whole], i, &mut sums);
    }
    for r in 0..R {
        let to = &mut to.out[r * to.n..][to.range.clone()];
        for (to, sums) in to.chunks_mut(LANES).zip(sums[r]) {
            let sums = wide.store(sums);
            match to.first_chunk_mut::<LANES>() {
                // Of a length that the compiler knows: a whole register.
                Some(to) => to.write_copy_of_slice(&sums),
                None => to.write_copy_of_slice(&sums[..to.len()]),
            };
        }
    }
}

/// Adds input `at` of every row, number `i` of those in a line.
#[inline(always)]
fn add<W: Wide, L: Lane, const P: usize, const R: usize, const C: usize>(
    wide: W,
    rows: [&[f32]; R],
    at: usize,
    line: &[L; P],
    i: usize,
    sums: &mut [[W::F; C]; R],
) {
    let across = C.min(P / LANES);
    let lanes = &line.as_chunks::<LANES>().0[..across];
    let mut weights = [wide.splat(0.0); C];
    for c in 0..across {
        weights[c] = L::weights(wide, &lanes[c], i);
    }
    for r in 0..R {
        let x = wide.splat(rows[r][at]);
        for c in 0..across {
            sums[r][c] = wide.mul_add(x, weights[c], sums[r][c]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packed::{Numbers, Packed, pairs};

    /// All rows by an instruction set that need not be this machine's widest.
    fn rows_by<W: Wide, L: Lane, const P: usize>(
        wide: W,
        x: &[f32],
        panels: Panels<'_, L, P>,
        [m, k, n]: [usize; 3],
    ) -> Vec<f32> {
        let sizes = [k, n];
        with_output([m, n], |out| Rows { x, panels, sizes, out }.run(wide))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Sums of small whole numbers are exact: equality, not a tolerance.
        #[test]
        fn products_of_small_whole_numbers_are_exact(
            m in 1usize..80, d_out in 1usize..130, d_in in 1usize..130, seed in any::<u32>(), transposed in any::<bool>(),
        ) {
            let number = |i: usize| {
                let mixed = (i as u32).wrapping_mul(2_654_435_761).wrapping_add(seed);
                ((mixed >> 16) % 17) as f32 - 8.0
            };
            let (k, n) = if transposed { (d_out, d_in) } else { (d_in, d_out) };
            let x: Vec<f32> = (0..m * k).map(number).collect();
            let w: Vec<f32> = (0..d_out * d_in).map(|i| number(i + 7)).collect();
            for packed in [Packed::f32(&w, [d_out, d_in]), Packed::bf16(&w, [d_out, d_in])] {
                prop_assert_eq!(packed.to_vec(), w.clone());
                let sizes = [m, d_out, d_in];
                let found = match &packed.numbers {
                    Numbers::F32(lines) => product(&x, Panels { lines, deep: d_in }, sizes, transposed),
                    Numbers::Bf16(lines) => product(&x, Panels { lines, deep: pairs(d_in) }, sizes, transposed),
                    _ => panic!("panels"),
                };
                #[cfg(target_arch = "x86_64")]
                if let (Some(wide), false) = (pulp::x86::V3::try_new(), transposed) {
                    let by_strips = match &packed.numbers {
                        Numbers::F32(lines) => rows_by(wide, &x, Panels { lines, deep: d_in }, [m, k, n]),
                        Numbers::Bf16(lines) => rows_by(wide, &x, Panels { lines, deep: pairs(d_in) }, [m, k, n]),
                        _ => panic!("panels"),
                    };
                    prop_assert_eq!(&by_strips, &found);
                }
                for row in 0..m {
                    for column in 0..n {
                        let weight = |i: usize| w[if transposed { i * d_in + column } else { column * d_in + i }];
                        let wanted: f32 = (0..k).map(|i| x[row * k + i] * weight(i)).sum();
                        prop_assert_eq!(found[row * n + column], wanted, "{} {}", row, column);
                    }
                }
            }
        }
    }
}
