#![doc = include_str!("../README.md")]

mod activation;
mod activations;
mod cfg;
mod config;
mod dictionary_learning;
mod error;
mod format;
mod gemma_scope;
mod gemma_scope_2;
mod matching_pursuit;
mod metrics;
mod sae;
mod saelens;
mod saelens_legacy;
mod sparsify;
mod splice;
mod step;
mod temporal;
mod temporal_file;
#[cfg(test)]
mod toy;
mod train;
mod transcoder;
mod weights;

pub use activation::Activation;
pub use activations::{ActivationSource, ModelActivations, activation, all_but_first};
pub use config::SaeConfig;
pub use error::{Error, Result};
pub use format::Format;
pub use metrics::{LossRecovered, Metrics, loss_recovered};
pub use sae::{Latents, Metadata, Sae};
pub use splice::{Splice, SpliceError};
pub use temporal::{Foretelling, TemporalSae};
pub use train::{LogRow, TrainConfig, Trained};
pub use transcoder::Transcoder;
