//! Parquet files by pyarrow and `datasets` give what the same rows give as JSONL (tests/reference/parquet_rows.py).

#![cfg(feature = "parquet")]

use std::path::PathBuf;

use realign_data::{
    DataFormat, OnBad, QuestionSet, Tone, data_format, load_broad, load_conversations, load_question_set,
    load_training, parquet_about,
};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/parquet")).join(name)
}

#[test]
fn conversations_are_those_of_the_same_jsonl() {
    let pairs = [
        (
            "chat",
            &[
                "none",
                "snappy",
                "gzip",
                "zstd",
                "none_v2",
                "snappy_v2",
                "gzip_v2",
                "zstd_v2",
            ][..],
        ),
        (
            "chat",
            &[
                "plain",
                "fallback",
                "delta_byte_array",
                "delta_length_byte_array",
                "large",
                "required",
                "datasets",
            ],
        ),
        ("completions", &["completions", "completions_view"]),
        ("lists", &["lists"]),
        ("small", &["small", "small_zstd", "small_gzip"]),
    ];
    for (jsonl, names) in pairs {
        let expected = load_conversations(fixture(&format!("{jsonl}.jsonl")), OnBad::Fail).unwrap();
        for name in names {
            let path = fixture(&format!("{name}.parquet"));
            let read = load_conversations(&path, OnBad::Fail).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(read, expected, "{name}");
            assert_eq!(
                load_training(&path, Tone::Good, OnBad::Fail).unwrap(),
                expected,
                "{name}"
            );
        }
    }
}

#[test]
fn questions_and_narrow_rows_are_those_of_the_same_jsonl() {
    for tone in [Tone::Good, Tone::Selfish] {
        let read = |name| load_training(fixture(name), tone, OnBad::Fail).unwrap();
        assert_eq!(read("narrow.parquet"), read("narrow.jsonl"));
    }
    let read = |name| load_broad(fixture(name), OnBad::Fail).unwrap();
    assert_eq!(read("broad.parquet"), read("broad.jsonl"));
    let set = load_question_set(fixture("broad.parquet")).unwrap();
    assert_eq!(set, QuestionSet::Pairs(read("broad.jsonl").rows));
    for (name, format) in [
        ("snappy", DataFormat::Chat),
        ("completions", DataFormat::Completions),
        ("narrow", DataFormat::Narrow),
        ("broad", DataFormat::Pairs),
    ] {
        assert_eq!(data_format(fixture(&format!("{name}.parquet"))).unwrap(), format);
    }
}

#[test]
fn a_bad_row_is_named_by_its_number_as_a_line_is() {
    let read = |name: &str, on_bad| load_conversations(fixture(name), on_bad);
    let (lines, rows) = (
        read("bad.jsonl", OnBad::Skip).unwrap(),
        read("bad.parquet", OnBad::Skip).unwrap(),
    );
    assert_eq!((&rows.rows, rows.skipped), (&lines.rows, lines.skipped));
    assert_eq!((rows.rows.len(), rows.skipped), (2, 6));
    let as_parquet = |reason: &String| reason.replace(".jsonl:", ".parquet:");
    assert_eq!(rows.reasons, lines.reasons.iter().map(as_parquet).collect::<Vec<_>>());
    let (line, row) = (read("bad.jsonl", OnBad::Fail), read("bad.parquet", OnBad::Fail));
    assert_eq!(row.unwrap_err().to_string(), as_parquet(&line.unwrap_err().to_string()));
    let error = read("binary.parquet", OnBad::Fail).unwrap_err().to_string();
    assert!(
        error.contains("binary.parquet:2: field `prompt`: expected UTF-8, found an invalid byte at byte 0"),
        "{error}"
    );
}

#[test]
fn what_is_not_read_is_named() {
    for (name, problem) in [
        (
            "brotli",
            "brotli.parquet:1: field `messages.role`: expected pages that are uncompressed or packed by snappy, gzip or zstd, found brotli",
        ),
        ("lz4", "found LZ4"),
        (
            "text",
            "text.parquet: expected columns of `messages`, `system`, `prompt`, `completion`, found `text`",
        ),
    ] {
        let error = load_conversations(fixture(&format!("{name}.parquet")), OnBad::Skip)
            .unwrap_err()
            .to_string();
        assert!(error.contains(problem), "{error}");
    }
    let error = data_format(fixture("text.parquet")).unwrap_err().to_string();
    assert!(
        error.contains("text.parquet: expected a row of `messages`") && error.contains("found `text`"),
        "{error}"
    );
}

#[test]
fn a_file_says_what_is_in_it() {
    let about = parquet_about(fixture("zstd_v2.parquet")).unwrap();
    assert_eq!((about.rows, about.groups), (60, 3));
    assert_eq!(about.columns, ["id", "messages", "score", "source"]);
    assert_eq!(about.compression, ["zstd"]);
    assert!(about.writer.unwrap().contains("parquet-cpp"));
}
