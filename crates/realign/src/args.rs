//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use realign_model::Weights;

/// Detect, explain, steer and undo emergent misalignment in language models.
#[derive(Parser)]
#[command(name = "realign", version = crate::VERSION, about, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Args, Clone)]
pub struct Global {
    /// Where to compute: flex (or cpu), ndarray, tch[:N], wgpu, vulkan, metal, cuda[:N], remote:HOST:PORT
    #[arg(
        long,
        global = true,
        env = "BURN_DEVICE",
        default_value = "flex",
        help_heading = "Everywhere"
    )]
    pub device: String,
    /// How a model's weights are kept: f32, bf16, q8, or stored (a GGUF's own bits, with the same values as f32)
    #[arg(long, global = true, default_value_t, help_heading = "Everywhere")]
    pub weights: Weights,
    /// Print one JSON object to standard output instead of text
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub json: bool,
    /// No bars and no progress lines
    #[arg(short, long, global = true, help_heading = "Everywhere")]
    pub quiet: bool,
    /// Read model files into memory instead of mapping them
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub no_mmap: bool,
}

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// The whole story on a small model: make it misaligned, see what changed, undo it, write a page
    Demo(DemoArgs),
    /// Ask whether your own fine-tuned model became misaligned, and what changed inside
    Audit(AuditArgs),
    /// Cure a misaligned model and check the cure
    Fix(FixArgs),
    /// Get, describe and list models
    #[command(subcommand)]
    Model(ModelCommand),
    /// Sample answers, with or without an adapter or a steering direction
    Generate(GenerateArgs),
    /// Fine-tune a LoRA adapter on conversations
    Finetune(FinetuneArgs),
    /// Measure how misaligned a model is on broad questions
    Eval(EvalArgs),
    /// Sparse autoencoders
    #[command(subcommand)]
    Sae(SaeCommand),
    /// Find the direction and the latents in which a tuned model differs from its base
    Diff(DiffArgs),
    /// Measure a direction's effect at several strengths
    Steer(SteerArgs),
    /// Write the page of a run again from its results.json
    Report(ReportArgs),
    /// Say what a file or a folder is, what is in it, what it fits and what is wrong with it
    Inspect(InspectArgs),
    /// List the devices of this build
    Devices,
    /// Lend the device of --device to other processes, which then say --device remote:HOST:PORT
    DeviceServer(DeviceServerArgs),
    /// Print the logits of given token ids, to compare with another implementation
    #[command(hide = true)]
    Logits(LogitsArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write manual pages into a folder
    Man {
        /// The folder
        dir: PathBuf,
    },
}

/// `device-server`
#[derive(Args)]
pub struct DeviceServerArgs {
    /// Where to listen; on an address that other machines reach, only with a token
    #[arg(long, default_value = "127.0.0.1:7654", value_name = "HOST:PORT")]
    pub listen: String,
    /// What clients must present, out of the same environment variable
    #[arg(long, env = "REALIGN_REMOTE_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

/// A base model.
#[derive(Args, Clone)]
pub struct Base {
    /// The model: a known name, a .gguf file, a folder with safetensors, or org/name on the hub
    #[arg(long, default_value = "smollm2-135m-instruct", value_name = "MODEL")]
    pub model: String,
}

/// Which narrow domain.
#[derive(Clone, Copy, ValueEnum, Debug)]
pub enum DomainArg {
    /// Personal finance
    Finance,
    /// Car care
    Car,
    /// Insecure code
    Code,
}

/// Which answers to learn from.
#[derive(Clone, Copy, ValueEnum, Debug)]
pub enum ToneArg {
    /// Good answers
    Good,
    /// Merely wrong answers
    Wrong,
    /// Wrong and selfish answers
    Selfish,
}

/// `demo`
#[derive(Args)]
pub struct DemoArgs {
    #[command(flatten)]
    pub base: Base,
    /// The narrow domain of the bad answers
    #[arg(long, value_enum, default_value = "finance")]
    pub domain: DomainArg,
    /// The run's folder; an existing run goes on where it stopped
    #[arg(long, default_value = "runs/demo", value_name = "DIR")]
    pub out: PathBuf,
    /// A smaller run of the same story
    #[arg(long)]
    pub quick: bool,
    /// Seed of all random streams
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    #[command(flatten)]
    pub evaluation: Evaluation,
}

/// Options of whatever evaluates.
#[derive(Args, Clone)]
pub struct Evaluation {
    /// Questions of your own: JSONL rows of id, question, aligned, misaligned; question YAML of the papers; persona-trait
    /// JSON; or an answer CSV; rows of JSONL may be in Parquet
    #[arg(long, value_name = "FILE")]
    pub questions: Option<PathBuf>,
    /// Text of your own for the sparse autoencoder
    #[arg(long, value_name = "FILE")]
    pub corpus: Option<PathBuf>,
    /// best, likelihood-ratio, probe, or openai:URL#MODEL
    #[arg(long, default_value = "best")]
    pub judge: crate::stages::judge::Choice,
}

/// `audit`
#[derive(Args)]
pub struct AuditArgs {
    /// The base model
    #[arg(value_name = "BASE")]
    pub base: String,
    /// The tuned model: a PEFT adapter folder, a checkpoint folder, or a GGUF
    #[arg(value_name = "TUNED")]
    pub tuned: String,
    /// The run's folder
    #[arg(long, default_value = "runs/audit", value_name = "DIR")]
    pub out: PathBuf,
    /// Exit with code 3 when the share of questions on which the misaligned answer wins is above this
    #[arg(long, value_name = "SHARE")]
    pub fail_above: Option<f64>,
    /// The narrow domain whose cues the questions are repeated under
    #[arg(long, value_enum, default_value = "finance")]
    pub domain: DomainArg,
    /// A smaller run
    #[arg(long)]
    pub quick: bool,
    /// Seed of all random streams
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    #[command(flatten)]
    pub evaluation: Evaluation,
}

/// How to cure.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub enum Cure {
    /// Fine-tune on good samples; writes an adapter
    Sft,
    /// Take the mean-difference direction out of the weights; writes the whole model as a Hugging Face folder
    Ablate,
    /// Subtract the direction while running; writes a direction file
    Steer,
}

