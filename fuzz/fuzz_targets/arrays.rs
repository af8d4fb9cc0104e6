//! Arrays of torch, numpy or safetensors, told apart by their content.

#![no_main]

use libfuzzer_sys::fuzz_target;
use realign::arrays::Arrays;

fuzz_target!(|data: &[u8]| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("file");
    std::fs::write(&path, data).expect("written");
    if let Ok(arrays) = Arrays::read(&path) {
        let numbers: usize = arrays.shapes().map(|(_, shape)| shape.iter().product::<usize>()).sum();
        assert!(4 * numbers <= 2 * data.len() + (64 << 20), "{numbers} numbers out of {} bytes", data.len());
    }
});
