//! Thrift's compact protocol, which Parquet's footer and page headers are written in: only what reads them.

/// How deep structures may be nested; Parquet's own go to six.
const DEPTH: usize = 32;

/// Types of fields. A boolean has its value in its type.
pub(super) const TRUE: u8 = 1;
pub(super) const FALSE: u8 = 2;
pub(super) const I32: u8 = 5;
pub(super) const I64: u8 = 6;
pub(super) const BINARY: u8 = 8;
pub(super) const LIST: u8 = 9;
pub(super) const STRUCT: u8 = 12;

/// Bytes with a place in them. It allocates nothing, and each step takes a byte at least, so that what it costs is bounded
/// by the bytes.
#[derive(Clone)]
pub(super) struct Thrift<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
}

impl<'a> Thrift<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, depth: 0 }
    }

    /// How many bytes were read.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let rest = &self.bytes[self.at..];
        let taken = rest
            .get(..count)
            .ok_or_else(|| format!("expected {count} bytes more, found {}", rest.len()))?;
        self.at += count;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    fn varint(&mut self) -> Result<u64, String> {
        varint(self.bytes, &mut self.at)
    }

    fn zigzag(&mut self) -> Result<i64, String> {
        zigzag(self.bytes, &mut self.at)
    }

    /// A number of type [`I64`].
    pub(super) fn i64(&mut self) -> Result<i64, String> {
        self.zigzag()
    }

    /// A number of type [`I32`].
    pub(super) fn i32(&mut self) -> Result<i32, String> {
        let found = self.zigzag()?;
        i32::try_from(found).map_err(|_| format!("expected a number of 32 bits, found {found}"))
    }

    /// The bytes of a [`BINARY`], which are a text's too.
    pub(super) fn binary(&mut self) -> Result<&'a [u8], String> {
        let len = self.varint()?;
        self.take(usize::try_from(len).unwrap_or(usize::MAX))
    }

    /// A text; names are short, and what is no UTF-8 is an error.
    pub(super) fn text(&mut self) -> Result<&'a str, String> {
        std::str::from_utf8(self.binary()?).map_err(|_| "expected UTF-8 in a name, found another byte".into())
    }

    /// The elements' type and number of a [`LIST`].
    pub(super) fn list(&mut self) -> Result<(u8, u64), String> {
        let head = self.byte()?;
        let count = match head >> 4 {
            15 => self.varint()?,
            short => u64::from(short),
        };
        Ok((head & 15, count))
    }

    /// The elements of a list of structures.
    pub(super) fn structures(&mut self, mut each: impl FnMut(&mut Self) -> Result<(), String>) -> Result<(), String> {
        let (kind, count) = self.list()?;
        if kind != STRUCT && count > 0 {
            return Err(format!("expected a list of structures, found one of type {kind}"));
        }
        (0..count).try_for_each(|_| each(self))
    }

    /// The fields of a structure, by number and type; `each` says whether it read the field, and those that it did not
    /// are passed over.
    pub(super) fn structure(
        &mut self,
        mut each: impl FnMut(&mut Self, i16, u8) -> Result<bool, String>,
    ) -> Result<(), String> {
        self.deeper()?;
        let mut number = 0_i16;
        loop {
            let head = self.byte()?;
            if head == 0 {
                break;
            }
            number = match head >> 4 {
                0 => i16::try_from(self.zigzag()?).map_err(|_| "expected a field's number, found a larger one")?,
                step => number.wrapping_add(i16::from(step)),
            };
            let kind = head & 15;
            if !each(self, number, kind)? {
                self.skip(kind)?;
            }
        }
        self.depth -= 1;
        Ok(())
    }

    fn deeper(&mut self) -> Result<(), String> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(format!("expected at most {DEPTH} structures in each other, found more"));
        }
        Ok(())
    }

    fn skip(&mut self, kind: u8) -> Result<(), String> {
        match kind {
            TRUE | FALSE => Ok(()),
            3 => self.take(1).map(drop),
            4..=I64 => self.varint().map(drop),
            7 => self.take(8).map(drop),
            BINARY => self.binary().map(drop),
            LIST | 10 => {
                let (kind, count) = self.list()?;
                self.deeper()?;
                (0..count).try_for_each(|_| self.skip_element(kind))?;
                self.depth -= 1;
                Ok(())
            }
            11 => {
                let count = self.varint()?;
                let kinds = if count == 0 { 0 } else { self.byte()? };
                self.deeper()?;
                for _ in 0..count {
                    self.skip_element(kinds >> 4)?;
                    self.skip_element(kinds & 15)?;
                }
                self.depth -= 1;
                Ok(())
            }
            STRUCT => self.structure(|_, _, _| Ok(false)),
            13 => self.take(16).map(drop),
            _ => Err(format!("expected a type of Thrift's, found {kind}")),
        }
    }

    /// As a field, but that a boolean is a byte.
    fn skip_element(&mut self, kind: u8) -> Result<(), String> {
        match kind {
            TRUE | FALSE => self.take(1).map(drop),
            _ => self.skip(kind),
        }
    }
}

/// A number of seven bits a byte, the lowest first.
pub(super) fn varint(bytes: &[u8], at: &mut usize) -> Result<u64, String> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at).ok_or("expected a number, found the end")?;
        *at += 1;
        number |= u64::from(byte & 127) << shift;
        if byte < 128 {
            return Ok(number);
        }
    }
    Err("expected a number of 64 bits, found a longer one".into())
}

/// A number whose sign is its lowest bit.
pub(super) fn zigzag(bytes: &[u8], at: &mut usize) -> Result<i64, String> {
    let number = varint(bytes, at)?;
    Ok((number >> 1) as i64 ^ -((number & 1) as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_or_passed_over() {
        // 1: i32 -3; 2: list of three bytes; 4: true; 5: a structure with a text; 6: map of one; stop.
        let bytes = [
            0x15, 5, 0x19, 0x33, 1, 2, 3, 0x21, 0x1c, 0x18, 1, b'x', 0, 0x1b, 1, 0x55, 2, 4, 0,
        ];
        let mut found = Vec::new();
        let mut thrift = Thrift::new(&bytes);
        thrift
            .structure(|thrift, number, kind| {
                found.push((number, kind));
                Ok(number == 1 && thrift.i32()? == -3)
            })
            .unwrap();
        assert_eq!(found, [(1, I32), (2, LIST), (4, TRUE), (5, STRUCT), (6, 11)]);
        assert_eq!(thrift.at(), bytes.len());
        for len in 0..bytes.len() {
            assert!(
                Thrift::new(&bytes[..len]).structure(|_, _, _| Ok(false)).is_err(),
                "cut at {len}"
            );
        }
    }

    #[test]
    fn depth_and_counts_are_bounded() {
        let deep = vec![0x1c; 100_000];
        let error = Thrift::new(&deep).structure(|_, _, _| Ok(false)).unwrap_err();
        assert!(error.contains("at most 32"), "{error}");
        let lists = vec![0x19; 100_000];
        assert!(Thrift::new(&lists).structure(|_, _, _| Ok(false)).is_err());
        // A list of 2^63 elements in a few bytes.
        let long = [0x19, 0xf5, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0];
        assert!(Thrift::new(&long).structure(|_, _, _| Ok(false)).is_err());
    }
}
