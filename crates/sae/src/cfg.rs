//! A configuration in JSON: its fields, each of which names itself in an error.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::{Error, Metadata, Result};

/// A configuration is a page of text; more is no configuration, and would take tens of times its size.
pub(crate) const LARGEST: u64 = 1 << 18;

/// The fields of a JSON object, and where they came from.
pub(crate) struct Cfg {
    path: PathBuf,
    fields: Map<String, Value>,
}

impl Cfg {
    pub(crate) fn read(path: PathBuf) -> Result<Self> {
        let io = |source| Error::Io {
            action: "read",
            path: path.clone(),
            source,
        };
        let malformed = |what| Error::Malformed {
            path: path.clone(),
            what,
        };
        // A pipe would be waited for.
        if !std::fs::metadata(&path).map_err(io)?.is_file() {
            return Err(malformed("expected a file, found something else".into()));
        }
        let mut text = Vec::new();
        File::open(&path)
            .map_err(io)?
            .take(LARGEST + 1)
            .read_to_end(&mut text)
            .map_err(io)?;
        if text.len() as u64 > LARGEST {
            return Err(malformed(format!(
                "expected at most {LARGEST} bytes of JSON, found more"
            )));
        }
        let fields = serde_json::from_slice(&text).map_err(|e| malformed(format!("not a JSON object: {e}")))?;
        Ok(Self { path, fields })
    }

    /// The same file with other fields.
    pub(crate) fn with(self, fields: Map<String, Value>) -> Self {
        Self { fields, ..self }
    }

    /// The object in this field as a configuration of its own.
    pub(crate) fn object(&self, field: &'static str) -> Result<Self> {
        match self.get(field) {
            Some(Value::Object(fields)) => Ok(Self {
                path: self.path.clone(),
                fields: fields.clone(),
            }),
            _ => Err(self.wrong(field, "an object")),
        }
    }

    /// The field, if it is there and not null.
    pub(crate) fn get(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    pub(crate) fn text(&self, field: &str) -> Option<&str> {
        self.get(field).and_then(Value::as_str)
    }

    pub(crate) fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }

    pub(crate) fn wrong(&self, field: &'static str, expected: impl Into<String>) -> Error {
        let found = self
            .fields
            .get(field)
            .map_or_else(|| "nothing".to_owned(), ToString::to_string);
        Error::Field {
            path: self.path.clone(),
            field,
            expected: expected.into(),
            found: found.chars().take(80).collect(),
        }
    }

    /// One of these texts; absent and null fields are `default`.
    pub(crate) fn one_of(&self, field: &'static str, accepted: &[&str], default: Option<&str>) -> Result<()> {
        let found = match self.get(field) {
            None => default,
            Some(value) => value.as_str(),
        };
        match found {
            Some(found) if accepted.contains(&found) => Ok(()),
            _ => Err(self.wrong(field, accepted.join(" or "))),
        }
    }

    pub(crate) fn flag(&self, field: &'static str, default: bool) -> Result<bool> {
        match self.get(field) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.wrong(field, "true or false")),
        }
    }

    /// A flag that must be false, as it is by default.
    pub(crate) fn unset(&self, field: &'static str) -> Result<()> {
        match self.flag(field, false)? {
            false => Ok(()),
            true => Err(self.wrong(field, "false")),
        }
    }

    pub(crate) fn size(&self, field: &'static str) -> Result<usize> {
        let size = self
            .get(field)
            .and_then(Value::as_u64)
            .and_then(|n| usize::try_from(n).ok());
        size.filter(|&n| n > 0)
            .ok_or_else(|| self.wrong(field, "an integer of at least 1"))
    }

    /// A size, which absent and null fields leave at `default`.
    pub(crate) fn size_or(&self, field: &'static str, default: usize) -> Result<usize> {
        match self.get(field) {
            None => Ok(default),
            Some(_) => self.size(field),
        }
    }

    /// A number, which absent and null fields leave at `default`.
    pub(crate) fn number(&self, field: &'static str, default: f32) -> Result<f32> {
        match self.get(field) {
            None => Ok(default),
            Some(value) => match value.as_f64().map(|number| number as f32) {
                Some(number) if number.is_finite() => Ok(number),
                _ => Err(self.wrong(field, "a number that 32 bits hold")),
            },
        }
    }

    /// The sizes of the weights.
    pub(crate) fn sizes(&self, d_in: &'static str, d_sae: &'static str) -> Result<(usize, usize)> {
        let sizes = (self.size(d_in)?, self.size(d_sae)?);
        match sizes.0.checked_mul(sizes.1) {
            Some(_) => Ok(sizes),
            None => {
                let larger = if sizes.0 > sizes.1 { d_in } else { d_sae };
                Err(self.wrong(larger, "a size whose weights can be counted"))
            }
        }
    }

    pub(crate) fn metadata(&self) -> Result<Metadata> {
        match self.get("metadata") {
            None => Ok(Metadata::default()),
            Some(value) => serde_json::from_value(value.clone()).map_err(|e| Error::Malformed {
                path: self.path.clone(),
                what: format!("field `metadata`: {e}"),
            }),
        }
    }
}
