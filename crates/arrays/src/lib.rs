#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod array;
mod arrays;
mod element;
mod error;
mod npy;
mod npz;
mod pickle;
mod safetensors;
mod torch;
mod zip;

pub use array::Array;
pub use arrays::{Arrays, Kind};
pub use error::{Error, Result};
pub use safetensors::safetensors;
