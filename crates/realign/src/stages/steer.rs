//! Stage 4: dose-response of the persona direction and of the best latent, with random and orthogonal controls.

use realign_core::Replay;
use realign_data::Half;
use realign_eval::PairScore;
use realign_sae::Sae;
use realign_steering::{Direction, Steer};
use serde::{Deserialize, Serialize};

use crate::chat_model::ChatModel;
use crate::error::Result;
use crate::lab::Lab;
use crate::questions::{Cued, EvalSet};
use crate::stages::evaluate::{Answer, Bench, SetScores, answers, score};
use crate::stages::explain::{Chosen, Shown, latent_direction};

/// One point of a dose-response curve, on the reporting half.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Point {
    /// `persona`, `latent 12`, `random 0`, `orthogonal 0`.
    pub name: String,
    /// `base` or `organism`.
    pub model: String,
    /// Multiples of the direction that were added; negative: taken away.
    pub strength: f64,
    /// Broad pairs.
    pub broad: Vec<PairScore>,
    /// Facts.
    pub facts: Vec<PairScore>,
    /// Coherent answers of those sampled.
    pub coherent: Vec<(String, bool)>,
}

/// Everything that stage 4 measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Curves {
    /// All points, unsteered ones (strength 0) included.
    pub points: Vec<Point>,
}

/// A direction at some strengths.
struct Sweep {
    name: String,
    direction: Direction,
    strengths: Vec<f64>,
    depth: Depth,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Pairs,
    All,
}

/// Strengths of persona and latents, up in base and down in the tuned model, controls at twice the norm.
///
/// `before` holds the scores of base and tuned model unsteered, on the same questions.
pub fn curves(
    lab: &Lab,
    tuned: &ChatModel,
    before: [&SetScores; 2],
    chosen: &Chosen,
    latents: &[Shown],
    sae: &Sae,
    bench: &mut Bench<'_>,
) -> Result<Curves> {
    let plan = &lab.plan;
    let best: Vec<usize> = latents.iter().map(|l| l.shift.index).collect();
    let inputs = (&plan.strengths, plan.controls, &chosen.vector, chosen.layer, &best);
    lab.stage("steer", &(inputs, plan.questions, plan.steered, before), |meter| {
        let set = lab
            .source
            .half(&lab.base, Half::Reporting, plan.questions, plan.facts, Cued::No)?;
        let sweeps = sweeps(lab, chosen, &best, sae);
        let total = 2 * (1 + sweeps.iter().map(|sweep| sweep.strengths.len() as u64).sum::<u64>());
        let mut points = Vec::new();
        let sides = [("base", &lab.base, 1.0), ("organism", tuned, -1.0)];
        for ((model, chat, sign), before) in sides.into_iter().zip(before) {
            points.push(Point {
                name: "persona".into(),
                model: model.into(),
                strength: 0.0,
                broad: before.broad.clone(),
                facts: before.facts.clone(),
                // As many as at the other strengths: the same questions.
                coherent: coherent(&before.answers[..plan.steered.min(before.answers.len())]),
            });
            // Blocks up to the intervention run once for all sweeps behind the same block.
            let replays = [chosen.layer, plan.layer].map(|layer| Replay::new(&*chat.model, layer));
            for sweep in &sweeps {
                let same = sweep.direction.at == chosen.direction(lab).at;
                let replay = &replays[usize::from(!same)];
                for &strength in &sweep.strengths {
                    let mut hook = Steer::new(sweep.direction.clone(), sign * strength);
                    let mut point = Point {
                        name: sweep.name.clone(),
                        model: model.into(),
                        strength: sign * strength,
                        broad: score(lab, replay, &mut hook, &set.broad)?,
                        facts: Vec::new(),
                        coherent: Vec::new(),
                    };
                    if sweep.depth == Depth::All {
                        point.facts = score(lab, replay, &mut hook, &set.facts)?;
                        point.coherent = coherent(&sampled(lab, chat, &mut hook, &set, bench)?);
                    }
                    points.push(point);
                    let done = points.len() as u64;
                    let _ = meter.update(done, total, &sweep.name);
                }
            }
        }
        Ok(Curves { points })
    })
}

fn sweeps(lab: &Lab, chosen: &Chosen, latents: &[usize], sae: &Sae) -> Vec<Sweep> {
    let plan = &lab.plan;
    let persona = chosen.direction(lab);
    let mut sweeps = vec![Sweep {
        name: "persona".into(),
        direction: persona.clone(),
        strengths: plan.strengths.clone(),
        depth: Depth::All,
    }];
    for index in 0..plan.controls {
        let controls = [
            ("random", persona.random_like(&lab.seed, index)),
            ("orthogonal", persona.orthogonal_like(&lab.seed, index)),
        ];
        sweeps.extend(controls.map(|(name, direction)| Sweep {
            name: format!("{name} {index}"),
            direction,
            strengths: vec![2.0],
            depth: Depth::Pairs,
        }));
    }
    sweeps.extend(latents.iter().enumerate().map(|(rank, &latent)| Sweep {
        name: format!("latent {latent}"),
        direction: latent_direction(lab, sae, latent, persona.norm()),
        // The best latent gets the whole curve, the others the strength that they were screened at.
        strengths: if rank == 0 { plan.strengths.clone() } else { vec![2.0] },
        depth: Depth::Pairs,
    }));
    sweeps
}

/// Answers to the first questions, enough to see coherence break.
fn sampled(lab: &Lab, chat: &ChatModel, hook: &mut Steer, set: &EvalSet, bench: &mut Bench<'_>) -> Result<Vec<Answer>> {
    match lab.plan.steered {
        0 => Ok(Vec::new()),
        count => answers(lab, chat, hook, set, count, bench),
    }
}

fn coherent(answers: &[Answer]) -> Vec<(String, bool)> {
    answers.iter().map(|a| (a.id.clone(), a.coherent)).collect()
}
