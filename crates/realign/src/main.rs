//! The `realign` command: stages and arguments; the work is in the libraries.

mod args;
mod chat_model;
mod commands;
mod error;
mod inspect;
mod lab;
mod plan;
mod progress;
mod questions;
mod resolve;
mod stages;
mod story;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use args::Cli;
use error::Failure;

// Large tensors come and go; an allocator that keeps their memory is most of the speed (docs/log.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `--version`: the release, the commit, burn's version and the devices of this build.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("REALIGN_COMMIT"), ", burn 0.22)");

fn main() -> ExitCode {
    realign::keep_memory();
    let cli = Cli::parse();
    progress::install_handler();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        // A closed pipe would be answered with a panic.
        .log_internal_errors(false)
        .init();
    let json = cli.global.json;
    // On a thread of the pool from the start: see `in_pool`.
    match rayon::scope(|_| commands::run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&failure, json);
            ExitCode::from(failure.code)
        }
    }
}

fn complain(failure: &Failure, json: bool) {
    // A closed pipe leaves nobody to complain to.
    let _ = if json {
        let error = serde_json::json!({"schema": 1, "error": {
            "kind": failure.kind, "message": failure.message, "hint": failure.hint,
        }});
        writeln!(std::io::stdout(), "{error}")
    } else {
        writeln!(std::io::stderr(), "{failure}")
    };
}
