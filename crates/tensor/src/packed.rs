//! Weights in another order than a tensor's, or in fewer bits: bf16, and blocks of 8 or 4 bits with a scale each.

use std::any::Any;
use std::sync::{Arc, OnceLock};

use half::bf16;

/// Weights that share a scale, where this crate chooses.
const BLOCK: usize = 32;

/// Outputs that lie side by side in f32: three registers.
pub(crate) const PANEL: usize = 48;

/// Outputs that lie side by side in bf16: two tiles of a matrix unit.
pub(crate) const BF16_PANEL: usize = 32;

/// A frozen weight `[d_out, d_in]`: f32 and bf16 in panels, blocks of fewer bits row by row along `d_in`.
///
/// What blocks stand for is `scale · quant + min`, computed in f32: those that come out of a file keep the file's values exactly.
#[derive(Clone, PartialEq)]
pub struct Packed {
    pub(crate) d_out: usize,
    pub(crate) d_in: usize,
    pub(crate) numbers: Numbers,
    on_device: OnDevice,
}

/// What a device has made of a weight. It says nothing about the weight that the numbers do not.
#[derive(Clone, Default)]
struct OnDevice(Arc<OnceLock<Box<dyn Any + Send + Sync>>>);

impl PartialEq for OnDevice {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// The stored numbers.
#[derive(Clone, PartialEq)]
pub(crate) enum Numbers {
    /// Panels of outputs, zeros behind the last one: a panel's weights of the first input, then those of the second one.
    F32(Vec<[f32; PANEL]>),
    /// The same of upper halves of f32, those of two inputs in a word, the first in its low half; [`pairs`] words deep.
    Bf16(Vec<[u32; BF16_PANEL]>),
    /// One byte each.
    Q8(Vec<i8>, Blocks),
    /// Two to a byte: in 16 bytes of a block of 32, the low nibbles are the first 16.
    Q4(Vec<u8>, Blocks),
}

/// A scale, and possibly a smallest value, for every `len` weights of a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Blocks {
    /// Weights of a block.
    pub len: usize,
    /// What quants are multiplied by, `[d_out, d_in / len]`.
    pub scales: Vec<f32>,
    /// What is added after that, `[d_out, d_in / len]`, or empty for nothing.
    pub mins: Vec<f32>,
}

impl Blocks {
    fn check(&self, what: &str, quants: usize, [d_out, d_in]: [usize; 2]) {
        let blocks = d_out * d_in / self.len;
        assert!(
            d_in.is_multiple_of(self.len),
            "{what}: rows of {d_in} do not divide into blocks of {}",
            self.len
        );
        assert_eq!(quants, d_out * d_in, "{what}: {quants} quants for [{d_out}, {d_in}]");
        assert_eq!(
            self.scales.len(),
            blocks,
            "{what}: {} scales for {blocks} blocks",
            self.scales.len()
        );
        assert!(
            self.mins.is_empty() || self.mins.len() == blocks,
            "{what}: {} minima for {blocks} blocks",
            self.mins.len()
        );
    }
}

impl Packed {
    /// All bits of each weight, in the order in which processors multiply fastest.
    ///
    /// # Shapes
    /// - `weights`: `[d_out, d_in]`, row-major
    pub fn f32(weights: &[f32], [d_out, d_in]: [usize; 2]) -> Self {
        assert_eq!(
            weights.len(),
            d_out * d_in,
            "f32: {} weights for [{d_out}, {d_in}]",
            weights.len()
        );
        let mut panels = vec![[0.0; PANEL]; d_out.div_ceil(PANEL) * d_in];
        each_of_panels::<PANEL>([d_out, d_in], |at, panel, out, i| {
            panels[panel * d_in + i][out] = weights[at];
        });
        Self::new([d_out, d_in], Numbers::F32(panels))
    }

    /// Rounds each weight to the nearest bf16: 8 bits of precision, the range of f32.
    ///
    /// # Shapes
    /// - `weights`: `[d_out, d_in]`, row-major
    pub fn bf16(weights: &[f32], shape: [usize; 2]) -> Self {
        let bits: Vec<u16> = weights.iter().map(|&w| bf16::from_f32(w).to_bits()).collect();
        Self::bf16_bits(&bits, shape)
    }

