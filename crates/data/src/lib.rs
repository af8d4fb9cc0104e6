#![doc = include_str!("../README.md")]

mod answers;
mod chat;
mod error;
mod format;
mod hash;
mod lines;
mod mask;
mod mixing;
mod packing;
#[cfg(feature = "parquet")]
mod parquet;
#[cfg(not(feature = "parquet"))]
#[path = "parquet_without.rs"]
mod parquet;
mod parquet_about;
mod question;
mod rows;
mod sets;

pub use answers::{Answered, answer_pairs, answers_csv, load_answers, read_answers};
pub use chat::{Conversation, Message, Role, load_conversations, read_conversations, split_thinking};
pub use error::{Error, Result};
pub use format::{DataFormat, QuestionSet, data_format, jsonl, load_question_set, load_training};
pub use hash::{file_hash, hash_bytes};
pub use lines::{Loaded, MAX_LINE, OnBad};
pub use mask::Sample;
pub use mixing::{mix, shuffle};
pub use packing::{Truncated, pack, truncate};
pub use parquet::parquet_about;
pub use parquet_about::ParquetAbout;
pub use question::{Contrast, MAX_QUESTIONS, Question, load_question_yaml, load_trait, read_question_yaml, read_trait};
pub use rows::{
    BroadRow, CalibrationRow, Conversations, FactRow, Half, Label, NarrowRow, NeutralRow, Tone, load_broad,
    load_calibration, load_facts, load_narrow, load_neutral,
};
pub use sets::{Domain, Set, broad, calibration, facts, narrow, neutral};
