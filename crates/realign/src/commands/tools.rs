//! Small commands: devices, logits, completions, manual pages.

use std::path::Path;

use clap::CommandFactory;
use realign_core::{Batch, rows};
use realign_tensor::{DEVICES, DeviceChoice};
use serde_json::json;

use super::{Context, print};
use crate::args::{Cli, Global, LogitsArgs};
use crate::error::{Failure, Result};

/// Lists the devices.
pub fn devices(global: &Global) -> Result<()> {
    let line = |c: &DeviceChoice| match c.built {
        true => format!("{:<8} ready", c.name),
        false => format!("{:<8} not in this build; rebuild with --features {}", c.name, c.name),
    };
    let text: Vec<String> = DEVICES.iter().map(line).collect();
    let all: Vec<_> = DEVICES
        .iter()
        .map(|c| json!({"name": c.name, "built": c.built, "feature": c.name}))
        .collect();
    print(global, &text.join("\n"), &json!({"devices": all}))
}

/// Prints the logits of the last position.
pub fn logits(context: &Context, args: LogitsArgs) -> Result<()> {
    let chat = context.adapted(&args.base.model, args.adapter.as_deref())?;
    let vocab = chat.model.shape().vocab;
    if args.ids.is_empty() || args.ids.iter().any(|&id| id as usize >= vocab) {
        return Err(Failure::usage(format!(
            "--ids: expected token ids below {vocab}, separated by commas"
        )));
    }
    let longest = chat.model.shape().context;
    if args.ids.len() > longest {
        return Err(Failure::usage(format!(
            "--ids: {} tokens, but the model takes {longest}",
            args.ids.len()
        )));
    }
    let hidden = chat.model.forward(&Batch::packed([&args.ids]), &mut ());
    let last = chat.model.logits(rows(hidden, &[args.ids.len() - 1]));
    let logits: Vec<f32> = last.into_data().iter::<f32>().collect();
    let object = json!({"ids": args.ids, "logits": logits});
    print(&context.global, &object.to_string(), &object)
}

/// Prints a shell's completion script.
pub fn completions(shell: clap_complete::Shell) -> Result<()> {
    clap_complete::generate(shell, &mut Cli::command(), "realign", &mut std::io::stdout());
    Ok(())
}

/// Writes a manual page for each command.
pub fn man(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|e| Failure::failed(format!("{}: cannot create: {e}", dir.display())))?;
    clap_mangen::generate_to(Cli::command(), dir)
        .map_err(|e| Failure::failed(format!("{}: cannot write the manual pages: {e}", dir.display())))
}
