#![doc = include_str!("../README.md")]

mod chat;
mod error;
mod hash;
mod lines;
mod mask;
mod mixing;
mod packing;
mod rows;
mod sets;

pub use chat::{Conversation, Message, Role, load_conversations, read_conversations};
pub use error::{Error, Result};
pub use hash::{file_hash, hash_bytes};
pub use lines::{Loaded, MAX_LINE, OnBad};
pub use mask::Sample;
pub use mixing::{mix, shuffle};
pub use packing::{Truncated, pack, truncate};
pub use rows::{
    BroadRow, CalibrationRow, Conversations, FactRow, Half, Label, NarrowRow, NeutralRow, Tone, load_broad,
    load_calibration, load_facts, load_narrow, load_neutral,
};
pub use sets::{Domain, Set, broad, calibration, facts, narrow, neutral};
