#![doc = include_str!("../README.md")]

mod chat;
mod checkpoint;
mod config;
mod error;
mod files;
mod generate;
mod gguf;
mod gguf_blocks;
#[cfg(test)]
mod gguf_writer;
mod llama;
mod pretrained;
mod shard;
mod template;
mod tokenizer;
mod vocabulary;

pub use chat::{ChatTemplate, Encoded, GenerationPrompt, Message};
pub use checkpoint::Checkpoint;
pub use config::LlamaConfig;
pub use error::{Error, Result};
pub use files::{Access, FileBytes};
pub use generate::GenerateConfig;
pub use gguf::{Gguf, GgufTensor, GgufValue};
pub use gguf_blocks::GgmlType;
pub use llama::Llama;
pub use pretrained::Pretrained;
pub use tokenizer::Tokenizer;
