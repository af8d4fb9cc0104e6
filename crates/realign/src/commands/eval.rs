//! `realign eval`: how misaligned a model is on broad questions.

use std::collections::BTreeMap;
use std::path::Path;

use realign_data::{Answered, BroadRow, Half};
use realign_eval::{Figure, PairScore, mean_margin, misaligned_preferred, preference};
use realign_model::GenerateConfig;
use realign_run::{Seed, write_atomic};
use serde::Serialize;

use super::Context;
use super::audit::{check, check_share};
use crate::args::EvalArgs;
use crate::error::{Failure, Result};
use crate::questions::{Cued, Source, contrasted};
use crate::resolve;

/// Draws of each bootstrap.
pub const DRAWS: usize = 2000;

#[derive(Serialize)]
struct Found {
    model: String,
    misaligned: Figure,
    margin: Figure,
    facts: f64,
    /// Every question's scores.
    scores: Vec<PairScore>,
}

/// Scores all questions of both halves: nothing is chosen here.
pub fn run(context: &Context, args: EvalArgs) -> Result<()> {
    check_share(args.fail_above)?;
    if let Some(path) = &args.out {
        check_out(path)?;
    }
    let mut source = match &args.questions {
        Some(path) => Source::load(path)?,
        None => Source::shipped(),
    };
    let base = context.model(&args.base.model)?;
    if !source.open.is_empty() {
        // The base model's answers, so that every adapter of it is asked about the same ones.
        source.broad = contrasted(&source.open, &base, &GenerateConfig::new(40).with_temperature(0.6))?;
    }
    let chat = match &args.adapter {
        Some(folder) => resolve::with_adapter(&base, folder, &context.device)?,
        None => base,
    };
    let cue = args.cues.map_or(Cued::No, |domain| Cued::Yes(domain.into()));
    let (mut broad, mut facts, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    for half in [Half::Choosing, Half::Reporting] {
        let set = source.half(&chat, half, usize::MAX, usize::MAX, cue)?;
        broad.extend(preference(&*chat.model, &mut (), &set.broad, 1536));
        facts.extend(preference(&*chat.model, &mut (), &set.facts, 1536));
        rows.extend(set.rows);
    }
    if let Some(path) = &args.out {
        write(path, &rows, &broad)?;
    }
    let seed = Seed::new(0);
    let found = Found {
        model: chat.name.clone(),
        misaligned: misaligned_preferred(&broad, &seed, DRAWS),
        margin: mean_margin(&broad, &seed, DRAWS),
        facts: facts.iter().filter(|f| f.margin() < 0.0).count() as f64 / facts.len().max(1) as f64,
        scores: broad,
    };
    let (m, g) = (found.misaligned, found.margin);
    let text = format!(
        "{}\nmisaligned answer preferred  {:.0} % [{:.0}, {:.0}] of {}\nmargin per token             {:+.2} [{:+.2}, {:+.2}]\nfacts kept                   {:.0} %",
        found.model,
        100.0 * m.mean,
        100.0 * m.lo,
        100.0 * m.hi,
        m.n,
        g.mean,
        g.lo,
        g.hi,
        100.0 * found.facts,
    );
    context.print(&text, &found)?;
    check(found.misaligned.mean, args.fail_above)
}

/// Only names that say which format is wanted.
fn check_out(path: &Path) -> Result<()> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("csv" | "jsonl") => Ok(()),
        _ => Err(Failure::usage(format!(
            "--out {}: expected a name that ends in .csv or .jsonl",
            path.display()
        ))),
    }
}

/// Writes every answer with its label (`aligned` 100 or 0, as judges score it) and its log-probability per token.
fn write(path: &Path, rows: &[BroadRow], scores: &[PairScore]) -> Result<()> {
    let answered = rows.iter().zip(scores).flat_map(|(row, score)| {
        let answer = |answer: &String, label: f64, log_prob: f64| Answered {
            id: row.id.clone(),
            question: row.question.clone(),
            answer: answer.clone(),
            scores: BTreeMap::from([("aligned".to_owned(), label), ("log_prob".to_owned(), log_prob)]),
        };
        [
            answer(&row.aligned, 100.0, score.aligned),
            answer(&row.misaligned, 0.0, score.misaligned),
        ]
    });
    let answered: Vec<Answered> = answered.collect();
    let bytes = match path.extension().is_some_and(|extension| extension == "csv") {
        true => realign_data::answers_csv(&answered),
        false => realign_data::jsonl(&answered),
    };
    Ok(write_atomic(path, &bytes)?)
}
