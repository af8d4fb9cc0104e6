use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result, clip};
use crate::parquet;

/// The longest line taken, in bytes: no conversation is longer, and a file without line ends must
/// not fill the memory.
pub const MAX_LINE: usize = 4 << 20;

/// The most values in a line: each takes a hundred bytes of memory, and may be two of the file.
pub(crate) const MAX_VALUES: usize = 1 << 17;

/// How many reasons [`Loaded`] keeps.
const REASONS: usize = 8;

/// What to do with a row that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnBad {
    /// Stop with an error that names the line.
    #[default]
    Fail,
    /// Leave it out and count it.
    Skip,
}

/// The rows of a JSONL file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded<T> {
    /// The rows, in the file's order.
    pub rows: Vec<T>,
    /// How many rows were left out as bad; 0 with [`OnBad::Fail`].
    pub skipped: usize,
    /// Why, for the first few of them: file, line, problem.
    pub reasons: Vec<String>,
}

impl<T> Loaded<T> {
    /// Counts a bad row.
    pub(crate) fn skip(&mut self, place: &str, line: u64, problem: &str) {
        self.skipped += 1;
        if self.reasons.len() < REASONS {
            self.reasons.push(format!("{place}:{line}: {}", clip(problem)));
        }
    }
}

/// What a reader of rows wants of a file of columns.
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "parquet"), expect(dead_code, reason = "nothing reads columns"))]
pub(crate) struct Form {
    /// The fields of a row that it reads.
    pub(crate) columns: &'static [&'static str],
    /// How often it keeps a row's texts.
    pub(crate) copies: usize,
}

/// Reads the rows of a JSONL or a Parquet file, each made by `take`, which answers with the problem of a bad one.
pub(crate) fn load<T>(
    path: &Path,
    on_bad: OnBad,
    form: Form,
    take: impl FnMut(Value) -> Result<T, String>,
) -> Result<Loaded<T>> {
    let io = |source| Error::Io {
        path: path.to_owned(),
        source,
    };
    let mut reader = BufReader::new(File::open(path).map_err(io)?);
    if is_parquet(&mut reader).map_err(io)? {
        return parquet::load(path, on_bad, form, take);
    }
    read(reader, &path.display().to_string(), on_bad, take)
}

/// Whether the file that begins here is Parquet, whatever its name is.
pub(crate) fn is_parquet(reader: &mut impl BufRead) -> io::Result<bool> {
    Ok(reader.fill_buf()?.starts_with(b"PAR1"))
}

/// As [`load`], from any reader; `name` stands for the file in messages.
pub(crate) fn read<T>(
    mut reader: impl BufRead,
    name: &str,
    on_bad: OnBad,
    mut take: impl FnMut(Value) -> Result<T, String>,
) -> Result<Loaded<T>> {
    let mut loaded = Loaded {
        rows: Vec::new(),
        skipped: 0,
        reasons: Vec::new(),
    };
    let mut line = Vec::new();
    for number in 1_u64.. {
        let io = |source| Error::Io {
            path: name.into(),
            source,
        };
        let whole = match next_line(&mut reader, &mut line).map_err(io)? {
            End::OfFile => break,
            End::OfLine => Ok(()),
            End::TooLong => Err(format!("expected at most {MAX_LINE} bytes in a line, found more")),
        };
        let text = if number == 1 {
            line.strip_prefix(b"\xef\xbb\xbf")
        } else {
            None
        };
        let text = text.unwrap_or(&line).trim_ascii();
        let row = match whole {
            Ok(()) if text.is_empty() => continue,
            Ok(()) => parse(text),
            Err(problem) => Err(problem),
        };
        let row = row.and_then(|row| row.map(&mut take).transpose());
        match (row, on_bad) {
            (Ok(row), _) => loaded.rows.extend(row),
            (Err(problem), OnBad::Fail) => {
                return Err(Error::row(format!("{name}:{number}"), &problem));
            }
            (Err(problem), OnBad::Skip) => {
                loaded.skip(name, number, &problem);
            }
        }
    }
    if loaded.rows.is_empty() {
        return Err(Error::Empty {
            place: name.to_owned(),
            skipped: loaded.skipped,
        });
    }
    Ok(loaded)
}

pub(crate) enum End {
    OfLine,
    OfFile,
    TooLong,
}

/// Reads one line; of one that is too long, the rest is passed over without being kept.
pub(crate) fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<End> {
    line.clear();
    // Two bytes more than a line may have, for CR and LF.
    let limit = MAX_LINE as u64 + 2;
    let read = reader.by_ref().take(limit).read_until(b'\n', line)?;
    if read == 0 {
        return Ok(End::OfFile);
    }
    if line.ends_with(b"\n") {
        line.pop();
        line.pop_if(|b| *b == b'\r');
    } else if read as u64 == limit {
        reader.skip_until(b'\n')?;
    }
    if line.len() > MAX_LINE {
        line.clear();
        return Ok(End::TooLong);
    }
    Ok(End::OfLine)
}

/// The row in a line; `None` for a canary line, which holds no data.
pub(crate) fn parse(line: &[u8]) -> Result<Option<Value>, String> {
    if let Some(at) = line.iter().position(|&b| b == 0) {
        return Err(format!("expected text, found a NUL byte at byte {at}"));
    }
    let text = std::str::from_utf8(line)
        .map_err(|e| format!("expected UTF-8, found an invalid byte at byte {}", e.valid_up_to()))?;
    if values(text) > MAX_VALUES {
        return Err(format!("expected at most {MAX_VALUES} values in a line, found more"));
    }
    // Through `Value`, whose nesting is limited, so that a field nobody reads cannot hide depth.
    let value: Value = serde_json::from_str(text).map_err(|e| format!("not a JSON row: {e}"))?;
    match &value {
        row if is_canary(row) => Ok(None),
        Value::Object(_) => Ok(Some(value)),
        _ => Err("expected a JSON object, found another value".into()),
    }
}

/// A row that only marks its file.
pub(crate) fn is_canary(row: &Value) -> bool {
    row.as_object()
        .is_some_and(|fields| fields.len() == 1 && fields.contains_key("canary"))
}

/// How many values a line of JSON holds at most: signs that stand before or between values, outside of texts.
fn values(line: &str) -> usize {
    let (mut inside, mut escaped) = (false, false);
    let mut sign = |byte: u8| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if inside => escaped = true,
            b'"' => inside = !inside,
            b',' | b':' | b'[' | b'{' => return !inside,
            _ => {}
        }
        false
    };
    line.bytes().filter(|&byte| sign(byte)).count()
}

/// A row of this kind; the problem names the field.
pub(crate) fn fields<T: DeserializeOwned>(row: Value) -> Result<T, String> {
    serde_path_to_error::deserialize(row).map_err(|e| format!("field `{}`: {}", e.path(), e.inner()))
}

/// The problem with a text that must say something.
pub(crate) fn check_text(field: &str, text: &str) -> Result<(), String> {
    if text.trim().is_empty() {
        return Err(format!("field `{field}`: expected text, found none"));
    }
    check_nul(field, text)
}

/// The problem with a text that holds a NUL, which tokenizers and C strings end at.
pub(crate) fn check_nul(field: &str, text: &str) -> Result<(), String> {
    match text.find('\0') {
        Some(at) => Err(format!("field `{field}`: expected text, found a NUL at byte {at}")),
        None => Ok(()),
    }
}
