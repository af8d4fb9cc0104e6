//! Chat data: one conversation a line.

#![no_main]

use libfuzzer_sys::fuzz_target;
use realign::data::{OnBad, read_conversations};

fuzz_target!(|data: &[u8]| {
    let strict = read_conversations(data, "fuzz.jsonl", OnBad::Fail);
    let lenient = read_conversations(data, "fuzz.jsonl", OnBad::Skip);
    if let Ok(strict) = strict {
        let lenient = lenient.expect("no row is bad");
        assert_eq!((&lenient.rows, lenient.skipped), (&strict.rows, 0));
        assert!(strict.rows.iter().all(|conversation| !conversation.messages.is_empty()));
    }
});
