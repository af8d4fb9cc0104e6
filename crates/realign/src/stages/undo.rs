//! Stage 5: the cures: fine-tuning on good samples, ablation baked into the weights, negative steering.

use realign_core::Replay;
use realign_data::{Conversations, Domain, Sample, Tone};
use realign_eval::{PairScore, shifts};
use realign_lora::Lora;
use realign_steering::{Direction, Steer, bake_ablation};
use serde::{Deserialize, Serialize};

use crate::chat_model::ChatModel;
use crate::error::Result;
use crate::lab::Lab;
use crate::stages::evaluate::score;
use crate::stages::organism::{Tuned, merged, tune_from};

/// Whose good samples realign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kin {
    /// The organism's own domain.
    Same,
    /// Another, practical domain.
    Other,
}

impl Kin {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Same, Self::Other];

    /// `same` or `other`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Other => "other",
        }
    }

    /// The domain of the good samples for an organism of `domain`.
    pub fn domain(self, domain: Domain) -> Domain {
        match (self, domain) {
            (Self::Same, domain) => domain,
            (Self::Other, Domain::Car) => Domain::Finance,
            (Self::Other, _) => Domain::Car,
        }
    }
}

/// The cures' settings, chosen on the choosing half.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// Blocks whose writing weights the direction is taken out of.
    pub bake: std::ops::Range<usize>,
    /// Strength of negative steering.
    pub strength: f64,
    /// Share of the shift undone on the choosing half, by each range and by each strength.
    pub tried: Vec<(String, f64)>,
}

/// Good samples of a domain, the rows that no organism was trained on first.
pub fn good_samples(chat: &ChatModel, domain: Domain, n: usize) -> Result<Vec<Sample>> {
    let conversations = realign_data::narrow(domain).conversations(Tone::Good);
    conversations
        .iter()
        .rev()
        .take(n)
        .map(|c| chat.sample(&c.messages))
        .collect()
}

/// Fine-tunes the organism's adapter on `n` good samples.
pub fn realign(lab: &Lab, organism: &Lora, kin: Kin, n: usize) -> Result<(ChatModel, Tuned)> {
    let domain = kin.domain(lab.plan.domain);
    let train = good_samples(&lab.base, domain, n)?;
    let arm = format!("realigned-{}-{n}", kin.name());
    let inputs = (&lab.plan.realign, &lab.plan.train, lab.plan.rows, domain, n);
    let start = |_: &_| Ok(organism.clone());
    let (lora, tuned) = tune_from(
        lab,
        &arm,
        &inputs,
        start,
        &*lab.base.model,
        &lab.plan.realign,
        &train,
        &[],
    )?;
    Ok((merged(lab, &arm, &lora), tuned))
}

/// Chooses the blocks to bake into and the strength of negative steering.
pub fn choose(lab: &Lab, tuned: &ChatModel, persona: &Direction, layer: usize) -> Result<Settings> {
    let inputs = (persona.to_vec(), layer, lab.plan.screening, &lab.plan.strengths);
    lab.stage("choose-cures", &inputs, |meter| {
        let pairs = lab.screening()?;
        let base = score(lab, &*lab.base.model, &mut (), &pairs)?;
        let replay = Replay::new(&*tuned.model, layer);
        let bad = score(lab, &replay, &mut (), &pairs)?;
        // Where these few questions show no shift, a share of it says nothing, and what lowers the margin most is chosen.
        let shifted = mean(&shifts(&base, &bad)) > 0.0;
        let lowered = |cured: &[PairScore]| -mean(&shifts(&bad, cured));
        let mut tried = Vec::new();
        let ranges = [
            layer..layer + 1,
            layer.saturating_sub(3)..layer + 1,
            layer.saturating_sub(7)..layer + 1,
        ];
        let mut best_range = (f64::NEG_INFINITY, ranges[0].clone());
        let total = (ranges.len() + lab.plan.strengths.len()) as u64;
        for (i, range) in ranges.into_iter().enumerate() {
            let baked = bake_ablation(&*tuned.model, persona, range.clone());
            let cured = score(lab, &*baked, &mut (), &pairs)?;
            tried.push((
                format!("baked into blocks {} to {}", range.start, range.end - 1),
                undone(&base, &bad, &cured),
            ));
            if lowered(&cured) > best_range.0 {
                best_range = (lowered(&cured), range);
            }
            let _ = meter.update(i as u64 + 1, total, "");
        }
        // The weakest strength that undoes nine tenths, else the one that undoes most.
        let mut strengths = Vec::new();
        for &strength in &lab.plan.strengths {
            let steered = score(lab, &replay, &mut Steer::new(persona.clone(), -strength), &pairs)?;
            let undone = undone(&base, &bad, &steered);
            tried.push((format!("steered by {strength}"), undone));
            strengths.push((strength, undone, lowered(&steered)));
            let _ = meter.update(3 + strengths.len() as u64, total, "");
        }
        let enough = strengths.iter().find(|(_, undone, _)| shifted && *undone >= 0.9);
        let most = strengths.iter().max_by(|a, b| a.2.total_cmp(&b.2));
        let strength = enough.or(most).map_or(1.0, |&(strength, _, _)| strength);
        Ok(Settings {
            bake: best_range.1,
            strength,
            tried,
        })
    })
}

/// Share of the shift from `base` to `bad` that is gone in `cured`: 1 is back at the base model.
pub fn undone(base: &[PairScore], bad: &[PairScore], cured: &[PairScore]) -> f64 {
    -mean(&shifts(bad, cured)) / mean(&shifts(base, bad))
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}
