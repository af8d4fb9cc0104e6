//! The matrix product, straight from the gemm crate.
//!
//! burn-flex's own matmul calls the same kernel, but first zeroes its output and then copies it to another address to
//! align it: for products as narrow as a transformer's that is most of the time (docs/log.md).

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::Shape;
use gemm::Parallelism;

use super::few_rows;
use super::view::{contiguous_owned, dims, float, slice_mut};

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
    let (a, b) = (strided(&a), strided(&b));
    let out = of_few_rows(a, b, [m, k, n]).unwrap_or_else(|| product_of(a, b, [m, k, n]));
    float(out, &[m, n])
}

/// `y + a · b`, in `y`'s own memory where nobody else holds it.
pub(super) fn add_product(y: FlexTensor, a: &FlexTensor, b: &FlexTensor) -> FlexTensor {
    super::assert_f32(&y);
    let ([m, k], [k_b, n]) = (dims(a), dims(b));
    assert_eq!(k, k_b, "add_product: [{m}, {k}] · [{k_b}, {n}]");
    let mut y = if dims(&y) == [m, n] {
        contiguous_owned(y)
    } else {
        Flex::float_expand(y, Shape::from([m, n])).to_contiguous()
    };
    if m * n * k == 0 {
        return y;
    }
    let (a, b) = (forwards(a), forwards(b));
    let (a, b) = (strided(&a), strided(&b));
    let sum = slice_mut(&mut y);
    match of_few_rows(a, b, [m, k, n]) {
        Some(product) => sum.iter_mut().zip(product).for_each(|(sum, more)| *sum += more),
        None => add_product_of(sum, a, b, [m, k, n]),
    }
    y
}

/// A slice, and how far apart rows and columns lie in it.
type Strided<'a> = (&'a [f32], [isize; 2]);

/// The product of so few rows that the gemm crate's packing would cost more than it brings, where both operands lie in one piece.
fn of_few_rows((a, a_strides): Strided<'_>, (b, b_strides): Strided<'_>, [m, k, n]: [usize; 3]) -> Option<Vec<f32>> {
    if m > few_rows::MOST_ROWS || k < 2 || a_strides != [k as isize, 1] {
        return None;
    }
    match b_strides {
        [row, 1] if row == n as isize => Some(few_rows::product(a, b, [m, k, n])),
        [1, column] if column == k as isize => Some(few_rows::product_transposed(a, b, [m, k, n])),
        _ => None,
    }
}

/// `[m, k] · [k, n]`, by the gemm crate.
#[allow(unsafe_code)]
fn product_of(a: Strided<'_>, b: Strided<'_>, [m, k, n]: [usize; 3]) -> Vec<f32> {
    let mut out = Vec::<f32>::with_capacity(m * n);
    // SAFETY: there is room for m · n elements, which are not read, and all of them are written, so that it may be given its
    // length afterwards.
    unsafe {
        gemm_to(out.as_mut_ptr(), false, a, b, [m, k, n]);
        out.set_len(m * n);
    }
    out
}

/// Adds `[m, k] · [k, n]` to `sum [m, n]`, by the gemm crate.
#[allow(unsafe_code)]
fn add_product_of(sum: &mut [f32], a: Strided<'_>, b: Strided<'_>, [m, k, n]: [usize; 3]) {
    assert_eq!(sum.len(), m * n, "add_product: the sum is not [{m}, {n}]");
    // SAFETY: the sum has m · n elements, and nobody else holds them.
    unsafe { gemm_to(sum.as_mut_ptr(), true, a, b, [m, k, n]) };
}

/// Writes `[m, k] · [k, n]` row by row to `out`, or adds it to what is there.
///
/// # Safety
/// `out` has room for m · n elements that nobody else holds; where they are added to, they are initialised.
#[allow(unsafe_code)]
unsafe fn gemm_to(
    out: *mut f32,
    add: bool,
    (a, a_strides): Strided<'_>,
    (b, b_strides): Strided<'_>,
    [m, k, n]: [usize; 3],
) {
    check(a.len(), [m, k], a_strides);
    check(b.len(), [k, n], b_strides);
    let parallelism = if m * n * k < PARALLEL {
        Parallelism::None
    } else {
        Parallelism::Rayon(0)
    };
    // SAFETY: `check` has shown that every index `row · stride + column · stride` of both operands lies inside its
    // slice; the caller, that the output has room for what is written row-major.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out,
            1,
            n as isize,
            add,
            a.as_ptr(),
            a_strides[1],
            a_strides[0],
            b.as_ptr(),
            b_strides[1],
            b_strides[0],
            if add { 1.0 } else { 0.0 },
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
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
fn strided(tensor: &FlexTensor) -> Strided<'_> {
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
