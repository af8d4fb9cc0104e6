//! Products with packed weights, which stay on the device in their own bits: few rows read those, many rows have them unpacked
//! first.

use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::backend::{Cube, TensorMetadata};
use burn::tensor::{DType, TensorData};
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use super::{UNITS, cubes, empty, in_precision, numbers, sum_of_units, units};
use crate::TensorOps;
use crate::packed::{Numbers, Packed};

/// Most rows for which reading packed numbers again for each eight of them beats unpacking them once.
const MOST_ROWS: usize = 32;

/// Rows that share one reading.
const ROWS: usize = 8;

/// A weight on its device.
#[derive(Clone)]
struct Kept {
    /// Whole words of 32 bits.
    words: CubeTensor,
    /// Of the blocks; one zero where there are none.
    scales: CubeTensor,
    mins: CubeTensor,
    form: Form,
}

/// How words hold weights, known when a kernel is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Form {
    bits: usize,
    /// Weights of a block.
    block: usize,
    mins: bool,
}

/// `x · wᵀ`, or `x · w` where `transposed`: `w [d_out, d_in]`.
pub(super) fn product(x: CubeTensor, w: &Packed, transposed: bool) -> CubeTensor {
    let ([m, _], [d_out, d_in], dtype) = (x.shape().dims(), w.shape(), x.dtype());
    let device = x.device();
    let kept = w.on_device(|kept: &Kept| kept.words.device == device, || Kept::new(&x, w));
    let few = !transposed && m <= MOST_ROWS && m * d_out * d_in > 0;
    if !few {
        let dense = kept.unpacked([d_out, d_in]);
        let dense = if transposed {
            dense
        } else {
            Cube::float_transpose(dense)
        };
        return Cube::product(x, in_precision(dense, dtype));
    }
    let x = numbers(x);
    let out = empty(&x, [m, d_out], DType::F32);
    let client = x.client.clone();
    dots::launch(
        &client,
        cubes(d_out),
        CubeDim::new_1d(UNITS as u32),
        x.into_tensor_arg(),
        kept.words.into_tensor_arg(),
        kept.scales.into_tensor_arg(),
        kept.mins.into_tensor_arg(),
        out.clone().into_tensor_arg(),
        m,
        d_in,
        d_out,
        kept.form,
        if m == 1 { 1 } else { ROWS },
    );
    in_precision(out, dtype)
}

impl Kept {
    fn new(like: &CubeTensor, w: &Packed) -> Self {
        let (dense, halves): (Vec<f32>, Vec<u16>);
        let (bytes, bits, blocks): (&[u8], _, _) = match &w.numbers {
            Numbers::F32(_) => {
                dense = w.to_vec();
                (bytemuck::cast_slice(&dense), 32, None)
            }
            Numbers::Bf16(_) => {
                halves = w
                    .to_vec()
                    .iter()
                    .map(|weight| (weight.to_bits() >> 16) as u16)
                    .collect();
                (bytemuck::cast_slice(&halves), 16, None)
            }
            Numbers::Q8(quants, blocks) => (bytemuck::cast_slice(quants), 8, Some(blocks)),
            Numbers::Q4(quants, blocks) => (quants, 4, Some(blocks)),
        };
        let device = like.device();
        let words: Vec<i32> = bytes
            .chunks(4)
            .map(|bytes| {
                let mut word = [0; 4];
                word[..bytes.len()].copy_from_slice(bytes);
                i32::from_le_bytes(word)
            })
            .collect();
        let len = words.len();
        let floats = |of: Option<&Vec<f32>>| {
            let of = of.filter(|of| !of.is_empty()).cloned().unwrap_or_else(|| vec![0.0]);
            let len = of.len();
            Cube::float_from_data(TensorData::new(of, [len]), &device)
        };
        Self {
            words: Cube::int_from_data(TensorData::new(words, [len]), &device),
            scales: floats(blocks.map(|blocks| &blocks.scales)),
            mins: floats(blocks.map(|blocks| &blocks.mins)),
            form: Form {
                bits,
                block: blocks.map_or(1, |blocks| blocks.len),
                mins: blocks.is_some_and(|blocks| !blocks.mins.is_empty()),
            },
        }
    }

