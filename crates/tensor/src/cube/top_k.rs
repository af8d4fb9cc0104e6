//! The largest numbers of each row.

use burn::backend::ops::FloatTensorOps;
use burn::backend::{Cube, TensorMetadata, get_device_settings};
use burn::tensor::{DType, IntDType};
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::{LEVELS, UNITS, cubes, empty};
use crate::ops;

/// A pass over a row finds one number: for more of them the host sorts.
const MOST_PASSES: usize = 256;

/// Not CubeCL's own kernel: of equal numbers it takes any.
pub(super) fn top_k(x: CubeTensor, k: usize) -> (CubeTensor, CubeTensor) {
    let ([rows, n], settings) = (x.shape().dims(), get_device_settings::<Cube>(&x.device()));
    if x.dtype() != DType::F32 || settings.int_dtype != IntDType::I32 || rows * k == 0 || k > MOST_PASSES {
        return ops::sorted_top_k::<Cube>(x, k);
    }
    let nan = Cube::float_is_nan(x.clone(), settings.bool_dtype);
    let x = into_contiguous(Cube::float_mask_fill(x, nan, f32::NEG_INFINITY.into()));
    let values = empty(&x, [rows, k], DType::F32);
    let columns = empty(&x, [rows, k], DType::I32);
    let client = x.client.clone();
    largest_of_rows::launch(
        &client,
        cubes(rows),
        CubeDim::new_1d(UNITS as u32),
        x.into_tensor_arg(),
        values.clone().into_tensor_arg(),
        columns.clone().into_tensor_arg(),
        rows,
        n,
        k,
    );
    (values, columns)
}

/// The `k` largest of each row, one cube a row, one pass over it a number: the largest of those that come after the last one
/// found, where of equal numbers the lower column comes first.
#[cube(launch)]
fn largest_of_rows(
    x: &Tensor<f32>,
    values: &mut Tensor<f32>,
    columns: &mut Tensor<i32>,
    rows: usize,
    n: usize,
    k: usize,
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    // `n` stands for none.
    let mut best = Shared::<[f32]>::new_slice(UNITS);
    let mut places = Shared::<[u32]>::new_slice(UNITS);
    let mut last = 0.0f32;
    let mut last_at = n;
    for j in 0..k {
        let mut value = 0.0f32;
        let mut at = n;
        for step in 0..n.div_ceil(UNITS) {
            let column = step * UNITS + unit;
            if column < n {
                let found = x[row * n + column];
                let after = j == 0 || found < last || (found == last && column > last_at);
                if after && (at == n || found > value) {
                    value = found;
                    at = column;
                }
            }
        }
        best[unit] = value;
        places[unit] = at as u32;
        sync_cube();
        #[unroll]
        for level in 0..LEVELS {
            let half = comptime!(UNITS >> (level + 1));
            if unit < half {
                let (found, other) = (best[unit + half], places[unit + half] as usize);
                let (own, own_at) = (best[unit], places[unit] as usize);
                if other < n && (own_at == n || found > own || (found == own && other < own_at)) {
                    best[unit] = found;
                    places[unit] = other as u32;
                }
            }
            sync_cube();
        }
        last = best[0];
        last_at = places[0] as usize;
        if unit == 0 {
            values[row * k + j] = last;
            columns[row * k + j] = last_at as i32;
        }
        sync_cube();
    }
}
