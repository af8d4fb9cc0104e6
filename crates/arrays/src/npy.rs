//! Numpy's `.npy`: a header that is a Python dictionary, then the numbers.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use crate::array::{MOST_AXES, strided};
use crate::arrays::{Budget, elements, open};
use crate::element::Element;
use crate::error::clip;
use crate::{Array, Arrays, Error, Result};

pub(crate) const MAGIC: &[u8] = b"\x93NUMPY";
const LARGEST_HEADER: usize = 1 << 16;

pub(crate) fn read(path: &Path) -> Result<Arrays> {
    let (mut file, len) = open(path)?;
    let array = member(path, "", &mut file, len, &mut Budget::of(len, 0))?;
    Ok(Arrays::new(path, BTreeMap::from([(String::new(), array)])))
}

/// One array of `len` bytes, its header included.
pub(crate) fn member(path: &Path, name: &str, from: &mut dyn Read, len: u64, budget: &mut Budget) -> Result<Array> {
    let wrong = |expected: &str, found: String| Error::array(path, name, expected, found);
    let cut = |_| wrong("a numpy header", "the end of its data".into());
    let mut start = [0; 8];
    from.read_exact(&mut start).map_err(cut)?;
    if !start.starts_with(MAGIC) {
        return Err(wrong("numpy's first bytes", format!("{:?}", &start[..6])));
    }
    let mut length = [0; 4];
    let width = match start[6] {
        1 => 2,
        2 | 3 => 4,
        other => return Err(wrong("numpy's format 1 to 3", other.to_string())),
    };
    from.read_exact(&mut length[..width]).map_err(cut)?;
    let n = u32::from_le_bytes(length) as usize;
    if n > LARGEST_HEADER {
        return Err(wrong("a header of at most 65536 bytes", n.to_string()));
    }
    let mut header = vec![0; n];
    from.read_exact(&mut header).map_err(cut)?;
    let header = std::str::from_utf8(&header).map_err(|_| wrong("a header of text", "other bytes".into()))?;
    let header = Header::parse(header).map_err(|what| wrong("a numpy header", what))?;

    let count = budget.array(path, name, &header.shape)?;
    let wanted = (count as u64).checked_mul(header.element.size() as u64);
    let found = len.saturating_sub((8 + width + n) as u64);
    if wanted != Some(found) {
        let expected = format!("the bytes of shape {:?}", header.shape);
        return Err(wrong(&expected, format!("{found} bytes")));
    }
    let data = elements(path, name, from, header.element, count)?;
    let data = match header.fortran_order && header.shape.len() > 1 && count > 0 {
        true => strided(&data, &header.shape, 0, &fortran_strides(&header.shape)),
        false => data,
    };
    Ok(Array::new(header.shape, data))
}

/// The first index moves fastest.
fn fortran_strides(shape: &[usize]) -> Vec<usize> {
    let before = |axis: usize| shape[..axis].iter().product();
    (0..shape.len()).map(before).collect()
}

#[derive(Debug, PartialEq)]
struct Header {
    element: Element,
    fortran_order: bool,
    shape: Vec<usize>,
}

impl Header {
    /// `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 5), }`, and spaces behind it.
    fn parse(text: &str) -> Result<Self, String> {
        let (mut element, mut fortran_order, mut shape) = (None, None, None);
        let mut rest = Text(text.trim_end());
        rest.expect("{")?;
        while !rest.found("}") {
            let key = rest.string()?;
            rest.expect(":")?;
            match key {
                "descr" => element = Some(descr(rest.string()?)?),
                "fortran_order" => {
                    fortran_order = Some(match (rest.found("True"), rest.found("False")) {
                        (true, _) => true,
                        (_, true) => false,
                        _ => return Err(format!("fortran_order {}", rest.next())),
                    });
                }
                "shape" => shape = Some(rest.shape()?),
                other => return Err(format!("key `{}`", clip(other))),
            }
            if !rest.found(",") {
                rest.expect("}")?;
                break;
            }
        }
        match (element, fortran_order, shape, rest.0.is_empty()) {
            (Some(element), Some(fortran_order), Some(shape), true) => Ok(Self {
                element,
                fortran_order,
                shape,
            }),
            _ => Err(clip(text)),
        }
    }
}

