#![doc = include_str!("../README.md")]

mod batch;
mod cache;
mod error;
mod hook;
mod hook_point;
mod model;
mod modules;
mod record;
mod replay;

pub use batch::{Batch, Segment};
pub use cache::Cache;
pub use error::Error;
pub use hook::Hook;
pub use hook_point::{HookPoint, Site, Sites};
pub use model::{LanguageModel, Shape, Until, Weight, ids, rows};
pub use modules::{Fused, ModuleNames, Rows};
pub use record::Record;
pub use replay::Replay;

pub use burn;
