//! The k largest of each row in one pass, without sorting the row.

use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::simd::{max, with_simd};
use super::view::{contiguous, dims, float, int, slice};

/// Elements that are compared with the threshold at once: most blocks are skipped whole.
const BLOCK: usize = 64;

/// Largest first; of equal values the lower column first; NaN last. `bias` is added to each row before.
pub(super) fn top_k(x: &FlexTensor, bias: Option<&FlexTensor>, k: usize) -> (FlexTensor, FlexTensor) {
    let [rows, n] = dims(x);
    assert!(k <= n, "top_k: k = {k}, but rows have {n} elements");
    let x = contiguous(x);
    let bias = bias.map(contiguous);
    let bias = bias.as_ref().map(slice::<f32>);
    let (mut values, mut columns) = (vec![0f32; rows * k], vec![0i32; rows * k]);
    if k > 0 {
        values
            .par_chunks_exact_mut(k)
            .zip(columns.par_chunks_exact_mut(k))
            .zip(slice::<f32>(&x).par_chunks_exact(n))
            .for_each(|((values, columns), row)| {
                with_simd(
                    #[inline(always)]
                    || row_top_k(row, bias, values, columns),
                );
            });
    }
    (float(values, &[rows, k]), int(columns, &[rows, k]))
}

#[inline(always)]
fn row_top_k(row: &[f32], bias: Option<&[f32]>, values: &mut [f32], columns: &mut [i32]) {
    let k = values.len();
    values.fill(f32::NEG_INFINITY);
    for (i, column) in columns.iter_mut().enumerate() {
        *column = i as i32;
    }
    let mut filled = 0;
    let mut block = [0f32; BLOCK];
    for (b, chunk) in row.chunks(BLOCK).enumerate() {
        let block = &mut block[..chunk.len()];
        block.copy_from_slice(chunk);
        if let Some(bias) = bias {
            for (x, b) in block.iter_mut().zip(&bias[b * BLOCK..]) {
                *x += b;
            }
        }
        if filled == k && max(block) <= values[k - 1] {
            continue;
        }
        for (i, &x) in block.iter().enumerate() {
            let x = if x.is_nan() { f32::NEG_INFINITY } else { x };
            if filled == k && x <= values[k - 1] {
                continue;
            }
            let at = values[..filled].partition_point(|&v| v >= x);
            let end = if filled == k { k - 1 } else { filled };
            values.copy_within(at..end, at + 1);
            columns.copy_within(at..end, at + 1);
            values[at] = x;
            columns[at] = (b * BLOCK + i) as i32;
            filled = (filled + 1).min(k);
        }
    }
}
