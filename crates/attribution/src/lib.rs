#![doc = include_str!("../README.md")]

mod delta_attribution;
mod diff;
mod error;
mod logit_lens;
mod patching;
mod top_examples;

pub use delta_attribution::{Completions, delta_attribution};
pub use diff::{Explained, LatentShift, MeanDifference, diff_latents, explain, mean_difference};
pub use error::{Error, Result};
pub use logit_lens::{TokenLogits, lens, logit_lens};
pub use patching::{Patched, patch};
pub use top_examples::{Example, top_examples};
