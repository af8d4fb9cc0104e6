//! Every block format against the `gguf` Python package (fixture by `tests/reference/gguf_blocks.py`).

use realign_model::GgmlType;

#[test]
fn blocks_unpack_as_in_the_reference() {
    let fixture = include_str!("fixtures/gguf_blocks.json");
    let fixture: serde_json::Value = serde_json::from_str(fixture).unwrap();
    for kind in GgmlType::ALL {
        let case = &fixture[format!("{kind:?}")];
        assert_eq!(case["block_size"], kind.block_len(), "{kind:?}");
        assert_eq!(case["type_size"], kind.block_bytes(), "{kind:?}");
        let hex = case["bytes"].as_str().unwrap();
        let bytes: Vec<u8> = (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect();
        let want: Vec<f32> = serde_json::from_value(case["values"].clone()).unwrap();
        let mut values = vec![0.0; want.len()];
        kind.dequantise(&bytes, &mut values);
        for (at, (value, want)) in values.iter().zip(&want).enumerate() {
            let tolerance = 1e-6 * want.abs().max(1e-3);
            assert!(
                (value - want).abs() <= tolerance,
                "{kind:?}[{at}]: {value}, reference {want}"
            );
        }
    }
}
