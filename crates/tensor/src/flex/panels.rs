//! Products with a frozen f32 weight, which lies in panels from the start: some output columns of every input, one input after
//! another. Few rows read it as one stream, many need no packing, and its transpose is turned a panel at a time.
//!
//! A number of the output is a sum over inputs in their order, whatever other rows there are.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::view::in_blocks;
use super::wide::{LANES, Wide, Work, with_wide};
use crate::packed::PANEL;

/// Registers across a panel.
const WIDE: usize = PANEL / LANES;

/// Most rows of a tile: 24 sums in registers.
const ROWS: usize = 8;

/// Most rows for which threads share the columns and not the rows.
const FEW_ROWS: usize = 32;

/// Inputs ahead that memory is asked for: by itself the processor follows too late.
const AHEAD: usize = 32;

/// Bytes of the turned weight that exist at a time, if each thread has a panel: they stay in a near cache.
const GROUP: usize = 1 << 19;

/// `x · wᵀ`, or `x · w` where `transposed`, for `w [d_out, d_in]` in panels.
pub(super) fn product(x: &[f32], w: &[f32], [m, d_out, d_in]: [usize; 3], transposed: bool) -> Vec<f32> {
    let (k, n) = if transposed { (d_out, d_in) } else { (d_in, d_out) };
    if !transposed {
        return match m {
            ..=FEW_ROWS => few_rows(x, w, [m, k, n]),
            _ => with_output([m, n], |out| many_rows(x, w, [m, k, n], 0, out)),
        };
    }
    let in_group = (GROUP / (4 * k * PANEL)).max(rayon::current_num_threads()) * PANEL;
    with_output([m, n], |out| {
        for first in (0..n).step_by(in_group) {
            let panels = in_group.min(n - first).div_ceil(PANEL);
            let [turned] = in_blocks(panels * k, k, |panel, [to]| {
                let first = first + panel * PANEL;
                with_wide(Turn { w, d_in, first, to });
            });
            many_rows(x, turned.as_flattened(), [m, k, n], first, out);
        }
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

fn few_rows(x: &[f32], w: &[f32], [m, k, n]: [usize; 3]) -> Vec<f32> {
    let each = n.div_ceil(PANEL).div_ceil(4 * rayon::current_num_threads()) * PANEL;
    let parts: Vec<Vec<f32>> = w
        .par_chunks(each * k)
        .enumerate()
        .map(|(i, panels)| {
            let n = (panels.len() / k).min(n - i * each);
            with_output([m, n], |out| {
                with_wide(Rows {
                    x,
                    panels,
                    sizes: [k, n],
                    first: 0,
                    out,
                })
            })
        })
        .collect();
    if m == 1 {
        return parts.concat();
    }
    let mut out = Vec::with_capacity(m * n);
    for row in 0..m {
        for part in &parts {
            let columns = part.len() / m;
            out.extend_from_slice(&part[row * columns..][..columns]);
        }
    }
    out
}

/// Columns `first..` of the output, as many as there are in the panels.
fn many_rows(x: &[f32], panels: &[f32], [m, k, n]: [usize; 3], first: usize, out: &mut [MaybeUninit<f32>]) {
    let rows = m.div_ceil(2 * rayon::current_num_threads()).next_multiple_of(ROWS);
    out.par_chunks_mut(rows * n)
        .zip(x.par_chunks(rows * k))
        .for_each(|(out, x)| {
            with_wide(Rows {
                x,
                panels,
                sizes: [k, n],
                first,
                out,
            })
        });
}

/// The panel of columns `first..` of `w`, out of the panels of its rows; zeros where there are none.
struct Turn<'a> {
    w: &'a [f32],
    d_in: usize,
    first: usize,
    to: &'a mut [[f32; PANEL]],
}

impl Work for Turn<'_> {
    #[inline(always)]
    fn run<W: Wide>(self, wide: W) {
        let Self { w, d_in, first, to } = self;
        for (panel, to) in w.chunks_exact(d_in * PANEL).zip(to.chunks_mut(PANEL)) {
            let panel = &panel.as_chunks::<PANEL>().0[first..d_in.min(first + PANEL)];
            for (block, columns) in panel.chunks(LANES).enumerate() {
                for (part, to) in to.chunks_mut(LANES).enumerate() {
                    let mut square = [[0.0; LANES]; LANES];
                    for (to, from) in square.iter_mut().zip(columns) {
                        *to = from.as_chunks().0[part];
                    }
                    for (to, row) in to.iter_mut().zip(wide.turned(square)) {
                        to.as_chunks_mut().0[block] = row;
                    }
                }
            }
        }
    }
}

/// Some rows of `x` times some panels: columns `first..` of `out [row, n]`.
struct Rows<'a> {
    x: &'a [f32],
    panels: &'a [f32],
    /// `[k, n]`
    sizes: [usize; 2],
    first: usize,
    out: &'a mut [MaybeUninit<f32>],
}

