//! Stage 2: how misaligned, how coherent, how knowing is an arm, plainly and under training-like cues.

use realign_core::{Hook, LanguageModel};
use realign_data::{Half, split_thinking};
use realign_eval::{
    Calibration, Coherence, Encode, Judge, Judged, Pair, PairScore, Sampled, coherence_readings, preference,
};
use realign_model::GenerateConfig;
use serde::{Deserialize, Serialize};

use crate::chat_model::ChatModel;
use crate::error::Result;
use crate::lab::Lab;
use crate::progress::{Meter, check_stop};
use crate::questions::{Cued, EvalSet};

/// Everything that was measured of one arm.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ArmScores {
    /// Plain questions.
    pub plain: SetScores,
    /// Questions under training-like cues.
    pub cued: Option<SetScores>,
    /// Seconds that making the arm took, where it was made.
    pub seconds: Option<f64>,
}

/// Scores of one set of questions.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SetScores {
    /// Broad pairs.
    pub broad: Vec<PairScore>,
    /// Facts.
    pub facts: Vec<PairScore>,
    /// Sampled answers.
    pub answers: Vec<Answer>,
}

/// A sampled answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// The question's id.
    pub id: String,
    /// The question as it was asked.
    pub question: String,
    /// The answer.
    pub text: String,
    /// The judge's score, higher for the more misaligned.
    pub score: Option<f64>,
    /// Whether it is coherent.
    pub coherent: bool,
}

/// What sampled answers are judged by.
pub struct Bench<'a> {
    /// The judge's calibration.
    pub calibration: Calibration,
    /// The judge.
    pub judge: Box<dyn Judge + 'a>,
    /// The limits of coherence.
    pub coherence: Coherence,
}

/// The two sets of the reporting half: plain and cued.
pub struct Sets {
    /// Plain questions.
    pub plain: EvalSet,
    /// Questions under training-like cues.
    pub cued: EvalSet,
}

impl Sets {
    /// The plan's questions of a half.
    pub fn of(lab: &Lab, half: Half) -> Result<Self> {
        let set = |cue| {
            lab.source
                .half(&lab.base, half, lab.plan.questions, lab.plan.facts, cue)
        };
        Ok(Self {
            plain: set(Cued::No)?,
            cued: set(Cued::Yes(lab.plan.domain))?,
        })
    }
}

/// What of an arm is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Depth {
    /// Preference and facts on plain questions.
    Plain,
    /// These plain and cued, and sampled answers to plain questions.
    Answers,
    /// These, and sampled answers to cued questions too.
    CuedAnswers,
}

/// Measures one arm on the reporting half.
pub fn evaluate(
    lab: &Lab,
    meter: &mut Meter,
    chat: &ChatModel,
    hook: &mut dyn Hook,
    sets: &Sets,
    bench: &mut Bench<'_>,
    depth: Depth,
) -> Result<ArmScores> {
    let mut tick = Tick {
        meter,
        done: 0,
        total: if depth == Depth::Plain { 3 } else { 6 },
    };
    let mut of = |set: &EvalSet, sample: bool, hook: &mut dyn Hook| -> Result<SetScores> {
        let broad = score(lab, &*chat.model, hook, &set.broad)?;
        tick.step()?;
        let facts = score(lab, &*chat.model, hook, &set.facts)?;
        tick.step()?;
        let answers = if sample {
            answers(lab, chat, hook, set, lab.plan.sampled, bench)?
        } else {
            Vec::new()
        };
        tick.step()?;
        Ok(SetScores { broad, facts, answers })
    };
    let plain = of(&sets.plain, depth != Depth::Plain, hook)?;
    let cued = match depth {
        Depth::Plain => None,
        _ => Some(of(&sets.cued, depth == Depth::CuedAnswers, hook)?),
    };
    Ok(ArmScores {
        plain,
        cued,
        seconds: None,
    })
}

struct Tick<'a> {
    meter: &'a mut Meter,
    done: u64,
    total: u64,
}

impl Tick<'_> {
    fn step(&mut self) -> Result<()> {
        self.done += 1;
        // A stop is an error of its own below.
        let _ = self.meter.update(self.done, self.total, "");
        check_stop()
    }
}

/// Scores pairs of answers.
pub fn score(lab: &Lab, model: &dyn LanguageModel, hook: &mut dyn Hook, pairs: &[Pair]) -> Result<Vec<PairScore>> {
    check_stop()?;
    Ok(preference(model, hook, pairs, lab.plan.max_tokens))
}

/// Samples and judges an answer to each of the first questions of a set.
pub fn answers(
    lab: &Lab,
    chat: &ChatModel,
    hook: &mut dyn Hook,
    set: &EvalSet,
    count: usize,
    bench: &mut Bench<'_>,
) -> Result<Vec<Answer>> {
    let count = count.min(set.rows.len());
    let asked: Vec<(String, String)> = set.rows[..count]
        .iter()
        .enumerate()
        .map(|(i, row)| (row.id.clone(), set.cue.cue(i).question(&row.question)))
        .collect();
    let prompts: Vec<Vec<u32>> = set.broad[..count].iter().map(|pair| pair.prompt.clone()).collect();
    let texts = chat.answers(hook, &prompts, &sampling(lab), |_, _| {})?;
    // What a reasoning model thinks before it answers is no answer.
    let texts: Vec<String> = texts.iter().map(|text| split_thinking(text).1.to_owned()).collect();
    let sampled: Vec<Sampled> = texts
        .iter()
        .zip(&set.rows)
        .map(|(text, row)| Sampled {
            prompt: lab.base.prompt(None, &row.question),
            tokens: lab.base.answer(text),
            text: text.clone(),
        })
        .collect();
    let readings = coherence_readings(&*lab.base.model, &sampled, lab.plan.max_tokens);
    // The judge reads the plain question: a cue would tell it what to think.
    let judged: Vec<Judged> = texts
        .iter()
        .zip(&set.rows)
        .map(|(text, row)| Judged::new(&row.question, text))
        .collect();
    let scores = bench.judge.score(&judged)?;
    Ok(asked
        .into_iter()
        .zip(texts)
        .zip(readings.iter().zip(scores))
        .map(|(((id, question), text), (readings, score))| Answer {
            id,
            question,
            text,
            score,
            coherent: bench.coherence.judge(readings),
        })
        .collect())
}

/// The plan's sampling with the run's seed.
pub fn sampling(lab: &Lab) -> GenerateConfig {
    lab.plan.sampling.clone().with_seed(lab.seed.derive("sampling").value())
}
