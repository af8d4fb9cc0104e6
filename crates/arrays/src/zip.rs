//! Zip archives: where each member lies, and its bytes.
//!
//! The zip crate would do; this reads less (stored and deflated members, no encryption, one disk) and holds no more than
//! a few thousand entries, whatever the archive says.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Take};
use std::path::{Path, PathBuf};

use flate2::read::DeflateDecoder;

use crate::arrays::open;
use crate::error::clip;
use crate::{Error, Result};

/// A member's header comes first.
pub(crate) const MAGIC: &[u8] = b"PK\x03\x04";
const DIRECTORY: &[u8; 4] = b"PK\x01\x02";
const END: &[u8; 4] = b"PK\x05\x06";
const END_64: &[u8; 4] = b"PK\x06\x06";
const LOCATOR_64: &[u8; 4] = b"PK\x06\x07";
/// Length of [`END`]'s record without its comment, and the longest comment.
const END_LEN: usize = 22;
const LONGEST_COMMENT: usize = 0xffff;
const MOST_ENTRIES: u64 = 4096;
const LARGEST_DIRECTORY: u64 = 4 << 20;

/// One member.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    /// Bytes when it is unpacked, as the directory says.
    pub(crate) size: u64,
    pub(crate) stored: bool,
    packed: u64,
    crc: u32,
    header: u64,
}

/// An open archive.
pub(crate) struct Archive {
    path: PathBuf,
    file: File,
    len: u64,
    entries: Vec<Entry>,
    /// Places in `entries` in the order of names.
    by_name: Vec<usize>,
    /// Bytes of the directory.
    directory: u64,
}

/// A member's bytes, unpacked; at their end the checksum is compared.
pub(crate) struct Member<'a> {
    from: Packed<'a>,
    left: u64,
    /// The checksum so far and the right one.
    crc: Option<(flate2::Crc, u32)>,
}

enum Packed<'a> {
    Stored(Take<&'a mut File>),
    Deflated(Box<DeflateDecoder<BufReader<Take<&'a mut File>>>>),
}

impl Archive {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let (mut file, len) = open(path)?;
        let directory = Directory::find(path, &mut file, len)?;
        let bytes = read_at(path, &mut file, directory.offset, directory.size as usize)?;
        let mut entries = Vec::new();
        let mut rest = Bytes(&bytes);
        while entries.len() < directory.entries as usize {
            entries.push(Entry::parse(path, &mut rest)?);
        }
        let mut by_name: Vec<usize> = (0..entries.len()).collect();
        by_name.sort_by(|&a, &b| entries[a].name.cmp(&entries[b].name));
        Ok(Self {
            path: path.to_owned(),
            file,
            len,
            entries,
            by_name,
            directory: directory.size,
        })
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The member of this name, of several the first.
    pub(crate) fn entry(&self, name: &str) -> Option<&Entry> {
        let at = self.by_name.partition_point(|&at| *self.entries[at].name < *name);
        let entry = &self.entries[*self.by_name.get(at)?];
        (entry.name == name).then_some(entry)
    }

    /// Bytes of memory that the entries take, and a copy of them.
    pub(crate) fn held(&self) -> u64 {
        4 * self.directory
    }

    /// Bytes of the whole file.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// A member's bytes, and their checksum compared.
    pub(crate) fn member(&mut self, entry: &Entry) -> Result<Member<'_>> {
        let crc = Some((flate2::Crc::new(), entry.crc));
        Ok(Member {
            crc,
            ..self.unchecked(entry, 0)?
        })
    }

    /// A member's bytes from `skip` on, whatever its checksum: torch can be told to write none.
    ///
    /// Only of a stored member can bytes be skipped.
    pub(crate) fn unchecked(&mut self, entry: &Entry, skip: u64) -> Result<Member<'_>> {
        assert!(skip <= if entry.stored { entry.size } else { 0 }, "unchecked: {skip}");
        let cut = |what: &str| Error::format(&self.path, format!("member `{}`: {what}", clip(&entry.name)));
        let header = read_at(&self.path, &mut self.file, entry.header, 30)?;
        if !header.starts_with(MAGIC) {
            return Err(cut("expected a member's header, found other bytes"));
        }
        let mut rest = Bytes(&header[26..]);
        let (name, extra) = (rest.u16(), rest.u16());
        let start = entry.header + 30 + u64::from(name.unwrap_or(0)) + u64::from(extra.unwrap_or(0));
        if start.checked_add(entry.packed).is_none_or(|end| end > self.len) {
            return Err(cut("expected its bytes, found the end of the file"));
        }
        self.file
            .seek(SeekFrom::Start(start + skip))
            .map_err(Error::read(&self.path))?;
        let packed = (&mut self.file).take(entry.packed - skip);
        Ok(Member {
            from: match entry.stored {
                true => Packed::Stored(packed),
                false => Packed::Deflated(Box::new(DeflateDecoder::new(BufReader::new(packed)))),
            },
            left: entry.size - skip,
            crc: None,
        })
    }
}

