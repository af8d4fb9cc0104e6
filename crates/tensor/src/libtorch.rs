//! Special bodies for libtorch: its own operators.

use burn::backend::LibTorch;
use burn::backend::libtorch::TchTensor;
use burn::backend::tensor::{FloatTensor, IntTensor};

use crate::TensorOps;

impl TensorOps for LibTorch {
    fn top_k(x: FloatTensor<Self>, k: usize) -> (FloatTensor<Self>, IntTensor<Self>) {
        let (values, indices) = x.tensor.topk(k as i64, 1, true, true);
        (TchTensor::new(values), TchTensor::new(indices))
    }

    fn sparse_decode(
        values: FloatTensor<Self>,
        indices: IntTensor<Self>,
        w_dec: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        // Mode 0 is "sum"; every bag holds k latents.
        let k = indices.tensor.size()[1];
        let entries = indices.tensor.size()[0] * k;
        let offsets = tch::Tensor::arange_start_step(0, entries, k, (tch::Kind::Int64, w_dec.tensor.device()));
        let (y, _, _, _) = tch::Tensor::embedding_bag(
            &w_dec.tensor,
            &indices.tensor.flatten(0, 1),
            &offsets,
            false,
            0,
            false,
            Some(values.tensor.flatten(0, 1)),
            false,
        );
        TchTensor::new(y)
    }
}
