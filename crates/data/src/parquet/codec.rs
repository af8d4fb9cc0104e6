use std::fmt;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::budget::Budget;

/// How pages are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    Plain,
    Snappy,
    Gzip,
    Zstd,
    /// By the number that Parquet gives it.
    Other(i32),
}

impl Codec {
    pub(super) fn new(number: i32) -> Self {
        match number {
            0 => Self::Plain,
            1 => Self::Snappy,
            2 => Self::Gzip,
            6 => Self::Zstd,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "uncompressed",
            Self::Snappy => "snappy",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Other(3) => "LZO",
            Self::Other(4) => "brotli",
            Self::Other(5 | 7) => "LZ4",
            Self::Other(number) => return write!(f, "codec {number}"),
        })
    }
}

/// The largest window of a zstd frame that need not be as large as its page: writers that do not know how long a page
/// will be choose one by their level.
const WINDOW: usize = 8 << 20;

/// `size` bytes out of `packed`: those, or an error. The caller holds the result; what is needed beside is asked for here.
pub(super) fn unpack(codec: Codec, packed: &[u8], size: usize, budget: &Budget) -> Result<Vec<u8>, String> {
    let unpacked = match codec {
        Codec::Plain => packed.to_vec(),
        Codec::Snappy => {
            let found = snap::raw::decompress_len(packed).map_err(|e| e.to_string())?;
            if found != size {
                return Err(format!("expected {size} bytes in a page, found {found}"));
            }
            snap::raw::Decoder::new()
                .decompress_vec(packed)
                .map_err(|e| e.to_string())?
        }
        Codec::Gzip => {
            let mut unpacked = Vec::with_capacity(size);
            let mut gzip = MultiGzDecoder::new(packed).take(size as u64 + 1);
            // One byte more than there should be would make the list grow.
            let read = gzip.by_ref().take(size as u64).read_to_end(&mut unpacked);
            read.map_err(|e| e.to_string())?;
            if gzip.read(&mut [0]).map_err(|e| e.to_string())? > 0 {
                return Err(format!("expected {size} bytes in a page, found more"));
            }
            unpacked
        }
        Codec::Zstd => {
            // The decoder's window grows by doubling.
            let window = 2 * size.max(WINDOW) + (1 << 20);
            budget.hold(window)?;
            // It has a few assertions about what it has just decoded.
            let unpacked = catch_unwind(AssertUnwindSafe(|| zstd(packed, size)));
            budget.release(window);
            unpacked
                .unwrap_or_else(|_| Err("expected a zstd frame, found one that zstd's decoder gives up on".into()))?
        }
        Codec::Other(_) => {
            return Err(format!(
                "expected pages that are uncompressed or packed by snappy, gzip or zstd, found {codec}"
            ));
        }
    };
    match unpacked.len() == size {
        true => Ok(unpacked),
        false => Err(format!("expected {size} bytes in a page, found {}", unpacked.len())),
    }
}

fn zstd(mut packed: &[u8], size: usize) -> Result<Vec<u8>, String> {
    // It holds at least a window before it gives anything, whatever the page is said to hold.
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(size.max(WINDOW) as u64);
    let mut unpacked = vec![0; size];
    let mut at = 0;
    while !packed.is_empty() {
        decoder.reset(&mut packed).map_err(|e| e.to_string())?;
        while !decoder.is_finished() {
            let block = BlockDecodingStrategy::UptoBlocks(1);
            decoder.decode_blocks(&mut packed, block).map_err(|e| e.to_string())?;
            at += decoder.read(&mut unpacked[at..]).map_err(|e| e.to_string())?;
            if decoder.can_collect() > 0 {
                return Err(format!("expected {size} bytes in a page, found more"));
            }
        }
    }
    unpacked.truncate(at);
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn packed(text: &[u8]) -> Vec<(Codec, Vec<u8>)> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(text).unwrap();
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        vec![
            (Codec::Plain, text.to_vec()),
            (Codec::Snappy, snap::raw::Encoder::new().compress_vec(text).unwrap()),
            (Codec::Gzip, gzip.finish().unwrap()),
            (Codec::Zstd, ruzstd::encoding::compress_to_vec(text, level)),
        ]
    }

    #[test]
    fn pages_are_unpacked_to_their_size_and_no_other() {
        for text in [vec![], b"a page of text".repeat(20_000)] {
            for (codec, packed) in packed(&text) {
                let budget = Budget::new(0);
                let unpack = |bytes: &[u8], size| unpack(codec, bytes, size, &budget);
                assert_eq!(unpack(&packed, text.len()).unwrap(), text, "{codec}");
                assert!(unpack(&packed, text.len() + 1).is_err(), "{codec}");
                if !text.is_empty() {
                    assert!(unpack(&packed, text.len() - 1).is_err(), "{codec}");
                    assert!(unpack(&packed[..packed.len() - 1], text.len()).is_err(), "{codec}");
                }
            }
        }
        let error = unpack(Codec::new(4), b"x", 1, &Budget::new(0)).unwrap_err();
        assert!(error.contains("found brotli"), "{error}");
    }
}
