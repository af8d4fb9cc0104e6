//! The fields of a `config.json`, each with its own error.

use std::path::Path;

use serde_json::{Map, Value};

use crate::{Error, Result};

/// One JSON object, read field by field. A field that is null counts as absent, where nothing else is said.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    path: &'a Path,
    /// What the object is called in the file, with a dot; empty for the file's own.
    within: String,
    fields: Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(crate) fn parse(json: &[u8], path: &'a Path) -> Result<Self> {
        let value: Value =
            serde_json::from_slice(json).map_err(|e| Error::format(path, "JSON", "one object", e.to_string()))?;
        match value {
            Value::Object(fields) => Ok(Self {
                path,
                within: String::new(),
                fields,
            }),
            other => Err(Error::format(path, "JSON", "one object", other.to_string())),
        }
    }

    pub(crate) fn path(&self) -> &'a Path {
        self.path
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    /// Whether the field is there, null or not.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.fields.contains_key(name)
    }

    /// The error that the field is not what was expected.
    pub(crate) fn wrong(&self, name: &str, expected: impl Into<String>) -> Error {
        let found = self.fields.get(name).map_or_else(|| "nothing".to_owned(), shown);
        Error::format(self.path, format!("{}{name}", self.within), expected, found)
    }

    /// The field as an object of its own; none where it is absent.
    pub(crate) fn object(&self, name: &str) -> Result<Option<Self>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(Self {
                path: self.path,
                within: format!("{}{name}.", self.within),
                fields: fields.clone(),
            })),
            Some(_) => Err(self.wrong(name, "an object or null")),
        }
    }

    pub(crate) fn whole(&self, name: &str) -> Result<Option<u64>> {
        let wrong = || self.wrong(name, "a whole number");
        self.get(name).map(|value| value.as_u64().ok_or_else(wrong)).transpose()
    }

    /// A number of things, which must be there.
    pub(crate) fn count(&self, name: &str) -> Result<u64> {
        self.whole(name)?.ok_or_else(|| self.wrong(name, "a whole number"))
    }

    pub(crate) fn number(&self, name: &str) -> Result<Option<f64>> {
        let wrong = || self.wrong(name, "a number");
        self.get(name).map(|value| value.as_f64().ok_or_else(wrong)).transpose()
    }

    /// A number above zero; none where it is absent.
    pub(crate) fn positive(&self, name: &str) -> Result<Option<f64>> {
        match self.number(name)? {
            Some(x) if !(x.is_finite() && x > 0.0) => Err(self.wrong(name, "a number above 0")),
            found => Ok(found),
        }
    }

    pub(crate) fn flag(&self, name: &str, default: bool) -> Result<bool> {
        let wrong = || self.wrong(name, "true or false");
        self.get(name)
            .map_or(Ok(default), |value| value.as_bool().ok_or_else(wrong))
    }

    pub(crate) fn text(&self, name: &str) -> Result<Option<&str>> {
        let wrong = || self.wrong(name, "text");
        self.get(name).map(|value| value.as_str().ok_or_else(wrong)).transpose()
    }

    /// Texts, one for each of so many layers; none where the field is absent.
    pub(crate) fn texts(&self, name: &str, n: usize) -> Result<Option<Vec<&str>>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let texts: Option<Vec<&str>> = value
            .as_array()
            .and_then(|texts| texts.iter().map(Value::as_str).collect());
        match texts {
            Some(texts) if texts.len() == n => Ok(Some(texts)),
            _ => Err(self.wrong(name, format!("{n} texts, one for each layer"))),
        }
    }

    /// So many numbers; none where the field is absent.
    pub(crate) fn numbers(&self, name: &str, n: usize) -> Result<Option<Vec<f64>>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let numbers: Option<Vec<f64>> = value
            .as_array()
            .and_then(|numbers| numbers.iter().map(Value::as_f64).collect());
        match numbers {
            Some(numbers) if numbers.len() == n => Ok(Some(numbers)),
            _ => Err(self.wrong(name, format!("{n} numbers"))),
        }
    }

    /// A field that is none of these.
    pub(crate) fn other_than(&self, names: &[&str]) -> Option<&str> {
        self.fields
            .keys()
            .map(String::as_str)
            .find(|name| !names.contains(name))
    }

    /// Refuses a field that is on; `why` says what it would ask for.
    pub(crate) fn refuse_flag(&self, name: &str, why: &str) -> Result<()> {
        match self.flag(name, false)? {
            true => Err(self.wrong(name, format!("false ({why} not implemented)"))),
            false => Ok(()),
        }
    }

    /// Refuses a field that is there and not empty.
    pub(crate) fn refuse(&self, name: &str, why: &str) -> Result<()> {
        match self.get(name) {
            Some(Value::Array(values)) if values.is_empty() => Ok(()),
            Some(_) => Err(self.wrong(name, format!("null ({why} not implemented)"))),
            None => Ok(()),
        }
    }
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
