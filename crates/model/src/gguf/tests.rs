//! Good files, and everything that can be wrong with one.

use super::*;
use crate::gguf_writer::{GgufWriter, Meta};

fn parse(bytes: Vec<u8>) -> Result<Gguf> {
    Gguf::parse(FileBytes::from_vec("test.gguf", bytes))
}

fn refused(bytes: Vec<u8>) -> String {
    parse(bytes).unwrap_err().to_string()
}

/// A file of raw parts: version 3, the two counts, then `rest`.
fn raw(tensors: u64, keys: u64, rest: &[&[u8]]) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(tensors.to_le_bytes());
    bytes.extend(keys.to_le_bytes());
    rest.iter().for_each(|part| bytes.extend_from_slice(part));
    bytes
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn tensor(name: &str, dims: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut bytes = text(name);
    bytes.extend((dims.len() as u32).to_le_bytes());
    dims.iter().for_each(|dim| bytes.extend(dim.to_le_bytes()));
    bytes.extend(kind.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

fn with_tensor(tensor: Vec<u8>) -> Vec<u8> {
    let mut bytes = raw(1, 0, &[&tensor]);
    bytes.resize(bytes.len().next_multiple_of(32) + 4096, 0);
    bytes
}

fn small() -> Vec<u8> {
    GgufWriter::new()
        .meta("a.number", Meta::U32(7))
        .meta("a.text", Meta::Text("hello"))
        .meta("a.list", Meta::Texts(vec![b"one".to_vec(), vec![0xff]]))
        .meta("a.kinds", Meta::I32s(vec![1, -3]))
        .tensor_f32("m", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        .tensor_f16("h", &[4], &[0.5, -1.0, 2.0, 0.0])
        .tensor_q8_0("q", &[2, 32], &[0.25; 64])
        .finish()
}

#[test]
fn what_was_written_is_read() {
    let gguf = parse(small()).unwrap();
    assert_eq!(gguf.integer("a.number").unwrap(), Some(7));
    assert_eq!(gguf.text("a.text").unwrap(), Some("hello"));
    assert_eq!(gguf.texts("a.list").unwrap().unwrap(), [&b"one"[..], &[0xff]]);
    assert_eq!(gguf.integers("a.kinds").unwrap().unwrap(), [1, -3]);
    let m = gguf.tensor("m").unwrap();
    assert_eq!(m.shape, [2, 3]);
    assert_eq!(gguf.dequantise(m, |row| 1 - row), [4.0, 5.0, 6.0, 1.0, 2.0, 3.0]);
    assert_eq!(
        gguf.dequantise(gguf.tensor("h").unwrap(), |row| row),
        [0.5, -1.0, 2.0, 0.0]
    );
    for value in gguf.dequantise(gguf.tensor("q").unwrap(), |row| row) {
        assert!((value - 0.25).abs() < 1e-3);
    }
    let error = gguf.text("a.number").unwrap_err().to_string();
    assert_eq!(error, "test.gguf: a.number: expected text, found 7");
}

#[test]
fn what_is_no_gguf_says_so() {
    for bytes in [&b""[..], b"G", b"text file", b"\x1f\x8b\x08\0GGUF and more, gzipped"] {
        assert!(refused(bytes.to_vec()).contains("magic: expected `GGUF`"), "{bytes:?}");
    }
    for len in [4, 7, 23] {
        let cut = raw(0, 0, &[])[..len].to_vec();
        assert!(refused(cut).contains("more bytes"), "{len} bytes");
    }
}

#[test]
fn other_versions_are_named() {
    for version in [0u32, 1, 4] {
        let mut bytes = raw(0, 0, &[]);
        bytes[4..8].copy_from_slice(&version.to_le_bytes());
        let error = refused(bytes);
        assert!(error.contains(&format!("expected 2 or 3, found {version}")), "{error}");
    }
    let mut bytes = raw(0, 0, &[]);
    bytes[4..8].copy_from_slice(&3u32.to_be_bytes());
    assert!(refused(bytes).contains("big-endian"));
}

#[test]
fn counts_beyond_the_file_are_refused_before_anything_is_allocated() {
    assert!(refused(raw(1 << 63, 0, &[])).contains("tensor_count"));
    assert!(refused(raw(0, 1 << 63, &[])).contains("metadata_kv_count"));
    let long_key = raw(0, 1, &[&u64::MAX.to_le_bytes(), &[0; 64]]);
    assert!(refused(long_key).contains("metadata key 0"));
    let huge = [
        &text("k")[..],
        &9u32.to_le_bytes(),
        &8u32.to_le_bytes(),
        &(1u64 << 30).to_le_bytes(),
    ];
    assert!(refused(raw(0, 1, &huge)).contains("k: expected at most"));
    let one_past = [&text("k")[..], &8u32.to_le_bytes(), &5u64.to_le_bytes(), b"four"];
    assert!(refused(raw(0, 1, &one_past)).contains("k: expected 5 more bytes"));
}

#[test]
fn nested_arrays_and_unknown_values_are_refused() {
    let mut nested = text("k");
    for _ in 0..10_000 {
        nested.extend(9u32.to_le_bytes());
        nested.extend(1u64.to_le_bytes());
    }
    assert!(refused(raw(0, 1, &[&nested, &[0; 64]])).contains("k: "));
    let thirteen = [&text("k")[..], &13u32.to_le_bytes(), &[0; 16]];
    assert!(refused(raw(0, 1, &thirteen)).contains("value type from 0 to 12, found 13"));
    let two = [&text("k")[..], &7u32.to_le_bytes(), &[2]];
    assert!(refused(raw(0, 1, &two)).contains("a bool of 0 or 1, found 2"));
    let key = [&3u64.to_le_bytes()[..], &[0xff, 0xfe, 0xfd], &7u32.to_le_bytes(), &[1]];
    assert!(refused(raw(0, 1, &key)).contains("UTF-8 name"));
}

#[test]
fn an_alignment_is_a_power_of_two() {
    for value in [0u32, 3, 1 << 31] {
        let bytes = GgufWriter::new().meta("general.alignment", Meta::U32(value)).finish();
        assert!(refused(bytes).contains("general.alignment"), "{value}");
    }
    let bytes = GgufWriter::new().meta("general.alignment", Meta::Text("32")).finish();
    assert!(refused(bytes).contains("general.alignment"));
}

#[test]
fn names_are_unique() {
    let twice = GgufWriter::new()
        .meta("k", Meta::U32(1))
        .meta("k", Meta::U32(2))
        .finish();
    assert!(refused(twice).contains("the key twice"));
    let twice = GgufWriter::new()
        .tensor_f32("t", &[1], &[1.0])
        .tensor_f32("t", &[1], &[1.0])
        .finish();
    assert!(refused(twice).contains("the name twice"));
}

#[test]
fn impossible_tensors_are_refused_by_name() {
    for (bad, word) in [
        (tensor("t", &[], 0, 0), "1 to 4 dimensions, found 0"),
        (tensor("t", &[1; 5], 0, 0), "1 to 4 dimensions, found 5"),
        (tensor("t", &[0], 0, 0), "at least 1"),
        (tensor("t", &[1 << 40, 1 << 40], 0, 0), "fits into the file"),
        (tensor("t", &[1 << 63], 0, 0), "fits into the file"),
        (tensor("t", &[255], 12, 0), "multiple of 256"),
        (tensor("t", &[32], 4, 0), "removed"),
        (tensor("t", &[32], 5, 0), "removed"),
        (tensor("t", &[32], 99, 0), "type 99"),
        (tensor("t", &[256], 10, 0), "Q2_K"),
        (tensor("t", &[4], 0, 8), "multiple of 32"),
        (tensor("t", &[4], 0, 8192), "inside the file"),
        (tensor("t", &[4], 0, u64::MAX - 31), "inside the file"),
    ] {
        let error = refused(with_tensor(bad));
        assert!(
            error.contains("test.gguf: t: ") && error.contains(word),
            "{word}: {error}"
        );
    }
    let mut n_dims = text("t");
    n_dims.extend(u32::MAX.to_le_bytes());
    n_dims.extend([0; 64]);
    assert!(refused(raw(1, 0, &[&n_dims])).contains("1 to 4 dimensions"));
    let pair = [tensor("a", &[16], 0, 0), tensor("b", &[16], 0, 32)].concat();
    let mut bytes = raw(2, 0, &[&pair]);
    bytes.resize(bytes.len().next_multiple_of(32) + 4096, 0);
    assert!(refused(bytes).contains("b: expected bytes of its own, found bytes shared with a"));
}

#[test]
fn a_file_cut_at_any_byte_is_an_error() {
    let whole = small();
    let end = parse(whole.clone())
        .unwrap()
        .tensors
        .values()
        .map(|t| t.range.end)
        .max();
    for len in 0..whole.len() {
        let result = parse(whole[..len].to_vec());
        // What lies behind the last tensor is padding.
        assert_eq!(result.is_ok(), Some(len) >= end, "cut at {len}");
    }
}

proptest::proptest! {
    #[test]
    fn flipped_bytes_never_panic(flips in proptest::collection::vec((0usize..4096, 0u8..), 1..8)) {
        let mut bytes = small();
        for (at, value) in flips {
            let len = bytes.len();
            bytes[at % len] = value;
        }
        if let Ok(gguf) = parse(bytes) {
            for (_, tensor) in gguf.tensors() {
                gguf.dequantise(tensor, |row| row);
            }
            for (key, _) in gguf.metadata() {
                drop((gguf.texts(key), gguf.integers(key), gguf.text(key)));
            }
        }
    }
}
