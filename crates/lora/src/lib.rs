#![doc = include_str!("../README.md")]

mod config;
mod error;
mod lora;
mod merge;
mod peft;
mod peft_config;
mod schedule;
mod state;
mod tensors;
mod train;

pub use config::LoraConfig;
pub use error::{Error, Result};
pub use lora::{Adapter, Lora};
pub use merge::{merge, unmerge};
pub use peft::{load, save};
pub use schedule::Schedule;
pub use train::{StepLog, TrainConfig, Trained, validation_loss};