fn descr(text: &str) -> Result<Element, String> {
    Ok(match text {
        "<f8" => Element::F64,
        "<f4" => Element::F32,
        "<f2" => Element::F16,
        "|b1" => Element::Bool,
        "|i1" => Element::I8,
        "|u1" => Element::U8,
        "<i2" => Element::I16,
        "<u2" => Element::U16,
        "<i4" => Element::I32,
        "<u4" => Element::U32,
        "<i8" => Element::I64,
        "<u8" => Element::U64,
        object if object.ends_with('O') => {
            return Err(format!("type `{}`: Python objects, which are never read", clip(object)));
        }
        big if big.starts_with('>') => return Err(format!("type `{}`: big-endian numbers are not read", clip(big))),
        other => return Err(format!("type `{}`: not a number that is read", clip(other))),
    })
}

/// What is left of a header.
struct Text<'a>(&'a str);

impl<'a> Text<'a> {
    fn found(&mut self, what: &str) -> bool {
        let found = self.0.trim_start().strip_prefix(what);
        self.0 = found.unwrap_or(self.0);
        found.is_some()
    }

    fn expect(&mut self, what: &str) -> Result<(), String> {
        match self.found(what) {
            true => Ok(()),
            false => Err(format!("{} in the place of `{what}`", self.next())),
        }
    }

    fn string(&mut self) -> Result<&'a str, String> {
        let text = self.0.trim_start();
        let quote = text.chars().next().filter(|quote| matches!(quote, '\'' | '"'));
        let ends = quote.and_then(|quote| text[1..].split_once(quote));
        let (string, rest) = ends.ok_or_else(|| format!("{} in the place of a string", self.next()))?;
        self.0 = rest;
        Ok(string)
    }

    fn shape(&mut self) -> Result<Vec<usize>, String> {
        let mut shape = Vec::new();
        self.expect("(")?;
        while !self.found(")") {
            if shape.len() > MOST_AXES {
                return Err(format!("more than {MOST_AXES} axes"));
            }
            let text = self.0.trim_start();
            let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
            let axis = text[..end]
                .parse()
                .map_err(|_| format!("{} in the place of an axis", self.next()))?;
            shape.push(axis);
            self.0 = &text[end..];
            if !self.found(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok(shape)
    }

    fn next(&self) -> String {
        format!("`{}`", self.0.trim_start().chars().take(20).collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_numpy_writes_them() {
        let header = |element, fortran_order, shape: &[usize]| Header {
            element,
            fortran_order,
            shape: shape.to_vec(),
        };
        for (text, wanted) in [
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 5), }   \n",
                header(Element::F32, false, &[3, 5]),
            ),
            (
                "{'descr': '<f8', 'fortran_order': True, 'shape': (7,), }",
                header(Element::F64, true, &[7]),
            ),
            (
                "{\"shape\": (), \"descr\": \"|b1\", \"fortran_order\": False}",
                header(Element::Bool, false, &[]),
            ),
        ] {
            assert_eq!(Header::parse(text), Ok(wanted), "{text}");
        }
        for (text, said) in [
            (
                "{'descr': '|O', 'fortran_order': False, 'shape': (3,), }",
                "Python objects",
            ),
            (
                "{'descr': '>f4', 'fortran_order': False, 'shape': (3,), }",
                "big-endian",
            ),
            ("{'descr': '<c8', 'fortran_order': False, 'shape': (3,), }", "<c8"),
            (
                "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,), }",
                "in the place of a string",
            ),
            ("{'descr': '<f4', 'fortran_order': 1, 'shape': (3,), }", "fortran_order"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (-3,), }", "`-3"),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,), }",
                "axis",
            ),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1,1), }",
                "8 axes",
            ),
            ("{'descr': '<f4', 'fortran_order': False}", "descr"),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), 'more': 1}",
                "more",
            ),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (3,)} 1", "shape"),
            ("", "`{`"),
            ("{'", "string"),
        ] {
            let error = Header::parse(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
