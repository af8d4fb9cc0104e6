use std::fs::File;

use super::budget::Budget;
use super::footer::Chunk;
use super::page::{self, Page};
use super::schema::Leaf;
use super::source::{AHEAD, Source};
use super::values::{Dictionary, Values};

/// Work that a level is, beside the bytes of its value.
const LEVEL: usize = 64;

/// A column's values in a group of rows, one after another; of its pages one is held at a time.
pub(super) struct Column<'f> {
    leaf: &'f Leaf,
    chunk: Chunk,
    budget: &'f Budget,
    source: Source<'f>,
    /// Values that the pages to come may still have.
    to_come: u64,
    dictionary: Option<Dictionary>,
    page: Option<Data>,
    /// The levels of the next value, once they were asked for.
    next: Option<Level>,
}

/// How deep a value is there, and at what depth it repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Level {
    pub(super) rep: u32,
    pub(super) def: u32,
}

struct Data {
    bytes: Vec<u8>,
    left: u64,
    rep: super::packed::Hybrid,
    def: super::packed::Hybrid,
    values: Values,
}

impl Data {
    fn held(&self) -> usize {
        self.bytes.len() + self.values.held()
    }
}

impl<'f> Column<'f> {
    pub(super) fn new(file: &'f File, leaf: &'f Leaf, chunk: Chunk, budget: &'f Budget) -> Result<Self, String> {
        budget.hold(2 * AHEAD)?;
        Ok(Self {
            leaf,
            chunk,
            budget,
            source: Source::new(file, chunk.start, chunk.end),
            to_come: chunk.values,
            dictionary: None,
            page: None,
            next: None,
        })
    }

    /// The next value's levels; none at the end.
    pub(super) fn peek(&mut self) -> Result<Option<Level>, String> {
        if self.next.is_none() {
            self.next = self.level().map_err(|e| self.named(&e))?;
        }
        Ok(self.next)
    }

    /// Goes past the value that was peeked at.
    pub(super) fn pass(&mut self) {
        self.next = None;
    }

    /// The bytes of the value that was peeked at, which is there, and goes past it.
    pub(super) fn take(&mut self) -> Result<&[u8], String> {
        self.next = None;
        let (leaf, budget) = (self.leaf, self.budget);
        let page = self.page.as_mut().ok_or("expected a value, found none")?;
        let value = page.values.next(&page.bytes, self.dictionary.as_ref(), budget);
        let value = value.and_then(|value| budget.work(value.len()).map(|()| value));
        value.map_err(|e| format!("field `{}`: {e}", leaf.name))
    }

    fn level(&mut self) -> Result<Option<Level>, String> {
        while self.page.as_ref().is_none_or(|page| page.left == 0) {
            if !self.turn()? {
                return match self.to_come {
                    0 => Ok(None),
                    missing => Err(format!("expected {missing} values more, found the column's end")),
                };
            }
        }
        let Some(page) = &mut self.page else { return Ok(None) };
        self.budget.work(LEVEL)?;
        page.left -= 1;
        let level = Level {
            rep: page.rep.next_or_none(&page.bytes, self.leaf.max_rep)?,
            def: page.def.next_or_none(&page.bytes, self.leaf.max_def)?,
        };
        if level.rep > self.leaf.max_rep || level.def > self.leaf.max_def {
            let (rep, def) = (self.leaf.max_rep, self.leaf.max_def);
            return Err(format!("expected levels of at most {rep} and {def}, found {level:?}"));
        }
        Ok(Some(level))
    }

    /// Turns to the next page of values; false at the end.
    fn turn(&mut self) -> Result<bool, String> {
        if let Some(page) = self.page.take() {
            self.budget.release(page.held());
        }
        if self.to_come == 0 {
            return Ok(false);
        }
        loop {
            let page = page::next(&mut self.source, self.chunk.codec, self.leaf, self.budget)?;
            match page {
                None => return Ok(false),
                Some(Page::Dictionary { bytes, values }) => {
                    if self.dictionary.is_some() {
                        return Err("expected one dictionary in a column, found two".into());
                    }
                    self.dictionary = Some(Dictionary::new(bytes, values, self.leaf.kind, self.budget)?);
                }
                Some(Page::Data {
                    bytes,
                    values,
                    encoding,
                    rep,
                    def,
                    at,
                }) => {
                    let left = self.to_come.checked_sub(values);
                    self.to_come = left.ok_or_else(|| {
                        let expected = self.to_come;
                        format!("expected at most {expected} values in a page, found {values}")
                    })?;
                    let dictionary = self.dictionary.is_some();
                    let of = Values::new(&bytes, at, encoding, self.leaf.kind, dictionary);
                    self.page = Some(Data {
                        left: values,
                        rep,
                        def,
                        values: of?,
                        bytes,
                    });
                    return Ok(true);
                }
            }
        }
    }

    fn named(&self, problem: &str) -> String {
        format!("field `{}`: {problem}", self.leaf.name)
    }
}

impl Drop for Column<'_> {
    fn drop(&mut self) {
        let page = self.page.as_ref().map_or(0, Data::held);
        let dictionary = self.dictionary.as_ref().map_or(0, Dictionary::held);
        self.budget.release(2 * AHEAD + page + dictionary);
    }
}
