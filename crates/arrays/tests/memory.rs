//! No file makes the reader hold more than twice the file and 64 MiB. One test: the allocator counts for the process.

#![expect(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use realign_arrays::{Array, Arrays, safetensors};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that reading this file holds at a time, in bytes.
fn peak(path: &Path) -> (usize, bool) {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let read = Arrays::read(path).is_ok();
    (PEAK.load(Ordering::Relaxed) - before, read)
}

#[test]
fn no_file_takes_more_than_twice_its_size_and_64_mib() {
    let folder = tempfile::tempdir().unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for file in std::fs::read_dir(fixtures).unwrap() {
        let path = file.unwrap().path();
        let (peak, _) = peak(&path);
        assert!(peak < 16 << 20, "{}: {peak} bytes", path.display());
    }

    // A file that is read: its numbers, and one block of its bytes.
    let large = Array::new(vec![4 << 20], vec![1.0; 4 << 20]);
    let path = folder.path().join("large");
    std::fs::write(&path, safetensors([("a", &large)], &[])).unwrap();
    drop(large);
    let size = std::fs::metadata(&path).unwrap().len() as usize;
    let (held, read) = peak(&path);
    assert!(read && held < size + size / 8, "{held} bytes for a file of {size}");

    // As much pickle as is read, all of it empty tuples, marks, or strings that are stored for later.
    for (name, body) in [
        ("tuples", b")".repeat(1 << 18)),
        ("marks", b"(".repeat(1 << 18)),
        ("nested", b"(t".repeat(1 << 17)),
        (
            "memo",
            (0..43_000_u32)
                .flat_map(|i| [&b")r"[..], &i.to_le_bytes()].concat())
                .collect(),
        ),
    ] {
        let pickle = [&b"\x80\x02"[..], &body[..body.len() - 3], b"."].concat();
        let path = folder.path().join(name);
        std::fs::write(&path, torch(&pickle)).unwrap();
        let (held, _) = peak(&path);
        assert!(held < 64 << 20, "{name}: {held} bytes");
    }
}

/// A torch file of this pickle alone.
fn torch(pickle: &[u8]) -> Vec<u8> {
    let name = b"a/data.pkl";
    let size = (pickle.len() as u32).to_le_bytes();
    let fields = [
        &[20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..],
        &size,
        &size,
        &(name.len() as u16).to_le_bytes(),
        &[0, 0],
    ]
    .concat();
    let member = [b"PK\x03\x04", &fields[..], name, pickle].concat();
    let directory = [b"PK\x01\x02\x14\x00", &fields[..], &[0; 14], name].concat();
    let end = [
        &b"PK\x05\x06\0\0\0\0\x01\0\x01\0"[..],
        &(directory.len() as u32).to_le_bytes(),
        &(member.len() as u32).to_le_bytes(),
        &[0, 0],
    ]
    .concat();
    [member, directory, end].concat()
}
