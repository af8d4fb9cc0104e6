#![doc = include_str!("../README.md")]

mod ablate;
mod bake;
mod clamp;
mod control_vector;
mod direction;
mod directions;
mod error;
mod file;
mod gguf;
mod patch;
mod steer;

pub use ablate::Ablate;
pub use bake::bake_ablation;
pub use clamp::Clamp;
pub use control_vector::ControlVector;
pub use direction::Direction;
pub use directions::Directions;
pub use error::{Error, Result};
pub use patch::Patch;
pub use steer::{Steer, SteerEach, Tokens};
