//! Integers as Parquet packs them: runs and bit-packed groups (levels and indices), and deltas (lengths).
//!
//! None holds what it has unpacked: a few bytes may stand for two thousand million numbers.

use super::thrift::{varint, zigzag};

/// Bits of a little-endian stream from `bit` on; none above 64.
fn bits(bytes: &[u8], bit: usize, width: usize) -> Option<u64> {
    let (start, end) = (bit / 8, (bit + width).div_ceil(8));
    let mut number = 0_u128;
    for (i, byte) in bytes.get(start..end)?.iter().enumerate() {
        number |= u128::from(*byte) << (8 * i);
    }
    let mask = (1_u128 << width) - 1;
    Some(((number >> (bit % 8)) & mask) as u64)
}

/// The hybrid of runs and bit-packed groups of eight, within a page's bytes `at..end`.
pub(super) struct Hybrid {
    at: usize,
    end: usize,
    width: usize,
    left: u64,
    run: Run,
}

enum Run {
    Same(u32),
    /// From this bit on.
    Packed(usize),
}

impl Hybrid {
    /// `width` bits a number, which may be none.
    pub(super) fn new(at: usize, end: usize, width: u8) -> Result<Self, String> {
        if width > 32 {
            return Err(format!("expected at most 32 bits a number, found {width}"));
        }
        Ok(Self {
            at,
            end,
            width: width.into(),
            left: 0,
            run: Run::Same(0),
        })
    }

    /// The next number; an error past the last.
    pub(super) fn next(&mut self, page: &[u8]) -> Result<u32, String> {
        while self.left == 0 {
            self.start(page)?;
        }
        self.left -= 1;
        match &mut self.run {
            Run::Same(number) => Ok(*number),
            Run::Packed(bit) => {
                let number = bits(&page[..self.end], *bit, self.width).ok_or("expected a number, found the end")?;
                *bit += self.width;
                Ok(number as u32)
            }
        }
    }

    /// The next level, which is 0 where it can be nothing else.
    pub(super) fn next_or_none(&mut self, page: &[u8], max: u32) -> Result<u32, String> {
        if max == 0 { Ok(0) } else { self.next(page) }
    }

    fn start(&mut self, page: &[u8]) -> Result<(), String> {
        let page = &page[..self.end];
        let head = varint(page, &mut self.at)?;
        if head & 1 == 0 {
            self.left = head >> 1;
            let len = self.width.div_ceil(8);
            let bytes = page
                .get(self.at..self.at + len)
                .ok_or("expected a run's number, found the end")?;
            let number = bytes
                .iter()
                .rev()
                .fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
            self.run = Run::Same(number);
            self.at += len;
        } else {
            // The last group may be cut short: what it lacks is an error where it is asked for.
            let groups = (head >> 1).min(page.len() as u64 + 1);
            self.left = groups * 8;
            self.run = Run::Packed(self.at * 8);
            self.at = (self.at + groups as usize * self.width).min(self.end);
        }
        Ok(())
    }
}

/// Numbers that are told by their differences.
pub(super) struct Delta {
    at: usize,
    /// Numbers in a miniblock, and miniblocks in a block.
    size: usize,
    minis: usize,
    /// Numbers that are to come.
    left: u64,
    next: i64,
    least: i64,
    /// Where the block's widths stand, and which of them is next.
    widths: usize,
    mini: usize,
    width: usize,
    /// The bit of the next difference, and how many there are in this miniblock.
    bit: usize,
    in_mini: usize,
}

