//! GGML's tensor types and how their blocks become `f32`.
//!
//! Layouts follow `ggml-quants.c`; the fixture in `tests/fixtures/gguf_blocks.json` compares them
//! with the `gguf` Python package.

use half::{bf16, f16};

/// How a GGUF tensor's elements are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, non_camel_case_types)]
#[non_exhaustive]
pub enum GgmlType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    MXFP4,
}

impl GgmlType {
    /// Every type that this crate reads.
    pub const ALL: [Self; 13] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
        Self::IQ4_NL,
        Self::MXFP4,
    ];

    /// The type with this number in a GGUF file, where this crate reads it.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.id() == id)
    }

    /// The number of this type in a GGUF file.
    pub fn id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q4_K => 12,
            Self::Q5_K => 13,
            Self::Q6_K => 14,
            Self::IQ4_NL => 20,
            Self::MXFP4 => 39,
            Self::BF16 => 30,
        }
    }

    /// Elements in one block.
    pub fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 | Self::IQ4_NL | Self::MXFP4 => 32,
            Self::Q4_K | Self::Q5_K | Self::Q6_K => 256,
        }
    }

    /// Bytes in one block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::MXFP4 => 17,
            Self::Q4_0 | Self::IQ4_NL => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
        }
    }

    /// Unpacks whole blocks into `out`.
    ///
    /// # Panics
    /// When `bytes` are not exactly the blocks of `out.len()` elements.
    pub fn dequantise(self, bytes: &[u8], out: &mut [f32]) {
        let (len, size) = (self.block_len(), self.block_bytes());
        assert!(
            out.len().is_multiple_of(len) && bytes.len() == out.len() / len * size,
            "{} bytes of {self:?} do not hold {} elements",
            bytes.len(),
            out.len()
        );
        let unpack: fn(&[u8], &mut [f32]) = match self {
            Self::F32 => |b, o| o[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            Self::F16 => |b, o| o[0] = scale(b, 0),
            Self::BF16 => |b, o| o[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32(),
            Self::Q4_0 => q4_0,
            Self::Q4_1 => q4_1,
            Self::Q5_0 => q5_0,
            Self::Q5_1 => q5_1,
            Self::Q8_0 => q8_0,
            Self::Q4_K => q4_k,
            Self::Q5_K => q5_k,
            Self::Q6_K => q6_k,
            Self::IQ4_NL => |b, o| by_table(scale(b, 0), &IQ4_NL, &b[2..18], o),
            Self::MXFP4 => |b, o| by_table(half_power(b[0]), &MXFP4, &b[1..17], o),
        };
        for (block, values) in bytes.chunks_exact(size).zip(out.chunks_exact_mut(len)) {
            unpack(block, values);
        }
    }
}

impl GgmlType {
    /// Whole blocks of these values, as ggml's reference rounds them; none for a type that this crate does not write.
    ///
    /// # Panics
    /// When the values are no whole number of blocks.
    pub fn quantise(self, values: &[f32]) -> Option<Vec<u8>> {
        assert!(
            values.len().is_multiple_of(self.block_len()),
            "{} elements are no whole blocks of {self:?}",
            values.len()
        );
        Some(match self {
            Self::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Self::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
            Self::Q8_0 => {
                let mut bytes = Vec::with_capacity(values.len() / 32 * 34);
                for block in values.chunks_exact(32) {
                    let scale = block.iter().fold(0f32, |most, v| most.max(v.abs())) / 127.0;
                    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
                    bytes.extend(f16::from_f32(scale).to_le_bytes());
                    // Away from zero at halves, as C's roundf.
                    bytes.extend(block.iter().map(|v| (v * inverse).round() as i8 as u8));
                }
                bytes
            }
            _ => return None,
        })
    }
}

/// What the four bits of an IQ4_NL weight stand for.
pub(crate) const IQ4_NL: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// What the four bits of an MXFP4 weight stand for: twice the FP4 numbers.
pub(crate) const MXFP4: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Half of the power of two of an E8M0 exponent.
pub(crate) fn half_power(exponent: u8) -> f32 {
    f32::from_bits(match exponent {
        0 | 1 => 0x0020_0000 << exponent,
        _ => u32::from(exponent - 1) << 23,
    })
}

fn by_table(d: f32, table: &[i8; 16], quants: &[u8], out: &mut [f32]) {
    for (j, &q) in quants.iter().enumerate() {
        out[j] = d * f32::from(table[usize::from(q & 15)]);
        out[j + 16] = d * f32::from(table[usize::from(q >> 4)]);
    }
}

fn scale(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn q4_0(b: &[u8], out: &mut [f32]) {
    let d = scale(b, 0);
    for (j, &q) in b[2..18].iter().enumerate() {
        out[j] = d * (f32::from(q & 15) - 8.0);
        out[j + 16] = d * (f32::from(q >> 4) - 8.0);
    }
}

fn q4_1(b: &[u8], out: &mut [f32]) {
    let (d, m) = (scale(b, 0), scale(b, 2));
    for (j, &q) in b[4..20].iter().enumerate() {
        out[j] = d * f32::from(q & 15) + m;
        out[j + 16] = d * f32::from(q >> 4) + m;
    }
}

/// The two five-bit values of byte `j`: four bits there, the fifth in the bit field `high`.
pub(crate) fn five_bits(q: u8, high: u32, j: usize) -> (u8, u8) {
    let fifth = |j: usize| ((high >> j & 1) << 4) as u8;
    (q & 15 | fifth(j), q >> 4 | fifth(j + 16))
}

fn q5_0(b: &[u8], out: &mut [f32]) {
    let d = scale(b, 0);
    let high = u32::from_le_bytes([b[2], b[3], b[4], b[5]]);
    for (j, &q) in b[6..22].iter().enumerate() {
        let (low, top) = five_bits(q, high, j);
        out[j] = d * (f32::from(low) - 16.0);
        out[j + 16] = d * (f32::from(top) - 16.0);
    }
}

fn q5_1(b: &[u8], out: &mut [f32]) {
    let (d, m) = (scale(b, 0), scale(b, 2));
    let high = u32::from_le_bytes([b[4], b[5], b[6], b[7]]);
    for (j, &q) in b[8..24].iter().enumerate() {
        let (low, top) = five_bits(q, high, j);
        out[j] = d * f32::from(low) + m;
        out[j + 16] = d * f32::from(top) + m;
    }
}

fn q8_0(b: &[u8], out: &mut [f32]) {
    let d = scale(b, 0);
    for (value, &q) in out.iter_mut().zip(&b[2..34]) {
        *value = d * f32::from(q as i8);
    }
}

/// Scale and minimum of sub-block `j`, six bits each, packed into twelve bytes.
pub(crate) fn scale_and_min(j: usize, s: &[u8]) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (s[j] & 63, s[j + 4] & 63)
    } else {
        (s[j + 4] & 15 | (s[j - 4] >> 6) << 4, s[j + 4] >> 4 | (s[j] >> 6) << 4)
    };
    (f32::from(scale), f32::from(min))
}

