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
    let places = &mut out.spare_capacity_mut()[..m * n];
    if m == 1 {
        places.par_chunks_mut(columns).enumerate().for_each(|(i, to)| {
            let first = i * columns;
            to.write_copy_of_slice(&tile([0..1, first..first + to.len()]));
        });
    } else {
        let across = n.div_ceil(columns);
        let mut tiles: Vec<Vec<&mut [MaybeUninit<f32>]>> = Vec::new();
        tiles.resize_with(m.div_ceil(rows) * across, Vec::new);
        for (row, places) in places.chunks_exact_mut(n).enumerate() {
            for (column, places) in places.chunks_mut(columns).enumerate() {
                tiles[row / rows * across + column].push(places);
            }
        }
        tiles.into_par_iter().enumerate().for_each(|(i, places)| {
            let (row, first) = (i / across * rows, i % across * columns);
            let columns = first..n.min(first + columns);
            let numbers = tile([row..row + places.len(), columns.clone()]);
            assert_eq!(numbers.len(), places.len() * columns.len(), "a tile of {columns:?}");
            for (to, from) in places.into_iter().zip(numbers.chunks_exact(columns.len())) {
                to.write_copy_of_slice(from);
            }
        });
    }
    // SAFETY: the tiles are all columns of all rows, and each one's were written.
    unsafe { out.set_len(m * n) };
    out
}