    /// All of it in f32.
    fn unpacked(self, shape: [usize; 2]) -> CubeTensor {
        let out = empty(&self.words, shape, DType::F32);
        if shape[0] * shape[1] > 0 {
            let (client, count, dim) = units(&self.words, shape[0] * shape[1]);
            unpacked::launch(
                &client,
                count,
                dim,
                self.words.into_tensor_arg(),
                self.scales.into_tensor_arg(),
                self.mins.into_tensor_arg(),
                out.clone().into_tensor_arg(),
                self.form,
            );
        }
        out
    }
}

/// Weight number `i` in f32, as [`Packed`] says what it stands for.
#[cube]
fn weight(words: &Tensor<i32>, scales: &Tensor<f32>, mins: &Tensor<f32>, i: usize, #[comptime] form: Form) -> f32 {
    if comptime!(form.bits == 32) {
        f32::reinterpret(words[i])
    } else if comptime!(form.bits == 16) {
        let word = u32::reinterpret(words[i / 2]);
        let high = (i % 2) == 1;
        f32::reinterpret(select(high, word & 0xffff_0000u32, word << 16u32))
    } else {
        let quant = if comptime!(form.bits == 8) {
            let byte = u32::reinterpret(words[i / 4]) >> (8u32 * (i % 4) as u32) & 255u32;
            // The eighth bit is the sign.
            f32::cast_from(byte) - 256.0f32 * f32::cast_from(byte >> 7u32)
        } else {
            // Sixteen bytes hold the first half of a block in their low nibbles, the second in their high ones.
            let within = i % 32;
            let byte = i / 32 * 16 + within % 16;
            let shift = 8 * (byte % 4) + 4 * (within / 16);
            f32::cast_from(u32::reinterpret(words[byte / 4]) >> shift as u32 & 15u32)
        };
        let block = i / comptime!(form.block);
        let scaled = scales[block] * quant;
        if comptime!(form.mins) {
            scaled + mins[block]
        } else {
            scaled
        }
    }
}

#[cube(launch)]
fn unpacked(
    words: &Tensor<i32>,
    scales: &Tensor<f32>,
    mins: &Tensor<f32>,
    out: &mut Tensor<f32>,
    #[comptime] form: Form,
) {
    if ABSOLUTE_POS >= out.len() {
        terminate!();
    }
    out[ABSOLUTE_POS] = weight(words, scales, mins, ABSOLUTE_POS, form);
}

/// `x [m, d_in] · wᵀ`: one cube an output column, which reads its weights once for each `together` rows of `x`.
#[cube(launch)]
fn dots(
    x: &Tensor<f32>,
    words: &Tensor<i32>,
    scales: &Tensor<f32>,
    mins: &Tensor<f32>,
    out: &mut Tensor<f32>,
    m: usize,
    d_in: usize,
    d_out: usize,
    #[comptime] form: Form,
    #[comptime] together: usize,
) {
    let column = CUBE_POS;
    if column >= d_out {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    for part in 0..m.div_ceil(together) {
        let first = part * together;
        let mut sums = Array::<f32>::new(together);
        #[unroll]
        for r in 0..together {
            sums[r] = 0.0f32;
        }
        for step in 0..d_in.div_ceil(UNITS) {
            let i = step * UNITS + unit;
            if i < d_in {
                let weight = weight(words, scales, mins, column * d_in + i, form);
                #[unroll]
                for r in 0..together {
                    if first + r < m {
                        sums[r] += x[(first + r) * d_in + i] * weight;
                    }
                }
            }
        }
        #[unroll]
        for r in 0..together {
            let sum = sum_of_units(sums[r], UNITS);
            if unit == 0 && first + r < m {
                out[(first + r) * d_out + column] = sum;
            }
        }
    }
}