fn q4_k(b: &[u8], out: &mut [f32]) {
    let (d, dmin, scales) = (scale(b, 0), scale(b, 2), &b[4..16]);
    for (pair, (quants, values)) in b[16..].chunks_exact(32).zip(out.chunks_exact_mut(64)).enumerate() {
        let (low, top) = (scale_and_min(2 * pair, scales), scale_and_min(2 * pair + 1, scales));
        for (j, &q) in quants.iter().enumerate() {
            values[j] = d * low.0 * f32::from(q & 15) - dmin * low.1;
            values[j + 32] = d * top.0 * f32::from(q >> 4) - dmin * top.1;
        }
    }
}

fn q5_k(b: &[u8], out: &mut [f32]) {
    let (d, dmin, scales, high) = (scale(b, 0), scale(b, 2), &b[4..16], &b[16..48]);
    for (pair, (quants, values)) in b[48..].chunks_exact(32).zip(out.chunks_exact_mut(64)).enumerate() {
        let (low, top) = (scale_and_min(2 * pair, scales), scale_and_min(2 * pair + 1, scales));
        for (j, &q) in quants.iter().enumerate() {
            let fifth_low = (high[j] >> (2 * pair) & 1) << 4;
            let fifth_top = (high[j] >> (2 * pair + 1) & 1) << 4;
            values[j] = d * low.0 * f32::from(q & 15 | fifth_low) - dmin * low.1;
            values[j + 32] = d * top.0 * f32::from(q >> 4 | fifth_top) - dmin * top.1;
        }
    }
}

fn q6_k(b: &[u8], out: &mut [f32]) {
    let (low, high, scales, d) = (&b[..128], &b[128..192], &b[192..208], scale(b, 208));
    for (i, value) in out.iter_mut().enumerate() {
        *value = d * f32::from(scales[i / 16] as i8) * f32::from(six_bits(low, high, i));
    }
}

/// The value `i` of a Q6_K block: four bits in `low`, two in `high`, less 32. Each half of 128 values has 64 bytes of `low`,
/// whose nibbles are 32 values each, and 32 bytes of `high`, two bits to each 32 values.
pub(crate) fn six_bits(low: &[u8], high: &[u8], i: usize) -> i8 {
    let (half, group, j) = (i / 128, i % 128 / 32, i % 32);
    let four = low[64 * half + 32 * (group % 2) + j] >> (4 * (group / 2)) & 15;
    let two = high[32 * half + j] >> (2 * group) & 3;
    (four | two << 4) as i8 - 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_found_again_by_its_number() {
        for kind in GgmlType::ALL {
            assert_eq!(GgmlType::from_id(kind.id()), Some(kind));
        }
        for removed_or_unknown in [4, 5, 10, 99] {
            assert_eq!(GgmlType::from_id(removed_or_unknown), None);
        }
    }

    #[test]
    fn a_q4_1_block_is_low_nibbles_then_high_nibbles() {
        let mut block = vec![0; 20];
        block[..2].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        block[2..4].copy_from_slice(&f16::from_f32(-1.0).to_le_bytes());
        block[4] = 0x2f;
        let mut out = [0.0; 32];
        GgmlType::Q4_1.dequantise(&block, &mut out);
        assert_eq!((out[0], out[16], out[1]), (6.5, 0.0, -1.0));
    }

    #[test]
    fn a_scale_that_is_not_a_number_stays_one() {
        let mut block = vec![1; 34];
        block[..2].copy_from_slice(&f16::NAN.to_le_bytes());
        let mut out = [0.0; 32];
        GgmlType::Q8_0.dequantise(&block, &mut out);
        assert!(out.iter().all(|v| v.is_nan()));
    }

    #[test]
    #[should_panic(expected = "33 bytes of Q8_0 do not hold 32 elements")]
    fn a_partial_block_is_a_mistake_of_the_caller() {
        GgmlType::Q8_0.dequantise(&[0; 33], &mut [0.0; 32]);
    }
}
