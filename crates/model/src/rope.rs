//! Rotary positions (Su et al. 2021): frequencies, the ways in which they are stretched, and tables of them.

use std::f64::consts::TAU;
use std::sync::{Arc, PoisonError, RwLock};

use burn::tensor::{Device, Tensor, TensorData};
use realign_core::Batch;

/// Rotary positions of some layers.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// How many numbers of a head are rotated, from its first; all of them in most models.
    pub width: usize,
    /// How the frequencies are stretched for longer contexts.
    pub scaling: RopeScaling,
}

/// How rotary frequencies are stretched: the kinds of Hugging Face's `rope_scaling`.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Every position is divided by this (Chen et al. 2023).
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// The base grows with a sequence's length beyond the trained one (NTK-aware, "dynamic").
    ///
    /// As in transformers, keys that are in the cache keep the rotation of the length at which they were computed: beyond
    /// `trained` tokens, and only there, cached generation is not what a run over the whole sequence gives.
    Dynamic {
        /// How far the base stretches.
        factor: f64,
        /// Tokens that the model was trained on.
        trained: usize,
    },
    /// High frequencies as they are, low ones divided, a ramp between (YaRN, Peng et al. 2023).
    Yarn {
        /// The divisor.
        factor: f64,
        /// Tokens that the model was trained on.
        trained: usize,
        /// Rotations in the trained context above which a frequency stays.
        fast: f64,
        /// Rotations below which it is divided.
        slow: f64,
        /// Whether the ramp's ends are whole dimensions.
        truncate: bool,
        /// What cosines and sines are multiplied by.
        amplitude: f64,
    },
    /// As YaRN's idea with a ramp over wavelengths (Llama 3.1).
    Llama3 {
        /// The divisor.
        factor: f64,
        /// Tokens that the model was trained on.
        trained: usize,
        /// Rotations in the trained context below which a frequency is divided.
        low: f64,
        /// Rotations above which it stays.
        high: f64,
    },
    /// Each frequency is divided by a number of its own, which another takes the place of for sequences longer than the trained
    /// context (LongRoPE, Ding et al. 2024; Phi-3).
    ///
    /// Which of the two it is depends on the whole sequence, so that none of its keys is good any more when it grows beyond
    /// `trained` tokens: generation then runs it once more from the start ([`realign_core::LanguageModel::recomputes_at`]), and
    /// gives what a run over the whole sequence gives. transformers 4.57.1 starts anew there, too, but without the causal mask
    /// in that one step, after which its tokens are other ones than its own `use_cache=False` gives. In a batch it looks at the
    /// longest sequence for all; here each has its own. A continuation beyond `trained` of a shorter shared prefix in one batch
    /// ([`Batch::push_after`]) finds the prefix's keys as they are.
    Long {
        /// The divisors up to `trained` tokens, one for each pair.
        short: Vec<f64>,
        /// The divisors beyond.
        long: Vec<f64>,
        /// Tokens that the model was trained on at first (`original_max_position_embeddings`).
        trained: usize,
        /// What cosines and sines are multiplied by.
        amplitude: f64,
    },
    /// Each frequency is divided by a number of its own: what a GGUF makes of `llama3`.
    Divided {
        /// The divisors, one for each pair.
        by: Vec<f64>,
    },
}

impl Rope {
    /// Rotary positions over a whole head, without scaling.
    pub fn new(theta: f64, width: usize) -> Self {
        Self {
            theta,
            width,
            scaling: RopeScaling::None,
        }
    }

