//! What a stranger's file may cost: a second of the processor, and twice its own size with 64 MiB on top.
//!
//! The allocator counts what the whole process holds, so each test takes the one [`Alone`] there is and nothing else of
//! this binary runs meanwhile.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The most that reading may hold beside twice the file.
pub const SLACK: u64 = 64 << 20;
/// The processor's time that one file may cost, on all threads together.
const TIME: Duration = Duration::from_secs(1);
/// A reader that waits for ever costs no processor; the clock on the wall ends it.
const WATCHDOG: Duration = Duration::from_secs(180);

/// The system's allocator, with a count of the bytes that are held.
struct Counting;

fn take(bytes: usize) {
    let held = HELD.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(held, Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator as it came; only numbers are kept beside.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: the caller's promises are handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if size > layout.size() {
            take(size - layout.size());
        } else {
            HELD.fetch_sub(layout.size() - size, Ordering::Relaxed);
        }
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

/// The right to measure: held by one test at a time.
pub struct Alone {
    _lock: MutexGuard<'static, ()>,
    _alive: mpsc::Sender<()>,
}

/// Waits until no other test of this binary runs.
pub fn alone() -> Alone {
    static ONE: Mutex<()> = Mutex::new(());
    // A test that failed while it held the lock has broken nothing that the next one needs.
    let lock = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (alive, ended) = mpsc::channel();
    std::thread::spawn(move || {
        if ended.recv_timeout(WATCHDOG) == Err(RecvTimeoutError::Timeout) {
            std::process::abort();
        }
    });
    Alone {
        _lock: lock,
        _alive: alive,
    }
}

impl Alone {
    /// What a reader answers to `input` bytes, within the bounds.
    pub fn bounded<T>(&self, what: &str, input: u64, read: impl FnOnce() -> T) -> T {
        let before = HELD.load(Ordering::Relaxed);
        PEAK.store(before, Ordering::Relaxed);
        let start = processor();
        let answer = read();
        let spent = processor() - start;
        let peak = (PEAK.load(Ordering::Relaxed) - before) as u64;
        assert!(spent < TIME, "{what}: took {spent:?} of processor time");
        assert!(
            peak < 2 * input + SLACK,
            "{what}: held {peak} bytes for {input} bytes of input"
        );
        answer
    }

    /// The message of the error that a reader answers, within the bounds, with every one of `words` in it.
    pub fn refused<T, E: Error>(
        &self,
        what: &str,
        input: u64,
        words: &[&str],
        read: impl FnOnce() -> Result<T, E>,
    ) -> String {
        let Err(error) = self.bounded(what, input, read) else {
            panic!("{what}: was accepted");
        };
        let error = error.to_string();
        for word in words {
            assert!(error.contains(word), "{what}: no `{word}` in: {error}");
        }
        assert!(error.len() < 2000, "{what}: a message of {} bytes", error.len());
        error
    }
}

/// The processor time of this process. The wall's clock would measure whoever else uses the machine.
#[cfg(unix)]
fn processor() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one `timespec`, which is ours.
    let answer = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut now) };
    assert_eq!(answer, 0, "no clock of processor time");
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

#[cfg(not(unix))]
fn processor() -> Duration {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
}

#[test]
fn the_count_sees_what_is_held_and_what_was() {
    let alone = alone();
    let kept = alone.bounded("small", 0, || vec![1u8; 1 << 20]);
    assert!(HELD.load(Ordering::Relaxed) >= kept.len());
    let too_much = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        alone.bounded("large", 0, || drop(std::hint::black_box(vec![1u8; 65 << 20])));
    }));
    assert!(too_much.is_err());
    let too_long = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        alone.bounded("slow", 0, || {
            let start = processor();
            while processor() - start < TIME {}
        });
    }));
    assert!(too_long.is_err());
}
