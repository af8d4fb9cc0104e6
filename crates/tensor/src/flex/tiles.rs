//! Outputs that are computed in tiles, by a task each.

use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

/// `[m, n]` in tiles of so many rows and columns, fewer at the ends: `tile` makes the numbers of those rows and columns, row by row.
///
/// Each task puts its own numbers where they belong: to one thread that did so afterwards, those of the others would have to come from
/// their cores.
#[allow(unsafe_code)]
pub(super) fn in_tiles(
    [m, n]: [usize; 2],
    [rows, columns]: [usize; 2],
    tile: impl Fn([Range<usize>; 2]) -> Vec<f32> + Sync,
) -> Vec<f32> {
    let mut out = Vec::with_capacity(m * n);
    let across = n.div_ceil(columns);
    let mut tiles: Vec<Vec<&mut [MaybeUninit<f32>]>> = Vec::new();
    tiles.resize_with(m.div_ceil(rows) * across, Vec::new);
    for (row, out) in out.spare_capacity_mut()[..m * n].chunks_exact_mut(n).enumerate() {
        for (column, out) in out.chunks_mut(columns).enumerate() {
            tiles[row / rows * across + column].push(out);
        }
    }
    tiles.into_par_iter().enumerate().for_each(|(i, out)| {
        let (row, column) = (i / across * rows, i % across * columns);
        let (rows, columns) = (row..row + out.len(), column..n.min(column + columns));
        let numbers = tile([rows, columns.clone()]);
        assert_eq!(numbers.len(), out.len() * columns.len(), "a tile of {columns:?}");
        for (to, from) in out.into_iter().zip(numbers.chunks_exact(columns.len())) {
            to.write_copy_of_slice(from);
        }
    });
    // SAFETY: the tiles are all columns of all rows, and each one's were written.
    unsafe { out.set_len(m * n) };
    out
}
