//! GGML's blocks as the product kernels read them: the same values, the scales apart from the quants.

use half::f16;
use realign_tensor::{Blocks, Packed};

use crate::GgmlType;
use crate::gguf_blocks::{IQ4_NL, MXFP4, five_bits, half_power, scale_and_min, six_bits};

/// Rows of blocks, each of `width` weights, as one weight; none for types that are no smaller than f32 or not blocks.
///
/// # Errors
/// What a scale or a minimum is that is not finite.
pub(crate) fn pack(kind: GgmlType, rows: &[&[u8]], width: usize) -> Result<Option<Packed>, String> {
    let shape = [rows.len(), width];
    let mut out = Parts::default();
    let each: fn(&mut Parts, &[u8]) = match kind {
        GgmlType::F32 | GgmlType::F16 => return Ok(None),
        GgmlType::BF16 => return Ok(Some(bf16(rows, shape))),
        GgmlType::Q4_0 => |out, b| {
            let d = scale(b, 0);
            out.block(d, -8.0 * d);
            out.nibbles.extend_from_slice(&b[2..18]);
        },
        GgmlType::Q4_1 => |out, b| {
            out.block(scale(b, 0), scale(b, 2));
            out.nibbles.extend_from_slice(&b[4..20]);
        },
        GgmlType::Q5_0 => |out, b| {
            out.block(scale(b, 0), 0.0);
            out.bytes.extend(quants_of_five(b, 2, 6).map(|q| q as i8 - 16));
        },
        GgmlType::Q5_1 => |out, b| {
            out.block(scale(b, 0), scale(b, 2));
            out.bytes.extend(quants_of_five(b, 4, 8).map(|q| q as i8));
        },
        GgmlType::Q8_0 => |out, b| {
            out.block(scale(b, 0), 0.0);
            out.bytes.extend(b[2..34].iter().map(|&q| q as i8));
        },
        GgmlType::Q4_K => |out, b| {
            let (d, dmin, scales) = (scale(b, 0), scale(b, 2), &b[4..16]);
            for (pair, quants) in b[16..].chunks_exact(32).enumerate() {
                for (half, shift) in [0, 4].into_iter().enumerate() {
                    let (scale, min) = scale_and_min(2 * pair + half, scales);
                    out.block(d * scale, -(dmin * min));
                    let nibble = |i: usize| quants[i] >> shift & 15;
                    out.nibbles.extend((0..16).map(|i| nibble(i) | nibble(i + 16) << 4));
                }
            }
        },
        GgmlType::Q5_K => |out, b| {
            let (d, dmin, scales, high) = (scale(b, 0), scale(b, 2), &b[4..16], &b[16..48]);
            for (pair, quants) in b[48..].chunks_exact(32).enumerate() {
                for half in 0..2 {
                    let (scale, min) = scale_and_min(2 * pair + half, scales);
                    out.block(d * scale, -(dmin * min));
                    let fifth = |i: usize| (high[i] >> (2 * pair + half) & 1) << 4;
                    out.bytes
                        .extend((0..32).map(|i| (quants[i] >> (4 * half) & 15 | fifth(i)) as i8));
                }
            }
        },
        GgmlType::Q6_K => |out, b| {
            let (low, high, scales, d) = (&b[..128], &b[128..192], &b[192..208], scale(b, 208));
            for group in scales {
                out.block(d * f32::from(*group as i8), 0.0);
            }
            out.bytes.extend((0..256).map(|i| six_bits(low, high, i)));
        },
        GgmlType::IQ4_NL => |out, b| {
            out.block(scale(b, 0), 0.0);
            out.bytes.extend(by_table(&IQ4_NL, &b[2..18]));
        },
        GgmlType::MXFP4 => |out, b| {
            out.block(half_power(b[0]), 0.0);
            out.bytes.extend(by_table(&MXFP4, &b[1..17]));
        },
    };
    for row in rows {
        for block in row.chunks_exact(kind.block_bytes()) {
            each(&mut out, block);
        }
    }
    out.finish(if kind == GgmlType::Q6_K { 16 } else { 32 }, shape)
        .map(Some)
}

/// What comes out of blocks.
#[derive(Default)]
struct Parts {
    nibbles: Vec<u8>,
    bytes: Vec<i8>,
    scales: Vec<f32>,
    mins: Vec<f32>,
}

impl Parts {
    fn block(&mut self, scale: f32, min: f32) {
        self.scales.push(scale);
        self.mins.push(min);
    }

