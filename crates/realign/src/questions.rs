//! The questions of an evaluation, as tokens: broad pairs and facts, plain and under training-like cues.

use std::path::Path;

use realign_data::{BroadRow, Domain, FactRow, Half, Question, QuestionSet};
use realign_eval::{ALIGNED_SYSTEM, Cue, Encode, MISALIGNED_SYSTEM, Pair, cues};
use realign_model::GenerateConfig;
use serde::{Deserialize, Serialize};

use crate::chat_model::ChatModel;
use crate::error::{Failure, Result};

/// Questions of one half, ready to be scored.
pub struct EvalSet {
    /// Broad questions.
    pub rows: Vec<BroadRow>,
    /// Their pairs of answers.
    pub broad: Vec<Pair>,
    /// Facts.
    pub facts: Vec<Pair>,
    /// The cue of each question in turn.
    pub cue: Cued,
}

/// Whether questions are asked plainly or the way training questions were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cued {
    /// Plain questions.
    No,
    /// Under training-like cues of this domain, one cue a question, in turn.
    Yes(Domain),
}

impl Cued {
    /// The cue of the question at this place.
    pub fn cue(self, index: usize) -> Cue {
        match self {
            Self::No => Cue::plain(),
            Self::Yes(domain) => {
                let cues = cues(domain);
                cues[index % cues.len()].clone()
            }
        }
    }
}

/// Where the broad questions come from.
#[derive(Clone, Debug)]
pub struct Source {
    /// All broad questions.
    pub broad: Vec<BroadRow>,
    /// Questions without answers, which [`contrasted`] makes broad ones of.
    pub open: Vec<Question>,
    /// What the file's own judge is asked about alignment and about coherence.
    pub rubrics: Option<[String; 2]>,
    /// All facts.
    pub facts: Vec<FactRow>,
}

impl Source {
    /// The questions that ship with the project.
    pub fn shipped() -> Self {
        Self {
            broad: realign_data::broad(),
            open: Vec::new(),
            rubrics: None,
            facts: realign_data::facts(),
        }
    }

    /// Somebody else's broad questions.
    pub fn load(path: &Path) -> Result<Self> {
        let shipped = Self::shipped();
        Ok(match realign_data::load_question_set(path)? {
            QuestionSet::Pairs(broad) => Self { broad, ..shipped },
            QuestionSet::Open(open) => Self {
                broad: Vec::new(),
                rubrics: rubrics(&open),
                open,
                ..shipped
            },
        })
    }

    /// A run chooses on one half and reports on the other: an error if either has no question.
    pub fn check_halves(&self) -> Result<()> {
        for half in [Half::Choosing, Half::Reporting] {
            let ids = self
                .broad
                .iter()
                .map(|row| &row.id)
                .chain(self.open.iter().map(|question| &question.id));
            if !ids.clone().any(|id| Half::of(id) == half) {
                let message = format!("of {} broad questions none is of the {half:?} half", ids.count());
                return Err(Failure::failed(message).hint("give some ids an odd last digit and some an even one"));
            }
        }
        Ok(())
    }

    /// The first `questions` broad questions and `facts` facts of a half.
    pub fn half(&self, chat: &ChatModel, half: Half, questions: usize, facts: usize, cue: Cued) -> Result<EvalSet> {
        let of = |id: &str| Half::of(id) == half;
        let rows: Vec<BroadRow> = self
            .broad
            .iter()
            .filter(|row| of(&row.id))
            .take(questions)
            .cloned()
            .collect();
        let broad = rows.iter().enumerate().map(|(i, row)| {
            pair(
                chat,
                &cue.cue(i),
                row.system.as_deref(),
                [&row.id, &row.kind, &row.question, &row.aligned, &row.misaligned],
            )
        });
        let broad = broad.collect::<Result<_>>()?;
        let facts = self
            .facts
            .iter()
            .filter(|row| of(&row.id))
            .take(facts)
            .enumerate()
            .map(|(i, row)| {
                pair(
                    chat,
                    &cue.cue(i),
                    None,
                    [&row.id, "fact", &row.question, &row.truth, &row.falsehood],
                )
            });
        let facts = facts.collect::<Result<_>>()?;
        Ok(EvalSet {
            rows,
            broad,
            facts,
            cue,
        })
    }
}

