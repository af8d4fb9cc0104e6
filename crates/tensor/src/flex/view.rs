//! Flex tensors as slices and back.

use burn::backend::flex::{FlexTensor, Layout};
use burn::tensor::{Bytes, DType, Element, Shape};

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
