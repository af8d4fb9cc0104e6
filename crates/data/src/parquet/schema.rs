use super::thrift::{BINARY, I32, STRUCT, Thrift};
/// What is read of a message.
const MESSAGE: [&str; 2] = ["role", "content"];

/// How deep columns may be nested: a list of messages is four deep.
const DEPTH: usize = 24;

/// How many names of columns are kept beside those that are wanted.
const NAMES: usize = 1024;

/// An entry of the schema as the footer lists it, the tree's nodes one after another.
#[derive(Debug, Default)]
pub(super) struct Element<'a> {
    name: &'a str,
    kind: Option<i32>,
    repetition: i32,
    children: i32,
    list: bool,
}

impl<'a> Element<'a> {
    pub(super) fn read(thrift: &mut Thrift<'a>) -> Result<Self, String> {
        let mut element = Self::default();
        thrift.structure(|thrift, number, kind| {
            match (number, kind) {
                (1, I32) => element.kind = Some(thrift.i32()?),
                (3, I32) => element.repetition = thrift.i32()?,
                (4, BINARY) => element.name = thrift.text()?,
                (5, I32) => element.children = thrift.i32()?,
                // The older mark of a list, and the newer.
                (6, I32) => element.list |= thrift.i32()? == 3,
                (10, STRUCT) => thrift.structure(|_, number, _| {
                    element.list |= number == 3;
                    Ok(false)
                })?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(element)
    }
}

/// The columns that are read, as a tree.
pub(super) struct Schema {
    /// The top.
    pub(super) fields: Vec<Node>,
    /// All that have values, in order.
    pub(super) leaves: Vec<Leaf>,
    /// Names of all columns at the top, those that are not read among them.
    pub(super) names: Vec<String>,
    /// How many columns of values there are in all.
    pub(super) columns: usize,
}

/// A column of values.
#[derive(Debug, Clone)]
pub(super) struct Leaf {
    /// Its name for messages: `messages.content`.
    pub(super) name: String,
    /// Which of all columns it is.
    pub(super) index: usize,
    /// Parquet's number of the type.
    pub(super) kind: i32,
    /// How often something above it may be missing, and how often it may repeat.
    pub(super) max_def: u32,
    pub(super) max_rep: u32,
}

/// A part of a row.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) repetition: Repetition,
    /// The levels from which on it is there and repeats.
    pub(super) def: u32,
    pub(super) rep: u32,
    /// Its leaves, a range of the schema's.
    pub(super) leaves: std::ops::Range<usize>,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repetition {
    Required,
    Optional,
    Repeated,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// A value.
    Leaf,
    /// An object.
    Struct(Vec<Node>),
    /// What Parquet puts around a list and its elements, and JSON does not.
    Wrapper(Box<Node>),
}

impl Schema {
    pub(super) fn new(elements: &[Element<'_>], columns: &[&str]) -> Result<Self, String> {
        let [root, rest @ ..] = elements else {
            return Err("expected a schema, found none".into());
        };
        let mut builder = Builder {
            elements: rest,
            leaves: Vec::new(),
            columns: 0,
        };
        // Rows of nothing but a canary mark a file.
        let wanted = |name: &str| name == "canary" || columns.contains(&name);
        let (mut fields, mut names) = (Vec::new(), Vec::new());
        for _ in 0..root.children {
            let name = builder.elements.first().map_or("", |element| element.name);
            if names.len() < NAMES || wanted(name) {
                names.push(name.to_owned());
            }
            let wanted = wanted(name);
            if wanted && names[..names.len() - 1].iter().any(|other| other == name) {
                return Err(format!("field `{name}`: expected one column of this name, found two"));
            }
            fields.extend(builder.node(At::default(), wanted)?);
        }
        if !builder.elements.is_empty() {
            let left = builder.elements.len();
            return Err(format!("expected a tree of columns, found {left} entries beside it"));
        }
        Ok(Self {
            fields,
            leaves: builder.leaves,
            names,
            columns: builder.columns,
        })
    }
}

struct Builder<'a> {
    elements: &'a [Element<'a>],
    leaves: Vec<Leaf>,
    columns: usize,
}

/// Where in the tree an entry stands.
#[derive(Default, Clone)]
struct At {
    depth: usize,
    def: u32,
    rep: u32,
    name: String,
    /// The entry is the only child of the repeated entry of a list, which is none of the row's own.
    hidden: bool,
    /// The entry above is a list.
    list: bool,
}

impl Builder<'_> {
    /// Takes the next entry and all below it; none where it is not wanted.
    fn node(&mut self, mut at: At, wanted: bool) -> Result<Option<Node>, String> {
        let (element, rest) = self
            .elements
            .split_first()
            .ok_or("expected a tree of columns, found its end")?;
        self.elements = rest;
        if at.depth > DEPTH {
            return Err(format!("expected columns nested at most {DEPTH} deep, found more"));
        }
        let repetition = match element.repetition {
            0 => Repetition::Required,
            1 => Repetition::Optional,
            2 => Repetition::Repeated,
            other => {
                return Err(format!(
                    "expected a column that is there, may be or repeats, found {other}"
                ));
            }
        };
        at.def += u32::from(repetition != Repetition::Required);
        at.rep += u32::from(repetition == Repetition::Repeated);
        let in_list = at.list;
        if wanted && !at.hidden && !in_list {
            let dot = if at.name.is_empty() { "" } else { "." };
            at.name = format!("{}{dot}{}", at.name, element.name);
        }
        let first = self.leaves.len();
        let kind = match (element.kind, element.children) {
            (Some(kind), 0) => {
                if wanted {
                    self.leaves.push(Leaf {
                        name: at.name.clone(),
                        index: self.columns,
                        kind,
                        max_def: at.def,
                        max_rep: at.rep,
                    });
                }
                self.columns += 1;
                Some(Kind::Leaf)
            }
            (None, 1..) => self.children(element, repetition, &at, wanted)?,
            _ => {
                return Err(format!(
                    "expected a column or columns, found `{}`, which is neither",
                    element.name
                ));
            }
        };
        let kind = kind.filter(|_| wanted);
        Ok(kind.map(|kind| Node {
            name: element.name.to_owned(),
            repetition,
            def: at.def,
            rep: at.rep,
            leaves: first..self.leaves.len(),
            kind,
        }))
    }

    fn children(
        &mut self,
        of: &Element<'_>,
        repetition: Repetition,
        at: &At,
        wanted: bool,
    ) -> Result<Option<Kind>, String> {
        let next = self.elements.first();
        // `messages (LIST) { repeated list { element } }`, or with less around it in old files.
        let list = of.list && of.children == 1 && next.is_some_and(|child| child.repetition == 2);
        let element = at.list
            && repetition == Repetition::Repeated
            && of.children == 1
            && of.name != "array"
            && !of.name.ends_with("_tuple");
        let below = At {
            depth: at.depth + 1,
            list,
            hidden: element,
            ..at.clone()
        };
        if list || element {
            let inner = self.node(below, wanted)?;
            return Ok(inner.map(|inner| Kind::Wrapper(Box::new(inner))));
        }
        // Of a message only what is read; of something else enough to tell how many there are.
        let known = self.has_child(of.children as usize, &MESSAGE);
        let mut fields = Vec::new();
        for child in 0..of.children {
            let name = self.elements.first().map_or("", |element| element.name);
            let read = if known { MESSAGE.contains(&name) } else { child == 0 };
            fields.extend(self.node(below.clone(), wanted && read)?);
        }
        Ok(Some(Kind::Struct(fields)))
    }

    /// Whether one of the next entry's siblings, or itself, has one of these names.
    fn has_child(&self, siblings: usize, names: &[&str]) -> bool {
        let (mut left, mut at) = (siblings, 0);
        while let (1.., Some(element)) = (left, self.elements.get(at)) {
            if names.contains(&element.name) {
                return true;
            }
            at += self.below(at);
            left -= 1;
        }
        false
    }

    /// How many entries the tree under this one has, with itself.
    fn below(&self, at: usize) -> usize {
        let (mut to_come, mut end) = (1_u64, at);
        while to_come > 0 {
            let Some(element) = self.elements.get(end) else { break };
            to_come += u64::try_from(element.children).unwrap_or(0);
            to_come -= 1;
            end += 1;
        }
        end - at
    }
}
