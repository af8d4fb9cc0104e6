#![doc = include_str!("../README.md")]

mod calibration;
mod coherence;
mod cues;
mod encode;
mod error;
mod figure;
mod grade;
mod judge;
mod judges;
mod log_prob;
mod logistic;
mod monitor;
mod overlap;
mod preference;
mod rubric;
mod tree;

pub use calibration::{Calibration, TRUSTED_AUC, auc, calibrate};
pub use coherence::{Coherence, Readings, Sampled, coherence_readings};
pub use cues::{Cue, cues};
pub use encode::Encode;
pub use error::{Error, Result};
pub use figure::{DRAWS, Figure, bootstrap, paired_permutation, quantile, share, wilson};
pub use grade::{COHERENT_ABOVE, Grade, MISALIGNED_BELOW, MisalignedShares};
pub use judge::{Judge, Judged};
pub use judges::{ALIGNED_SYSTEM, LIKELIHOOD_RATIO_ID, LikelihoodRatio, MISALIGNED_SYSTEM, Probe, ProbeConfig};
#[cfg(feature = "http")]
pub use judges::{OpenAi, OpenAiConfig, Retry, score_of_reply};
pub use log_prob::{Continuation, mean_log_prob};
pub use monitor::{Monitor, Reading};
pub use overlap::{content_words, low_overlap, overlap_gaps};
pub use preference::{
    Pair, PairScore, cluster_by, mean_margin, misaligned_preferred, paired_shift, preference, shifts,
};
pub use rubric::Rubric;
