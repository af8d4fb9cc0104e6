#![doc = include_str!("../README.md")]

mod architecture;
mod chat;
mod checkpoint;
mod config;
mod config_json;
mod decoder;
mod error;
mod experts;
mod export;
mod export_gguf;
mod export_tensors;
mod fields;
mod files;
mod gemma2;
mod gemma3;
mod generate;
mod gguf;
mod gguf_blocks;
mod gguf_config;
mod gguf_describe;
mod gguf_pack;
mod gguf_vocabulary;
mod gguf_writer;
mod gpt2;
mod gpt_neox;
#[cfg(feature = "hub")]
mod hub;
#[cfg(feature = "hub")]
mod hub_http;
pub mod known;
mod llama;
mod load;
mod mistral;
mod olmo2;
mod phi3;
#[cfg(feature = "hub")]
mod pip;
mod pretrained;
mod qwen2;
mod qwen3;
mod qwen3_moe;
#[cfg(feature = "hub")]
mod resolve;
mod rope;
mod rope_scaling;
mod same_model;
mod sentencepiece;
mod shard;
mod sizes;
mod spec;
mod template;
mod template_guard;
mod tokenizer;
mod vocabulary;
mod weight_names;
mod weights;

pub use architecture::Architecture;
pub use chat::{ChatTemplate, Encoded, GenerationPrompt, Message};
pub use checkpoint::Checkpoint;
pub use config::{DecoderConfig, ExpertsConfig, LayerConfig, NormKind, QkNorm};
pub use decoder::Decoder;
pub use error::{Error, Result};
pub use export::export;
pub use export_gguf::export_gguf;
pub use files::{Access, FileBytes};
pub use generate::GenerateConfig;
pub use gguf::{Gguf, GgufTensor, GgufValue};
pub use gguf_blocks::GgmlType;
#[cfg(feature = "hub")]
pub use hub::{Hub, OnBytes};
pub use llama::{Llama, LlamaConfig};
pub use pretrained::Pretrained;
pub use rope::{Rope, RopeScaling};
pub use spec::ModelSpec;
pub use tokenizer::Tokenizer;
pub use weights::Weights;