    fn finish(mut self, len: usize, shape: [usize; 2]) -> Result<Packed, String> {
        let wrong = |name: &str, values: &[f32]| {
            let block = values.iter().position(|x| !x.is_finite())?;
            Some(format!("the {name} {} in block {block}", values[block]))
        };
        if let Some(found) = wrong("scale", &self.scales).or_else(|| wrong("minimum", &self.mins)) {
            return Err(found);
        }
        if self.mins.iter().all(|&min| min == 0.0) {
            self.mins.clear();
        }
        let blocks = Blocks {
            len,
            scales: self.scales,
            mins: self.mins,
        };
        Ok(match self.bytes.is_empty() {
            true => Packed::nibbles(self.nibbles, blocks, shape),
            false => Packed::bytes(self.bytes, blocks, shape),
        })
    }
}

fn bf16(rows: &[&[u8]], shape: [usize; 2]) -> Packed {
    let bits: Vec<u16> = rows
        .iter()
        .flat_map(|row| row.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])))
        .collect();
    Packed::bf16_bits(&bits, shape)
}

fn scale(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The 32 weights of a block of nibbles, by a table.
fn by_table<'a>(table: &'a [i8; 16], quants: &'a [u8]) -> impl Iterator<Item = i8> + 'a {
    let lows = quants.iter().map(|q| table[usize::from(q & 15)]);
    lows.chain(quants.iter().map(|q| table[usize::from(q >> 4)]))
}

/// The 32 five-bit quants of a block: four bits each at `quants`, the fifth ones at `high`.
fn quants_of_five(b: &[u8], high: usize, quants: usize) -> impl Iterator<Item = u8> + '_ {
    let bits = u32::from_le_bytes([b[high], b[high + 1], b[high + 2], b[high + 3]]);
    let quants = &b[quants..quants + 16];
    let lows = (0..16).map(move |j| five_bits(quants[j], bits, j).0);
    lows.chain((0..16).map(move |j| five_bits(quants[j], bits, j).1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks of random bytes whose half-precision scales are finite.
    fn blocks(kind: GgmlType, count: usize) -> Vec<u8> {
        let mut state = 12_345u64;
        let mut bytes: Vec<u8> = (0..count * kind.block_bytes())
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as u8
            })
            .collect();
        let scales: &[usize] = match kind {
            GgmlType::Q4_0 | GgmlType::Q5_0 | GgmlType::Q8_0 | GgmlType::IQ4_NL => &[0],
            GgmlType::Q4_1 | GgmlType::Q5_1 | GgmlType::Q4_K | GgmlType::Q5_K => &[0, 2],
            GgmlType::Q6_K => &[208],
            GgmlType::BF16 => &[0],
            GgmlType::F32 | GgmlType::F16 | GgmlType::MXFP4 => &[],
        };
        for (i, block) in bytes.chunks_exact_mut(kind.block_bytes()).enumerate() {
            for &at in scales {
                let value = f16::from_f32((i as f32 + at as f32 * 0.3).sin() * 0.05);
                block[at..at + 2].copy_from_slice(&value.to_le_bytes());
            }
            if kind == GgmlType::MXFP4 {
                block[0] = 110 + i as u8 % 20;
            }
        }
        bytes
    }

    #[test]
    fn every_type_keeps_its_values_to_the_bit() {
        for kind in GgmlType::ALL {
            let width = 512;
            let bytes = blocks(kind, 3 * width / kind.block_len());
            let rows: Vec<&[u8]> = bytes.chunks_exact(bytes.len() / 3).collect();
            let Some(packed) = pack(kind, &rows, width).unwrap() else {
                assert!(matches!(kind, GgmlType::F32 | GgmlType::F16), "{kind:?}");
                continue;
            };
            let mut wanted = vec![0.0; 3 * width];
            kind.dequantise(&bytes, &mut wanted);
            let bits = |x: &[f32]| x.iter().map(|x| (x + 0.0).to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&packed.to_vec()), bits(&wanted), "{kind:?}");
        }
    }

    #[test]
    fn a_scale_that_is_not_finite_is_named() {
        let mut bytes = blocks(GgmlType::Q4_1, 4);
        bytes[20 * 2..][..2].copy_from_slice(&f16::INFINITY.to_le_bytes());
        let error = pack(GgmlType::Q4_1, &[&bytes], 128).unwrap_err();
        assert_eq!(error, "the scale inf in block 2");
    }
}
