//! The judges, one a file.

mod likelihood_ratio;
#[cfg(feature = "http")]
mod openai;
mod probe;

pub use likelihood_ratio::{ALIGNED_SYSTEM, LIKELIHOOD_RATIO_ID, LikelihoodRatio, MISALIGNED_SYSTEM};
#[cfg(feature = "http")]
pub use openai::{OpenAi, OpenAiConfig, score_of_reply};
pub use probe::{Probe, ProbeConfig};
pub use realign_run::Retry;
