//! Types of numbers in files, and how they become f32.

use std::io::Read;

/// A type of number, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    F64,
    F32,
    F16,
    BF16,
    Bool,
    I8,
    U8,
    I16,
    U16,
    I32,
    U32,
    I64,
    U64,
}

impl Element {
    pub(crate) fn size(self) -> usize {
        match self {
            Self::Bool | Self::I8 | Self::U8 => 1,
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => 2,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F64 | Self::I64 | Self::U64 => 8,
        }
    }

    /// The number as f32, or what it is where f32 does not hold it: NaN, an infinity, a large integer.
    fn to_f32(self, bytes: &[u8]) -> Result<f32, String> {
        macro_rules! number {
            ($type:ty) => {
                <$type>::from_le_bytes(bytes.try_into().expect("as many bytes as an element has"))
            };
        }
        let float = |x: f64| match (x as f32).is_finite() {
            true => Ok(x as f32),
            false => Err(x.to_string()),
        };
        let integer = |x: i128| match x as f32 as i128 == x {
            true => Ok(x as f32),
            false => Err(format!("{x}, which f32 does not hold")),
        };
        match self {
            Self::F32 => float(f64::from(number!(f32))),
            Self::F64 => float(number!(f64)),
            Self::F16 => float(half::f16::from_bits(number!(u16)).to_f64()),
            Self::BF16 => float(half::bf16::from_bits(number!(u16)).to_f64()),
            Self::Bool => Ok(f32::from(u8::from(bytes[0] != 0))),
            Self::I8 => integer(number!(i8).into()),
            Self::U8 => integer(number!(u8).into()),
            Self::I16 => integer(number!(i16).into()),
            Self::U16 => integer(number!(u16).into()),
            Self::I32 => integer(number!(i32).into()),
            Self::U32 => integer(number!(u32).into()),
            Self::I64 => integer(number!(i64).into()),
            Self::U64 => integer(number!(u64).into()),
        }
    }
}

/// Why numbers could not be read.
#[derive(Debug)]
pub(crate) enum Unread {
    Io(std::io::Error),
    /// What was found, and at which element.
    Number(String),
}

/// Reads `n` elements a block at a time, so that the file's bytes and the numbers are never both in memory.
///
/// The caller has checked that the file can hold as many.
pub(crate) fn read(from: &mut dyn Read, element: Element, n: usize) -> Result<Vec<f32>, Unread> {
    const BLOCK: usize = 8192;
    let mut out = Vec::with_capacity(n);
    let mut block = vec![0; BLOCK.min(n) * element.size()];
    while out.len() < n {
        let bytes = &mut block[..BLOCK.min(n - out.len()) * element.size()];
        from.read_exact(bytes).map_err(Unread::Io)?;
        for number in bytes.chunks_exact(element.size()) {
            let number = element.to_f32(number);
            out.push(number.map_err(|found| Unread::Number(format!("{found} at element {}", out.len())))?);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_f32_does_not_hold_is_refused() {
        let read = |element, bytes: &[u8]| super::read(&mut &*bytes, element, bytes.len() / Element::size(element));
        assert_eq!(
            read(Element::I64, &(1_i64 << 40).to_le_bytes()).unwrap(),
            [(1_i64 << 40) as f32]
        );
        for (element, bytes) in [
            (Element::F32, f32::NAN.to_le_bytes().to_vec()),
            (Element::F64, 1e300_f64.to_le_bytes().to_vec()),
            (Element::BF16, 0x7f80_u16.to_le_bytes().to_vec()),
            (Element::F16, 0xfc00_u16.to_le_bytes().to_vec()),
            (Element::I64, ((1_i64 << 24) + 1).to_le_bytes().to_vec()),
            (Element::U64, u64::MAX.to_le_bytes().to_vec()),
        ] {
            assert!(matches!(read(element, &bytes), Err(Unread::Number(_))), "{element:?}");
        }
        assert!(matches!(
            super::read(&mut &[0; 7][..], Element::F32, 2),
            Err(Unread::Io(_))
        ));
    }
}
