//! Kind 48: Parquet files, whose sizes are what a stranger says, and whose pages are packed.

use std::path::Path;

use realign::data::{Conversation, OnBad, data_format, load_conversations, parquet_about};

use crate::bounds::{Alone, alone};
use crate::parquet_file::Field::{Claims, I64, Struct, Structs};
use crate::parquet_file::{Column, element, file, one, pairs, thrift, with_footer};

fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/tests/fixtures/parquet");
    std::fs::read(folder.join(name)).unwrap()
}

/// By pyarrow: two rows in each codec.
pub fn seeds() -> [(&'static str, Vec<u8>); 3] {
    [
        ("snappy", "small.parquet"),
        ("zstd", "small_zstd.parquet"),
        ("gzip", "small_gzip.parquet"),
    ]
    .map(|(name, file)| (name, fixture(file)))
}

/// What is wrong, the file, and words of the error.
pub type Case<'a> = (&'a str, Vec<u8>, &'a [&'a str]);

/// The entries of a schema.
type Schema = Vec<Vec<u8>>;

/// A folder to put files into.
pub struct Files(pub tempfile::TempDir);

impl Files {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn read(
        &self,
        alone: &Alone,
        what: &str,
        bytes: &[u8],
        on_bad: OnBad,
    ) -> realign::data::Result<Vec<Conversation>> {
        let path = self.0.path().join("x.parquet");
        std::fs::write(&path, bytes).unwrap();
        alone.bounded(what, bytes.len() as u64, || {
            let _ = (data_format(&path), parquet_about(&path));
            load_conversations(&path, on_bad).map(|loaded| loaded.rows)
        })
    }

    /// An error with these words, however rows that are bad are taken.
    pub fn refused(&self, alone: &Alone, what: &str, bytes: &[u8], words: &[&str]) {
        let path = self.0.path().join("x.parquet");
        std::fs::write(&path, bytes).unwrap();
        let words: Vec<&str> = ["x.parquet"].iter().chain(words).copied().collect();
        for on_bad in [OnBad::Fail, OnBad::Skip] {
            alone.refused(what, bytes.len() as u64, &words, || load_conversations(&path, on_bad));
        }
    }
}

#[test]
fn kind_48_footers_that_are_none() {
    let (alone, files) = (alone(), Files::new());
    let whole = one(b"a");
    let footer_at = whole.len() - 8 - u32::from_le_bytes(whole[whole.len() - 8..][..4].try_into().unwrap()) as usize;
    let with = |footer: &[u8]| with_footer(whole[..footer_at].to_vec(), footer);
    let says = |size: u32, magic: &[u8]| [&whole[..whole.len() - 8], &size.to_le_bytes(), magic].concat();
    let group = |rows: i64| thrift(&[(1, Claims(0, vec![])), (3, I64(rows))]);
    let groups = |groups: Vec<Vec<u8>>| {
        thrift(&[
            (2, Structs(vec![element("s", 0, 1), element("prompt", 0, 0)])),
            (4, Structs(groups)),
        ])
    };
    let cases: Vec<Case<'_>> = vec![
        ("four bytes", b"PAR1".to_vec(), &["`footer`"]),
        ("eleven bytes", b"PAR1\0\0\0PAR1".to_vec(), &["`footer`"]),
        ("nothing between", b"PAR1\0\0\0\0PAR1".to_vec(), &["`footer`"]),
        (
            "a footer of 4 GiB",
            says(u32::MAX, b"PAR1"),
            &["`footer`", "inside of the file"],
        ),
        (
            "a footer over the beginning",
            says(whole.len() as u32 - 8, b"PAR1"),
            &["`footer`", "inside of the file"],
        ),
        ("another end", says(9, b"PAR2"), &["`footer`", "PAR1"]),
        ("encrypted", says(9, b"PARE"), &["`footer`", "encrypted"]),
        ("zeros", with(&[0; 100]), &["`footer`", "schema"]),
        ("ones", with(&[0xff; 100]), &["`footer`"]),
        (
            "a million structures in each other",
            with(&[0x1c; 1 << 20]),
            &["`footer`", "32"],
        ),
        (
            "2^63 entries",
            with(&thrift(&[(2, Claims(1 << 63, vec![]))])),
            &["`footer`"],
        ),
        (
            "2^60 groups",
            with(&thrift(&[(2, Structs(pairs())), (4, Claims(1 << 60, vec![0; 9]))])),
            &["`footer`"],
        ),
        (
            "a group without columns",
            with(&groups(vec![group(5)])),
            &["`footer`", "columns in each group"],
        ),
        (
            "less than no rows",
            with(&groups(vec![group(-1)])),
            &["`footer`", "rows"],
        ),
        (
            "encrypted columns",
            with(&thrift(&[(2, Structs(pairs())), (8, Struct(&[]))])),
            &["encrypted"],
        ),
        (
            "a footer of a million empty entries",
            with(&thrift(&[(2, Structs(vec![vec![0]; 1 << 20]))])),
            &["`footer`"],
        ),
    ];
    for (what, bytes, words) in cases {
        files.refused(&alone, what, &bytes, words);
    }
}