    /// Radians per position of each pair, for a sequence of `length` tokens.
    pub(crate) fn frequencies(&self, length: usize) -> Vec<f64> {
        let (n, width) = (self.width / 2, self.width as f64);
        let plain = |theta: f64| (0..n).map(move |j| theta.powf(-2.0 * j as f64 / width));
        match &self.scaling {
            RopeScaling::None => plain(self.theta).collect(),
            &RopeScaling::Linear { factor } => plain(self.theta).map(|f| f / factor).collect(),
            &RopeScaling::Dynamic { factor, trained } => {
                let longer = length.max(trained) as f64 / trained as f64;
                let stretch = factor * longer - (factor - 1.0);
                plain(self.theta * stretch.powf(width / (width - 2.0))).collect()
            }
            &RopeScaling::Yarn {
                factor,
                trained,
                fast,
                slow,
                truncate,
                ..
            } => {
                // The pair that turns so many times over the trained context.
                let pair = |turns: f64| width * (trained as f64 / (turns * TAU)).ln() / (2.0 * self.theta.ln());
                let (mut first, mut last) = (pair(fast), pair(slow));
                if truncate {
                    (first, last) = (first.floor(), last.ceil());
                }
                let (first, mut last) = (first.max(0.0), last.min(width - 1.0));
                if first == last {
                    last += 0.001;
                }
                let divided = |j: usize| ((j as f64 - first) / (last - first)).clamp(0.0, 1.0);
                plain(self.theta)
                    .enumerate()
                    .map(|(j, f)| f / factor * divided(j) + f * (1.0 - divided(j)))
                    .collect()
            }
            RopeScaling::Long {
                short, long, trained, ..
            } => {
                let by = if length > *trained { long } else { short };
                plain(self.theta).zip(by).map(|(f, by)| f / by).collect()
            }
            RopeScaling::Divided { by } => plain(self.theta).zip(by).map(|(f, by)| f / by).collect(),
            &RopeScaling::Llama3 {
                factor,
                trained,
                low,
                high,
            } => plain(self.theta)
                .map(|f| {
                    let turns = trained as f64 * f / TAU;
                    if turns < low {
                        f / factor
                    } else if turns > high {
                        f
                    } else {
                        let kept = (turns - low) / (high - low);
                        (1.0 - kept) * f / factor + kept * f
                    }
                })
                .collect(),
        }
    }

    pub(crate) fn amplitude(&self) -> f64 {
        match self.scaling {
            RopeScaling::Yarn { amplitude, .. } | RopeScaling::Long { amplitude, .. } => amplitude,
            _ => 1.0,
        }
    }

    /// The length beyond which frequencies depend on the sequence's.
    pub(crate) fn trained(&self) -> usize {
        match self.scaling {
            RopeScaling::Dynamic { trained, .. } | RopeScaling::Long { trained, .. } => trained,
            _ => usize::MAX,
        }
    }
}

/// Cosines and sines `[position, width / 2]`.
#[derive(Debug, Default)]
struct Table {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Table {
    fn extend(&mut self, positions: std::ops::Range<usize>, frequencies: &[f64], amplitude: f64) {
        for position in positions {
            for frequency in frequencies {
                let angle = position as f64 * frequency;
                self.cos.push((angle.cos() * amplitude) as f32);
                self.sin.push((angle.sin() * amplitude) as f32);
            }
        }
    }
}

/// The cosines and sines of a [`Rope`], computed as far as they were asked for.
#[derive(Clone, Debug)]
pub(crate) struct RopeTable {
    rope: Rope,
    frequencies: Arc<[f64]>,
    table: Arc<RwLock<Table>>,
}

impl RopeTable {
    pub(crate) fn new(rope: Rope) -> Self {
        Self {
            frequencies: rope.frequencies(0).into(),
            rope,
            table: Arc::default(),
        }
    }

    /// How many numbers of a head are rotated.
    pub(crate) fn width(&self) -> usize {
        self.rope.width
    }

