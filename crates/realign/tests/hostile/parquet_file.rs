//! Parquet files put together byte by byte, which say of themselves whatever a test wants.

use std::io::Write;

/// A field of Thrift's compact protocol: its number and what it holds.
pub type Fields<'a> = &'a [(u8, Field<'a>)];

/// What a field holds.
pub enum Field<'a> {
    I32(i64),
    I64(i64),
    Text(&'a [u8]),
    Struct(Fields<'a>),
    Structs(Vec<Vec<u8>>),
    /// A list that says it is so long, and what there is of it.
    Claims(u64, Vec<u8>),
}

use Field::{Claims, I32, I64, Struct, Structs, Text};

pub fn varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number > 127 {
        bytes.push(number as u8 | 128);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// A structure, with its stop.
pub fn thrift(fields: Fields<'_>) -> Vec<u8> {
    let (mut bytes, mut before) = (Vec::new(), 0);
    for (number, field) in fields {
        let kind = match field {
            I32(_) => 5,
            I64(_) => 6,
            Text(_) => 8,
            Structs(_) | Claims(..) => 9,
            Struct(_) => 12,
        };
        bytes.push((number - before) << 4 | kind);
        before = *number;
        match field {
            I32(number) | I64(number) => varint(&mut bytes, (number << 1 ^ number >> 63) as u64),
            Text(text) => {
                varint(&mut bytes, text.len() as u64);
                bytes.extend(*text);
            }
            Struct(fields) => bytes.extend(thrift(fields)),
            Structs(list) => {
                bytes.push(0xfc);
                varint(&mut bytes, list.len() as u64);
                bytes.extend(list.concat());
            }
            Claims(count, list) => {
                bytes.push(0xfc);
                varint(&mut bytes, *count);
                bytes.extend(list);
            }
        }
    }
    bytes.push(0);
    bytes
}

/// An entry of the schema: a text that must be there, one that may be missing, a group, …
pub fn element(name: &str, repetition: i64, children: i64) -> Vec<u8> {
    let name = Text(name.as_bytes());
    match children {
        0 => thrift(&[(1, I32(6)), (3, I32(repetition)), (4, name), (6, I32(0))]),
        // A list, by the older mark, where it is named so.
        _ => thrift(&[(3, I32(repetition)), (4, name), (5, I32(children))]),
    }
}

/// A column's pages and what the footer says of them.
pub struct Column {
    pub pages: Vec<u8>,
    pub codec: i64,
    pub values: i64,
}

/// A page of values that says it holds so many bytes and values.
pub fn page(says: i64, values: i64, encoding: i64, packed: &[u8]) -> Vec<u8> {
    let data = [(1, I32(values)), (2, I32(encoding)), (3, I32(3)), (4, I32(3))];
    let mut page = thrift(&[
        (1, I32(0)),
        (2, I32(says)),
        (3, I32(packed.len() as i64)),
        (5, Struct(&data)),
    ]);
    page.extend(packed);
    page
}

pub fn dictionary(says: i64, values: i64, packed: &[u8]) -> Vec<u8> {
    let data = [(1, I32(values)), (2, I32(0))];
    let mut page = thrift(&[
        (1, I32(2)),
        (2, I32(says)),
        (3, I32(packed.len() as i64)),
        (7, Struct(&data)),
    ]);
    page.extend(packed);
    page
}

/// A file of these columns, all of texts, in one group of rows.
pub fn file(schema: &[Vec<u8>], columns: &[Column], rows: i64) -> Vec<u8> {
    let mut bytes = b"PAR1".to_vec();
    let mut chunks = Vec::new();
    for column in columns {
        let at = bytes.len() as i64;
        bytes.extend(&column.pages);
        let size = column.pages.len() as i64;
        let about = [
            (1, I32(6)),
            (4, I32(column.codec)),
            (5, I64(column.values)),
            (6, I64(size)),
            (7, I64(size)),
            (9, I64(at)),
        ];
        chunks.push(thrift(&[(2, I64(at)), (3, Struct(&about))]));
    }
    let group = thrift(&[(1, Structs(chunks)), (2, I64(0)), (3, I64(rows))]);
    let footer = [
        (1, I32(2)),
        (2, Structs(schema.to_vec())),
        (3, I64(rows)),
        (4, Structs(vec![group])),
    ];
    with_footer(bytes, &thrift(&footer))
}

pub fn with_footer(mut bytes: Vec<u8>, footer: &[u8]) -> Vec<u8> {
    bytes.extend(footer);
    bytes.extend((footer.len() as u32).to_le_bytes());
    bytes.extend(b"PAR1");
    bytes
}

/// The schema of prompts and completions, both always there.
pub fn pairs() -> Vec<Vec<u8>> {
    vec![
        element("schema", 0, 2),
        element("prompt", 0, 0),
        element("completion", 0, 0),
    ]
}

/// Plain texts as a page holds them.
pub fn plain(texts: &[&[u8]]) -> Vec<u8> {
    let one = |text: &&[u8]| [&(text.len() as u32).to_le_bytes(), *text].concat();
    texts.iter().flat_map(one).collect()
}

/// `rows` rows of one prompt and one completion out of dictionaries, in a run.
pub fn repeated(rows: u32, prompt: &[u8], completion: &[u8]) -> Vec<u8> {
    let column = |text: &[u8]| {
        let mut run = vec![1];
        varint(&mut run, u64::from(rows) << 1);
        run.push(0);
        let words = plain(&[text]);
        let pages = [
            dictionary(words.len() as i64, 1, &words),
            page(run.len() as i64, rows.into(), 8, &run),
        ];
        Column {
            pages: pages.concat(),
            codec: 0,
            values: rows.into(),
        }
    };
    file(&pairs(), &[column(prompt), column(completion)], rows.into())
}

/// One row, uncompressed.
pub fn one(prompt: &[u8]) -> Vec<u8> {
    let column = |text: &[u8]| {
        let texts = plain(&[text]);
        Column {
            pages: page(texts.len() as i64, 1, 0, &texts),
            codec: 0,
            values: 1,
        }
    };
    file(&pairs(), &[column(prompt), column(b"b")], 1)
}

/// The schema of lists of messages, without anything around them.
pub fn messages() -> Vec<Vec<u8>> {
    vec![
        element("schema", 0, 1),
        element("messages", 2, 2),
        element("role", 0, 0),
        element("content", 0, 0),
    ]
}

/// Levels in runs: how often and which.
pub fn levels(runs: &[(u64, u8)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (count, level) in runs {
        varint(&mut bytes, count << 1);
        bytes.push(*level);
    }
    [&(bytes.len() as u32).to_le_bytes(), &bytes[..]].concat()
}

/// A column of one text again and again, that repeats and is there as these runs say.
pub fn listed(rep: &[(u64, u8)], def: &[(u64, u8)], text: &[u8]) -> Column {
    let values: u64 = rep.iter().map(|run| run.0).sum();
    let mut indices = vec![1];
    varint(&mut indices, values << 1);
    indices.push(0);
    let bytes = [levels(rep), levels(def), indices].concat();
    let words = plain(&[text]);
    let pages = [
        dictionary(words.len() as i64, 1, &words),
        page(bytes.len() as i64, values as i64, 8, &bytes),
    ];
    Column {
        pages: pages.concat(),
        codec: 0,
        values: values as i64,
    }
}

/// Two rows of messages.
pub fn lists() -> Vec<u8> {
    let (rep, def) = (&[(1, 0), (2, 1), (1, 0)], &[(4, 1)]);
    let column = |text| listed(rep, def, text);
    file(&messages(), &[column(b"user"), column(b"hi")], 2)
}

pub fn zstd_run(byte: u8, size: usize) -> Vec<u8> {
    // A frame of runs: a byte and a length of up to 128 KiB each.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 11 << 3];
    let mut left = size;
    while left > 0 {
        let len = left.min(128 << 10);
        left -= len;
        let head = (len as u32) << 3 | 2 | u32::from(left == 0);
        frame.extend(&head.to_le_bytes()[..3]);
        frame.push(byte);
    }
    frame
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    // Deflated by the zip crate, with gzip's header and end around it.
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    archive
        .start_file("x", zip::write::SimpleFileOptions::default())
        .unwrap();
    archive.write_all(bytes).unwrap();
    let archive = archive.finish().unwrap().into_inner();
    let mut read = zip::ZipArchive::new(std::io::Cursor::new(&archive[..])).unwrap();
    let member = read.by_index(0).unwrap();
    let (start, len) = (member.data_start().unwrap() as usize, member.compressed_size() as usize);
    let crc = member.crc32().to_le_bytes();
    let size = (bytes.len() as u32).to_le_bytes();
    let head = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    [&head, &archive[start..start + len], &crc, &size].concat()
}

/// A zstd frame of blocks, each a run where its bytes are one and the same.
pub fn stored_runs(bytes: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 11 << 3];
    let mut rest = bytes;
    while let Some(first) = rest.first() {
        let same = rest.iter().take(128 << 10).take_while(|byte| *byte == first).count();
        let (len, kind) = if same > 64 { (same, 2) } else { (rest.len().min(32), 0) };
        let last = u32::from(len == rest.len());
        frame.extend(&((len as u32) << 3 | kind | last).to_le_bytes()[..3]);
        frame.extend(&rest[..if kind == 2 { 1 } else { len }]);
        rest = &rest[len..];
    }
    frame
}
