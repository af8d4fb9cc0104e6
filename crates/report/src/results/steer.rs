//! What steering and realignment did: controls, strengths, doses.

use serde::{Deserialize, Serialize};

use super::{Figure, null_is_nan};

/// The same push with directions that should and should not matter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Controls {
    /// The persona direction itself, for comparison.
    #[serde(default)]
    pub persona: Option<Effect>,
    /// A random direction of the same norm.
    #[serde(default)]
    pub random: Option<Effect>,
    /// A direction of the same norm orthogonal to the persona's.
    #[serde(default)]
    pub orthogonal: Option<Effect>,
}

/// The paired shifts that one direction causes, each against the same model left alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    /// Added to the base model.
    #[serde(default)]
    pub up: Option<Figure>,
    /// Subtracted from the organism.
    #[serde(default)]
    pub down: Option<Figure>,
}

/// One point of the realignment curve.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Dose {
    /// How many good samples.
    pub n: usize,
    /// Where they come from: `same` as the bad ones, or `other`.
    pub domain: String,
    /// What is left of the paired shift against the base model.
    #[serde(default)]
    pub shift: Option<Figure>,
    /// Share of broad questions on which the misaligned answer is the likelier one.
    #[serde(default)]
    pub misaligned: Option<Figure>,
    /// Share of sampled answers that are coherent.
    #[serde(default)]
    pub coherence: Option<Figure>,
    /// Share of facts kept.
    #[serde(default)]
    pub facts: Option<Figure>,
    /// How long it took.
    #[serde(default)]
    pub seconds: Option<f64>,
}

/// One point of a steering curve.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Strength {
    /// The direction: `persona`, `latent`, `random`, `orthogonal`, or another name to print.
    pub name: String,
    /// The model that is steered: `base` or `organism`.
    pub base: String,
    /// The multiplier of the direction.
    #[serde(deserialize_with = "null_is_nan")]
    pub strength: f64,
    /// The preference margin under steering.
    #[serde(default)]
    pub margin: Option<Figure>,
    /// The paired shift that steering causes: against the same model left alone.
    #[serde(default)]
    pub shift: Option<Figure>,
    /// Share of sampled answers that are coherent.
    #[serde(default)]
    pub coherence: Option<Figure>,
    /// Share of facts kept.
    #[serde(default)]
    pub facts: Option<Figure>,
}
