//! Rows out of Parquet files, which the Hugging Face hub serves data sets as.
//!
//! A row becomes the JSON object that a line of JSONL would be, and is read by what reads that line, so that the forms
//! have one definition. Columns that it does not ask for are left where they are.
//!
//! The `parquet` crate would do; it trusts the sizes in page headers, puts no bound on a row, and takes features of numeric
//! crates that burn would be built anew for. This reads less: texts and numbers in the encodings that writers use by
//! default and in those of the second version, within a [`Budget`] that is asked before anything is unpacked.

mod budget;
mod codec;
mod column;
mod footer;
mod packed;
mod page;
mod record;
mod schema;
mod source;
mod thrift;
mod values;

use std::fs::File;
use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::lines::{Form, Loaded, OnBad, is_canary};
use crate::parquet_about::ParquetAbout;
use budget::Budget;
use column::Column;
use footer::Footer;
use record::{Assembler, Size};

/// Memory that a row takes beside its values: its place in a list that grows, and in a table of what may not repeat.
const ROW: usize = 96;

/// Work that a row is which cannot be used: its problem is written out.
const BAD_ROW: usize = 2048;

/// What a Parquet file holds.
///
/// # Errors
/// [`Error::Io`]; [`Error::Row`] names the part of the file that is wrong.
pub fn parquet_about(path: impl AsRef<Path>) -> Result<ParquetAbout> {
    let path = path.as_ref();
    let (_, footer, _) = open(path, &[])?;
    Ok(ParquetAbout {
        rows: footer.rows,
        groups: footer.groups.len(),
        columns: footer.schema.names,
        compression: footer.codecs.iter().map(ToString::to_string).collect(),
        writer: footer.writer,
    })
}

fn open(path: &Path, columns: &[&str]) -> Result<(File, Footer, Budget)> {
    let io = |source| Error::Io {
        path: path.to_owned(),
        source,
    };
    let problem = |problem: String| Error::row(path.display().to_string(), &problem);
    // Asked before it is opened: a pipe whose writer has gone would be waited for.
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(problem(
            "expected Parquet in a file, whose end is read first, found a pipe or a device".into(),
        ));
    }
    let file = File::open(path).map_err(io)?;
    let about = file.metadata().map_err(io)?;
    let budget = Budget::new(about.len());
    let footer = footer::read(&file, about.len(), columns, &budget).map_err(problem)?;
    Ok((file, footer, budget))
}

/// As [`lines::load`](crate::lines::load), of a Parquet file; rows are numbered from 1.
pub(crate) fn load<T>(
    path: &Path,
    on_bad: OnBad,
    form: Form,
    mut take: impl FnMut(Value) -> Result<T, String>,
) -> Result<Loaded<T>> {
    let (file, footer, budget) = open(path, form.columns)?;
    let name = path.display().to_string();
    let mut loaded = Loaded {
        rows: Vec::new(),
        skipped: 0,
        reasons: Vec::new(),
    };
    let schema = &footer.schema;
    if schema.fields.is_empty() {
        let (expected, found) = (form.columns.join("`, `"), schema.names.join("`, `"));
        let problem = format!("expected columns of `{expected}`, found `{found}`");
        return Err(Error::row(name, &problem));
    }
    let mut number = 0_u64;
    for group in &footer.groups {
        let columns = schema.leaves.iter().zip(&group.chunks);
        let columns = columns.map(|(leaf, chunk)| Column::new(&file, leaf, *chunk, &budget));
        let mut assembler = Assembler {
            columns: columns
                .collect::<Result<_, String>>()
                .map_err(|e| Error::row(&*name, &e))?,
            leaves: &schema.leaves,
            budget: &budget,
            row: Size::default(),
        };
        for _ in 0..group.rows {
            number += 1;
            let at = |problem: &str| Error::row(format!("{name}:{number}"), problem);
            let row = assembler.row(&schema.fields).map_err(|e| at(&e))?;
            let size = std::mem::take(&mut assembler.row);
            let taken = match &size.problem {
                Some(problem) => Err(problem.clone()),
                None if is_canary(&row) => Ok(None),
                None => take(row).map(Some),
            };
            budget.release(size.held());
            let cost = match (taken, on_bad) {
                (Ok(Some(row)), _) => {
                    loaded.rows.push(row);
                    budget.hold(form.copies * (size.text + ROW) + 3 * size_of::<T>() + size.values * VALUE_KEPT)
                }
                (Ok(None), _) => budget.work(BAD_ROW),
                (Err(problem), OnBad::Fail) => return Err(at(&problem)),
                (Err(problem), OnBad::Skip) => {
                    loaded.skip(&name, number, &problem);
                    budget.work(BAD_ROW)
                }
            };
            cost.map_err(|e| at(&e))?;
        }
        assembler.end().map_err(|e| Error::row(&*name, &e))?;
    }
    match loaded.rows.is_empty() {
        true => Err(Error::Empty {
            place: name,
            skipped: loaded.skipped,
        }),
        false => Ok(loaded),
    }
}

/// What is left of a value of JSON in the row that it becomes part of: a message's turn, and the allocator's own.
const VALUE_KEPT: usize = 24;
