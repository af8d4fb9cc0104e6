//! The matrix product, straight from the gemm crate.
//!
//! burn-flex's own matmul calls the same kernel, but first zeroes its output and then copies it to another address to
//! align it: for products as narrow as a transformer's that is most of the time (docs/log.md).

use burn::backend::flex::FlexTensor;
use gemm::Parallelism;

use super::few_rows;
use super::view::{dims, float};

/// Multiplications below which threads cost more than they bring.
const PARALLEL: usize = 1 << 18;

/// `[m, k] · [k, n]` with any strides.
pub(super) fn product(a: &FlexTensor, b: &FlexTensor) -> FlexTensor {
    super::assert_f32(a);
    super::assert_f32(b);
    let ([m, k], [k_b, n]) = (dims(a), dims(b));
    assert_eq!(k, k_b, "product: [{m}, {k}] · [{k_b}, {n}]");
    if m * n * k == 0 {
        return float(vec![0.0; m * n], &[m, n]);
    }
    let (a, b) = (forwards(a), forwards(b));
    let (a_data, [a_row, a_column]) = strided(&a);
    let (b_data, [b_row, b_column]) = strided(&b);
    if m <= few_rows::MOST_ROWS && k > 1 && a_row == k as isize && a_column == 1 {
        if (b_row, b_column) == (n as isize, 1) {
            return float(few_rows::product(a_data, b_data, [m, k, n]), &[m, n]);
        }
        if (b_row, b_column) == (1, k as isize) {
            return float(few_rows::product_transposed(a_data, b_data, [m, k, n]), &[m, n]);
        }
    }
    float(
        product_of((a_data, [a_row, a_column]), (b_data, [b_row, b_column]), [m, k, n]),
        &[m, n],
    )
}

/// `[m, k] · [k, n]` of elements at `row · stride + column · stride` of two slices, by the gemm crate.
#[allow(unsafe_code)]
fn product_of(
    (a, a_strides): (&[f32], [isize; 2]),
    (b, b_strides): (&[f32], [isize; 2]),
    [m, k, n]: [usize; 3],
) -> Vec<f32> {
    check(a.len(), [m, k], a_strides);
    check(b.len(), [k, n], b_strides);
    let parallelism = if m * n * k < PARALLEL {
        Parallelism::None
    } else {
        Parallelism::Rayon(0)
    };
    let mut out = Vec::<f32>::with_capacity(m * n);
    // SAFETY: `check` has shown that every index `row · stride + column · stride` of both operands lies inside its
    // slice. The output has room for m · n elements, is written row-major, is not read (`read_dst` is false), and every
    // element of it is written, so that it may be given its length afterwards.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.as_ptr(),
            a_strides[1],
            a_strides[0],
            b.as_ptr(),
            b_strides[1],
            b_strides[0],
            0.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
        out.set_len(m * n);
    }
    out
}

/// The tensor, or a copy where an axis runs backwards: [`strided`] looks only behind the first element.
fn forwards(tensor: &FlexTensor) -> FlexTensor {
    if tensor.layout().has_positive_strides() {
        tensor.clone()
    } else {
        tensor.to_contiguous()
    }
}

/// The elements from a tensor's first one on, and its strides.
fn strided(tensor: &FlexTensor) -> (&[f32], [isize; 2]) {
    let layout = tensor.layout();
    let strides = layout.strides();
    (
        &tensor.storage::<f32>()[layout.start_offset()..],
        [strides[0], strides[1]],
    )
}

fn check(len: usize, [rows, columns]: [usize; 2], [row, column]: [isize; 2]) {
    assert!(row >= 0 && column >= 0, "product: negative strides");
    let last = (rows - 1) * row as usize + (columns - 1) * column as usize;
    assert!(
        last < len,
        "product: the last element is at {last}, the buffer has {len}"
    );
}