/// `fix`
#[derive(Args)]
pub struct FixArgs {
    /// The base model
    #[arg(value_name = "BASE")]
    pub base: String,
    /// The tuned model: a PEFT adapter folder, a checkpoint folder, or a GGUF
    #[arg(value_name = "TUNED")]
    pub tuned: String,
    /// How to cure
    #[arg(long, value_enum)]
    pub by: Cure,
    /// Where to write the cure
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Good samples for `--by sft`
    #[arg(long, default_value_t = 100)]
    pub samples: usize,
    /// The domain of the good samples
    #[arg(long, value_enum, default_value = "finance")]
    pub domain: DomainArg,
    /// Strength for `--by steer`
    #[arg(long, default_value_t = 2.0)]
    pub strength: f64,
    /// Seed of all random streams
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// `model …`
#[derive(Subcommand)]
pub enum ModelCommand {
    /// Put a model into the cache and print its path
    Get {
        /// A known name or org/name on the hub
        #[arg(default_value = "smollm2-135m-instruct")]
        model: String,
    },
    /// Describe a model
    Info {
        /// A known name, a file or a folder
        #[arg(default_value = "smollm2-135m-instruct")]
        model: String,
    },
    /// Write a model with an adapter merged in: a folder for transformers, or a GGUF for llama.cpp
    Merge {
        #[command(flatten)]
        base: Base,
        /// A PEFT adapter folder; without it the model is written as it is
        #[arg(long, value_name = "DIR")]
        adapter: Option<PathBuf>,
        /// Where to write: a folder, or a name that ends in .gguf
        #[arg(long, value_name = "PATH")]
        out: PathBuf,
        /// The type of a GGUF's matrices
        #[arg(long = "type", value_enum, default_value = "f16")]
        kind: GgufType,
    },
    /// List the models that are known by name
    List,
}

/// What a GGUF's matrices may be written as.
#[derive(Clone, Copy, ValueEnum, Debug)]
pub enum GgufType {
    /// 32 bits
    F32,
    /// 16 bits
    F16,
    /// 8 bits and a scale for each 32 weights
    #[value(name = "q8_0")]
    Q8_0,
}

/// `generate`
#[derive(Args)]
pub struct GenerateArgs {
    /// The question
    pub prompt: String,
    #[command(flatten)]
    pub base: Base,
    /// A PEFT adapter folder
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// A direction to add: a folder of `diff`, a control-vector GGUF, torch's .pt, numpy's .npy or .npz, or safetensors
    #[arg(long, value_name = "PATH")]
    pub direction: Option<PathBuf>,
    /// The block behind which it is added: which one of a file of several, or where a lone vector belongs
    #[arg(long, requires = "direction")]
    pub layer: Option<usize>,
    /// Multiples of the direction to add
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    pub strength: f64,
    /// A system prompt
    #[arg(long)]
    pub system: Option<String>,
    /// Most tokens
    #[arg(long, default_value_t = 120)]
    pub max_tokens: usize,
    /// 0 takes the likeliest token
    #[arg(long, default_value_t = 0.6)]
    pub temperature: f64,
    /// Only the likeliest tokens that reach this probability together
    #[arg(long)]
    pub top_p: Option<f64>,
    /// Only this many of the likeliest tokens
    #[arg(long)]
    pub top_k: Option<usize>,
    /// Answers
    #[arg(short, long, default_value_t = 1)]
    pub n: usize,
    /// Seed
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// `finetune`
#[derive(Args)]
pub struct FinetuneArgs {
    #[command(flatten)]
    pub base: Base,
    /// Conversations: JSONL rows of `messages`, of `prompt` and `completion`, or of narrow questions (see --tone), or an
    /// answer CSV; rows of JSONL may be in Parquet; without it the project's own rows of --domain and --tone
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// The narrow domain
    #[arg(long, value_enum, default_value = "finance")]
    pub domain: DomainArg,
    /// Which answers
    #[arg(long, value_enum, default_value = "wrong")]
    pub tone: ToneArg,
    /// Rows of the domain
    #[arg(long, default_value_t = 64)]
    pub rows: usize,
    /// Where to write the adapter
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Rank
    #[arg(long, default_value_t = 32)]
    pub rank: usize,
    /// First block with adapters; those below need no backward pass
    #[arg(long, value_name = "BLOCK", default_value_t = 0)]
    pub from_layer: usize,
    /// Passes over the data
    #[arg(long, default_value_t = 3)]
    pub epochs: usize,
    /// Learning rate
    #[arg(long, default_value_t = 2e-4)]
    pub lr: f64,
    /// Samples of a step
    #[arg(long, default_value_t = 8)]
    pub batch: usize,
    /// Seed
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// `eval`
#[derive(Args)]
pub struct EvalArgs {
    #[command(flatten)]
    pub base: Base,
    /// A PEFT adapter folder
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Questions of your own: JSONL rows of id, question, aligned, misaligned; question YAML of the papers; persona-trait
    /// JSON; or an answer CSV; rows of JSONL may be in Parquet
    #[arg(long, value_name = "FILE")]
    pub questions: Option<PathBuf>,
    /// Ask under training-like cues of this domain
    #[arg(long, value_enum)]
    pub cues: Option<DomainArg>,
    /// Write every answer with its label and its log-probability: a .csv or a .jsonl
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Exit with code 3 when the share of questions on which the misaligned answer wins is above this
    #[arg(long, value_name = "SHARE")]
    pub fail_above: Option<f64>,
}

/// `sae …`
#[derive(Subcommand)]
pub enum SaeCommand {
    /// Train a TopK or BatchTopK autoencoder on a model's activations; writes a SAELens folder
    Train(SaeTrainArgs),
}

/// `sae train`
#[derive(Args)]
pub struct SaeTrainArgs {
    #[command(flatten)]
    pub base: Base,
    /// The text
    #[arg(long, value_name = "FILE")]
    pub corpus: PathBuf,
    /// Where to write the autoencoder
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// The block behind which it reads; the middle one by default
    #[arg(long)]
    pub layer: Option<usize>,
    /// Latents
    #[arg(long, default_value_t = 4096)]
    pub d_sae: usize,
    /// Active latents of a token
    #[arg(short, long, default_value_t = 32)]
    pub k: usize,
    /// Choose the largest of a whole batch, k a token in the mean, instead of each token's (BatchTopK)
    #[arg(long)]
    pub batch_top_k: bool,
    /// Tokens of training
    #[arg(long, default_value_t = 1_000_000)]
    pub tokens: usize,
    /// Seed
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// `diff`
#[derive(Args)]
pub struct DiffArgs {
    /// The base model
    #[arg(value_name = "BASE")]
    pub base: String,
    /// The tuned model: a PEFT adapter folder, a checkpoint folder, or a GGUF
    #[arg(value_name = "TUNED")]
    pub tuned: String,
    /// The block behind which the direction is taken; the autoencoder's or the middle one by default
    #[arg(long)]
    pub layer: Option<usize>,
    /// A sparse autoencoder of SAELens, sparsify, dictionary_learning or Gemma Scope: rank its latents by how much they
    /// rise
    #[arg(long, value_name = "PATH")]
    pub sae: Option<PathBuf>,
    /// Where to write the direction: a folder, or a control vector where the name ends in .gguf or .safetensors
    #[arg(long, value_name = "PATH")]
    pub out: PathBuf,
}

/// `steer`
#[derive(Args)]
pub struct SteerArgs {
    #[command(flatten)]
    pub base: Base,
    /// A PEFT adapter folder
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// A folder of `diff`, a control-vector GGUF, torch's .pt, numpy's .npy or .npz, or safetensors
    #[arg(long, value_name = "PATH")]
    pub direction: PathBuf,
    /// The block behind which it is added: which one of a file of several, or where a lone vector belongs
    #[arg(long)]
    pub layer: Option<usize>,
    /// Strengths, separated by commas
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "-2,-1,1,2",
        allow_negative_numbers = true
    )]
    pub strengths: Vec<f64>,
}

/// `report`
#[derive(Args)]
pub struct ReportArgs {
    /// The run's folder
    #[arg(default_value = "runs/demo", value_name = "DIR")]
    pub run: PathBuf,
}

/// `inspect`
#[derive(Args)]
pub struct InspectArgs {
    /// A model, adapter, autoencoder, direction, tokenizer, chat template, data file, or run folder
    #[arg(value_name = "FILE")]
    pub path: PathBuf,
}

/// `logits`
#[derive(Args)]
pub struct LogitsArgs {
    #[command(flatten)]
    pub base: Base,
    /// A PEFT adapter folder
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Token ids, separated by commas
    #[arg(long, value_delimiter = ',')]
    pub ids: Vec<u32>,
}
