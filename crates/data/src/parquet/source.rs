use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

/// A part of a file, read in order: several take turns with one file.
pub(super) struct Source<'f> {
    file: &'f File,
    /// The file's bytes behind those in `ahead`.
    at: u64,
    end: u64,
    /// Bytes that were read; those before `used` are done with.
    ahead: Vec<u8>,
    used: usize,
}

/// What is read at once, and no page's header is longer than half of it.
pub(super) const AHEAD: usize = 128 << 10;

impl<'f> Source<'f> {
    pub(super) fn new(file: &'f File, at: u64, end: u64) -> Self {
        Self {
            file,
            at,
            end,
            ahead: Vec::new(),
            used: 0,
        }
    }

    /// How many bytes are to come.
    pub(super) fn left(&self) -> u64 {
        self.end - self.at + (self.ahead.len() - self.used) as u64
    }

    /// The next bytes: half of [`AHEAD`], or what is left.
    pub(super) fn peek(&mut self) -> Result<&[u8], String> {
        let there = self.ahead.len() - self.used;
        if there < AHEAD / 2 && self.at < self.end {
            let wanted = (self.end - self.at).min((AHEAD - there) as u64);
            self.ahead.drain(..self.used);
            self.used = 0;
            self.ahead.resize(there + wanted as usize, 0);
            self.fetch(there)?;
        }
        Ok(&self.ahead[self.used..])
    }

    /// Passes over what was peeked at.
    pub(super) fn pass(&mut self, count: usize) {
        self.used += count;
    }

    /// The next `count` bytes, of which there must be so many.
    pub(super) fn take(&mut self, count: usize) -> Result<Vec<u8>, String> {
        let mut bytes = vec![0; count];
        let there = (self.ahead.len() - self.used).min(count);
        bytes[..there].copy_from_slice(&self.ahead[self.used..self.used + there]);
        self.used += there;
        if there < count {
            let ahead = std::mem::replace(&mut self.ahead, bytes);
            let read = self.fetch(there);
            bytes = std::mem::replace(&mut self.ahead, ahead);
            read?;
        }
        Ok(bytes)
    }

    /// Fills `ahead` from `from` on.
    fn fetch(&mut self, from: usize) -> Result<(), String> {
        let mut file = self.file;
        let read = file
            .seek(SeekFrom::Start(self.at))
            .and_then(|_| file.read_exact(&mut self.ahead[from..]));
        read.map_err(|e| format!("could not be read: {e}"))?;
        self.at += (self.ahead.len() - from) as u64;
        Ok(())
    }
}
