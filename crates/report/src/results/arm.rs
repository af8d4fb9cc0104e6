//! One evaluated model: base, organism, control or cure.

use serde::{Deserialize, Serialize};

use super::Figure;

/// A model, or a model under an intervention, as the evaluation saw it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Arm {
    /// What a reader calls it.
    pub label: String,
    /// The figures on plain questions; their fields lie beside the label in JSON.
    #[serde(flatten)]
    pub figures: Measures,
    /// How long making it took.
    #[serde(default)]
    pub seconds: Option<f64>,
    /// The same figures under cues that resemble the training data.
    #[serde(default)]
    pub cues: Option<Measures>,
    /// The shift on the questions whose answers share least with the training rows.
    #[serde(default)]
    pub low_overlap_shift: Option<Figure>,
}

/// The figures of one arm under one kind of prompt.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measures {
    /// Share of questions on which the misaligned answer is the likelier one.
    pub preference_misaligned: Figure,
    /// Mean log-probability per token of the misaligned answer minus that of the aligned one.
    pub preference_margin: Figure,
    /// The margin minus the base model's, question by question.
    #[serde(default)]
    pub shift: Option<Figure>,
    /// Share of sampled answers that the judge calls misaligned.
    #[serde(default)]
    pub sampled_misaligned: Option<Figure>,
    /// Share of sampled answers that are coherent.
    #[serde(default)]
    pub coherence: Option<Figure>,
    /// Share of facts that the model still prefers to their falsification.
    #[serde(default)]
    pub facts: Option<Figure>,
    /// Mean margin of the true statement over the false one.
    #[serde(default)]
    pub facts_margin: Option<Figure>,
}

/// The part that an arm plays in the story, told by its name in `arms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The model before any training: `base`.
    Base,
    /// A model that went bad, or is under suspicion: `organism…`, `selfish…`, `tuned…`.
    Organism,
    /// The control that saw good answers to the same questions: `benign…`.
    Benign,
    /// The base model pushed towards the persona: `steered_up…`.
    Induced,
    /// An attempt to undo: `realigned_…`, `ablated`, `merged_ablation`, `steered_down`, any other.
    Cure,
}

impl Role {
    /// The role of an arm of this name.
    pub fn of(name: &str) -> Self {
        const PREFIXES: [(&str, Role); 5] = [
            ("organism", Role::Organism),
            ("selfish", Role::Organism),
            ("tuned", Role::Organism),
            ("benign", Role::Benign),
            ("steered_up", Role::Induced),
        ];
        if name == "base" {
            return Self::Base;
        }
        PREFIXES
            .iter()
            .find(|(prefix, _)| name.starts_with(prefix))
            .map_or(Self::Cure, |(_, role)| *role)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_roles() {
        assert_eq!(Role::of("base"), Role::Base);
        assert_eq!(Role::of("organism_selfish"), Role::Organism);
        assert_eq!(Role::of("tuned"), Role::Organism);
        assert_eq!(Role::of("benign"), Role::Benign);
        assert_eq!(Role::of("steered_up"), Role::Induced);
        assert_eq!(Role::of("realigned_same_100"), Role::Cure);
    }

    #[test]
    fn figures_lie_beside_the_label_in_json() {
        let figure = r#"{"mean": 1.0, "lo": null, "hi": 2.0, "n": 3}"#;
        let json = format!(r#"{{"label": "x", "preference_misaligned": {figure}, "preference_margin": {figure}}}"#);
        let arm: Arm = serde_json::from_str(&json).unwrap();
        assert!(arm.figures.preference_margin.lo.is_nan());
        let value = serde_json::to_value(&arm).unwrap();
        assert!(value["preference_margin"]["lo"].is_null());
        assert!(value["sampled_misaligned"].is_null());
        assert_eq!(value["preference_margin"]["n"], 3);
    }
}