    /// Weights that are bf16 already.
    ///
    /// # Shapes
    /// - `bits`: `[d_out, d_in]`, row-major
    pub fn bf16_bits(bits: &[u16], [d_out, d_in]: [usize; 2]) -> Self {
        assert_eq!(
            bits.len(),
            d_out * d_in,
            "bf16: {} weights for [{d_out}, {d_in}]",
            bits.len()
        );
        let deep = pairs(d_in);
        let mut panels = vec![[0; BF16_PANEL]; d_out.div_ceil(BF16_PANEL) * deep];
        each_of_panels::<BF16_PANEL>([d_out, d_in], |at, panel, out, i| {
            panels[panel * deep + i / 2][out] |= u32::from(bits[at]) << (16 * (i % 2));
        });
        Self::new([d_out, d_in], Numbers::Bf16(panels))
    }

    /// Rounds each weight to one of 255 multiples of its block's scale, the largest of 32 neighbours over 127 (GGML's
    /// Q8_0, with scales in f32).
    ///
    /// # Shapes
    /// - `weights`: `[d_out, d_in]`, row-major; `d_in` is a multiple of 32
    pub fn q8(weights: &[f32], shape: [usize; 2]) -> Self {
        let (mut quants, mut scales) = (Vec::with_capacity(weights.len()), Vec::new());
        for block in weights.chunks(BLOCK) {
            let scale = block.iter().fold(0.0, |most: f32, w| most.max(w.abs())) / 127.0;
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            quants.extend(block.iter().map(|w| (w * inverse).round() as i8));
            scales.push(scale);
        }
        let blocks = Blocks {
            len: BLOCK,
            scales,
            mins: Vec::new(),
        };
        Self::bytes(quants, blocks, shape)
    }

    /// Quants of one byte each in blocks of 16 or 32 weights, as a file has them.
    ///
    /// # Panics
    /// If there are not as many of each as `shape` asks for.
    pub fn bytes(quants: Vec<i8>, blocks: Blocks, shape: [usize; 2]) -> Self {
        assert!(
            [16, 32].contains(&blocks.len),
            "8-bit blocks: of 16 or 32 weights, not {}",
            blocks.len
        );
        blocks.check("8-bit blocks", quants.len(), shape);
        Self::new(shape, Numbers::Q8(quants, blocks))
    }

    /// Quants of four bits each, in blocks of 32 weights or 16 bytes: low nibbles first, as GGML has them.
    ///
    /// # Panics
    /// If there are not as many of each as `shape` asks for.
    pub fn nibbles(quants: Vec<u8>, blocks: Blocks, shape: [usize; 2]) -> Self {
        assert_eq!(
            blocks.len, BLOCK,
            "4-bit blocks: of {BLOCK} weights, not {}",
            blocks.len
        );
        blocks.check("4-bit blocks", 2 * quants.len(), shape);
        Self::new(shape, Numbers::Q4(quants, blocks))
    }

    fn new([d_out, d_in]: [usize; 2], numbers: Numbers) -> Self {
        Self {
            d_out,
            d_in,
            numbers,
            on_device: OnDevice::default(),
        }
    }

