//! What stands for `parquet/` in a build without it.

use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::lines::{Form, Loaded, OnBad};
use crate::parquet_about::ParquetAbout;

/// What a Parquet file holds; this build reads none.
///
/// # Errors
/// [`Error::Row`] that names the feature.
pub fn parquet_about(path: impl AsRef<Path>) -> Result<ParquetAbout> {
    let problem = "expected text, found Parquet, which this build does not read: build it with the Cargo feature \
                   `parquet`, or convert the file to JSONL";
    Err(Error::row(path.as_ref().display().to_string(), problem))
}

pub(crate) fn load<T>(
    path: &Path,
    _on_bad: OnBad,
    _form: Form,
    _take: impl FnMut(Value) -> Result<T, String>,
) -> Result<Loaded<T>> {
    Err(parquet_about(path).expect_err("this build reads no Parquet"))
}
