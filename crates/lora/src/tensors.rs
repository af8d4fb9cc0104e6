//! Tensors as safetensors bytes and back.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use half::{bf16, f16};
use realign_run::tensor_header_problem;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::{Error, Result};

/// Serialises named matrices as F32; a row becomes a vector where `vector` says so of its name.
pub(crate) fn write(tensors: Vec<(String, Tensor<2>)>, vector: impl Fn(&str) -> bool) -> Vec<u8> {
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .into_iter()
        .map(|(name, tensor)| {
            let [rows, columns] = tensor.dims();
            let shape = if vector(&name) {
                vec![columns]
            } else {
                vec![rows, columns]
            };
            (name, shape, f32s(tensor).iter().flat_map(|x| x.to_le_bytes()).collect())
        })
        .collect();
    let views = bytes.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).expect("four bytes for each number");
        (name.as_str(), view)
    });
    // PEFT and transformers refuse a file that does not say so.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(views, Some(metadata)).expect("matching views of distinct names")
}

/// Reads all tensors, which must be finite matrices of F32, F16 or BF16, or vectors where `vector` says so of their name;
/// a vector becomes a row.
pub(crate) fn read(
    path: &Path,
    bytes: &[u8],
    vector: impl Fn(&str) -> bool,
    device: &Device,
) -> Result<BTreeMap<String, Tensor<2>>> {
    if let Some(problem) = tensor_header_problem(bytes) {
        return Err(Error::format(path, format!("header: {problem}")));
    }
    let file = SafeTensors::deserialize(bytes).map_err(|error| Error::format(path, error.to_string()))?;
    file.iter()
        .map(|(name, view)| {
            let [rows, columns] = match *view.shape() {
                [columns] if vector(name) => [1, columns],
                [rows, columns] if !vector(name) => [rows, columns],
                _ => {
                    let expected = if vector(name) { "a vector" } else { "a matrix" };
                    return Err(Error::tensor(path, name, expected, format!("shape {:?}", view.shape())));
                }
            };
            let data = view.data();
            let numbers: Vec<f32> = match view.dtype() {
                Dtype::F32 => data
                    .chunks_exact(4)
                    .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                    .collect(),
                Dtype::F16 => data
                    .chunks_exact(2)
                    .map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32())
                    .collect(),
                Dtype::BF16 => data
                    .chunks_exact(2)
                    .map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32())
                    .collect(),
                other => return Err(Error::tensor(path, name, "F32, F16 or BF16", format!("{other:?}"))),
            };
            if rows == 0 || columns == 0 {
                return Err(Error::tensor(
                    path,
                    name,
                    "no empty axis",
                    format!("[{rows}, {columns}]"),
                ));
            }
            if let Some(number) = numbers.iter().find(|number| !number.is_finite()) {
                return Err(Error::tensor(path, name, "finite numbers", number.to_string()));
            }
            Ok((
                name.to_owned(),
                Tensor::from_data(TensorData::new(numbers, [rows, columns]), device),
            ))
        })
        .collect()
}

/// The numbers of a tensor of ours, which is always F32.
pub(crate) fn f32s<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("realign's tensors are f32")
}
