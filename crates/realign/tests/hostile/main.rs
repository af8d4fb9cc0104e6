//! The kinds of hostile input that a reader meets, each within a bound on time and memory (docs/security.md).

mod adapter;
mod bounds;
mod config;
mod fuzz_corpus;
mod gguf;
mod jsonl;
mod model;
mod paths;
mod reply;
mod sae;
mod safetensors;
mod template;
mod tokenizer;
mod vector;