impl Read for Member<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let wanted = out.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let out = &mut out[..wanted];
        let n = match &mut self.from {
            Packed::Stored(from) => from.read(out)?,
            Packed::Deflated(from) => from.read(out)?,
        };
        self.left -= n as u64;
        if let Some((crc, right)) = &mut self.crc {
            crc.update(&out[..n]);
            if self.left == 0 && n > 0 && crc.sum() != *right {
                return Err(std::io::Error::other("its checksum is wrong: the archive is damaged"));
            }
        }
        Ok(n)
    }
}

impl Entry {
    fn parse(path: &Path, rest: &mut Bytes<'_>) -> Result<Self> {
        Self::fields(rest).map_err(|what| Error::format(path, format!("the zip directory: {what}")))
    }

    fn fields(rest: &mut Bytes<'_>) -> Result<Self, String> {
        const CUT: &str = "expected an entry, found the end";
        if rest.take(4).ok_or(CUT)? != DIRECTORY {
            return Err("expected an entry, found other bytes".into());
        }
        rest.take(4).ok_or(CUT)?;
        let (flags, method) = (rest.u16().ok_or(CUT)?, rest.u16().ok_or(CUT)?);
        rest.take(4).ok_or(CUT)?;
        let crc = rest.u32().ok_or(CUT)?;
        let mut sizes = [0_u64; 3];
        for size in &mut sizes[..2] {
            *size = rest.u32().ok_or(CUT)?.into();
        }
        let mut lengths = [0_usize; 3];
        for length in &mut lengths {
            *length = rest.u16().ok_or(CUT)?.into();
        }
        rest.take(8).ok_or(CUT)?;
        sizes[2] = rest.u32().ok_or(CUT)?.into();
        let name = rest.take(lengths[0]).ok_or(CUT)?;
        let name = std::str::from_utf8(name)
            .map_err(|_| "a name that is no UTF-8")?
            .to_owned();
        let mut extra = Bytes(rest.take(lengths[1]).ok_or(CUT)?);
        rest.take(lengths[2]).ok_or(CUT)?;
        let wide = |at: usize| sizes[at] == u64::from(u32::MAX);
        if (0..3).any(wide) {
            // Unpacked size, packed size, offset: those of the three that do not fit, in this order.
            let mut fields = extra
                .field(1)
                .ok_or_else(|| format!("`{}` lacks its 64-bit sizes", clip(&name)))?;
            for at in [1, 0, 2] {
                if sizes[at] == u64::from(u32::MAX) {
                    sizes[at] = fields
                        .u64()
                        .ok_or_else(|| format!("`{}` lacks a 64-bit size", clip(&name)))?;
                }
            }
        }
        let [packed, size, header] = sizes;
        if flags & 1 != 0 {
            return Err(format!("`{}` is encrypted", clip(&name)));
        }
        let stored = match method {
            0 if packed == size => true,
            8 => false,
            0 => return Err(format!("`{}` is stored in {packed} bytes, but has {size}", clip(&name))),
            other => return Err(format!("`{}`: expected method 0 or 8, found {other}", clip(&name))),
        };
        Ok(Self {
            name,
            size,
            stored,
            packed,
            crc,
            header,
        })
    }
}

