//! What can go wrong when models are compared.

use realign_core::HookPoint;

/// `std::result::Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong when models are compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no token to look at.
    #[error("no token counts for {0}: the batches are empty, or none of their tokens was chosen")]
    NoTokens(&'static str),
    /// A token that the batch does not have.
    #[error("{what}: token {token} was chosen, but the batch has {len}")]
    Token {
        /// What it was chosen for.
        what: &'static str,
        /// The token.
        token: usize,
        /// Tokens in the batch.
        len: usize,
    },
    /// A completion without a token before it that could predict it.
    #[error("the completion at tokens {start}..{end} has no token before it in its sequence that could predict it")]
    Unpredicted {
        /// Its first token.
        start: usize,
        /// One past its last token.
        end: usize,
    },
    /// A hook point that the model did not pass.
    #[error("the model never reached {0}")]
    Unreached(HookPoint),
    /// A latent that the SAE does not have.
    #[error("latent {latent} was asked for, but the SAE has {d_sae}")]
    Latent {
        /// The latent.
        latent: usize,
        /// How many there are.
        d_sae: usize,
    },
    /// Activations of another width than the SAE's input.
    #[error("activations at {at} are {found} wide, but the SAE's d_in is {expected}")]
    Width {
        /// The hook point.
        at: HookPoint,
        /// The SAE's `d_in`.
        expected: usize,
        /// The activations' width.
        found: usize,
    },
    /// Two models or batches that cannot be compared.
    #[error("cannot compare: {what} is {first} in one and {second} in the other")]
    Unequal {
        /// What differs.
        what: &'static str,
        /// Of the first.
        first: usize,
        /// Of the second.
        second: usize,
    },
}