impl Work for Rows<'_> {
    #[inline(always)]
    fn run<W: Wide>(self, wide: W) {
        let Self {
            x,
            panels,
            sizes: [k, n],
            first,
            out,
        } = self;
        let together = if W::REGISTERS >= 32 { ROWS } else { 2 };
        for (i, panel) in panels.chunks_exact(k * PANEL).enumerate() {
            let (panel, first) = (panel.as_chunks().0, first + i * PANEL);
            for (x, out) in x.chunks(together * k).zip(out.chunks_mut(together * n)) {
                let out = Columns {
                    out,
                    n,
                    range: first..n.min(first + PANEL),
                };
                match x.len() / k {
                    1 => tile::<W, 1>(wide, x, panel, out),
                    2 => tile::<W, 2>(wide, x, panel, out),
                    3 => tile::<W, 3>(wide, x, panel, out),
                    4 => tile::<W, 4>(wide, x, panel, out),
                    5 => tile::<W, 5>(wide, x, panel, out),
                    6 => tile::<W, 6>(wide, x, panel, out),
                    7 => tile::<W, 7>(wide, x, panel, out),
                    _ => tile::<W, ROWS>(wide, x, panel, out),
                }
            }
        }
    }
}

/// Some columns of `out [row, n]`.
struct Columns<'a> {
    out: &'a mut [MaybeUninit<f32>],
    n: usize,
    range: std::ops::Range<usize>,
}

/// `R` rows times a panel, summed in registers.
#[inline(always)]
fn tile<W: Wide, const R: usize>(wide: W, x: &[f32], panel: &[[f32; PANEL]], to: Columns<'_>) {
    let k = panel.len();
    let mut rows = [&x[..0]; R];
    for r in 0..R {
        rows[r] = &x[r * k..][..k];
    }
    let mut sums = [[wide.splat(0.0); WIDE]; R];
    for (i, weights) in panel.iter().enumerate() {
        let lanes = weights.as_chunks::<LANES>().0;
        let mut weights = [wide.splat(0.0); WIDE];
        for c in 0..WIDE {
            wide.prefetch(panel.as_flattened(), (i + AHEAD) * PANEL + c * LANES);
            weights[c] = wide.load(&lanes[c]);
        }
        for r in 0..R {
            let x = wide.splat(rows[r][i]);
            for c in 0..WIDE {
                sums[r][c] = wide.mul_add(x, weights[c], sums[r][c]);
            }
        }
    }
    for r in 0..R {
        let mut row = [[0.0; LANES]; WIDE];
        for c in 0..WIDE {
            row[c] = wide.store(sums[r][c]);
        }
        let columns = to.range.len();
        to.out[r * to.n + to.range.start..][..columns].write_copy_of_slice(&row.as_flattened()[..columns]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packed::{Numbers, Packed};

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
            let packed = Packed::f32(&w, [d_out, d_in]);
            prop_assert_eq!(packed.to_vec(), w.clone());
            let Numbers::F32(panels) = &packed.numbers else { panic!("panels") };
            let found = product(&x, panels, [m, d_out, d_in], transposed);
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
