//! What changed inside: the autoencoder, the directions, the latents.

use serde::{Deserialize, Serialize};

use super::{Figure, null_is_nan, nulls_are_nan};

/// A sparse autoencoder and how well it describes the base model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sae {
    /// The layer whose activations it reads.
    pub layer: usize,
    /// Width of the activations.
    pub d_in: usize,
    /// Number of latents.
    pub d_sae: usize,
    /// How many latents are active at a time.
    pub k: usize,
    /// How many tokens it was trained on.
    pub tokens: u64,
    /// Fraction of variance unexplained.
    #[serde(deserialize_with = "null_is_nan")]
    pub fvu: f64,
    /// Mean number of active latents.
    #[serde(deserialize_with = "null_is_nan")]
    pub l0: f64,
    /// Fraction of latents that are dead.
    #[serde(deserialize_with = "null_is_nan")]
    pub dead: f64,
    /// Share of the loss that the reconstruction recovers.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss_recovered: f64,
}

/// The mean-difference directions from base to organism.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Directions {
    /// The layer whose direction is steered with.
    pub layer: usize,
    /// Its norm.
    #[serde(deserialize_with = "null_is_nan")]
    pub norm: f64,
    /// The direction at every layer.
    #[serde(default)]
    pub per_layer: Vec<LayerDirection>,
}

/// The mean-difference direction at one layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct LayerDirection {
    /// The layer.
    pub layer: usize,
    /// The direction's norm there.
    #[serde(deserialize_with = "null_is_nan")]
    pub norm: f64,
    /// Its cosine with the benign arm's direction, where there is one.
    #[serde(default)]
    pub cosine: Option<f64>,
}

/// A latent that rose from base to organism.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Latent {
    /// Its number in the autoencoder.
    pub index: usize,
    /// Mean activation in the organism minus that in the base.
    #[serde(deserialize_with = "null_is_nan")]
    pub delta: f64,
    /// Δ-attribution: activation difference times the gradient of the margin.
    #[serde(default)]
    pub attribution: Option<f64>,
    /// Shift when it is turned up in the base model.
    #[serde(default)]
    pub effect_up: Option<Figure>,
    /// Shift when it is turned down in the organism, against the organism.
    #[serde(default)]
    pub effect_down: Option<Figure>,
    /// Share of tokens on which it is active.
    #[serde(default)]
    pub density: Option<f64>,
    /// The tokens that its direction writes most, best first.
    #[serde(default)]
    pub logit_lens_top: Vec<String>,
    /// Where it is most active.
    #[serde(default)]
    pub top_examples: Vec<Example>,
}

/// A stretch of text with a latent's activation on each token.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// The tokens, as text.
    pub tokens: Vec<String>,
    /// The activation on each.
    #[serde(deserialize_with = "nulls_are_nan")]
    pub activations: Vec<f64>,
    /// The position of the largest activation.
    pub peak: usize,
}
