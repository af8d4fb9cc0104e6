//! Products of bf16 tiles by the matrix unit of newer Intel processors (AMX).
//!
//! The compiler knows no tile registers yet, so this is assembly: what touches them starts and ends in one block.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::mem::MaybeUninit;
use std::sync::OnceLock;

/// Rows of a tile, and its 32-bit lanes across.
pub(super) const TILE: usize = 16;

/// Rows and columns of a block of the output: four tiles of sums, with two of each operand beside them.
pub(super) const BLOCK: usize = 2 * TILE;

/// Bytes that memory is asked for in one step: four blocks of rows ask for the whole next panel.
const SOON: usize = 512;

/// Whether this machine has tiles of bf16, and the system lets this process use them.
pub(super) fn available() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        const BF16_AND_TILES: u32 = 1 << 22 | 1 << 24;
        __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & BF16_AND_TILES == BF16_AND_TILES && permitted()
    })
}

/// Linux saves tiles only for a process that has asked for it.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const TILE_DATA: libc::c_long = 18;
    // SAFETY: it reads no memory of ours, and only widens what the system saves of a thread.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// What `ldtilecfg` reads: all eight tiles with sixteen rows of 64 bytes.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static SHAPES: Shapes = {
    let (mut row_bytes, mut rows, mut tile) = ([0; 16], [0; 16], 0);
    while tile < 8 {
        (row_bytes[tile], rows[tile]) = (64, TILE as u8);
        tile += 1;
    }
    Shapes {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        row_bytes,
        rows,
    }
};

/// Rows of the output in the columns of one panel: `x [rows, pairs]` and `w [pairs]` hold two bf16 numbers to a lane, and go to
/// columns `first..` of `out [rows, n]`. Memory is asked for the panel behind `w`, too.
///
/// # Panics
/// Where [`available`] is false, where `pairs` is no multiple of [`TILE`], or the rows of `x` are none of [`BLOCK`].
#[allow(unsafe_code)]
pub(super) fn stripe(x: &[u32], w: &[[u32; BLOCK]], n: usize, first: usize, out: &mut [MaybeUninit<f32>]) {
    let pairs = w.len();
    assert!(available(), "this machine has no tiles of bf16");
    assert!(pairs > 0 && pairs.is_multiple_of(TILE) && x.len().is_multiple_of(BLOCK * pairs));
    let columns = BLOCK.min(n - first);
    // SAFETY: `available` has shown that the instruction exists; it reads the 64 bytes of `SHAPES`.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const SHAPES, options(nostack, preserves_flags, readonly)) };
    for (i, (x, out)) in x.chunks_exact(BLOCK * pairs).zip(out.chunks_mut(BLOCK * n)).enumerate() {
        let rows = out.len() / n;
        let soon = w.as_ptr_range().end.cast::<u8>().wrapping_add(i * pairs / TILE * SOON);
        if rows == BLOCK && columns == BLOCK {
            block(x, w, soon, &mut out[first..], n);
        } else {
            let mut sums = [MaybeUninit::uninit(); BLOCK * BLOCK];
            block(x, w, soon, &mut sums, BLOCK);
            for row in 0..rows {
                out[row * n + first..][..columns].copy_from_slice(&sums[row * BLOCK..][..columns]);
            }
        }
    }
    // SAFETY: as above; a thread without live tiles is cheaper to switch.
    unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
}

/// `x [BLOCK, pairs] · w [pairs, BLOCK]`, a row of the sums every `stride` numbers of `out`; each step asks memory for the next
/// [`SOON`] bytes from `soon` on. [`stripe`] has set the tiles up.
#[allow(unsafe_code)]
#[inline]
fn block(x: &[u32], w: &[[u32; BLOCK]], soon: *const u8, out: &mut [MaybeUninit<f32>], stride: usize) {
    let pairs = w.len();
    assert!(pairs > 0 && pairs.is_multiple_of(TILE) && x.len() == BLOCK * pairs);
    assert!(out.len() >= (BLOCK - 1) * stride + BLOCK);
    // SAFETY: a step reads 16 rows of 64 bytes of each half of `x` and of `w`, and there are `pairs / 16` steps: the asserted
    // lengths. The sums are two times two tiles, 16 rows of 64 bytes each, inside `out`. No tile lives beyond the block. Memory may
    // be asked for any address: for one that is none nothing happens.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{x} + {x_stride}]",
            "tileloadd tmm6, [{w} + {w_stride}]",
            "tileloadd tmm7, [{w} + {w_stride} + 64]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{below} + {x_stride}]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "prefetcht1 [{soon}]",
            "prefetcht1 [{soon} + 64]",
            "prefetcht1 [{soon} + 128]",
            "prefetcht1 [{soon} + 192]",
            "prefetcht1 [{soon} + 256]",
            "prefetcht1 [{soon} + 320]",
            "prefetcht1 [{soon} + 384]",
            "prefetcht1 [{soon} + 448]",
            "add {soon}, {soon_step}",
            "add {x}, 64",
            "add {below}, 64",
            "add {w}, {w_step}",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{out} + {out_stride}], tmm0",
            "tilestored [{out} + {out_stride} + 64], tmm1",
            "tilestored [{out_below} + {out_stride}], tmm2",
            "tilestored [{out_below} + {out_stride} + 64], tmm3",
            x = inout(reg) x.as_ptr() => _,
            below = inout(reg) x[TILE * pairs..].as_ptr() => _,
            w = inout(reg) w.as_ptr() => _,
            soon = inout(reg) soon => _,
            soon_step = const SOON,
            steps = inout(reg) pairs / TILE => _,
            x_stride = in(reg) 4 * pairs,
            w_stride = in(reg) 4 * BLOCK,
            w_step = const 4 * BLOCK * TILE,
            out = in(reg) out.as_mut_ptr(),
            out_below = in(reg) out[TILE * stride..].as_mut_ptr(),
            out_stride = in(reg) 4 * stride,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
