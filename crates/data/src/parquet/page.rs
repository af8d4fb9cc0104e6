use super::budget::Budget;
use super::codec::{Codec, unpack};
use super::packed::Hybrid;
use super::schema::Leaf;
use super::source::{AHEAD, Source};
use super::thrift::{FALSE, I32, STRUCT, TRUE, Thrift};

/// What stands before a page.
#[derive(Debug, Default)]
struct Header {
    kind: i32,
    unpacked: usize,
    packed: usize,
    values: u64,
    encoding: i32,
    /// Levels are read as runs; the older way of packing them is not.
    levels: [i32; 2],
    /// Bytes of the levels in pages of the second version, which are not packed.
    rep_bytes: usize,
    def_bytes: usize,
    second: bool,
    is_packed: bool,
}

const DATA: i32 = 0;
const DICTIONARY: i32 = 2;
const DATA_2: i32 = 3;
/// Runs and groups, as an encoding.
const RLE: i32 = 3;

/// Work that a page is, beside its bytes.
const PAGE: usize = 2048;

/// A page, unpacked.
pub(super) enum Page {
    Dictionary {
        bytes: Vec<u8>,
        values: u64,
    },
    Data {
        bytes: Vec<u8>,
        values: u64,
        encoding: i32,
        rep: Hybrid,
        def: Hybrid,
        /// Where the values begin.
        at: usize,
    },
}

/// The next page of a column; none at its end. Its bytes are held by the budget, and the caller lets them go.
pub(super) fn next(
    source: &mut Source<'_>,
    codec: Codec,
    leaf: &Leaf,
    budget: &Budget,
) -> Result<Option<Page>, String> {
    loop {
        if source.left() == 0 {
            return Ok(None);
        }
        budget.work(PAGE)?;
        let mut thrift = Thrift::new(source.peek()?);
        let header = header(&mut thrift).map_err(|e| format!("a page's header of at most {} bytes: {e}", AHEAD / 2))?;
        let read = thrift.at();
        source.pass(read);
        if header.packed as u64 > source.left() {
            let (packed, left) = (header.packed, source.left());
            return Err(format!(
                "expected a page inside of its column, found {packed} bytes where {left} are left"
            ));
        }
        match header.kind {
            DICTIONARY | DATA | DATA_2 => return page(source, &header, codec, leaf, budget).map(Some),
            // An index, or something of a later version.
            _ => {
                budget.work(header.packed)?;
                drop(source.take(header.packed)?);
            }
        }
    }
}

fn header(thrift: &mut Thrift<'_>) -> Result<Header, String> {
    let mut header = Header {
        kind: -1,
        is_packed: true,
        levels: [RLE; 2],
        ..Header::default()
    };
    let size = |number: i32| usize::try_from(number).map_err(|_| format!("expected a size, found {number}"));
    thrift.structure(|thrift, number, kind| {
        match (number, kind) {
            (1, I32) => header.kind = thrift.i32()?,
            (2, I32) => header.unpacked = size(thrift.i32()?)?,
            (3, I32) => header.packed = size(thrift.i32()?)?,
            (5 | 7, STRUCT) => thrift.structure(|thrift, inner, kind| {
                match (inner, kind) {
                    (1, I32) => header.values = size(thrift.i32()?)? as u64,
                    (2, I32) => header.encoding = thrift.i32()?,
                    (3 | 4, I32) => header.levels[usize::from(inner == 4)] = thrift.i32()?,
                    _ => return Ok(false),
                }
                Ok(true)
            })?,
            (8, STRUCT) => {
                header.second = true;
                thrift.structure(|thrift, inner, kind| {
                    match (inner, kind) {
                        (1, I32) => header.values = size(thrift.i32()?)? as u64,
                        (4, I32) => header.encoding = thrift.i32()?,
                        (5, I32) => header.def_bytes = size(thrift.i32()?)?,
                        (6, I32) => header.rep_bytes = size(thrift.i32()?)?,
                        (7, TRUE | FALSE) => header.is_packed = kind == TRUE,
                        _ => return Ok(false),
                    }
                    Ok(true)
                })?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    match header.kind {
        -1 => Err("expected the page's type, found none".into()),
        _ => Ok(header),
    }
}

fn page(source: &mut Source<'_>, header: &Header, codec: Codec, leaf: &Leaf, budget: &Budget) -> Result<Page, String> {
    let Header {
        packed,
        unpacked,
        values,
        ..
    } = *header;
    // The packed page and the unpacked one; the second stays.
    budget.hold(packed + unpacked)?;
    budget.work(packed + unpacked)?;
    let raw = source.take(packed)?;
    let levels = if header.kind == DATA_2 {
        header.rep_bytes.saturating_add(header.def_bytes)
    } else {
        0
    };
    if levels > packed || levels > unpacked {
        return Err(format!(
            "expected a page with its levels inside, found {levels} bytes of them in {packed}"
        ));
    }
    let (front, back) = raw.split_at(levels);
    let bytes = match (header.is_packed, unpacked - levels) {
        (false, _) => raw,
        // Nothing may be packed as nothing.
        (true, 0) => front.to_vec(),
        (true, size) if levels == 0 => unpack(codec, back, size, budget)?,
        (true, size) => {
            budget.hold(size)?;
            let values = unpack(codec, back, size, budget)?;
            let bytes = [front, &values].concat();
            budget.release(size);
            bytes
        }
    };
    if bytes.len() != unpacked {
        return Err(format!("expected {unpacked} bytes in a page, found {}", bytes.len()));
    }
    budget.release(packed);
    if header.kind == DICTIONARY {
        return Ok(Page::Dictionary { bytes, values });
    }
    let mut at = 0;
    let mut level = |max: u32, sized: usize, encoding: i32| {
        let width = (u32::BITS - max.leading_zeros()) as u8;
        if width == 0 {
            at += sized;
            return Hybrid::new(0, 0, 0);
        }
        let len = if header.second {
            sized
        } else if encoding == RLE {
            let len = bytes
                .get(at..at + 4)
                .ok_or("expected the levels' length, found the page's end")?;
            at += 4;
            u32::from_le_bytes([len[0], len[1], len[2], len[3]]) as usize
        } else {
            return Err(format!("expected levels in runs, found encoding {encoding}"));
        };
        let start = at;
        at = start.saturating_add(len);
        if at > bytes.len() {
            return Err(format!(
                "expected levels inside of their page, found {len} bytes of them"
            ));
        }
        Hybrid::new(start, at, width)
    };
    let rep = level(leaf.max_rep, header.rep_bytes, header.levels[1])?;
    let def = level(leaf.max_def, header.def_bytes, header.levels[0])?;
    if header.second != (header.kind == DATA_2) {
        return Err("expected a page's header of its own type, found another".into());
    }
    Ok(Page::Data {
        bytes,
        values,
        encoding: header.encoding,
        rep,
        def,
        at,
    })
}
