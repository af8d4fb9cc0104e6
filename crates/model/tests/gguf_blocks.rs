//! Every GGML type unpacks to what the `gguf` Python package says.

use realign_model::GgmlType;
use serde_json::Value;

#[test]
fn every_type_unpacks_as_in_python() {
    let fixture: Value = serde_json::from_str(include_str!("fixtures/gguf_blocks.json")).unwrap();
    for kind in GgmlType::ALL {
        let entry = &fixture[format!("{kind:?}")];
        assert_eq!(entry["block_size"], kind.block_len(), "{kind:?}");
        assert_eq!(entry["type_size"], kind.block_bytes(), "{kind:?}");
        let hex = entry["bytes"].as_str().unwrap();
        let byte = |i: usize| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap();
        let bytes: Vec<u8> = (0..hex.len() / 2).map(byte).collect();
        let expected: Vec<f32> = entry["values"]
            .as_array()
            .unwrap()
            .iter()
            .map(|v| v.as_f64().unwrap() as f32)
            .collect();
        let mut found = vec![f32::NAN; expected.len()];
        kind.dequantise(&bytes, &mut found);
        for (i, (&found, &expected)) in found.iter().zip(&expected).enumerate() {
            // The fixture has eight digits.
            let close = (found - expected).abs() <= 2e-7 * expected.abs();
            assert!(close, "{kind:?}, element {i}: expected {expected}, found {found}");
        }
    }
}
