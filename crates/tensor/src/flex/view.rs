//! Flex tensors as slices and back.

use std::mem::MaybeUninit;

use burn::backend::flex::{FlexTensor, Layout};
use burn::tensor::{Bytes, DType, Element, Shape};
use bytemuck::Zeroable;
use rayon::prelude::*;

/// A contiguous tensor's elements: the offset matters, a view may start inside a larger buffer.
pub(super) fn slice<E: Element + bytemuck::Pod>(tensor: &FlexTensor) -> &[E] {
    let (start, end) = tensor.layout().contiguous_offsets().expect("made contiguous before");
    &tensor.storage::<E>()[start..end]
}

/// A contiguous f32 copy of the tensor, or the tensor itself when it is one already.
pub(super) fn contiguous(tensor: &FlexTensor) -> FlexTensor {
    super::assert_f32(tensor);
    tensor.to_contiguous()
}

/// [`contiguous`] of a tensor that is given away, so that its buffer stays its own.
pub(super) fn contiguous_owned(tensor: FlexTensor) -> FlexTensor {
    if tensor.is_contiguous() {
        tensor
    } else {
        contiguous(&tensor)
    }
}

/// Indices of whatever width the device's integer type has (i32 by default).
pub(super) fn indices(tensor: &FlexTensor) -> Vec<usize> {
    let tensor = tensor.to_contiguous();
    match tensor.dtype() {
        DType::I32 => slice::<i32>(&tensor).iter().map(|&i| i as usize).collect(),
        DType::I64 => slice::<i64>(&tensor).iter().map(|&i| i as usize).collect(),
        other => panic!("indices must be i32 or i64, found {other:?}"),
    }
}

/// A new tensor that owns `data`.
pub(super) fn float(data: Vec<f32>, shape: &[usize]) -> FlexTensor {
    let shape = Shape::from(shape.to_vec());
    FlexTensor::new(Bytes::from_elems(data), Layout::contiguous(shape), DType::F32)
}

/// A new i32 tensor that owns `data`.
pub(super) fn int(data: Vec<i32>, shape: &[usize]) -> FlexTensor {
    let shape = Shape::from(shape.to_vec());
    FlexTensor::new(Bytes::from_elems(data), Layout::contiguous(shape), DType::I32)
}

/// The dimensions of a tensor of known rank.
pub(super) fn dims<const D: usize>(tensor: &FlexTensor) -> [usize; D] {
    tensor.layout().shape().dims()
}

/// A contiguous f32 tensor's elements to write to: in place if nobody else holds it, a copy otherwise.
pub(super) fn slice_mut(tensor: &mut FlexTensor) -> &mut [f32] {
    let (start, end) = tensor.layout().contiguous_offsets().expect("made contiguous before");
    &mut tensor.storage_mut::<f32>()[start..end]
}

/// `N` new buffers of `len` numbers each: `fill` writes them, a block at a time and in parallel.
///
/// Zeroes for all, first and by one thread, would cost as much as many a `fill`.
#[allow(unsafe_code)]
pub(super) fn in_blocks<T: Zeroable + Copy + Send, const N: usize>(
    len: usize,
    block: usize,
    fill: impl Fn(usize, [&mut [T]; N]) + Sync,
) -> [Vec<T>; N] {
    let mut out = [(); N].map(|()| Vec::with_capacity(len));
    let mut rest = out.each_mut().map(|out| &mut out.spare_capacity_mut()[..len]);
    let mut blocks = Vec::with_capacity(len.div_ceil(block.max(1)));
    for from in (0..len).step_by(block.max(1)) {
        blocks.push(rest.each_mut().map(|rest| {
            let (block, after) = std::mem::take(rest).split_at_mut(block.min(len - from));
            *rest = after;
            block
        }));
    }
    blocks
        .into_par_iter()
        .enumerate()
        .for_each(|(i, blocks)| fill(i, blocks.map(zeroed)));
    for out in &mut out {
        // SAFETY: the blocks are all numbers of each buffer, and `zeroed` has written them.
        unsafe { out.set_len(len) };
    }
    out
}

/// The place, with zeroes in it.
#[allow(unsafe_code)]
pub(super) fn zeroed<T: Zeroable + Copy>(place: &mut [MaybeUninit<T>]) -> &mut [T] {
    place.fill(MaybeUninit::new(T::zeroed()));
    // SAFETY: every number was just written.
    unsafe { place.assume_init_mut() }
}
