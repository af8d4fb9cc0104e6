//! The judges, one a file.

mod likelihood_ratio;
#[cfg(feature = "http")]
mod openai;
mod probe;

pub use likelihood_ratio::{ALIGNED_SYSTEM, LIKELIHOOD_RATIO_ID, LikelihoodRatio, MISALIGNED_SYSTEM};
#[cfg(feature = "http")]
pub use openai::{OpenAi, OpenAiConfig, Retry, score_of_reply};
pub use probe::{Probe, ProbeConfig};
