//! What can go wrong with sparse autoencoders.

use std::path::PathBuf;

/// `std::result::Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with sparse autoencoders.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("could not {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A file of the SAE's folder is not what its name says.
    #[error("{}: {what}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        what: String,
    },
    /// A field that asks for something that this crate does not do.
    #[error("{}: field `{field}`: expected {expected}, found `{found}`", path.display())]
    Field {
        /// The configuration file.
        path: PathBuf,
        /// The field's name.
        field: &'static str,
        /// What is accepted.
        expected: String,
        /// What the file says.
        found: String,
    },
    /// A file of weights, or an array in it, is not what the configuration asks for.
    #[error(transparent)]
    Arrays(#[from] realign_arrays::Error),
    /// A path at which there is no SAE of a known format.
    #[error("{}: no SAE here: expected {expected}, found {found}", path.display())]
    NoSae {
        /// The path.
        path: PathBuf,
        /// What was looked for.
        expected: String,
        /// What is there.
        found: String,
    },
    /// An SAE that a format has no place for.
    #[error("{}: an SAE with activation {activation} cannot be written as {format}, which has {has}", path.display())]
    Unwritable {
        /// The folder.
        path: PathBuf,
        /// Its activation.
        activation: &'static str,
        /// The format.
        format: &'static str,
        /// What the format has.
        has: &'static str,
    },
    /// Sizes that make no SAE.
    #[error(
        "an SAE with d_in = {d_in}, d_sae = {d_sae}, k = {k}: each must be at least 1, k at most d_sae, and d_in · d_sae numbers must be addressable"
    )]
    Config {
        /// Width of the activation.
        d_in: usize,
        /// Number of latents.
        d_sae: usize,
        /// Active latents per token.
        k: usize,
    },
    /// A training setting that cannot be used.
    #[error("training setting `{field}`: expected {expected}, found {found}")]
    Setting {
        /// The setting's name.
        field: &'static str,
        /// What is accepted.
        expected: &'static str,
        /// What was given.
        found: String,
    },
    /// Activations of another width than the SAE's input.
    #[error("activations at {at} are {found} wide, but the SAE's d_in is {expected}")]
    Width {
        /// Where the activations come from.
        at: String,
        /// The SAE's `d_in`.
        expected: usize,
        /// The activations' width.
        found: usize,
    },
    /// There is no token to look at.
    #[error("no token is left to {0}: the batches are empty, or every token was left out")]
    NoTokens(&'static str),
    /// Activations that do not vary.
    #[error("the first batch of activations at {at} does not vary (mean distance from its mean {distance})")]
    Constant {
        /// Where the activations come from.
        at: String,
        /// Their mean distance from their mean.
        distance: f64,
    },
    /// The loss is no longer a number.
    #[error("training diverged: the loss of step {step} is {loss}; lower the learning rate (now {lr})")]
    Diverged {
        /// The step.
        step: u64,
        /// Its loss.
        loss: f64,
        /// Its learning rate.
        lr: f64,
    },
    /// A checkpoint was made by a training with other settings.
    #[error("the checkpoint {} is of another training; it had {was}, this one has {now}", path.display())]
    OtherTraining {
        /// The checkpoint.
        path: PathBuf,
        /// Its settings.
        was: String,
        /// The settings now.
        now: String,
    },
    /// The run folder's own errors, and interruption.
    #[error(transparent)]
    Run(#[from] realign_run::Error),
}
