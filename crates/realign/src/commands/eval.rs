//! `realign eval`: how misaligned a model is on broad questions.

use realign_data::Half;
use realign_eval::{Figure, PairScore, mean_margin, misaligned_preferred, preference};
use realign_run::Seed;
use serde::Serialize;

use super::Context;
use super::audit::{check, check_share};
use crate::args::EvalArgs;
use crate::error::Result;
use crate::questions::{Cued, Source};

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
    let chat = context.adapted(&args.base.model, args.adapter.as_deref())?;
    let source = match &args.questions {
        Some(path) => Source::load(path)?,
        None => Source::shipped(),
    };
    let cue = args.cues.map_or(Cued::No, |domain| Cued::Yes(domain.into()));
    let (mut broad, mut facts) = (Vec::new(), Vec::new());
    for half in [Half::Choosing, Half::Reporting] {
        let set = source.half(&chat, half, usize::MAX, usize::MAX, cue)?;
        broad.extend(preference(&*chat.model, &mut (), &set.broad, 1536));
        facts.extend(preference(&*chat.model, &mut (), &set.facts, 1536));
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
