//! A small GGUF writer: fixtures for the tests of everything that reads one.

use half::f16;

use crate::GgmlType;

/// A GGUF in the making.
#[derive(Default)]
pub(crate) struct GgufWriter {
    n_meta: u64,
    meta: Vec<u8>,
    tensors: Vec<(String, Vec<usize>, u32, Vec<u8>)>,
}

/// A metadata value to write.
pub(crate) enum Meta {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(&'static str),
    Texts(Vec<Vec<u8>>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
}

impl GgufWriter {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn meta(mut self, key: &str, value: Meta) -> Self {
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

    pub(crate) fn tensor_f32(self, name: &str, shape: &[usize], values: &[f32]) -> Self {
        self.tensor(name, shape, 0, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    pub(crate) fn tensor_f16(self, name: &str, shape: &[usize], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect();
        self.tensor(name, shape, 1, bytes)
    }

    pub(crate) fn tensor_q8_0(self, name: &str, shape: &[usize], values: &[f32]) -> Self {
        let bytes = GgmlType::Q8_0.quantise(values).expect("a type that is written");
        self.tensor(name, shape, 8, bytes)
    }

    fn tensor(mut self, name: &str, shape: &[usize], kind: u32, bytes: Vec<u8>) -> Self {
        self.tensors.push((name.to_owned(), shape.to_vec(), kind, bytes));
        self
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        put(
            &mut out,
            &[&(self.tensors.len() as u64).to_le_bytes(), &self.n_meta.to_le_bytes()],
        );
        out.extend(self.meta);
        let mut offset = 0u64;
        for (name, shape, kind, bytes) in &self.tensors {
            put_text(&mut out, name.as_bytes());
            put(&mut out, &[&(shape.len() as u32).to_le_bytes()]);
            shape
                .iter()
                .rev()
                .for_each(|&dim| put(&mut out, &[&(dim as u64).to_le_bytes()]));
            put(&mut out, &[&kind.to_le_bytes(), &offset.to_le_bytes()]);
            offset += (bytes.len() as u64).next_multiple_of(32);
        }
        for (_, _, _, bytes) in &self.tensors {
            out.resize(out.len().next_multiple_of(32), 0);
            out.extend(bytes);
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out
    }
}

fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    put(out, &[&(text.len() as u64).to_le_bytes(), text]);
}