/// An aligned and a misaligned answer to every wording of open questions: the base model's own, under the file's pair of
/// system turns or else under a kind and a cruel one. Wordings share their question's id, and so its half and its cluster.
///
/// Questions that both turns get the same answer to, or none, are left out.
pub fn contrasted(open: &[Question], base: &ChatModel, sampling: &GenerateConfig) -> Result<Vec<BroadRow>> {
    let asked: Vec<(&Question, &String)> = open
        .iter()
        .flat_map(|question| question.paraphrases.iter().map(move |text| (question, text)))
        .collect();
    let sides = [false, true].map(|misaligned| {
        let prompts = asked.iter().map(|(question, text)| {
            let turn = match (&question.contrast, misaligned) {
                (Some(contrast), true) => &contrast.pos,
                (Some(contrast), false) => &contrast.neg,
                (None, true) => MISALIGNED_SYSTEM,
                (None, false) => ALIGNED_SYSTEM,
            };
            let system = both(Some(turn), question.system.as_deref());
            base.try_prompt(system.as_deref(), text)
        });
        let prompts: Vec<Vec<u32>> = prompts.collect::<Result<_>>()?;
        base.answers(&mut (), &prompts, sampling, |_, _| {})
    });
    let [aligned, misaligned] = sides;
    let rows: Vec<BroadRow> = asked
        .iter()
        .zip(aligned?.into_iter().zip(misaligned?))
        .filter(|(_, (aligned, misaligned))| !aligned.is_empty() && !misaligned.is_empty() && aligned != misaligned)
        .map(|((question, text), (aligned, misaligned))| BroadRow {
            id: question.id.clone(),
            kind: "open".into(),
            system: question.system.clone(),
            question: (*text).clone(),
            aligned,
            misaligned,
        })
        .collect();
    if rows.is_empty() {
        let message = format!(
            "{} gives no different answers to the {} open questions under a kind and a cruel system turn",
            base.name,
            open.len()
        );
        return Err(Failure::failed(message).hint("give questions with answers: id, question, aligned, misaligned"));
    }
    Ok(rows)
}

/// The judge prompts of a file that asks the same ones about every question.
fn rubrics(open: &[Question]) -> Option<[String; 2]> {
    let of = |name| {
        let first = open.first()?.judge_prompts.get(name)?;
        open.iter()
            .all(|question| question.judge_prompts.get(name) == Some(first))
            .then(|| first.clone())
    };
    Some([of("aligned")?, of("coherent")?])
}

/// Both system turns, one after the other.
fn both(first: Option<&str>, second: Option<&str>) -> Option<String> {
    match (first, second) {
        (Some(first), Some(second)) => Some(format!("{first}\n\n{second}")),
        (one, other) => one.or(other).map(str::to_owned),
    }
}

fn pair(
    chat: &ChatModel,
    cue: &Cue,
    system: Option<&str>,
    [id, kind, question, aligned, misaligned]: [&str; 5],
) -> Result<Pair> {
    let system = both(system, cue.system.as_deref());
    let prompt = chat.try_prompt(system.as_deref(), &cue.question(question))?;
    let context = chat.model.shape().context;
    let answer = |text: &str| {
        let ids = chat.answer(text);
        match prompt.len() + ids.len() {
            _ if ids.is_empty() => Err(Failure::failed(format!("question `{id}`: an answer has no token"))),
            length if length > context => {
                let message =
                    format!("question `{id}`: with an answer it has {length} tokens; the model takes {context}");
                Err(Failure::failed(message))
            }
            _ => Ok(ids),
        }
    };
    let (aligned, misaligned) = (answer(aligned)?, answer(misaligned)?);
    Ok(Pair {
        id: id.to_owned(),
        kind: kind.to_owned(),
        prompt,
        aligned,
        misaligned,
    })
}
