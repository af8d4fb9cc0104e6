use super::budget::Budget;
use super::packed::{Delta, Hybrid};

/// Parquet's numbers for types.
pub(super) mod kind {
    pub const BOOLEAN: i32 = 0;
    pub const INT32: i32 = 1;
    pub const INT64: i32 = 2;
    pub const INT96: i32 = 3;
    pub const FLOAT: i32 = 4;
    pub const DOUBLE: i32 = 5;
    pub const BYTE_ARRAY: i32 = 6;
}

/// Bytes of a value of a type; none for a type whose values tell.
fn width(kind: i32) -> Result<Option<usize>, String> {
    match kind {
        kind::INT32 | kind::FLOAT => Ok(Some(4)),
        kind::INT64 | kind::DOUBLE => Ok(Some(8)),
        kind::INT96 => Ok(Some(12)),
        kind::BYTE_ARRAY => Ok(None),
        _ => Err(format!("expected texts or numbers, found values of type {kind}")),
    }
}

/// A value's place behind `at`, which goes on to the next.
fn plain(bytes: &[u8], at: &mut usize, width: Option<usize>) -> Result<(usize, usize), String> {
    let len = match width {
        Some(len) => len,
        None => {
            let len = bytes.get(*at..*at + 4).ok_or("expected a text, found the page's end")?;
            *at += 4;
            u32::from_le_bytes([len[0], len[1], len[2], len[3]]) as usize
        }
    };
    let (start, end) = (*at, at.saturating_add(len));
    if end > bytes.len() {
        let left = bytes.len() - start;
        return Err(format!(
            "expected a value inside of its page, found one of {len} bytes where {left} are left"
        ));
    }
    *at = end;
    Ok((start, end))
}

/// The values that a column's pages name by number.
pub(super) struct Dictionary {
    bytes: Vec<u8>,
    places: Vec<(u32, u32)>,
}

impl Dictionary {
    /// Of the page's bytes, which the budget holds already.
    pub(super) fn new(bytes: Vec<u8>, values: u64, kind: i32, budget: &Budget) -> Result<Self, String> {
        let (width, mut at) = (width(kind)?, 0);
        // Each takes bytes of the page, a text's length or a number.
        if values > bytes.len() as u64 / 4 {
            let len = bytes.len();
            return Err(format!(
                "expected a dictionary that its page has room for, found {values} values in {len} bytes"
            ));
        }
        budget.hold(values as usize * size_of::<(u32, u32)>())?;
        let mut places = Vec::with_capacity(values as usize);
        for _ in 0..values {
            let (start, end) = plain(&bytes, &mut at, width)?;
            places.push((start as u32, end as u32));
        }
        Ok(Self { bytes, places })
    }

    /// What the budget holds for it.
    pub(super) fn held(&self) -> usize {
        self.bytes.len() + self.places.len() * size_of::<(u32, u32)>()
    }

    fn get(&self, number: u32) -> Result<&[u8], String> {
        let place = self.places.get(number as usize);
        let (start, end) = place.ok_or_else(|| {
            let len = self.places.len();
            format!("expected a value of the dictionary's {len}, found number {number}")
        })?;
        Ok(&self.bytes[*start as usize..*end as usize])
    }
}

/// The values of a page that are not null, in order.
pub(super) enum Values {
    Plain {
        at: usize,
        width: Option<usize>,
    },
    Bits {
        at: usize,
    },
    Runs(Hybrid),
    Indices(Hybrid),
    Lengths {
        lengths: Delta,
        at: usize,
    },
    Prefixes {
        prefixes: Delta,
        suffixes: Delta,
        at: usize,
        last: Vec<u8>,
    },
    Numbers {
        numbers: Delta,
        last: [u8; 8],
        width: usize,
    },
}

