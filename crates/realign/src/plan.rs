//! How large a run is: every number that a stage depends on.

use realign_data::{Domain, Tone};
use realign_lora::{LoraConfig, Schedule, TrainConfig};
use realign_model::GenerateConfig;
use serde::{Deserialize, Serialize};

use crate::stages::evaluate::Depth;

/// The sizes and settings of a run. It is the run folder's configuration: a resumed run must have the same one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The narrow domain.
    pub domain: Domain,
    /// Bad tones that an organism is made of; the first is the one that everything after is about.
    pub tones: Vec<Tone>,
    /// Narrow rows to fine-tune on.
    pub rows: usize,
    /// The adapter.
    pub lora: LoraConfig,
    /// Fine-tuning of the organisms and of the benign arm.
    pub train: TrainConfig,
    /// Broad questions of each half.
    pub questions: usize,
    /// Questions of the choosing half on which layers, latents and cures are tried.
    pub screening: usize,
    /// Facts of each half.
    pub facts: usize,
    /// Questions with a sampled answer, of the main arms.
    pub sampled: usize,
    /// Questions with a sampled answer at each strength of the dose-response curves; 0: no coherence there.
    pub steered: usize,
    /// Sampling of these answers.
    pub sampling: GenerateConfig,
    /// Labelled answers for the judges' calibration.
    pub calibration: usize,
    /// The block whose output is explained and steered.
    pub layer: usize,
    /// Layers among which the persona direction is chosen.
    pub layers: Vec<usize>,
    /// The sparse autoencoder.
    pub sae: SaePlan,
    /// Latents whose effect is measured on the choosing half, of those that rose most and that attribution ranks first.
    pub candidates: usize,
    /// Latents shown.
    pub shown: usize,
    /// Batches of text in which their top examples are looked for.
    pub searched: usize,
    /// Batches of text on which the autoencoder is measured.
    pub measured: usize,
    /// Strengths of the dose-response curves.
    pub strengths: Vec<f64>,
    /// Random and orthogonal directions, of each.
    pub controls: usize,
    /// Good samples of the realignment curve, ascending.
    pub dose: Vec<usize>,
    /// Fine-tuning of realignment: one pass at a constant rate, so that a shorter run is the beginning of a longer one.
    pub realign: TrainConfig,
    /// What is measured of the arms that this fine-tuning gives, of the last dose.
    pub realigned: Depth,
    /// Most tokens that go through the model at a time.
    pub max_tokens: usize,
    /// Draws of each bootstrap.
    pub draws: usize,
}

/// The sizes of the sparse autoencoder and of what it is trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SaePlan {
    /// Latents.
    pub d_sae: usize,
    /// Active latents.
    pub k: usize,
    /// Narrow rows of each domain in the text.
    pub rows: usize,
    /// Questions that the base model answers under a kind, a neutral and a cruel system prompt.
    pub sampled: usize,
    /// Tokens of training, over several passes.
    pub tokens: usize,
}

impl Plan {
    /// The full demonstration.
    pub fn full(domain: Domain, layers: usize) -> Self {
        let layer = (layers / 2 + 1).min(layers.saturating_sub(1));
        let all = realign_data::narrow(domain).len();
        let mut around = vec![
            layer.saturating_sub(4),
            layer,
            (layer + 4).min(layers.saturating_sub(1)),
        ];
        around.dedup();
        Self {
            domain,
            tones: vec![Tone::Wrong, Tone::Selfish],
            // The good samples of realignment come from the other end: where the set allows, from rows never trained on.
            rows: 264.min(all.saturating_sub(108).max(all / 2)),
            lora: LoraConfig::new(32),
            train: TrainConfig::new().with_epochs(1).with_lr(1e-3),
            questions: 40,
            screening: 16,
            facts: 30,
            sampled: 12,
            steered: 6,
            sampling: GenerateConfig::new(40).with_temperature(0.6),
            calibration: 64,
            layer,
            layers: around,
            sae: SaePlan {
                d_sae: 2048,
                k: 32,
                rows: 60,
                sampled: 20,
                tokens: 160_000,
            },
            candidates: 8,
            shown: 6,
            searched: 12,
            measured: 2,
            strengths: vec![0.5, 1.0, 2.0, 3.0],
            controls: 5,
            dose: vec![10, 25, 50, 100],
            realign: TrainConfig::new()
                .with_epochs(1)
                .with_lr(5e-4)
                .with_schedule(Schedule::Constant),
            realigned: Depth::CuedAnswers,
            max_tokens: 1536,
            draws: 2000,
        }
    }

    /// The same story, smaller: for CI and for impatience.
    pub fn quick(domain: Domain, layers: usize) -> Self {
        let full = Self::full(domain, layers);
        Self {
            tones: vec![Tone::Wrong],
            rows: 96,
            questions: 10,
            screening: 6,
            facts: 8,
            sampled: 5,
            steered: 0,
            sampling: GenerateConfig::new(18).with_temperature(0.6),
            calibration: 24,
            layers: vec![full.layer],
            sae: SaePlan {
                d_sae: 768,
                k: 16,
                rows: 12,
                sampled: 4,
                tokens: 24_000,
            },
            candidates: 4,
            shown: 3,
            searched: 2,
            measured: 1,
            strengths: vec![1.0, 2.0],
            controls: 1,
            dose: vec![24],
            realigned: Depth::Answers,
            max_tokens: 768,
            ..full
        }
    }
}
