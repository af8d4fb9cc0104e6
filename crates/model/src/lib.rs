#![doc = include_str!("../README.md")]

mod chat;
mod checkpoint;
mod config;
mod error;
mod export;
mod export_gguf;
mod files;
mod generate;
mod gguf;
mod gguf_blocks;
mod gguf_pack;
#[cfg(test)]
mod gguf_writer;
#[cfg(feature = "hub")]
mod hub;
#[cfg(feature = "hub")]
mod hub_http;
pub mod known;
mod llama;
#[cfg(feature = "hub")]
mod pip;
mod pretrained;
#[cfg(feature = "hub")]
mod resolve;
mod sentencepiece;
mod shard;
mod spec;
mod template;
mod tokenizer;
mod vocabulary;
mod weights;

pub use chat::{ChatTemplate, Encoded, GenerationPrompt, Message};
pub use checkpoint::Checkpoint;
pub use config::LlamaConfig;
pub use error::{Error, Result};
pub use export::export;
pub use export_gguf::export_gguf;
pub use files::{Access, FileBytes};
pub use generate::GenerateConfig;
pub use gguf::{Gguf, GgufTensor, GgufValue};
pub use gguf_blocks::GgmlType;
#[cfg(feature = "hub")]
pub use hub::{Hub, OnBytes};
pub use llama::Llama;
pub use pretrained::Pretrained;
pub use spec::ModelSpec;
pub use tokenizer::Tokenizer;
pub use weights::Weights;
