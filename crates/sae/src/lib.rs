#![doc = include_str!("../README.md")]

mod activations;
mod config;
mod error;
mod metrics;
mod sae;
mod saelens;
mod splice;
mod step;
#[cfg(test)]
mod toy;
mod train;

pub use activations::{ActivationSource, ModelActivations, activation, all_but_first};
pub use config::SaeConfig;
pub use error::{Error, Result};
pub use metrics::{LossRecovered, Metrics, loss_recovered};
pub use sae::{Latents, Metadata, Sae};
pub use splice::{Splice, SpliceError};
pub use train::{LogRow, TrainConfig, Trained};
