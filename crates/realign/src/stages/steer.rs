//! Stage 4: dose-response of the persona direction and of the best latent, with random and orthogonal controls.

use realign_core::{Hook, LanguageModel, Replay};
use realign_data::Half;
use realign_eval::PairScore;
use realign_sae::Sae;
use realign_steering::{Ablate, Direction, Steer};
use serde::{Deserialize, Serialize};

use crate::chat_model::ChatModel;
use crate::error::Result;
use crate::lab::Lab;
use crate::questions::{Cued, EvalSet};
use crate::stages::evaluate::{Bench, answers, score};
use crate::stages::explain::{Chosen, Shown, latent_direction};

/// One point of a dose-response curve, on the reporting half.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Point {
    /// `persona`, `latent 12`, `random`, `orthogonal`.
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

/// Strengths of persona and latent, up in base and down in the tuned model, controls at twice the norm.
pub fn curves(
    lab: &Lab,
    tuned: &ChatModel,
    chosen: &Chosen,
    latents: &[Shown],
    sae: &Sae,
    bench: &mut Bench<'_>,
) -> Result<Curves> {
    let best: Vec<usize> = latents.iter().map(|l| l.shift.index).collect();
    let inputs = (
        &lab.plan.strengths,
        lab.plan.controls,
        &chosen.vector,
        chosen.layer,
        &best,
        lab.plan.questions,
    );
    lab.stage("steer", &inputs, |meter| {
        let set = lab
            .source
            .half(&lab.base, Half::Reporting, lab.plan.questions, lab.plan.facts, Cued::No)?;
        let persona = chosen.direction(lab);
        let mut jobs: Vec<(Direction, String, f64, Depth)> = vec![(persona.clone(), "persona".into(), 0.0, Depth::All)];
        for &strength in &lab.plan.strengths {
            jobs.push((persona.clone(), "persona".into(), strength, Depth::All));
        }
        for index in 0..lab.plan.controls {
            let controls = [
                ("random", persona.random_like(&lab.seed, index)),
                ("orthogonal", persona.orthogonal_like(&lab.seed, index)),
            ];
            for (name, direction) in controls {
                jobs.push((direction, format!("{name} {index}"), 2.0, Depth::Pairs));
            }
        }
        let total = (2 * (jobs.len() + lab.plan.strengths.len() + best.len())) as u64;
        let mut done = 0;
        let mut points = Vec::new();
        for (name, chat, sign) in [("base", &lab.base, 1.0), ("organism", tuned, -1.0)] {
            let run = |layer,
                       jobs: &[(Direction, String, f64, Depth)],
                       bench: &mut Bench<'_>,
                       points: &mut Vec<Point>,
                       done: &mut u64,
                       meter: &mut crate::progress::Meter|
             -> Result<()> {
                let replay = Replay::new(&*chat.model, layer);
                for (direction, title, strength, depth) in jobs {
                    let mut hook = Steer::new(direction.clone(), sign * strength);
                    let point = measure(lab, chat, &replay, &mut hook, &set, *depth, bench)?;
                    points.push(Point {
                        name: title.clone(),
                        model: name.into(),
                        strength: sign * strength,
                        ..point
                    });
                    *done += 1;
                    let _ = meter.update(*done, total, title);
                }
                Ok(())
            };
            run(chosen.layer, &jobs, bench, &mut points, &mut done, meter)?;
            let norm = persona.norm();
            let mut of_latents = Vec::new();
            for (rank, &latent) in best.iter().enumerate() {
                let direction = latent_direction(lab, sae, latent, norm);
                let title = format!("latent {latent}");
                // The best latent gets the whole curve, the others the strength that they were screened at.
                let strengths: Vec<f64> = if rank == 0 {
                    lab.plan.strengths.clone()
                } else {
                    vec![2.0]
                };
                of_latents.extend(
                    strengths
                        .into_iter()
                        .map(|s| (direction.clone(), title.clone(), s, Depth::Pairs)),
                );
            }
            run(lab.plan.layer, &of_latents, bench, &mut points, &mut done, meter)?;
        }
        let mut ablate = Ablate::new(&persona);
        let replay = Replay::new(&*tuned.model, chosen.layer);
        let point = measure(lab, tuned, &replay, &mut ablate, &set, Depth::All, bench)?;
        points.push(Point {
            name: "ablated".into(),
            model: "organism".into(),
            strength: 0.0,
            ..point
        });
        Ok(Curves { points })
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Pairs,
    All,
}

/// Questions with a sampled answer at each strength: enough to see coherence break.
const SAMPLED: usize = 8;

fn measure(
    lab: &Lab,
    chat: &ChatModel,
    replay: &dyn LanguageModel,
    hook: &mut dyn Hook,
    set: &EvalSet,
    depth: Depth,
    bench: &mut Bench<'_>,
) -> Result<Point> {
    let broad = score(lab, replay, hook, &set.broad)?;
    let (mut facts, mut coherent) = (Vec::new(), Vec::new());
    if depth == Depth::All {
        facts = score(lab, replay, hook, &set.facts)?;
        let sampled = answers(lab, chat, hook, set, SAMPLED.min(lab.plan.sampled), bench)?;
        coherent = sampled.into_iter().map(|a| (a.id, a.coherent)).collect();
    }
    Ok(Point {
        name: String::new(),
        model: String::new(),
        strength: 0.0,
        broad,
        facts,
        coherent,
    })
}
