//! What the command prints when it fails, and the exit code.

use std::error::Error as StdError;
use std::fmt;

/// A failure of the command: a message, an optional hint, an exit code.
#[derive(Debug)]
pub struct Failure {
    /// A word for machines.
    pub kind: &'static str,
    /// What happened.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// The exit code.
    pub code: u8,
}

/// The result of everything in the command.
pub type Result<T> = std::result::Result<T, Failure>;

/// A command failed.
pub const FAILED: u8 = 1;
/// The arguments are wrong.
pub const USAGE: u8 = 2;
/// A check such as `--fail-above` did not hold.
pub const CHECK_FAILED: u8 = 3;
/// A judge went away; what it said is kept and the run can be resumed.
pub const PARTIAL: u8 = 4;
/// Interrupted by Ctrl-C (by another signal: 128 and its number); the run can be resumed.
pub const INTERRUPTED: u8 = 130;

impl Failure {
    /// The arguments are wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            kind: "usage",
            message: message.into(),
            hint: None,
            code: USAGE,
        }
    }

    /// Something did not work.
    pub fn failed(message: impl Into<String>) -> Self {
        Self {
            kind: "failed",
            message: message.into(),
            hint: None,
            code: FAILED,
        }
    }

    /// A check did not hold.
    pub fn check(message: impl Into<String>) -> Self {
        Self {
            kind: "check",
            message: message.into(),
            hint: None,
            code: CHECK_FAILED,
        }
    }

    /// Stopped by the user; what was finished is kept.
    pub fn interrupted() -> Self {
        Self {
            kind: "interrupted",
            message: "interrupted; what was finished is kept".into(),
            hint: Some("run the same command again to go on from here".into()),
            code: crate::progress::stop_code(),
        }
    }

    /// With what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  try: {hint}")?;
        }
        Ok(())
    }
}

/// The message of an error and of all that caused it; a cause whose text the message already has is left out.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str("\n  caused by: ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

macro_rules! from_errors {
    ($($error:ty),* $(,)?) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::failed(chain(&error))
            }
        }
    )*};
}
from_errors!(
    realign_attribution::Error,
    realign_core::Error,
    realign_data::Error,
    realign_model::Error,
    realign_report::Error,
    realign_steering::Error,
    serde_json::Error,
    std::io::Error,
);

impl From<realign_run::Error> for Failure {
    fn from(error: realign_run::Error) -> Self {
        match error {
            realign_run::Error::Interrupted { .. } => Self::interrupted(),
            other => Self::failed(chain(&other)),
        }
    }
}

impl From<realign_eval::Error> for Failure {
    fn from(error: realign_eval::Error) -> Self {
        match error {
            realign_eval::Error::Judge { .. } => Self {
                kind: "partial",
                message: chain(&error),
                hint: Some("run the same command again when the judge answers: what it said is kept".into()),
                code: PARTIAL,
            },
            realign_eval::Error::Run(run) => run.into(),
            other => Self::failed(chain(&other)),
        }
    }
}

impl From<realign_lora::Error> for Failure {
    fn from(error: realign_lora::Error) -> Self {
        match error {
            realign_lora::Error::Run(run) => run.into(),
            other => Self::failed(chain(&other)),
        }
    }
}

impl From<realign_sae::Error> for Failure {
    fn from(error: realign_sae::Error) -> Self {
        match error {
            realign_sae::Error::Run(run) => run.into(),
            other => Self::failed(chain(&other)),
        }
    }
}
