#![doc = include_str!("../README.md")]

mod atomic;
mod checkpoint;
mod clock;
mod error;
mod folder;
mod manifest;
mod progress;
mod read;
mod retry;
mod seed;
mod space;
mod stage;

pub use atomic::{append_line, read_json, read_lines, retain_lines, write_atomic, write_json};
pub use checkpoint::{Checkpoint, Checkpoints, Latest};
pub use error::{Error, Result};
pub use folder::{FolderLock, RunFolder};
pub use manifest::{Difference, Manifest};
pub use progress::{Progress, Report};
pub use read::{MAX_TENSOR_HEADER, read_at_most, tensor_header_problem};
pub use retry::{Failures, Retry, retry_after};
pub use seed::Seed;
pub use space::{check_room, free_space};
pub use stage::{Reused, Why};