#[test]
fn kind_48_schemas_that_are_no_tree() {
    let (alone, files) = (alone(), Files::new());
    let deep: Vec<Vec<u8>> = (0..100_000)
        .map(|i| element(if i == 1 { "messages" } else { "x" }, 1, 1))
        .collect();
    let wide: Vec<Vec<u8>> = [element("s", 0, 100_000)]
        .into_iter()
        .chain((0..100_000).map(|_| element("x", 1, 0)))
        .collect();
    let nothing = Column {
        pages: vec![],
        codec: 0,
        values: 0,
    };
    let cases: Vec<(&str, Schema, &[&str])> = vec![
        ("a hundred thousand deep", deep, &["`footer`", "deep"]),
        ("a hundred thousand columns", wide, &["x.parquet", "columns"]),
        (
            "2^31 children",
            vec![element("s", 0, 1 << 30), element("prompt", 0, 0)],
            &["`footer`", "tree"],
        ),
        (
            "its own end",
            vec![element("s", 0, 1), element("messages", 2, 2), element("role", 0, 0)],
            &["`footer`", "tree"],
        ),
        (
            "entries beside it",
            vec![element("s", 0, 1), element("prompt", 0, 0), element("role", 0, 0)],
            &["`footer`", "beside"],
        ),
        (
            "a repetition of no kind",
            vec![element("s", 0, 1), element("prompt", 7, 0)],
            &["`footer`"],
        ),
        (
            "one name twice",
            vec![element("s", 0, 2), element("prompt", 0, 0), element("prompt", 0, 0)],
            &["`prompt`", "two"],
        ),
        (
            "no known column",
            vec![element("s", 0, 1), element("text", 0, 0)],
            &["`text`"],
        ),
    ];
    for (what, schema, words) in cases {
        let columns = schema.len().min(3) - 1;
        let columns: Vec<Column> = (0..columns)
            .map(|_| Column {
                pages: vec![],
                ..nothing
            })
            .collect();
        files.refused(&alone, what, &file(&schema, &columns, 1), words);
    }
}

#[test]
fn kind_48_a_file_cut_at_every_byte_and_each_bit_flipped() {
    let alone = alone();
    let files = Files::new();
    for (name, whole) in seeds() {
        let read = files.read(&alone, name, &whole, OnBad::Fail).unwrap();
        assert_eq!(read.len(), 2, "{name}");
        for len in 0..whole.len() {
            assert!(
                files.read(&alone, "cut", &whole[..len], OnBad::Fail).is_err(),
                "{name} cut at {len}"
            );
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                let _ = files.read(&alone, "a bit", &bytes, OnBad::Skip);
            }
        }
    }
}

#[test]
#[cfg(unix)]
fn kind_48_a_pipe_is_refused() {
    let (alone, files) = (alone(), Files::new());
    let path = files.0.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    let writer = {
        let path = path.clone();
        std::thread::spawn(move || std::fs::write(path, one(b"a")))
    };
    alone.refused("a pipe", 0, &["pipe", "expected Parquet in a file"], || {
        load_conversations(&path, OnBad::Fail)
    });
    let _ = writer.join();
}