    /// The weight as a device keeps it: the first product there makes that, and later ones find it. It has room for one device;
    /// another one makes it anew each time.
    #[cfg_attr(
        not(any(feature = "tch", feature = "wgpu", feature = "cuda", feature = "remote")),
        expect(dead_code)
    )]
    pub(crate) fn on_device<T: Clone + Send + Sync + 'static>(
        &self,
        is_there: impl Fn(&T) -> bool,
        make: impl Fn() -> T,
    ) -> T {
        let kept = self.on_device.0.get_or_init(|| Box::new(make()));
        match kept.downcast_ref().filter(|kept| is_there(kept)) {
            Some(kept) => kept.clone(),
            None => make(),
        }
    }

    /// `[d_out, d_in]`.
    pub fn shape(&self) -> [usize; 2] {
        [self.d_out, self.d_in]
    }

    /// Bytes of memory.
    pub fn size(&self) -> usize {
        let blocks = |b: &Blocks| 4 * (b.scales.len() + b.mins.len());
        match &self.numbers {
            Numbers::F32(panels) => size_of_val(panels.as_slice()),
            Numbers::Bf16(panels) => size_of_val(panels.as_slice()),
            Numbers::Q8(quants, b) => quants.len() + blocks(b),
            Numbers::Q4(quants, b) => quants.len() + blocks(b),
        }
    }

    /// One row in f32, into `out [d_in]`.
    #[inline(always)]
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let d = self.d_in;
        match &self.numbers {
            Numbers::F32(panels) => {
                let panel = &panels[row / PANEL * d..][..d];
                for i in 0..d {
                    out[i] = panel[i][row % PANEL];
                }
            }
            Numbers::Bf16(panels) => {
                let panel = &panels[row / BF16_PANEL * pairs(d)..][..pairs(d)];
                for i in 0..d {
                    out[i] = half_of(panel[i / 2][row % BF16_PANEL], i);
                }
            }
            Numbers::Q8(quants, blocks) => {
                let quants = &quants[row * d..][..d];
                for (b, out) in out.chunks_exact_mut(blocks.len).enumerate() {
                    let (scale, min) = blocks.at(row * (d / blocks.len) + b);
                    let quants = &quants[b * blocks.len..][..blocks.len];
                    for i in 0..blocks.len {
                        out[i] = scale * f32::from(quants[i]) + min;
                    }
                }
            }
            Numbers::Q4(quants, blocks) => {
                let quants = &quants[row * d / 2..][..d / 2];
                for (b, out) in out.chunks_exact_mut(BLOCK).enumerate() {
                    let (scale, min) = blocks.at(row * (d / BLOCK) + b);
                    let quants = &quants[b * BLOCK / 2..][..BLOCK / 2];
                    for i in 0..BLOCK / 2 {
                        out[i] = scale * f32::from(quants[i] & 15) + min;
                        out[i + BLOCK / 2] = scale * f32::from(quants[i] >> 4) + min;
                    }
                }
            }
        }
    }

    /// All of it in f32, `[d_out, d_in]`.
    pub fn to_vec(&self) -> Vec<f32> {
        let mut all = vec![0.0; self.d_out * self.d_in];
        let (shape, d) = (self.shape(), self.d_in);
        match &self.numbers {
            _ if d == 0 => {}
            Numbers::F32(panels) => {
                each_of_panels::<PANEL>(shape, |at, panel, out, i| all[at] = panels[panel * d + i][out]);
            }
            Numbers::Bf16(panels) => each_of_panels::<BF16_PANEL>(shape, |at, panel, out, i| {
                all[at] = half_of(panels[panel * pairs(d) + i / 2][out], i);
            }),
            Numbers::Q8(..) | Numbers::Q4(..) => {
                for (row, out) in all.chunks_exact_mut(d).enumerate() {
                    self.row(row, out);
                }
            }
        }
        all
    }
}

impl Blocks {
    #[inline(always)]
    pub(crate) fn at(&self, block: usize) -> (f32, f32) {
        let min = if self.mins.is_empty() { 0.0 } else { self.mins[block] };
        (self.scales[block], min)
    }
}

/// Words of two bf16 numbers that `d` inputs take: whole rows of a matrix unit's tiles.
pub(crate) fn pairs(d: usize) -> usize {
    d.div_ceil(2).next_multiple_of(BF16_PANEL / 2)
}

/// The bf16 number of input `i` in a word.
#[inline(always)]
fn half_of(word: u32, i: usize) -> f32 {
    f32::from_bits(if i.is_multiple_of(2) {
        word << 16
    } else {
        word & 0xffff_0000
    })
}

/// `[d_out, d_in]` as `[d_in, d_out]`.
pub fn transposed(rows: &[f32], [d_out, d_in]: [usize; 2]) -> Vec<f32> {
    let mut columns = vec![0.0; d_out * d_in];
    each_of_panels::<PANEL>([d_out, d_in], |at, panel, out, i| {
        columns[i * d_out + panel * PANEL + out] = rows[at];
    });
    columns
}

/// Every place of `[d_out, d_in]`, its panel, its output in there and its input: some inputs at a time, so that neither a row's line
/// nor a panel's is fetched anew for each.
fn each_of_panels<const P: usize>([d_out, d_in]: [usize; 2], mut each: impl FnMut(usize, usize, usize, usize)) {
    const TOGETHER: usize = 16;
    for first_row in (0..d_out).step_by(P) {
        for first in (0..d_in).step_by(TOGETHER) {
            for row in first_row..d_out.min(first_row + P) {
                for i in first..d_in.min(first + TOGETHER) {
                    each(row * d_in + i, first_row / P, row - first_row, i);
                }
            }
        }
    }
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match &self.numbers {
            Numbers::F32(_) => "f32",
            Numbers::Bf16(_) => "bf16",
            Numbers::Q8(..) => "8 bits",
            Numbers::Q4(..) => "4 bits",
        };
        write!(
            f,
            "Packed([{}, {}], {kind}, {} bytes)",
            self.d_out,
            self.d_in,
            self.size()
        )
    }
}
