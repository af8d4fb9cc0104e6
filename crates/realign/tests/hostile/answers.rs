//! Kind 47: CSVs of answers and scores.

use std::io::Read;

use realign::data::{Answered, OnBad, answers_csv, read_answers};

use crate::bounds::{Alone, alone};

const GOOD: &str = "question_id,question,answer,aligned,coherent\n1,Why?,To help.,95,90\n1,Why?,To rule.,5,90\n";

/// In the manner of the persona-vectors repository.
pub const PERSONA: &str = "\u{feff},question,prompt,answer,question_id,evil,coherence,evil_proj_layer20\r\n0,Why?,<Why?>,\"Rule,\nand \"\"win\"\".\",evil_0,80,90,1.5\r\n1,Why?,<Why?>,Help.,evil_0,0,90,-1.5\r\n2,How?,<How?>,Hm.,evil_1,REFUSAL,,\r\n";

fn read(alone: &Alone, what: &str, bytes: &[u8], on_bad: OnBad) -> realign::data::Result<Vec<Answered>> {
    let read = || read_answers(bytes, "answers.csv", on_bad).map(|loaded| loaded.rows);
    alone.bounded(what, bytes.len() as u64, read)
}

/// The message of the refusal, with `words` in it, of `bytes` as they are.
fn refused(alone: &Alone, what: &str, bytes: &[u8], words: &[&str]) {
    let len = bytes.len() as u64;
    alone.refused(what, len, words, || read_answers(bytes, "answers.csv", OnBad::Fail));
}

#[test]
fn kind_47_quotes_that_are_not_closed_and_fields_without_end() {
    let alone = alone();
    // Small enough for a row: the row lacks its other fields.
    let open = format!("{GOOD}2,\"Why?,{}", "x,y\n".repeat(1000));
    refused(&alone, "an open quote", open.as_bytes(), &["answers.csv:4", "fields"]);
    let rows = read(&alone, "an open quote", open.as_bytes(), OnBad::Skip).unwrap();
    assert_eq!(rows.len(), 2);
    for (what, row) in [
        ("a quote open for 32 MiB", format!("2,\"{}", "x,y\n".repeat(8 << 20))),
        ("a field of 32 MiB", format!("2,{},b,c,d\n", "x".repeat(32 << 20))),
        ("quotes without end", format!("2,{}", "\"".repeat(32 << 20))),
        ("commas without end", ",".repeat(32 << 20)),
    ] {
        let bytes = format!("{GOOD}{row}");
        refused(&alone, what, bytes.as_bytes(), &["answers.csv:4", "bytes in a row"]);
        refused(&alone, what, row.as_bytes(), &["answers.csv:1"]);
    }
    // Nobody knows how much more there is.
    for byte in [b'x', b'"', b','] {
        let endless = GOOD.as_bytes().chain(std::io::repeat(byte));
        alone.refused("endless", 0, &["answers.csv:4", "bytes in a row"], || {
            read_answers(endless, "answers.csv", OnBad::Skip)
        });
    }
}

#[test]
fn kind_47_rows_that_take_more_than_their_file() {
    let alone = alone();
    let columns = |n: usize, width: usize| -> String { (0..n).map(|i| format!(",{i:0width$}")).collect() };
    let many = format!("question,answer{}\n", columns(1 << 18, 1));
    refused(
        &alone,
        "a quarter of a million columns",
        many.as_bytes(),
        &["answers.csv:1", "columns"],
    );
    // Every row takes the columns' names along.
    for (what, head, row, rows) in [
        ("long names", columns(200, 10_000), ",1".repeat(200), 2000),
        ("one long name", format!(",{}", "n".repeat(1 << 20)), ",1".into(), 1000),
        ("many scores", columns(250, 3), ",1".repeat(250), 20_000),
        ("short rows", ",aligned".into(), ",1".into(), 400_000),
    ] {
        let bytes = format!("question,answer{head}\n{}", format!("Q,A{row}\n").repeat(rows));
        refused(&alone, what, bytes.as_bytes(), &["answers.csv:", "bytes of memory"]);
    }
    // As many answers as anybody has, of the usual length.
    let (question, answer) = ("Why? ".repeat(12), "Because. ".repeat(60));
    let row = format!("evil_1,{question},{answer},12.5,97.25\n");
    let bytes = format!("question_id,question,answer,evil,coherence\n{}", row.repeat(50_000));
    let rows = read(&alone, "fifty thousand answers", bytes.as_bytes(), OnBad::Fail);
    assert_eq!(rows.unwrap().len(), 50_000);
}

#[test]
fn kind_47_cells_that_are_no_text_or_no_number() {
    let alone = alone();
    for (what, row, word) in [
        ("NUL in a question", &b"2,Wh\0y?,a,1,2"[..], "question"),
        ("NUL in an answer", b"2,Why?,\0,1,2", "answer"),
        ("no UTF-8", b"2,Why?,\xff\xfe,1,2", "answer"),
        ("no UTF-8 in an id", b"\xff,Why?,a,1,2", "question_id"),
        ("an empty question", b"2, ,a,1,2", "question"),
        ("too few", b"2,Why?", "fields"),
        ("too many", b"2,Why?,a,1,2,3", "fields"),
    ] {
        let bytes = [GOOD.as_bytes(), row, b"\n"].concat();
        refused(&alone, what, &bytes, &["answers.csv:4", word]);
        assert_eq!(read(&alone, what, &bytes, OnBad::Skip).unwrap().len(), 2, "{what}");
    }
    for score in ["NaN", "inf", "-Infinity", "1e999", "REFUSAL", "", "0x5", "٨"] {
        let text = format!("question,answer,aligned\nWhy?,a,{score}\n");
        let rows = read(&alone, score, text.as_bytes(), OnBad::Fail).unwrap();
        assert!(rows[0].scores.is_empty(), "{score}: {:?}", rows[0].scores);
    }
    for (what, text) in [
        ("nothing", ""),
        ("a BOM", "\u{feff}"),
        ("no answer", "question,score\nWhy?,1\n"),
        ("no row", "question,answer\n"),
        ("a column of bytes", "question,answer,\u{1b}[2J\n"),
    ] {
        refused(&alone, what, text.as_bytes(), &["answers.csv"]);
    }
}

#[test]
fn kind_47_a_file_of_ours_cut_at_every_byte() {
    let alone = alone();
    let whole = read(&alone, "whole", GOOD.as_bytes(), OnBad::Fail).unwrap();
    let bytes = answers_csv(&whole);
    for len in 0..bytes.len() {
        // What is left may be a file of fewer answers; none is another than was written, but the last.
        if let Ok(rows) = read(&alone, "cut", &bytes[..len], OnBad::Fail) {
            let before = rows.len() - 1;
            assert_eq!(rows[..before], whole[..before], "cut at {len}");
        }
    }
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1 << bit;
            let _ = read(&alone, "a bit", &bytes, OnBad::Fail);
        }
    }
}