impl Values {
    /// Those that begin at `at` of a page.
    pub(super) fn new(page: &[u8], at: usize, encoding: i32, kind: i32, dictionary: bool) -> Result<Self, String> {
        Ok(match (encoding, kind) {
            (0, kind::BOOLEAN) => Self::Bits { at: at * 8 },
            (0, _) => Self::Plain {
                at,
                width: width(kind)?,
            },
            (2 | 8, _) => {
                if !dictionary {
                    return Err("expected a dictionary before the values that are taken out of it, found none".into());
                }
                // A page of nulls may have no values at all.
                match page.get(at) {
                    Some(&bits) => Self::Indices(Hybrid::new(at + 1, page.len(), bits)?),
                    None => Self::Indices(Hybrid::new(at, page.len(), 0)?),
                }
            }
            (3, kind::BOOLEAN) => Self::Runs(Hybrid::new((at + 4).min(page.len()), page.len(), 1)?),
            (5, kind::INT32 | kind::INT64) => Self::Numbers {
                numbers: Delta::new(page, at)?.0,
                last: [0; 8],
                width: if kind == kind::INT32 { 4 } else { 8 },
            },
            (6, kind::BYTE_ARRAY) => {
                let (lengths, at) = Delta::new(page, at)?;
                Self::Lengths { lengths, at }
            }
            (7, kind::BYTE_ARRAY) => {
                let (prefixes, at) = Delta::new(page, at)?;
                let (suffixes, at) = Delta::new(page, at)?;
                if prefixes.left() != suffixes.left() {
                    let (prefixes, suffixes) = (prefixes.left(), suffixes.left());
                    return Err(format!(
                        "expected a prefix for each text, found {prefixes} for {suffixes}"
                    ));
                }
                Self::Prefixes {
                    prefixes,
                    suffixes,
                    at,
                    last: Vec::new(),
                }
            }
            _ => {
                return Err(format!(
                    "expected values in an encoding of their type, found encoding {encoding}"
                ));
            }
        })
    }

    /// What the budget holds for them beside the page.
    pub(super) fn held(&self) -> usize {
        match self {
            Self::Prefixes { last, .. } => last.capacity(),
            _ => 0,
        }
    }

    /// The next one's bytes.
    pub(super) fn next<'a>(
        &'a mut self,
        page: &'a [u8],
        dictionary: Option<&'a Dictionary>,
        budget: &Budget,
    ) -> Result<&'a [u8], String> {
        const BOOLEANS: [&[u8]; 2] = [&[0], &[1]];
        Ok(match self {
            Self::Plain { at, width } => {
                let (start, end) = plain(page, at, *width)?;
                &page[start..end]
            }
            Self::Bits { at } => {
                let byte = page.get(*at / 8).ok_or("expected a value, found the page's end")?;
                let bit = byte >> (*at % 8) & 1;
                *at += 1;
                BOOLEANS[usize::from(bit)]
            }
            Self::Runs(runs) => BOOLEANS[runs.next(page)? as usize & 1],
            Self::Indices(indices) => {
                let dictionary = dictionary.ok_or("expected a dictionary, found none")?;
                dictionary.get(indices.next(page)?)?
            }
            Self::Lengths { lengths, at } => {
                let len = size(lengths.next(page)?)?;
                let (start, end) = plain(page, at, Some(len))?;
                &page[start..end]
            }
            Self::Prefixes {
                prefixes,
                suffixes,
                at,
                last,
            } => {
                let (keep, len) = (size(prefixes.next(page)?)?, size(suffixes.next(page)?)?);
                if keep > last.len() {
                    let found = last.len();
                    return Err(format!(
                        "expected a prefix of the text before, found {keep} bytes of {found}"
                    ));
                }
                let (start, end) = plain(page, at, Some(len))?;
                last.truncate(keep);
                let (room, needed) = (last.capacity(), keep + len);
                if needed > room {
                    let room_then = needed.max(2 * room);
                    budget.hold(room_then - room)?;
                    last.reserve_exact(room_then - keep);
                }
                last.extend_from_slice(&page[start..end]);
                last
            }
            Self::Numbers { numbers, last, width } => {
                *last = numbers.next(page)?.to_le_bytes();
                &last[..*width]
            }
        })
    }
}

fn size(number: i64) -> Result<usize, String> {
    usize::try_from(number).map_err(|_| format!("expected a length from 0 up, found {number}"))
}
