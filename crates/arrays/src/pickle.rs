//! The part of Python's pickle that `torch.save` uses for tensors, interpreted without running anything.
//!
//! A pickle is a program for a stack machine, and `GLOBAL` with `REDUCE` lets it call any Python function. Here a global
//! is one of a closed list, and "calling" one makes a value of this file's own [`Node`].

use std::collections::HashMap;
use std::path::Path;

use crate::array::MOST_AXES;
use crate::element::Element;
use crate::error::clip;
use crate::{Error, Result};

/// Of a pickle, in bytes: each makes at most one node, of about 100 bytes. A tensor takes about 150 of the pickle's.
pub(crate) const LARGEST: u64 = 1 << 18;

/// Bytes of memory that a byte of a pickle becomes at most, about.
pub(crate) const HELD: u64 = 128;

/// Where a value lies in [`Pickle::nodes`]: values are never nested, so that none is freed or walked recursively.
type Id = u32;

/// A value.
#[derive(Clone, Debug)]
pub(crate) enum Node<'a> {
    Int(i64),
    Str(&'a str),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage(Storage<'a>),
    Tensor(TensorView<'a>),
    /// None, a truth value, a float: no tensor needs it.
    Other,
}

/// A Python name that is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Element),
}

/// A member of the archive that holds a tensor's numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Storage<'a> {
    pub(crate) element: Element,
    /// The member's name below `data/`.
    pub(crate) key: &'a str,
    pub(crate) numel: usize,
}

/// A tensor: a view of a storage.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TensorView<'a> {
    pub(crate) storage: Storage<'a>,
    pub(crate) offset: usize,
    pub(crate) shape: Vec<usize>,
    pub(crate) strides: Vec<usize>,
}

/// A pickle that was read.
#[derive(Debug)]
pub(crate) struct Pickle<'a> {
    nodes: Vec<Node<'a>>,
    top: Id,
}

impl<'a> Pickle<'a> {
    pub(crate) fn parse(path: &Path, bytes: &'a [u8]) -> Result<Self> {
        let mut machine = Machine {
            path,
            bytes,
            at: 0,
            nodes: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        };
        let top = machine.run()?;
        let nodes = machine.nodes;
        Ok(Self { nodes, top })
    }

    pub(crate) fn top(&self) -> &Node<'a> {
        self.get(self.top)
    }

    pub(crate) fn get(&self, id: Id) -> &Node<'a> {
        &self.nodes[id as usize]
    }
}

