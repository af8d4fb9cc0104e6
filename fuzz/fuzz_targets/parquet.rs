#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| realign_fuzz::parquet(data));
