use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use super::budget::Budget;
use super::codec::Codec;
use super::schema::{Element, Schema};
use super::thrift::{BINARY, I32, I64, LIST, STRUCT, Thrift};

/// A file begins and ends with it.
pub(crate) const MAGIC: &[u8] = b"PAR1";

/// What the end of a Parquet file says of the rest: of the columns that are read, where they lie.
pub(super) struct Footer {
    pub(super) schema: Schema,
    pub(super) groups: Vec<Group>,
    /// Rows that the groups together say they have.
    pub(super) rows: u64,
    /// How the columns are packed, each once.
    pub(super) codecs: Vec<Codec>,
    /// The program that wrote it.
    pub(super) writer: Option<String>,
}

/// Rows that lie together.
pub(super) struct Group {
    pub(super) rows: u64,
    /// One for each leaf of the schema, in its order.
    pub(super) chunks: Vec<Chunk>,
}

/// A column's pages in a group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chunk {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) codec: Codec,
    /// Values in it, those that are null among them.
    pub(super) values: u64,
    kind: i32,
}

/// Reads the footer of a file of `len` bytes, of which these columns are wanted.
pub(super) fn read(mut file: &File, len: u64, columns: &[&str], budget: &Budget) -> Result<Footer, String> {
    let io = |e: std::io::Error| format!("field `footer`: could not be read: {e}");
    let tail = len.checked_sub(8).filter(|&at| at >= 4);
    let tail = tail.ok_or_else(|| format!("field `footer`: expected a Parquet file, found {len} bytes"))?;
    let mut end = [0; 8];
    file.seek(SeekFrom::Start(tail)).map_err(io)?;
    file.read_exact(&mut end).map_err(io)?;
    let [a, b, c, d, magic @ ..] = end;
    if magic != MAGIC {
        return Err(match &magic {
            b"PARE" => "field `footer`: expected one that can be read, found an encrypted one".into(),
            _ => "field `footer`: expected PAR1 at the end, found other bytes (is the file cut short?)".into(),
        });
    }
    let size = u32::from_le_bytes([a, b, c, d]);
    let start = tail.checked_sub(size.into()).filter(|&start| start >= 4);
    let start = start.ok_or_else(|| format!("field `footer`: expected it inside of the file, found {size} bytes"))?;
    budget.hold(size as usize)?;
    let mut bytes = vec![0; size as usize];
    file.seek(SeekFrom::Start(start)).map_err(io)?;
    file.read_exact(&mut bytes).map_err(io)?;
    let footer = parse(&bytes, start, columns, budget).map_err(|e| match e.starts_with("field `") {
        true => e,
        false => format!("field `footer`: {e}"),
    });
    budget.release(size as usize);
    footer
}

/// `end` is where columns end.
fn parse(bytes: &[u8], end: u64, columns: &[&str], budget: &Budget) -> Result<Footer, String> {
    let mut elements: Vec<Element<'_>> = Vec::new();
    let (mut groups_at, mut writer, mut encrypted) = (None, None, false);
    Thrift::new(bytes).structure(|thrift, number, kind| {
        match (number, kind) {
            (2, LIST) => thrift.structures(|thrift| {
                // The list may be as long again while it grows.
                budget.hold(3 * size_of::<Element<'_>>())?;
                elements.push(Element::read(thrift)?);
                Ok(())
            })?,
            (4, LIST) => {
                groups_at = Some(thrift.clone());
                return Ok(false);
            }
            (6, BINARY) => writer = Some(shown(thrift.binary()?)),
            (8, STRUCT) => {
                encrypted = true;
                return Ok(false);
            }
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    if encrypted {
        return Err("expected columns that can be read, found encrypted ones".into());
    }
    let schema = Schema::new(&elements, columns)?;
    let mut footer = Footer {
        schema,
        groups: Vec::new(),
        rows: 0,
        codecs: Vec::new(),
        writer,
    };
    if let Some(mut thrift) = groups_at {
        thrift.structures(|thrift| {
            let group = group(thrift, end, &mut footer, budget)?;
            footer.rows = footer.rows.saturating_add(group.rows);
            footer.groups.push(group);
            Ok(())
        })?;
    }
    budget.release(3 * size_of::<Element<'_>>() * elements.len());
    Ok(footer)
}

fn group(thrift: &mut Thrift<'_>, end: u64, footer: &mut Footer, budget: &Budget) -> Result<Group, String> {
    let schema = &footer.schema;
    budget.hold(3 * size_of::<Group>() + schema.leaves.len() * size_of::<Chunk>())?;
    let mut chunks = Vec::with_capacity(schema.leaves.len());
    let (mut rows, mut index) = (0, 0);
    thrift.structure(|thrift, number, kind| {
        match (number, kind) {
            (1, LIST) => thrift.structures(|thrift| {
                let wanted = schema.leaves.get(chunks.len()).filter(|leaf| leaf.index == index);
                let chunk = chunk(thrift)?;
                if !footer.codecs.contains(&chunk.codec) && footer.codecs.len() < 16 {
                    footer.codecs.push(chunk.codec);
                }
                if let Some(leaf) = wanted {
                    let name = &leaf.name;
                    if chunk.kind != leaf.kind {
                        let (expected, found) = (leaf.kind, chunk.kind);
                        return Err(format!(
                            "field `{name}`: expected values of type {expected}, found {found}"
                        ));
                    }
                    if chunk.start < 4 || chunk.start > chunk.end || chunk.end > end {
                        let (start, stop) = (chunk.start, chunk.end);
                        return Err(format!(
                            "field `{name}`: expected pages between the bytes 4 and {end}, found {start} to {stop}"
                        ));
                    }
                    chunks.push(chunk);
                }
                index += 1;
                Ok(())
            })?,
            (3, I64) => rows = count("a group's rows", thrift.i64()?)?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    if chunks.len() != schema.leaves.len() || index != schema.columns {
        let expected = schema.columns;
        return Err(format!(
            "expected {expected} columns in each group of rows, found {index}"
        ));
    }
    Ok(Group { rows, chunks })
}

fn chunk(thrift: &mut Thrift<'_>) -> Result<Chunk, String> {
    let (mut kind, mut codec, mut values, mut size) = (-1, Codec::Plain, 0, 0);
    let (mut data, mut dictionary) = (0, 0);
    thrift.structure(|thrift, number, is| {
        match (number, is) {
            (1, BINARY) => return Err("expected columns in this file, found one in another".into()),
            (3, STRUCT) => thrift.structure(|thrift, number, is| {
                match (number, is) {
                    (1, I32) => kind = thrift.i32()?,
                    (4, I32) => codec = Codec::new(thrift.i32()?),
                    (5, I64) => values = count("a column's values", thrift.i64()?)?,
                    (7, I64) => size = count("a column's bytes", thrift.i64()?)?,
                    (9, I64) => data = count("a column's place", thrift.i64()?)?,
                    (11, I64) => dictionary = count("a column's place", thrift.i64()?)?,
                    _ => return Ok(false),
                }
                Ok(true)
            })?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    // Some writers say 0 where there is no dictionary.
    let start = if dictionary > 0 { data.min(dictionary) } else { data };
    Ok(Chunk {
        start,
        end: start.saturating_add(size),
        codec,
        values,
        kind,
    })
}

fn count(what: &str, number: i64) -> Result<u64, String> {
    u64::try_from(number).map_err(|_| format!("expected {what} to be a number from 0 up, found {number}"))
}

/// A text that is only shown.
fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned()
}