struct Directory {
    entries: u64,
    size: u64,
    offset: u64,
}

impl Directory {
    fn find(path: &Path, file: &mut File, len: u64) -> Result<Self> {
        let tail_len = len.min((END_LEN + LONGEST_COMMENT) as u64) as usize;
        let tail = read_at(path, file, len - tail_len as u64, tail_len)?;
        let at = (0..tail.len().saturating_sub(END_LEN - 1)).rev().find(|&at| {
            tail[at..].starts_with(END)
                && at + END_LEN + usize::from(u16::from_le_bytes([tail[at + 20], tail[at + 21]])) == tail.len()
        });
        let at = at.ok_or_else(|| Error::format(path, "expected a zip archive's directory at its end, found none"))?;
        let mut end = Bytes(&tail[at + 8..]);
        let mut found = || -> Option<Self> {
            end.u16()?;
            Some(Self {
                entries: end.u16()?.into(),
                size: end.u32()?.into(),
                offset: end.u32()?.into(),
            })
        };
        let mut directory = found().expect("the record is whole");
        let end_at = len - tail_len as u64 + at as u64;
        let wide = [
            directory.entries == 0xffff,
            directory.size == 0xffff_ffff,
            directory.offset == 0xffff_ffff,
        ];
        if wide.contains(&true) {
            directory = Self::find_64(path, file, end_at)?;
        }
        if directory.entries > MOST_ENTRIES || directory.size > LARGEST_DIRECTORY {
            let what = format!(
                "expected at most {MOST_ENTRIES} members in a directory of {LARGEST_DIRECTORY} bytes, found {} in {}",
                directory.entries, directory.size
            );
            return Err(Error::format(path, what));
        }
        if directory
            .offset
            .checked_add(directory.size)
            .is_none_or(|end| end > end_at)
        {
            return Err(Error::format(path, "the zip directory lies outside of the file"));
        }
        Ok(directory)
    }

    fn find_64(path: &Path, file: &mut File, end_at: u64) -> Result<Self> {
        let lacks = || Error::format(path, "the zip archive lacks its 64-bit directory");
        let at = end_at.checked_sub(20).ok_or_else(lacks)?;
        let locator = read_at(path, file, at, 20)?;
        if !locator.starts_with(LOCATOR_64) {
            return Err(lacks());
        }
        let at = Bytes(&locator[8..]).u64().ok_or_else(lacks)?;
        if at.checked_add(56).is_none_or(|end| end > end_at) {
            return Err(lacks());
        }
        let record = read_at(path, file, at, 56)?;
        if !record.starts_with(END_64) {
            return Err(lacks());
        }
        let mut rest = Bytes(&record[32..]);
        let mut found = || {
            Some(Self {
                entries: rest.u64()?,
                size: rest.u64()?,
                offset: rest.u64()?,
            })
        };
        found().ok_or_else(lacks)
    }
}

/// Little-endian numbers out of bytes that may end too early.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.take(2)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    /// The extra field of this id.
    fn field(&mut self, id: u16) -> Option<Self> {
        loop {
            let (found, n) = (self.u16()?, self.u16()?);
            let field = self.take(n.into())?;
            if found == id {
                return Some(Self(field));
            }
        }
    }
}

fn read_at(path: &Path, file: &mut File, at: u64, n: usize) -> Result<Vec<u8>> {
    let cut = || {
        Error::format(
            path,
            format!("expected {n} bytes at byte {at} of the zip archive, found its end"),
        )
    };
    file.seek(SeekFrom::Start(at)).map_err(Error::read(path))?;
    let mut bytes = Vec::new();
    file.take(n as u64).read_to_end(&mut bytes).map_err(Error::read(path))?;
    match bytes.len() == n {
        true => Ok(bytes),
        false => Err(cut()),
    }
}
