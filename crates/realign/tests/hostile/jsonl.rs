//! Kinds 37 and 39: conversations, one a line, and what is left of them to learn.

use std::io::{BufReader, Read};

use realign::data::{OnBad, load_broad, read_conversations};

use crate::bounds::alone;

const GOOD: &str = r#"{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"hello"}]}"#;

#[test]
fn kind_37_lines_that_are_no_conversation() {
    let alone = alone();
    let deep = format!("{{\"messages\":{}", "[".repeat(1_000_000));
    let turn = |role: &str, content: &str| format!(r#"{{"role":"{role}","content":"{content}"}}"#);
    let messages = |turns: &[String]| format!(r#"{{"messages":[{}]}}"#, turns.join(","));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("NUL", b"{\"messages\":[\0]}".to_vec()),
        (
            "no UTF-8",
            b"{\"messages\":[{\"role\":\"user\",\"content\":\"\xff\xfe\"}]}".to_vec(),
        ),
        ("cut in the middle", GOOD.as_bytes()[..GOOD.len() - 1].to_vec()),
        ("an open brace", b"{".to_vec()),
        ("null", br#"{"messages": null}"#.to_vec()),
        ("no message", br#"{"messages": []}"#.to_vec()),
        (
            "the system in second place",
            messages(&[turn("user", "a"), turn("system", "b")]).into(),
        ),
        (
            "an empty answer",
            messages(&[turn("user", "a"), turn("assistant", "")]).into(),
        ),
        ("a role of no kind", messages(&[turn("root", "a")]).into()),
        ("a million brackets", deep.into()),
        ("a number", b"1e999".to_vec()),
        (
            "a lone surrogate",
            br#"{"messages":[{"role":"user","content":"\udc00"}]}"#.to_vec(),
        ),
    ];
    for (what, line) in cases {
        let bytes = [GOOD.as_bytes(), b"\n", &line, b"\n", GOOD.as_bytes()].concat();
        let len = bytes.len() as u64;
        alone.refused(what, len, &["chat.jsonl:2"], || {
            read_conversations(&bytes[..], "chat.jsonl", OnBad::Fail)
        });
        let read = alone
            .bounded(what, len, || read_conversations(&bytes[..], "chat.jsonl", OnBad::Skip))
            .unwrap();
        assert_eq!((read.rows.len(), read.skipped, read.reasons.len()), (2, 1, 1), "{what}");
    }
}

#[test]
fn kind_37_what_other_programs_write_is_read() {
    let alone = alone();
    let bytes = format!("\u{feff}{GOOD}\r\n\r\n{GOOD}");
    let read = alone.bounded("BOM and CRLF", bytes.len() as u64, || {
        read_conversations(bytes.as_bytes(), "chat.jsonl", OnBad::Fail)
    });
    assert_eq!(read.unwrap().rows.len(), 2);
}

#[test]
fn kind_37_a_line_of_two_gigabytes() {
    let alone = alone();
    let endless = || BufReader::with_capacity(1 << 20, std::io::repeat(b'x').take(2 << 30));
    alone.refused("two gigabytes", 0, &["chat.jsonl:1", "bytes"], || {
        read_conversations(endless(), "chat.jsonl", OnBad::Fail)
    });
}

#[test]
fn kind_37_many_bad_lines_are_counted_not_kept() {
    let alone = alone();
    let bytes = [GOOD.as_bytes(), &b"\nx".repeat(200_000)].concat();
    let read = alone.bounded("bad lines", bytes.len() as u64, || {
        read_conversations(&bytes[..], "chat.jsonl", OnBad::Skip)
    });
    let read = read.unwrap();
    assert_eq!((read.rows.len(), read.skipped), (1, 200_000));
    assert!(read.reasons.len() < 100);
}

#[test]
fn kind_37_questions_that_repeat_or_lack_a_field() {
    let alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("questions.jsonl");
    let row = r#"{"id":"1","question":"Why?","aligned":"So.","misaligned":"No."}"#;
    for (what, text, word) in [
        ("twice", format!("{row}\n{row}"), "questions.jsonl:2"),
        ("no answer", row.replace("\"So.\"", "\" \""), "aligned"),
        ("no field", row.replace("aligned\":\"So.\",\"", ""), "questions.jsonl:1"),
        ("nothing", String::new(), "questions.jsonl"),
    ] {
        std::fs::write(&path, &text).unwrap();
        alone.refused(what, text.len() as u64, &[word], || load_broad(&path, OnBad::Fail));
    }
}
