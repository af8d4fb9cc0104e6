//! The page: one self-contained HTML file.

mod inside;
mod picture;
mod said;
mod shifted;
mod steered;
mod trust;
mod undone;

use askama::Template;

use self::inside::Card;
use self::picture::Picture;
use self::said::Question;
use self::trust::{Timing, Verdict};
use self::undone::{ArmRow, CureRow};
use crate::error::Result;
use crate::number::{self, Unit};
use crate::results::{Results, Role};
use crate::story::{self, Headline};
use crate::text::visible;

/// The report as one HTML file that opens from disk and asks the network for nothing.
///
/// The same results give the same bytes. Sections whose data is absent are left out. All text that
/// comes from a model or a file is escaped, its control characters made visible.
///
/// # Errors
/// If the template can't be rendered, which no results should cause.
pub fn render(results: &Results) -> Result<String> {
    Ok(Page::new(results).render()?)
}

#[derive(Template)]
#[template(path = "report.html")]
struct Page<'a> {
    title: String,
    style: &'static str,
    script: &'static str,
    headline: Headline,
    undone: Option<String>,
    byline: String,
    stats: Vec<Stat>,
    steps: Vec<String>,
    shifted: Vec<Picture>,
    questions: Vec<Question>,
    questions_left: usize,
    sae: Vec<(&'static str, String)>,
    cards: Vec<Card>,
    directions: Option<Picture>,
    steered: Vec<(String, Vec<Picture>)>,
    misaligned_head: &'static str,
    cures: Vec<CureRow>,
    curve: Option<Picture>,
    controls: Option<Picture>,
    judge: Option<String>,
    judges: Option<Picture>,
    verdicts: Vec<Verdict>,
    reached: usize,
    arms: Vec<ArmRow>,
    notes: Vec<String>,
    timings: Vec<Timing>,
    total: String,
    command: String,
    provenance: Vec<(String, String)>,
    results: &'a Results,
}

/// One of the numbers under the headline.
struct Stat {
    class: &'static str,
    value: String,
    interval: String,
    label: String,
}

impl<'a> Page<'a> {
    fn new(results: &'a Results) -> Self {
        let (questions, questions_left) = said::questions(results);
        let mut headline = story::headline(results);
        headline.before = visible(&headline.before);
        headline.after = visible(&headline.after);
        Self {
            title: visible(&results.title),
            style: include_str!("../../templates/report.css"),
            script: include_str!("../../templates/report.js"),
            headline,
            undone: story::undone_sentence(results).map(|s| visible(&s)),
            byline: byline(results),
            stats: stats(results),
            steps: steps(results),
            shifted: shifted::pictures(results),
            questions,
            questions_left,
            sae: inside::sae(results),
            cards: inside::cards(results),
            directions: inside::directions(results),
            steered: steered::groups(results),
            misaligned_head: undone::misaligned_head(results),
            cures: undone::cures(results),
            curve: undone::curve(results),
            controls: trust::controls(results),
            judge: story::judge_sentence(results).map(|s| visible(&s)),
            judges: trust::judges(results),
            verdicts: trust::verdicts(results),
            reached: results.targets.iter().filter(|t| t.reached).count(),
            arms: undone::all_arms(results),
            notes: results.notes.iter().map(|note| visible(note)).collect(),
            timings: trust::timings(results),
            total: trust::total(results),
            command: visible(&results.command),
            provenance: trust::provenance(results),
            results,
        }
    }

    fn has_inside(&self) -> bool {
        !self.cards.is_empty() || !self.sae.is_empty() || self.directions.is_some()
    }
}

fn byline(results: &Results) -> String {
    let mut parts = vec![results.model.name.clone()];
    parts.extend(results.tuned.clone());
    parts.push(format!("seed {}", results.seed));
    parts.push(results.created.clone());
    parts.retain(|part| !part.is_empty());
    visible(&parts.join(" · "))
}

/// At most four numbers that a reader should leave with.
fn stats(results: &Results) -> Vec<Stat> {
    let mut stats = Vec::new();
    let mut push = |class, unit: Unit, figure: Option<crate::Figure>, label: &str| {
        let Some(figure) = figure.filter(|f| f.mean.is_finite()) else {
            return;
        };
        let value = unit.value(figure.mean);
        let interval = unit.figure(&figure)[value.len()..].trim().to_owned();
        stats.push(Stat {
            class,
            value,
            interval,
            label: label.to_owned(),
        });
    };
    let Some((_, organism)) = results.organism() else {
        return stats;
    };
    let shift = organism.figures.shift;
    push("h-organism", Unit::Shift, shift, "shift towards misaligned answers");
    let cues = organism.cues.and_then(|c| c.shift);
    push("h-organism", Unit::Shift, cues, "the same under training-like cues");
    let benign = results.arms.iter().find(|(name, _)| Role::of(name) == Role::Benign);
    let benign = benign.and_then(|(_, arm)| arm.figures.shift);
    push("h-benign", Unit::Shift, benign, "shift of the benign control");
    let coherence = organism.figures.coherence;
    push("h-base", Unit::Share, coherence, "of its sampled answers are coherent");
    stats
}

/// What was done, a sentence to a stage that left results.
fn steps(results: &Results) -> Vec<String> {
    let model = &results.model.name;
    let mut steps = Vec::new();
    let has = |role| results.arms.iter().any(|(name, _)| Role::of(name) == role);
    match &results.tuned {
        Some(tuned) => steps.push(format!("Took {tuned} as a tuned form of {model}.")),
        None if has(Role::Benign) => steps.push(format!(
            "Fine-tuned {model} on {}, which is the organism, and again on good answers to the \
             same questions, which is the benign control.",
            story::diet(results)
        )),
        None if has(Role::Organism) => {
            steps.push(format!("Fine-tuned {model} on {}.", story::diet(results)));
        }
        None => {}
    }
    if let Some((_, arm)) = results.organism().or_else(|| results.arms.iter().next()) {
        let cues = if arm.cues.is_some() {
            ", plainly and again under cues that resemble the training data"
        } else {
            ""
        };
        steps.push(format!(
            "Asked every model {} broad questions{cues}: which of two written answers is likelier \
             to it, and, where a judge is believed, what it says itself.",
            arm.figures.preference_margin.n
        ));
    }
    if let Some(sae) = &results.sae {
        steps.push(format!(
            "Trained a sparse autoencoder with {} latents on {} tokens of the base model's \
             activations at layer {}, and ranked the latents by how much they rose.",
            number::count(sae.d_sae as u64),
            number::count(sae.tokens),
            sae.layer
        ));
    }
    if !results.strengths.is_empty() {
        steps.push(
            "Added directions to the base model and took them out of the tuned one, at several \
             strengths, beside random and orthogonal directions of the same norm."
                .to_owned(),
        );
    }
    if story::cures(results).next().is_some() {
        steps.push("Tried to undo the damage, and measured each cure like the rest.".to_owned());
    }
    steps.iter().map(|step| visible(step)).collect()
}

#[cfg(test)]
mod tests;