    /// Cosines and sines `[token, width / 2]` of a batch.
    pub(crate) fn rows(&self, batch: &Batch, device: &Device) -> (Tensor<2>, Tensor<2>) {
        let half = self.frequencies.len();
        let longest = batch.segments().iter().map(|s| s.position + s.tokens.len()).max();
        self.reach(longest.unwrap_or(0).min(self.rope.trained()));
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let mut rows = Table::default();
        for segment in batch.segments() {
            let end = segment.position + segment.tokens.len();
            if end > self.rope.trained() {
                let frequencies = self.rope.frequencies(end);
                rows.extend(segment.position..end, &frequencies, self.rope.amplitude());
            } else {
                let part = segment.position * half..end * half;
                rows.cos.extend_from_slice(&table.cos[part.clone()]);
                rows.sin.extend_from_slice(&table.sin[part]);
            }
        }
        let tensor = |data| Tensor::from_data(TensorData::new(data, [batch.len(), half]), device);
        (tensor(rows.cos), tensor(rows.sin))
    }

    /// Computes the positions below `end` that are not there yet, and some more.
    fn reach(&self, end: usize) {
        let half = self.frequencies.len();
        let there = |table: &Table| table.cos.len() / half;
        if there(&self.table.read().unwrap_or_else(PoisonError::into_inner)) < end {
            let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
            let from = there(&table);
            table.extend(
                from..end.max(2 * from).min(self.rope.trained()).max(from),
                &self.frequencies,
                self.rope.amplitude(),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: &[f64], wanted: &[f64]) {
        assert_eq!(found.len(), wanted.len());
        for (found, wanted) in found.iter().zip(wanted) {
            assert!((found - wanted).abs() < 1e-6 * wanted.abs(), "{found}, not {wanted}");
        }
    }

    #[test]
    fn linear_divides_and_dynamic_does_nothing_up_to_the_trained_length() {
        let plain = Rope::new(10_000.0, 8);
        let with = |scaling| Rope {
            scaling,
            ..plain.clone()
        };
        let halved: Vec<f64> = plain.frequencies(9).iter().map(|f| f / 2.0).collect();
        close(&with(RopeScaling::Linear { factor: 2.0 }).frequencies(9), &halved);
        let dynamic = with(RopeScaling::Dynamic {
            factor: 2.0,
            trained: 16,
        });
        close(&dynamic.frequencies(16), &plain.frequencies(16));
        assert!(dynamic.frequencies(17)[1] < plain.frequencies(17)[1]);
    }

    #[test]
    fn ramps_leave_the_fastest_and_divide_the_slowest() {
        let plain = Rope::new(10_000.0, 64);
        let base = plain.frequencies(0);
        for scaling in [
            RopeScaling::Llama3 {
                factor: 8.0,
                trained: 8192,
                low: 1.0,
                high: 4.0,
            },
            RopeScaling::Yarn {
                factor: 8.0,
                trained: 8192,
                fast: 32.0,
                slow: 1.0,
                truncate: true,
                amplitude: 1.0,
            },
        ] {
            let name = format!("{scaling:?}");
            let found = Rope { scaling, ..plain }.frequencies(0);
            close(&found[..4], &base[..4]);
            close(&[found[31]], &[base[31] / 8.0]);
            assert!(found.windows(2).all(|pair| pair[0] > pair[1]), "{name}");
        }
    }

    #[test]
    fn rows_are_those_of_their_positions_in_any_order() {
        let device = Device::flex();
        let table = RopeTable::new(Rope::new(10_000.0, 4));
        let mut batch = Batch::new();
        let first = batch.push(&[0; 3]);
        batch.push(&[0; 5]);
        batch.push_after(first, &[0; 2]);
        let (cos, sin) = table.rows(&batch, &device);
        let values = |x: Tensor<2>| x.into_data().iter::<f32>().collect::<Vec<f32>>();
        let angles = batch.positions().into_iter().flat_map(|p| [p as f64, p as f64 * 0.01]);
        let angles: Vec<f64> = angles.collect();
        let wanted = |f: fn(f64) -> f64| angles.iter().map(|&a| f(a) as f32).collect::<Vec<f32>>();
        assert_eq!(values(cos), wanted(f64::cos));
        assert_eq!(values(sin), wanted(f64::sin));
    }
}
