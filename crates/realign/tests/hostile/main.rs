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
mod parquet;
mod parquet_file;
mod parquet_pages;
mod parquet_rows;
mod paths;
mod questions;
mod reply;
mod sae;
mod safetensors;
mod template;
mod tokenizer;
mod vector;
