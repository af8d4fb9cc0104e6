use std::cell::Cell;

/// What reading one Parquet file may hold and do.
///
/// Pages are packed, and a dictionary lets a few bytes stand for megabytes as often as one likes, so nothing a file says
/// of its sizes is believed: each piece is asked for here before it is made. [`hold`](Self::hold) is for memory, with
/// what rows keep; [`work`](Self::work) is for what is done and let go again, such as unpacking pages of rows that are
/// then skipped, which would otherwise take for ever.
pub(super) struct Budget {
    limit: usize,
    held: Cell<usize>,
    done: Cell<usize>,
}

/// What may be held beside twice the file.
pub(super) const SLACK: usize = 56 << 20;

/// How much more may be unpacked and read than held.
const WORK: usize = 4;

impl Budget {
    /// For a file of so many bytes.
    pub(super) fn new(file: u64) -> Self {
        let limit = usize::try_from(file).unwrap_or(usize::MAX).saturating_mul(2);
        Self {
            limit: limit.saturating_add(SLACK),
            held: Cell::new(0),
            done: Cell::new(0),
        }
    }

    /// Asks for this much memory.
    pub(super) fn hold(&self, bytes: usize) -> Result<(), String> {
        let held = self.held.get().saturating_add(bytes);
        if held > self.limit {
            return Err(format!(
                "expected rows and pages that take at most {} bytes of memory (twice the file and {SLACK}), found {held}; \
                 a file that is honestly so large can be split, or converted to JSONL",
                self.limit
            ));
        }
        self.held.set(held);
        Ok(())
    }

    /// Gives memory back.
    pub(super) fn release(&self, bytes: usize) {
        self.held.set(self.held.get() - bytes);
    }

    /// Asks for this much work, in about the bytes that are touched.
    pub(super) fn work(&self, bytes: usize) -> Result<(), String> {
        let (done, limit) = (self.done.get().saturating_add(bytes), self.limit.saturating_mul(WORK));
        if done > limit {
            return Err(format!(
                "expected at most {limit} bytes when it is unpacked ({WORK} times twice the file and {SLACK}), found more; \
                 a file that is honestly so large can be split, or converted to JSONL"
            ));
        }
        self.done.set(done);
        Ok(())
    }
}