struct Machine<'a, 'p> {
    path: &'p Path,
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack at which marks lie.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a, '_> {
    fn run(&mut self) -> Result<Id> {
        loop {
            let (at, opcode) = (self.at, self.byte()?);
            match opcode {
                // PROTO
                0x80 => {
                    let version = self.byte()?;
                    if !(2..=5).contains(&version) {
                        return Err(self.wrong(format!("expected protocol 2 to 5, found {version}")));
                    }
                }
                // FRAME: its length says nothing that the opcodes do not.
                0x95 => drop(self.take(8)?),
                b'.' => return self.pop(),
                b'(' => self.marks.push(self.stack.len()),
                b'N' | 0x88 | 0x89 => self.push(Node::Other),
                b'K' => {
                    let int = self.byte()?.into();
                    self.push(Node::Int(int));
                }
                b'M' => {
                    let int = u16::from_le_bytes(self.array()?).into();
                    self.push(Node::Int(int));
                }
                b'J' => {
                    let int = i32::from_le_bytes(self.array()?).into();
                    self.push(Node::Int(int));
                }
                0x8a => self.long()?,
                b'G' => {
                    self.take(8)?;
                    self.push(Node::Other);
                }
                // BINUNICODE, SHORT_BINUNICODE
                b'X' => {
                    let n = u32::from_le_bytes(self.array()?) as usize;
                    self.string(n)?;
                }
                0x8c => {
                    let n = self.byte()?.into();
                    self.string(n)?;
                }
                b')' => self.push(Node::Tuple(Vec::new())),
                b't' => {
                    let items = self.since_mark()?;
                    self.push(Node::Tuple(items));
                }
                0x85..=0x87 => {
                    let n = usize::from(opcode - 0x84);
                    let start = self.stack.len().checked_sub(n).filter(|&start| start >= self.floor());
                    let start = start.ok_or_else(|| self.wrong("a tuple of more values than there are"))?;
                    let items = self.stack.split_off(start);
                    self.push(Node::Tuple(items));
                }
                b']' => self.push(Node::List(Vec::new())),
                b'}' => self.push(Node::Dict(Vec::new())),
                b'a' => {
                    let item = self.pop()?;
                    self.list()?.push(item);
                }
                b'e' => {
                    let items = self.since_mark()?;
                    self.list()?.extend(items);
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.dict()?.push((key, value));
                }
                b'u' => {
                    let items = self.since_mark()?;
                    let (pairs, rest) = items.as_chunks::<2>();
                    if !rest.is_empty() {
                        return Err(self.wrong("a dictionary's key without a value"));
                    }
                    self.dict()?.extend(pairs.iter().map(|&[key, value]| (key, value)));
                }
                // BINPUT, LONG_BINPUT, MEMOIZE
                b'q' => {
                    let key = self.byte()?.into();
                    self.memoize(key)?;
                }
                b'r' => {
                    let key = u32::from_le_bytes(self.array()?);
                    self.memoize(key)?;
                }
                0x94 => self.memoize(self.memo.len() as u32)?,
                // BINGET, LONG_BINGET
                b'h' => {
                    let key = self.byte()?.into();
                    self.recall(key)?;
                }
                b'j' => {
                    let key = u32::from_le_bytes(self.array()?);
                    self.recall(key)?;
                }
                // GLOBAL, STACK_GLOBAL
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.global(module, name)?;
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    match (&self.nodes[module as usize], &self.nodes[name as usize]) {
                        (Node::Str(module), Node::Str(name)) => {
                            let (module, name) = (*module, *name);
                            self.global(module, name)?;
                        }
                        _ => return Err(self.wrong("a name that is no text")),
                    }
                }
                b'Q' => self.persistent()?,
                b'R' => self.reduce()?,
                // BUILD: a dictionary's `_metadata`, a parameter's attributes. Nothing of them is a number.
                b'b' => drop(self.pop()?),
                other => {
                    let shown = if other.is_ascii_graphic() {
                        format!(" ({})", char::from(other))
                    } else {
                        String::new()
                    };
                    let what =
                        format!("expected an instruction that tensors need, found {other:#04x}{shown} at byte {at}");
                    return Err(self.wrong(what));
                }
            }
        }
    }

    fn wrong(&self, what: impl AsRef<str>) -> Error {
        Error::format(self.path, format!("the pickle: {}", what.as_ref()))
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let bytes = self.bytes;
        let taken = self.at.checked_add(n).and_then(|end| bytes.get(self.at..end));
        let taken =
            taken.ok_or_else(|| self.wrong(format!("expected {n} bytes at byte {}, found its end", self.at)))?;
        self.at += n;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let taken = self.take(N)?;
        Ok(taken.try_into().expect("as many were taken"))
    }

    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.bytes[self.at..];
        let n = rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
        let line = self.take(n)?;
        self.take(1)?;
        std::str::from_utf8(line).map_err(|_| self.wrong("a name that is no UTF-8"))
    }

    fn push(&mut self, node: Node<'a>) {
        let id = self.nodes.len() as Id;
        self.nodes.push(node);
        self.stack.push(id);
    }

    /// What lies below the last mark is out of reach.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Id> {
        match self.stack.len() > self.floor() {
            true => Ok(self.stack.pop().expect("the stack is not empty")),
            false => Err(self.wrong("an instruction without a value to act on")),
        }
    }

    fn since_mark(&mut self) -> Result<Vec<Id>> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => Err(self.wrong("an instruction without the mark that it needs")),
        }
    }

    /// The node on top of the stack, which stays there.
    fn last(&mut self) -> Result<&mut Node<'a>> {
        let id = self.pop()?;
        self.stack.push(id);
        Ok(&mut self.nodes[id as usize])
    }

    fn list(&mut self) -> Result<&mut Vec<Id>> {
        if !matches!(self.last()?, Node::List(_)) {
            return Err(self.wrong("an append to what is no list"));
        }
        match self.last()? {
            Node::List(items) => Ok(items),
            _ => unreachable!("it was a list"),
        }
    }

    fn dict(&mut self) -> Result<&mut Vec<(Id, Id)>> {
        if !matches!(self.last()?, Node::Dict(_)) {
            return Err(self.wrong("a key for what is no dictionary"));
        }
        match self.last()? {
            Node::Dict(items) => Ok(items),
            _ => unreachable!("it was a dictionary"),
        }
    }

    fn memoize(&mut self, key: u32) -> Result<()> {
        let id = self.pop()?;
        self.stack.push(id);
        self.memo.insert(key, id);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<()> {
        let id = self.memo.get(&key).copied();
        let id = id.ok_or_else(|| self.wrong(format!("value {key}, which was never stored")))?;
        self.stack.push(id);
        Ok(())
    }

    fn string(&mut self, n: usize) -> Result<()> {
        let bytes = self.take(n)?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.wrong("a text that is no UTF-8"))?;
        self.push(Node::Str(text));
        Ok(())
    }

    /// LONG1: little-endian, two's complement, of any length.
    fn long(&mut self) -> Result<()> {
        let n = self.byte()?.into();
        let bytes = self.take(n)?;
        if n > 8 {
            return Err(self.wrong(format!("an integer of {n} bytes")));
        }
        let fill = if bytes.last().is_some_and(|last| last & 0x80 != 0) {
            0xff
        } else {
            0
        };
        let mut whole = [fill; 8];
        whole[..n].copy_from_slice(bytes);
        self.push(Node::Int(i64::from_le_bytes(whole)));
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Result<()> {
        let global = match (module, name) {
            ("collections", "OrderedDict") => Global::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
            ("torch", "DoubleStorage") => Global::Storage(Element::F64),
            ("torch", "FloatStorage") => Global::Storage(Element::F32),
            ("torch", "HalfStorage") => Global::Storage(Element::F16),
            ("torch", "BFloat16Storage") => Global::Storage(Element::BF16),
            ("torch", "BoolStorage") => Global::Storage(Element::Bool),
            ("torch", "CharStorage") => Global::Storage(Element::I8),
            ("torch", "ByteStorage") => Global::Storage(Element::U8),
            ("torch", "ShortStorage") => Global::Storage(Element::I16),
            ("torch", "IntStorage") => Global::Storage(Element::I32),
            ("torch", "LongStorage") => Global::Storage(Element::I64),
            _ => {
                return Err(Error::Name {
                    path: self.path.to_owned(),
                    name: clip(&format!("{module}.{name}")),
                });
            }
        };
        self.push(Node::Global(global));
        Ok(())
    }

    /// BINPERSID: `("storage", type, key, location, numel)`.
    fn persistent(&mut self) -> Result<()> {
        let id = self.pop()?;
        let wrong = "a reference that is no storage";
        let Node::Tuple(items) = &self.nodes[id as usize] else {
            return Err(self.wrong(wrong));
        };
        let &[kind, element, key, _, numel] = &items[..] else {
            return Err(self.wrong(wrong));
        };
        let node = |id: Id| &self.nodes[id as usize];
        let storage = match (node(kind), node(element), node(key), node(numel)) {
            (Node::Str("storage"), Node::Global(Global::Storage(element)), Node::Str(key), Node::Int(numel)) => {
                let numel = usize::try_from(*numel).map_err(|_| self.wrong(format!("a storage of {numel} numbers")))?;
                Storage {
                    element: *element,
                    key,
                    numel,
                }
            }
            _ => return Err(self.wrong(wrong)),
        };
        self.push(Node::Storage(storage));
        Ok(())
    }

    fn reduce(&mut self) -> Result<()> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let node = |id: Id| &self.nodes[id as usize];
        let Node::Tuple(arguments) = node(arguments) else {
            return Err(self.wrong("a call without its arguments"));
        };
        let made = match (node(function), &arguments[..]) {
            // With arguments it would copy a list, as often as it is asked to.
            (Node::Global(Global::OrderedDict), []) => Node::Dict(Vec::new()),
            (Node::Global(Global::RebuildTensor), &[storage, offset, shape, strides, ..]) => {
                let Node::Storage(storage) = node(storage) else {
                    return Err(self.wrong("a tensor without a storage"));
                };
                let Node::Int(offset) = node(offset) else {
                    return Err(self.wrong("a tensor without an offset"));
                };
                let offset =
                    usize::try_from(*offset).map_err(|_| self.wrong(format!("a tensor at offset {offset}")))?;
                Node::Tensor(TensorView {
                    storage: *storage,
                    offset,
                    shape: self.sizes(shape)?,
                    strides: self.sizes(strides)?,
                })
            }
            (Node::Global(Global::RebuildParameter), &[tensor, ..]) => match node(tensor) {
                tensor @ Node::Tensor(_) => tensor.clone(),
                _ => return Err(self.wrong("a parameter that is no tensor")),
            },
            _ => return Err(self.wrong("a call that makes no tensor")),
        };
        self.push(made);
        Ok(())
    }

    fn sizes(&self, id: Id) -> Result<Vec<usize>> {
        let wrong = || {
            self.wrong(format!(
                "a tensor's sizes or strides: expected at most {MOST_AXES} integers from 0"
            ))
        };
        match &self.nodes[id as usize] {
            Node::Tuple(items) if items.len() <= MOST_AXES => items
                .iter()
                .map(|&item| match self.nodes[item as usize] {
                    Node::Int(size) => usize::try_from(size).map_err(|_| wrong()),
                    _ => Err(wrong()),
                })
                .collect(),
            _ => Err(wrong()),
        }
    }
}
