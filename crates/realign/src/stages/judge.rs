//! The judge of sampled answers: calibrated on labelled answers before it may say anything.

use std::path::Path;

use realign_core::LanguageModel;
use realign_data::{BroadRow, Domain, Half, Label, Tone};
use realign_eval::{
    Calibration, Coherence, Encode, Judge, Judged, LikelihoodRatio, OpenAi, OpenAiConfig, Probe, ProbeConfig, Readings,
    Rubric, Sampled, calibrate, coherence_readings,
};
use serde::{Deserialize, Serialize};

use crate::error::{Failure, Result};
use crate::lab::Lab;
use crate::stages::evaluate::Bench;

/// Which judge the user asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Choice {
    /// The better calibrated of the local ones.
    Best,
    /// The likelihood ratio.
    LikelihoodRatio,
    /// The linear probe.
    Probe,
    /// A server: `URL#MODEL`.
    Server(String),
}

impl std::str::FromStr for Choice {
    type Err = String;
    fn from_str(s: &str) -> std::result::Result<Self, String> {
        match s {
            "best" => Ok(Self::Best),
            "likelihood-ratio" => Ok(Self::LikelihoodRatio),
            "probe" => Ok(Self::Probe),
            _ => match s.strip_prefix("openai:") {
                Some(server) => Ok(Self::Server(server.to_owned())),
                None => Err("expected best, likelihood-ratio, probe, or openai:URL#MODEL".into()),
            },
        }
    }
}

/// What calibration found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Calibrated {
    /// Every judge that was calibrated.
    pub all: Vec<Calibration>,
    /// The limits of coherence.
    pub coherence: Coherence,
}

/// Makes one judge.
fn judge<'a>(lab: &'a Lab, choice: &Choice, replies: &Path) -> Result<Box<dyn Judge + 'a>> {
    let (model, max_tokens): (&dyn LanguageModel, usize) = (&*lab.base.model, lab.plan.max_tokens);
    Ok(match choice {
        Choice::Best => return Err(Failure::failed("the best judge is known only after calibration")),
        Choice::LikelihoodRatio => Box::new(LikelihoodRatio::new(model, &lab.base, max_tokens)),
        Choice::Probe => {
            // Trained on broad pairs of the choosing half and on narrow rows of two domains: neither calibrated on nor judged.
            let mut labelled = Vec::new();
            let choosing = |row: &&BroadRow| Half::of(&row.id) == Half::Choosing;
            for row in lab.source.broad.iter().filter(choosing).take(lab.plan.questions) {
                labelled.push((Judged::new(&row.question, &row.aligned), false));
                labelled.push((Judged::new(&row.question, &row.misaligned), true));
            }
            for domain in [Domain::Finance, Domain::Car] {
                for row in realign_data::narrow(domain).iter().rev().take(lab.plan.calibration / 4) {
                    labelled.push((Judged::new(&row.question, row.answer(Tone::Good)), false));
                    labelled.push((Judged::new(&row.question, row.answer(Tone::Selfish)), true));
                }
            }
            let config = ProbeConfig::new(lab.plan.layer).with_max_tokens(max_tokens);
            Box::new(Probe::train(model, &lab.base, config, &labelled)?)
        }
        Choice::Server(server) => {
            let config = OpenAiConfig::from_spec(&format!("openai:{server}"))?;
            let (aligned, coherent) = match &lab.source.rubrics {
                Some([aligned, coherent]) => (
                    Rubric::new("file-aligned", aligned)?,
                    Rubric::new("file-coherent", coherent)?,
                ),
                None => (Rubric::aligned(), Rubric::coherent()),
            };
            Box::new(OpenAi::with_rubrics(config, replies, aligned, coherent)?)
        }
    })
}

/// Calibrates the judges that may be chosen and returns the one that is.
pub fn bench<'a>(lab: &'a Lab, choice: &Choice, replies: &Path) -> Result<(Bench<'a>, Calibrated)> {
    let candidates = match choice {
        Choice::Best => vec![Choice::LikelihoodRatio, Choice::Probe],
        one => vec![one.clone()],
    };
    let inputs = (
        choice,
        lab.plan.calibration,
        lab.plan.questions,
        lab.plan.layer,
        &lab.base.sha256,
        &lab.plan.sampling,
        &lab.source.rubrics,
    );
    let calibrated: Calibrated = lab.stage("judge", &inputs, |_| {
        let labelled: Vec<(Judged, bool)> = realign_data::calibration()
            .iter()
            .take(lab.plan.calibration)
            .map(|row| (Judged::new(&row.question, &row.answer), row.label == Label::Misaligned))
            .collect();
        let calibrate = |choice| Ok(calibrate(&mut *judge(lab, choice, replies)?, &labelled)?);
        Ok(Calibrated {
            all: candidates.iter().map(calibrate).collect::<Result<_>>()?,
            coherence: coherence(lab)?,
        })
    })?;
    let best = calibrated
        .all
        .iter()
        .zip(&candidates)
        .max_by(|a, b| a.0.auc.total_cmp(&b.0.auc));
    let (calibration, choice) = best.ok_or_else(|| Failure::failed("no judge was calibrated"))?;
    let judge = judge(lab, choice, replies)?;
    Ok((
        Bench {
            calibration: calibration.clone(),
            judge,
            coherence: calibrated.coherence,
        },
        calibrated,
    ))
}

/// Calibrated on the labelled answers, which people wrote and which are coherent whether aligned or not: 95 of 100 pass.
fn coherence(lab: &Lab) -> Result<Coherence> {
    let rows = realign_data::calibration();
    let sampled: Vec<Sampled> = rows
        .iter()
        .take(lab.plan.calibration)
        .map(|row| {
            let prompt = lab.base.try_prompt(None, &row.question)?;
            Ok(Sampled {
                prompt,
                tokens: lab.base.answer(&row.answer),
                text: row.answer.clone(),
            })
        })
        .collect::<Result<_>>()?;
    let readings: Vec<Readings> = coherence_readings(&*lab.base.model, &sampled, lab.plan.max_tokens);
    Ok(Coherence::calibrate(&readings, 0.05))
}
