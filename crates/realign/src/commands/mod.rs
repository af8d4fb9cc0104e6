//! One file a command.

mod audit;
mod demo;
mod device_server;
mod diff;
mod eval;
mod finetune;
mod fix;
mod generate;
mod inspect;
mod model;
mod report;
mod sae;
mod steer;
mod tools;

use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use realign_data::{Domain, Tone};
use realign_model::Access;
use realign_tensor::DeviceError;
use serde::Serialize;

use crate::args::{Cli, Command, DomainArg, Global, ToneArg};
use crate::chat_model::ChatModel;
use crate::error::{Failure, Result};
use crate::progress::Show;
use crate::resolve;

/// Runs a command.
pub fn run(cli: Cli) -> Result<()> {
    let device = cli.global.device.clone();
    if !device.starts_with("remote:") {
        return command(cli);
    }
    // Where its server has gone, burn panics.
    std::panic::set_hook(Box::new(|_| ()));
    std::panic::catch_unwind(AssertUnwindSafe(|| command(cli))).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str);
        let words = words.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(Failure::failed(format!("{device}: {}", words.unwrap_or("lost")))
            .hint("is the device server still running?"))
    })
}

fn command(cli: Cli) -> Result<()> {
    let global = cli.global;
    match cli.command {
        Command::Demo(args) => demo::run(&Context::new(global)?, args),
        Command::Audit(args) => audit::run(&Context::new(global)?, args),
        Command::Fix(args) => fix::run(&Context::new(global)?, args),
        Command::Model(command) => model::run(&Context::new(global)?, command),
        Command::Generate(args) => generate::run(&Context::new(global)?, args),
        Command::Finetune(args) => finetune::run(&Context::new(global)?, args),
        Command::Eval(args) => eval::run(&Context::new(global)?, args),
        Command::Sae(command) => sae::run(&Context::new(global)?, command),
        Command::Diff(args) => diff::run(&Context::new(global)?, args),
        Command::Steer(args) => steer::run(&Context::new(global)?, args),
        Command::Report(args) => report::run(&global, args),
        Command::Inspect(args) => inspect::run(&global, args),
        Command::Devices => tools::devices(&global),
        Command::DeviceServer(args) => device_server::run(&Context::new(global)?, args),
        Command::Logits(args) => tools::logits(&Context::new(global)?, args),
        Command::Completions { shell } => tools::completions(shell),
        Command::Man { dir } => tools::man(&dir),
    }
}

/// What is wrong with `--device`, and how to build what is missing.
fn no_device(spec: &str, error: &DeviceError) -> Failure {
    let failure = Failure::usage(format!("--device {spec}: {error}"));
    match error {
        DeviceError::NotBuilt(name) => {
            failure.hint(format!("cargo run --release --features {name} -- … --device {spec}"))
        }
        _ => failure,
    }
}

/// What the options of every command come to.
pub struct Context {
    /// The options.
    pub global: Global,
    /// The device.
    pub device: Device,
    /// How progress is shown.
    pub show: Show,
}

impl Context {
    fn new(global: Global) -> Result<Self> {
        let device = realign_tensor::device(&global.device).map_err(|e| no_device(&global.device, &e))?;
        Ok(Self {
            show: Show::choose(global.quiet),
            device,
            global,
        })
    }

    /// How model files are held.
    pub fn access(&self) -> Access {
        if self.global.no_mmap { Access::Read } else { Access::Map }
    }

    /// The model that a specification names, fetched if need be.
    pub fn model(&self, spec: &str) -> Result<ChatModel> {
        let path = resolve::model(spec, self.show)?;
        ChatModel::load(spec, &path, self.access(), self.global.weights, &self.device)
    }

    /// A model with an adapter merged in.
    pub fn adapted(&self, spec: &str, adapter: Option<&Path>) -> Result<ChatModel> {
        let base = self.model(spec)?;
        match adapter {
            Some(folder) => resolve::with_adapter(&base, folder, &self.device),
            None => Ok(base),
        }
    }

    /// What the file of a model that [`Context::model`] takes calls its architecture.
    pub fn architecture(&self, spec: &str) -> Result<Option<String>> {
        resolve::architecture(&resolve::model(spec, self.show)?, self.access())
    }

    /// A tuned model: an adapter folder, or whatever [`Context::model`] takes.
    pub fn tuned(&self, base: &ChatModel, spec: &str) -> Result<ChatModel> {
        let path = Path::new(spec);
        if path.join("adapter_config.json").is_file() {
            return resolve::with_adapter(base, path, &self.device);
        }
        let tuned = self.model(spec)?;
        if tuned.model.shape() != base.model.shape() {
            let (a, b) = (tuned.model.shape(), base.model.shape());
            return Err(Failure::failed(format!(
                "{spec} is no fine-tune of {}: its shape is {a:?}, not {b:?}",
                base.name
            )));
        }
        Ok(tuned)
    }

    /// Where a tuned model's embeddings, norms and tokenizer are: the base model's file for an adapter, else its own.
    pub fn weights(&self, base: &str, tuned: &str) -> Result<PathBuf> {
        let adapter = Path::new(tuned).join("adapter_config.json").is_file();
        resolve::model(if adapter { base } else { tuned }, self.show)
    }

    /// Prints text, or the object for machines.
    pub fn print(&self, text: &str, object: &impl Serialize) -> Result<()> {
        print(&self.global, text, object)
    }
}

/// Prints text, or the object for machines.
pub fn print(global: &Global, text: &str, object: &impl Serialize) -> Result<()> {
    if global.json {
        let mut object = serde_json::to_value(object)?;
        if let Some(fields) = object.as_object_mut() {
            fields.shift_insert(0, "schema".into(), 1.into());
        }
        out(&object.to_string())
    } else {
        out(text)
    }
}

/// Writes a line to standard output; a reader that has gone is no error.
pub fn out(text: &str) -> Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}

impl From<DomainArg> for Domain {
    fn from(domain: DomainArg) -> Self {
        match domain {
            DomainArg::Finance => Self::Finance,
            DomainArg::Car => Self::Car,
            DomainArg::Code => Self::Code,
        }
    }
}

impl From<ToneArg> for Tone {
    fn from(tone: ToneArg) -> Self {
        match tone {
            ToneArg::Good => Self::Good,
            ToneArg::Wrong => Self::Wrong,
            ToneArg::Selfish => Self::Selfish,
        }
    }
}

/// The command line as it was given, word by word.
pub fn command_words() -> Vec<String> {
    let mut words: Vec<String> = std::env::args().collect();
    if let Some(first) = words.first_mut() {
        *first = "realign".into();
    }
    words
}
