//! A linear map's weight that never changes.

use std::sync::Arc;

use burn::backend::Dispatch;
use burn::tensor::{Device, Tensor, TensorData};

#[cfg(feature = "flex")]
use crate::device::is_flex;
use crate::{Packed, TensorOps, product, transposed};

/// A frozen linear map `[d_in, d_out]`: a tensor in f32, or packed in another order or in fewer bits.
///
/// Gradients go through it to its input, never to it.
#[derive(Clone, Debug)]
pub struct Frozen(Kind);

#[derive(Clone, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "some hundreds a model; a tensor's handle is large on wgpu alone"
)]
enum Kind {
    Dense(Tensor<2>),
    Packed(Arc<Packed>, Device),
}

impl From<Tensor<2>> for Frozen {
    /// A weight `[d_in, d_out]` in f32.
    fn from(weight: Tensor<2>) -> Self {
        Self(Kind::Dense(weight))
    }
}

impl Frozen {
    /// A linear map's weight `[d_in, d_out]` in f32, in the order in which its device multiplies fastest.
    ///
    /// [`Frozen::from`] leaves it as it lies: a table whose rows are looked up.
    pub fn linear(weight: Tensor<2>) -> Self {
        #[cfg(feature = "flex")]
        if is_flex(&weight.device()) {
            let ([d_in, d_out], device) = (weight.dims(), weight.device());
            let data = weight.transpose().into_data();
            let rows = data.as_slice().expect("a weight in f32");
            return Self::packed(Packed::f32(rows, [d_out, d_in]), &device);
        }
        weight.into()
    }

    /// [`Frozen::linear`] of a weight as files have it: `[d_out, d_in]`, row by row.
    pub fn from_rows(rows: &[f32], [d_out, d_in]: [usize; 2], device: &Device) -> Self {
        #[cfg(feature = "flex")]
        if is_flex(device) {
            return Self::packed(Packed::f32(rows, [d_out, d_in]), device);
        }
        let weight = TensorData::new(transposed(rows, [d_out, d_in]), [d_in, d_out]);
        Tensor::<2>::from_data(weight, device).into()
    }

    /// A packed weight.
    pub fn packed(packed: Packed, device: &Device) -> Self {
        Self(Kind::Packed(Arc::new(packed), device.clone()))
    }

    /// `x` through the map.
    ///
    /// # Shapes
    /// - `x`: `[token, d_in]`
    /// - output: `[token, d_out]`
    pub fn apply(&self, x: Tensor<2>) -> Tensor<2> {
        match &self.0 {
            Kind::Dense(weight) => product(x, weight.clone()),
            Kind::Packed(weight, _) => packed_product(x, weight),
        }
    }

    /// Rows of the transposed weight `[d_out, d_in]`: what an embedding looks up.
    ///
    /// # Shapes
    /// - output: `[rows.len(), d_in]`
    pub fn rows(&self, rows: &[u32]) -> Tensor<2> {
        match &self.0 {
            Kind::Dense(weight) => {
                let data: Vec<i32> = rows.iter().map(|&row| row as i32).collect();
                let index = Tensor::from_data(TensorData::new(data, [rows.len()]), &weight.device());
                weight.clone().transpose().select(0, index)
            }
            Kind::Packed(weight, device) => {
                let d = weight.d_in;
                let mut out = vec![0.0; rows.len() * d];
                for (i, &row) in rows.iter().enumerate() {
                    weight.row(row as usize, &mut out[i * d..][..d]);
                }
                Tensor::from_data(TensorData::new(out, [rows.len(), d]), device)
            }
        }
    }

    /// The weight `[d_in, d_out]` in f32; a packed one is unpacked at each call.
    pub fn dense(&self) -> Tensor<2> {
        match &self.0 {
            Kind::Dense(weight) => weight.clone(),
            Kind::Packed(weight, device) => {
                Tensor::from_data(TensorData::new(weight.to_vec(), weight.shape()), device).transpose()
            }
        }
    }

    /// The map with the weight `[d_in, d_out]` that `edit` makes of this one's, in f32; with the same numbers, it stays as it is kept.
    pub fn edited(&self, edit: impl FnOnce(Tensor<2>) -> Tensor<2>) -> Self {
        let before = self.dense();
        let after = edit(before.clone());
        let numbers = |weight: &Tensor<2>| weight.clone().transpose().into_data();
        match &self.0 {
            Kind::Packed(..) if numbers(&before) == numbers(&after) => self.clone(),
            _ => Self::linear(after),
        }
    }

    /// Bytes of memory that it takes.
    pub fn size(&self) -> usize {
        match &self.0 {
            Kind::Dense(weight) => 4 * weight.dims().iter().product::<usize>(),
            Kind::Packed(weight, _) => weight.size(),
        }
    }
}

/// `x · wᵀ` for a packed weight.
///
/// # Shapes
/// - `x`: `[token, d_in]`, `w`: `[d_out, d_in]`
/// - output: `[token, d_out]`
pub fn packed_product(x: Tensor<2>, w: &Arc<Packed>) -> Tensor<2> {
    assert_eq!(
        x.dims()[1],
        w.d_in,
        "packed_product: x is {:?}, but w is {w:?}",
        x.dims()
    );
    Tensor::from_dispatch(Dispatch::packed_product(x.into_dispatch(), w.clone(), false))
}
