//! Writing the GGUF container: typed metadata, and a table of tensors before their bytes.

#[cfg(test)]
use half::f16;

use crate::GgmlType;

/// Where tensors begin; a file says so where it is another number.
pub(crate) const ALIGNMENT: usize = 32;

/// A GGUF in the making (version 3).
#[derive(Clone, Default)]
pub(crate) struct GgufWriter {
    n_meta: u64,
    meta: Vec<u8>,
    tensors: Vec<(TensorHead, Vec<u8>)>,
}

/// A metadata value to write.
pub(crate) enum Meta<'a> {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(&'a str),
    Texts(Vec<Vec<u8>>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
}

/// A tensor's entry in the table.
#[derive(Clone)]
pub(crate) struct TensorHead {
    pub(crate) name: String,
    /// Row-major, outermost axis first.
    pub(crate) shape: Vec<usize>,
    pub(crate) kind: GgmlType,
}

impl TensorHead {
    /// Bytes in the file, before they are padded.
    fn size(&self) -> usize {
        self.shape.iter().product::<usize>() / self.kind.block_len() * self.kind.block_bytes()
    }
}

impl GgufWriter {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn meta(mut self, key: &str, value: Meta<'_>) -> Self {
        self.n_meta += 1;
        let out = &mut self.meta;
        put_text(out, key.as_bytes());
        match value {
            Meta::U32(v) => put(out, &[&4u32.to_le_bytes(), &v.to_le_bytes()]),
            Meta::F32(v) => put(out, &[&6u32.to_le_bytes(), &v.to_le_bytes()]),
            Meta::Bool(v) => put(out, &[&7u32.to_le_bytes(), &[u8::from(v)]]),
            Meta::Text(v) => {
                put(out, &[&8u32.to_le_bytes()]);
                put_text(out, v.as_bytes());
            }
            Meta::Texts(list) => {
                put(out, &[&9u32.to_le_bytes(), &8u32.to_le_bytes()]);
                put(out, &[&(list.len() as u64).to_le_bytes()]);
                list.iter().for_each(|text| put_text(out, text));
            }
            Meta::I32s(list) => {
                put(out, &[&9u32.to_le_bytes(), &5u32.to_le_bytes()]);
                put(out, &[&(list.len() as u64).to_le_bytes()]);
                list.iter().for_each(|v| put(out, &[&v.to_le_bytes()]));
            }
            Meta::F32s(list) => {
                put(out, &[&9u32.to_le_bytes(), &6u32.to_le_bytes()]);
                put(out, &[&(list.len() as u64).to_le_bytes()]);
                list.iter().for_each(|v| put(out, &[&v.to_le_bytes()]));
            }
        }
        self
    }

    /// A key with its value as they stand in another GGUF.
    pub(crate) fn raw_meta(mut self, bytes: &[u8]) -> Self {
        self.n_meta += 1;
        self.meta.extend_from_slice(bytes);
        self
    }

    pub(crate) fn tensor(mut self, name: &str, shape: &[usize], kind: GgmlType, bytes: Vec<u8>) -> Self {
        let (name, shape) = (name.to_owned(), shape.to_vec());
        self.tensors.push((TensorHead { name, shape, kind }, bytes));
        self
    }

    pub(crate) fn tensor_f32(self, name: &str, shape: &[usize], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensor(name, shape, GgmlType::F32, bytes)
    }

    #[cfg(test)]
    pub(crate) fn tensor_f16(self, name: &str, shape: &[usize], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect();
        self.tensor(name, shape, GgmlType::F16, bytes)
    }

    #[cfg(test)]
    pub(crate) fn tensor_q8_0(self, name: &str, shape: &[usize], values: &[f32]) -> Self {
        let bytes = GgmlType::Q8_0.quantise(values).expect("a type that is written");
        self.tensor(name, shape, GgmlType::Q8_0, bytes)
    }

    /// All that stands before the bytes of these tensors, which follow one after another, each padded to [`ALIGNMENT`].
    pub(crate) fn head<'a>(&self, tensors: impl ExactSizeIterator<Item = &'a TensorHead>) -> Vec<u8> {
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        let n_tensors = tensors.len() as u64;
        put(&mut out, &[&n_tensors.to_le_bytes(), &self.n_meta.to_le_bytes()]);
        out.extend_from_slice(&self.meta);
        let mut offset = 0u64;
        for tensor in tensors {
            put_text(&mut out, tensor.name.as_bytes());
            put(&mut out, &[&(tensor.shape.len() as u32).to_le_bytes()]);
            let dims = tensor.shape.iter().rev();
            dims.for_each(|&dim| put(&mut out, &[&(dim as u64).to_le_bytes()]));
            put(&mut out, &[&tensor.kind.id().to_le_bytes(), &offset.to_le_bytes()]);
            offset += tensor.size().next_multiple_of(ALIGNMENT) as u64;
        }
        pad(&mut out);
        out
    }

    /// The whole file, with the tensors that it was given.
    pub(crate) fn finish(self) -> Vec<u8> {
        let heads: Vec<&TensorHead> = self.tensors.iter().map(|(head, _)| head).collect();
        let mut out = self.head(heads.into_iter());
        for (_, bytes) in &self.tensors {
            out.extend(bytes);
            pad(&mut out);
        }
        out
    }
}

/// Zeros up to the next multiple of [`ALIGNMENT`].
pub(crate) fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
}

fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    put(out, &[&(text.len() as u64).to_le_bytes(), text]);
}