impl Delta {
    /// Those that begin at `at`, and the place behind them.
    pub(super) fn new(page: &[u8], mut at: usize) -> Result<(Self, usize), String> {
        let (block, minis, count) = (varint(page, &mut at)?, varint(page, &mut at)?, varint(page, &mut at)?);
        let next = zigzag(page, &mut at)?;
        let size = block.checked_div(minis).unwrap_or(0);
        if size == 0 || size > 1 << 20 || !size.is_multiple_of(8) || minis > 1 << 12 {
            return Err(format!("expected blocks of deltas, found {block} in {minis}"));
        }
        let start = Self {
            at,
            size: size as usize,
            minis: minis as usize,
            left: count,
            next,
            least: 0,
            widths: 0,
            mini: minis as usize,
            width: 0,
            bit: 0,
            in_mini: 0,
        };
        // Where the last one ends is known only by going through the miniblocks.
        let mut end = Self { ..start };
        let mut to_come = count.saturating_sub(1);
        while to_come > 0 {
            end.miniblock(page)?;
            to_come = to_come.saturating_sub(size);
        }
        Ok((start, end.at))
    }

    /// How many are to come.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// The next number; an error past the last.
    pub(super) fn next(&mut self, page: &[u8]) -> Result<i64, String> {
        if self.left == 0 {
            return Err("expected a number, found the end".into());
        }
        self.left -= 1;
        let number = self.next;
        if self.left > 0 {
            if self.in_mini == 0 {
                self.miniblock(page)?;
            }
            let delta = bits(page, self.bit, self.width).ok_or("expected a difference, found the end")?;
            self.bit += self.width;
            self.in_mini -= 1;
            self.next = number.wrapping_add(self.least).wrapping_add(delta as i64);
        }
        Ok(number)
    }

    /// Goes to the next miniblock.
    fn miniblock(&mut self, page: &[u8]) -> Result<(), String> {
        if self.mini == self.minis {
            self.least = zigzag(page, &mut self.at)?;
            self.widths = self.at;
            self.at += self.minis;
            self.mini = 0;
        }
        let width = page.get(self.widths + self.mini);
        self.width = usize::from(*width.ok_or("expected a block of deltas, found the end")?);
        let len = self.size / 8 * self.width;
        if self.width > 64 || self.at + len > page.len() {
            return Err("expected a block of deltas, found the end".into());
        }
        self.bit = self.at * 8;
        self.at += len;
        self.mini += 1;
        self.in_mini = self.size;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_and_groups_are_read() {
        // Five times 3; a group of eight of three bits: 0 to 7, as in Parquet's specification.
        let bytes = [10, 3, 3, 0b1000_1000, 0b1100_0110, 0b1111_1010];
        let mut hybrid = Hybrid::new(0, bytes.len(), 3).unwrap();
        let numbers: Vec<u32> = (0..13).map(|_| hybrid.next(&bytes).unwrap()).collect();
        assert_eq!(numbers, [3, 3, 3, 3, 3, 0, 1, 2, 3, 4, 5, 6, 7]);
        assert!(hybrid.next(&bytes).is_err());
        // Runs of nothing, and groups that the page has no room for.
        let mut empty = Hybrid::new(0, 4, 1).unwrap();
        assert!(empty.next(&[0, 1, 0, 1]).is_err());
        let long = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 7];
        let mut long_run = Hybrid::new(0, long.len(), 3).unwrap();
        assert_eq!(long_run.next(&long).unwrap(), 7);
        assert!((0..8).any(|_| long_run.next(&long).is_err()));
    }

    #[test]
    fn deltas_are_read_and_end_where_they_end() {
        // 7, 5, 3, 1, 2, 3, 4, 5: the specification's second example, in one miniblock of width 2.
        let mut bytes = vec![128, 1, 4, 8, 14, 3, 2, 0, 0, 0];
        bytes.extend([0b1100_0000, 0b0011_1111, 0, 0, 0, 0, 0, 0]);
        bytes.push(99);
        let (mut delta, end) = Delta::new(&bytes, 0).unwrap();
        assert_eq!(end, bytes.len() - 1);
        let numbers: Vec<i64> = (0..8).map(|_| delta.next(&bytes).unwrap()).collect();
        assert_eq!(numbers, [7, 5, 3, 1, 2, 3, 4, 5]);
        assert!(delta.next(&bytes).is_err());
        for len in 0..end {
            assert!(Delta::new(&bytes[..len], 0).is_err(), "cut at {len}");
        }
    }
}
