use serde_json::{Map, Value};

use super::budget::Budget;
use super::column::{Column, Level};
use super::schema::{Kind, Leaf, Node, Repetition};
use super::values::kind;
use crate::lines::{MAX_LINE, MAX_VALUES};

/// Memory that a value of JSON takes beside its text: itself, its name, and its place in a table.
pub(super) const VALUE: usize = 192;

/// Puts rows together out of their columns' values: Dremel's levels say where each belongs.
///
/// The columns are a stranger's, and need not agree on how long a list is or on what is missing: each is asked, and one
/// that differs from the others is an error.
pub(super) struct Assembler<'f> {
    pub(super) columns: Vec<Column<'f>>,
    pub(super) leaves: &'f [Leaf],
    pub(super) budget: &'f Budget,
    pub(super) row: Size,
}

/// What the row that is being put together has so far.
#[derive(Debug, Default)]
pub(super) struct Size {
    /// Bytes of text and values; of those that are within a line's limits.
    pub(super) text: usize,
    pub(super) values: usize,
    /// Why the row cannot be used, though the file can.
    pub(super) problem: Option<String>,
}

impl Assembler<'_> {
    /// The next row as the object that a line of JSONL would be. What is null is left out, as a column has no other way to
    /// say that a row lacks a field.
    pub(super) fn row(&mut self, fields: &[Node]) -> Result<Value, String> {
        self.row = Size::default();
        let mut row = Map::new();
        for field in fields {
            match self.value(field, 0)? {
                Value::Null => {}
                value => drop(row.insert(field.name.clone(), value)),
            }
        }
        Ok(Value::Object(row))
    }

    /// Nothing may be left when all rows were read.
    pub(super) fn end(&mut self) -> Result<(), String> {
        for (column, leaf) in self.columns.iter_mut().zip(self.leaves) {
            if column.peek()?.is_some() {
                return Err(format!(
                    "field `{}`: expected a value for each row, found more",
                    leaf.name
                ));
            }
        }
        Ok(())
    }

    /// A value that begins where levels of `rep` are expected.
    fn value(&mut self, node: &Node, rep: u32) -> Result<Value, String> {
        match node.repetition {
            Repetition::Required => self.content(node, rep),
            Repetition::Optional if self.is_there(node, rep)? => self.content(node, rep),
            Repetition::Optional => {
                self.pass(node);
                Ok(Value::Null)
            }
            Repetition::Repeated => {
                let mut items = Vec::new();
                if !self.is_there(node, rep)? {
                    self.pass(node);
                    return Ok(Value::Array(items));
                }
                let mut at = rep;
                loop {
                    let item = self.content(node, at)?;
                    // A row of too many is gone through, but not kept.
                    if self.row.problem.is_none() {
                        items.push(item);
                    }
                    at = node.rep;
                    let next = self.columns[node.leaves.start].peek()?;
                    if next.is_none_or(|level| level.rep != at) {
                        return Ok(Value::Array(items));
                    }
                    self.is_there(node, at)?;
                }
            }
        }
    }

    /// Whether there is something at this place, on which all columns below must agree.
    fn is_there(&mut self, node: &Node, rep: u32) -> Result<bool, String> {
        let mut there = None;
        for leaf in node.leaves.clone() {
            let found = self.level(leaf, rep)?.def >= node.def;
            if there.is_some_and(|there| there != found) {
                let name = &self.leaves[leaf].name;
                return Err(format!(
                    "field `{name}`: expected a value where its siblings have one, found otherwise"
                ));
            }
            there = Some(found);
        }
        Ok(there.unwrap_or(false))
    }

    /// The levels of a column's next value, which must repeat at `rep`.
    fn level(&mut self, leaf: usize, rep: u32) -> Result<Level, String> {
        let name = &self.leaves[leaf].name;
        match self.columns[leaf].peek()? {
            Some(level) if level.rep == rep => Ok(level),
            Some(level) => Err(format!(
                "field `{name}`: expected a value that repeats at level {rep}, found level {}",
                level.rep
            )),
            None => Err(format!(
                "field `{name}`: expected a value for each row, found the column's end"
            )),
        }
    }

    fn pass(&mut self, node: &Node) {
        self.columns[node.leaves.clone()].iter_mut().for_each(Column::pass);
    }

    fn content(&mut self, node: &Node, rep: u32) -> Result<Value, String> {
        match &node.kind {
            Kind::Wrapper(inner) => self.value(inner, rep),
            Kind::Struct(fields) => {
                self.count()?;
                let mut object = Map::new();
                for field in fields {
                    let value = self.value(field, rep)?;
                    if self.row.problem.is_none() {
                        object.insert(field.name.clone(), value);
                    }
                }
                Ok(Value::Object(object))
            }
            Kind::Leaf => self.leaf(node.leaves.start, rep),
        }
    }

    fn leaf(&mut self, at: usize, rep: u32) -> Result<Value, String> {
        let leaf = &self.leaves[at];
        if self.level(at, rep)?.def != leaf.max_def {
            return Err(format!("field `{}`: expected a value, found none", leaf.name));
        }
        let bytes = self.columns[at].take()?;
        let value = match leaf.kind {
            kind::BYTE_ARRAY => {
                let size = bytes.len();
                if self.row.text + size > MAX_LINE {
                    self.row
                        .bad(|| format!("expected at most {MAX_LINE} bytes in a row, found more"));
                    return Ok(Value::Null);
                }
                // Before it is made.
                self.budget.hold(size)?;
                self.row.text += size;
                match std::str::from_utf8(bytes) {
                    Ok(text) => Value::from(text),
                    Err(e) => {
                        let (name, at) = (&leaf.name, e.valid_up_to());
                        self.row
                            .bad(|| format!("field `{name}`: expected UTF-8, found an invalid byte at byte {at}"));
                        Value::Null
                    }
                }
            }
            _ => number(leaf.kind, bytes),
        };
        self.count()?;
        Ok(value)
    }

    /// Counts a value of the row, and what it holds.
    fn count(&mut self) -> Result<(), String> {
        if self.row.values >= MAX_VALUES {
            self.row
                .bad(|| format!("expected at most {MAX_VALUES} values in a row, found more"));
            return Ok(());
        }
        self.budget.hold(VALUE)?;
        self.row.values += 1;
        Ok(())
    }
}

impl Size {
    fn bad(&mut self, problem: impl FnOnce() -> String) {
        self.problem.get_or_insert_with(problem);
    }

    /// What the budget holds for it.
    pub(super) fn held(&self) -> usize {
        self.text + self.values * VALUE
    }
}

fn number(kind: i32, bytes: &[u8]) -> Value {
    let eight = || bytes.try_into().unwrap_or_default();
    let four = || bytes.try_into().unwrap_or_default();
    match kind {
        kind::BOOLEAN => Value::from(bytes == [1]),
        kind::INT32 => Value::from(i32::from_le_bytes(four())),
        kind::INT64 => Value::from(i64::from_le_bytes(eight())),
        kind::FLOAT => Value::from(f32::from_le_bytes(four())),
        kind::DOUBLE => Value::from(f64::from_le_bytes(eight())),
        // A time of twelve bytes, which is no text either.
        _ => Value::from(0),
    }
}
