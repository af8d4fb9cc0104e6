//! The kinds of hostile input that a reader meets, each within a bound on time and memory (docs/security.md).

mod adapter;
mod answers;
mod arrays;
mod bounds;
mod config;
mod fuzz_corpus;
mod gguf;
mod jsonl;
mod model;
mod paths;
mod questions;
mod reply;
mod sae;
mod safetensors;
mod template;
mod tokenizer;
mod vector;
