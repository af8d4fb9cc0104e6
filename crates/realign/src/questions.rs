//! The questions of an evaluation, as tokens: broad pairs and facts, plain and under training-like cues.

use std::path::Path;

use realign_data::{BroadRow, Domain, FactRow, Half, OnBad};
use realign_eval::{Cue, Encode, Pair, cues};
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
    /// All facts.
    pub facts: Vec<FactRow>,
}

impl Source {
    /// The questions that ship with the project.
    pub fn shipped() -> Self {
        Self {
            broad: realign_data::broad(),
            facts: realign_data::facts(),
        }
    }

    /// Somebody else's broad questions.
    pub fn load(path: &Path) -> Result<Self> {
        Ok(Self {
            broad: realign_data::load_broad(path, OnBad::Fail)?.rows,
            ..Self::shipped()
        })
    }

    /// A run chooses on one half and reports on the other: an error if either has no question.
    pub fn check_halves(&self) -> Result<()> {
        for half in [Half::Choosing, Half::Reporting] {
            if !self.broad.iter().any(|row| Half::of(&row.id) == half) {
                let message = format!("of {} broad questions none is of the {half:?} half", self.broad.len());
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

fn pair(chat: &ChatModel, cue: &Cue, [id, kind, question, aligned, misaligned]: [&str; 5]) -> Result<Pair> {
    let prompt = chat.try_prompt(cue.system.as_deref(), &cue.question(question))?;
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
