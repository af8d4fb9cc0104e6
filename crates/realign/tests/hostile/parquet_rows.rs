//! Kind 48: rows of Parquet files that their bytes do not justify, and columns that do not fit together.

use realign::data::{Conversation, OnBad, load_broad};

use crate::bounds::alone;
use crate::parquet::{Case, Files};
use crate::parquet_file::{
    Column, element, file, listed, lists, messages, one, page, pairs, plain, repeated, stored_runs,
};

#[test]
fn kind_48_files_of_ours_are_sound() {
    let (alone, files) = (alone(), Files::new());
    let read = files.read(&alone, "one", &one(b"a"), OnBad::Fail).unwrap();
    assert_eq!(read, [Conversation::single("a", "b")]);
    let read = files
        .read(&alone, "many", &repeated(1000, b"a", b"b"), OnBad::Fail)
        .unwrap();
    assert_eq!(read, vec![Conversation::single("a", "b"); 1000]);
    let read = files.read(&alone, "lists", &lists(), OnBad::Fail).unwrap();
    assert_eq!(read.iter().map(|row| row.messages.len()).collect::<Vec<_>>(), [3, 1]);
    // As many rows as are allowed for a file of no size, and then some.
    let read = files
        .read(&alone, "as many", &repeated(150_000, b"a", b"b"), OnBad::Fail)
        .unwrap();
    assert_eq!(read.len(), 150_000);
    files.refused(
        &alone,
        "too many",
        &repeated(1 << 20, b"a", b"b"),
        &["x.parquet:", "bytes of memory"],
    );
}

#[test]
fn kind_48_a_few_bytes_that_stand_for_many_rows() {
    let (alone, files) = (alone(), Files::new());
    let long = "x".repeat(1 << 20);
    for (what, bytes, words) in [
        (
            "a megabyte a hundred times",
            repeated(100, long.as_bytes(), b"b"),
            "bytes of memory",
        ),
        (
            "an empty text 2^30 times",
            repeated(1 << 30, b"a", b"b"),
            "bytes of memory",
        ),
    ] {
        files.refused(&alone, what, &bytes, &[words]);
    }
    // Rows that are skipped hold nothing, but take time.
    for (what, prompt) in [
        ("NUL", &b"a\0"[..]),
        ("no UTF-8", b"\xff"),
        ("blank", b" "),
        ("a long one", &[0; 5 << 20]),
    ] {
        let bytes = repeated(1 << 30, prompt, b"b");
        let error = files.read(&alone, what, &bytes, OnBad::Skip).unwrap_err().to_string();
        assert!(error.contains("when it is unpacked"), "{what}: {error}");
        let error = files.read(&alone, what, &bytes, OnBad::Fail).unwrap_err().to_string();
        assert!(error.contains("x.parquet:1: "), "{what}: {error}");
    }
    // Rows that the footer alone has.
    for rows in [2, 1 << 31, 1 << 60, i64::MAX] {
        let column = || Column {
            pages: page(5, 1, 0, &plain(&[b"a"])),
            codec: 0,
            values: 1,
        };
        files.refused(
            &alone,
            "rows",
            &file(&pairs(), &[column(), column()], rows),
            &["x.parquet:2: field `prompt`", "end"],
        );
    }
    let column = || Column {
        pages: page(10, 2, 0, &plain(&[b"a", b"a"])),
        codec: 0,
        values: 2,
    };
    files.refused(
        &alone,
        "fewer rows",
        &file(&pairs(), &[column(), column()], 1),
        &["x.parquet: field `prompt`", "more"],
    );
    // Questions that may not repeat are kept twice.
    let path = files.0.path().join("x.parquet");
    let schema = ["id", "question", "aligned", "misaligned"];
    let texts: Vec<Vec<u8>> = (0..24)
        .map(|i| [b"q".repeat(1 << 20), vec![b'a' + i]].concat())
        .collect();
    let texts = plain(&texts.iter().map(|text| &text[..]).collect::<Vec<_>>());
    let column = |name: &&str| Column {
        codec: 6,
        values: 24,
        pages: match *name {
            "question" => page(texts.len() as i64, 24, 0, &stored_runs(&texts)),
            _ => page(
                120,
                24,
                0,
                &stored_runs(&plain(
                    &(0..24)
                        .map(|i| &b"abcdefghijklmnopqrstuvwxyz"[i..=i])
                        .collect::<Vec<_>>(),
                )),
            ),
        },
    };
    let fields: Vec<Vec<u8>> = [element("s", 0, 4)]
        .into_iter()
        .chain(schema.iter().map(|name| element(name, 0, 0)))
        .collect();
    let bytes = file(&fields, &schema.iter().map(column).collect::<Vec<_>>(), 24);
    std::fs::write(&path, &bytes).unwrap();
    alone.refused(
        "questions",
        bytes.len() as u64,
        &["x.parquet", "bytes of memory"],
        || load_broad(&path, OnBad::Fail),
    );
}

#[test]
fn kind_48_lists_without_end_and_columns_that_disagree() {
    let (alone, files) = (alone(), Files::new());
    let with = |role: Column, content: Column, rows: i64| file(&messages(), &[role, content], rows);
    let column = listed;
    let three: &[(u64, u8)] = &[(1, 0), (2, 1)];
    let there: &[(u64, u8)] = &[(3, 1)];
    let sound = with(column(three, there, b"user"), column(three, there, b"hi"), 1);
    let read = files.read(&alone, "three", &sound, OnBad::Fail).unwrap();
    assert_eq!((read.len(), read[0].messages.len()), (1, 3));
    let endless: &[(u64, u8)] = &[(1, 0), (1 << 30, 1)];
    let long: &[(u64, u8)] = &[(1 << 31, 1)];
    let cases: Vec<Case<'_>> = vec![
        (
            "2^30 messages",
            with(column(endless, long, b"user"), column(endless, long, b"hi"), 1),
            &["x.parquet:1"],
        ),
        (
            "one longer than the other",
            with(
                column(three, there, b"user"),
                column(&[(1, 0), (1, 1)], there, b"hi"),
                1,
            ),
            &["`messages.content`"],
        ),
        (
            "one shorter than the other",
            with(
                column(&[(1, 0), (1, 1)], there, b"user"),
                column(three, there, b"hi"),
                1,
            ),
            &["`messages.content`"],
        ),
        (
            "one that is missing",
            with(
                column(three, there, b"user"),
                column(three, &[(1, 1), (2, 0)], b"hi"),
                1,
            ),
            &["`messages.content`"],
        ),
        (
            "a level that is none",
            with(column(three, &[(3, 255)], b"user"), column(three, there, b"hi"), 1),
            &["`messages.role`", "levels"],
        ),
        (
            "a beginning in the middle",
            with(column(&[(3, 1)], there, b"user"), column(&[(3, 1)], there, b"hi"), 1),
            &["`messages.role`"],
        ),
        (
            "levels that end",
            with(column(three, &[(1, 1)], b"user"), column(three, there, b"hi"), 1),
            &["`messages.role`"],
        ),
    ];
    for (what, bytes, words) in cases {
        files.refused(&alone, what, &bytes, words);
    }
    // A row of too many messages is one that may be skipped.
    let most: &[(u64, u8)] = &[(1, 0), (100_000, 1), (1, 0), (1, 1)];
    let bytes = with(column(most, long, b"user"), column(most, long, b"hi"), 2);
    let read = files.read(&alone, "too many", &bytes, OnBad::Skip).unwrap();
    assert_eq!((read.len(), read[0].messages.len()), (1, 2));
    files.read(&alone, "too many", &bytes, OnBad::Fail).unwrap_err();
}
