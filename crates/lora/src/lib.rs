#![doc = include_str!("../README.md")]

mod config;
mod dora;
mod error;
mod fused;
mod lora;
mod merge;
mod pattern;
mod peft;
mod peft_config;
mod peft_modules;
mod schedule;
mod state;
mod tensors;
mod train;

pub use config::LoraConfig;
pub use dora::Dora;
pub use error::{Error, Result};
pub use lora::{Adapter, Lora};
pub use merge::{merge, unmerge};
pub use peft::{check_options, load, load_for, save, save_for};
pub use schedule::Schedule;
pub use train::{StepLog, TrainConfig, Trained, validation_loss};
