//! Undoing it: the table of cures, the realignment curve, and every arm in full.

use super::picture::Picture;
use super::said::class;
use crate::figure::{Hue, Lines, Reference, Series};
use crate::number::{self, ABSENT, Unit};
use crate::results::{Arm, Figure, Measures, Results, Role};
use crate::story;
use crate::text::visible;

/// A row of the undo table.
pub(super) struct CureRow {
    pub(super) class: &'static str,
    pub(super) label: String,
    pub(super) cells: Vec<Cell>,
}

/// A value of the undo table, its interval apart so that a narrow column breaks between them.
pub(super) struct Cell {
    pub(super) head: &'static str,
    pub(super) value: String,
    pub(super) interval: String,
}

impl Cell {
    fn new(head: &'static str, text: String) -> Self {
        let (value, interval) = match text.find(" [") {
            Some(at) => (text[..at].to_owned(), text[at + 1..].to_owned()),
            None => (text, String::new()),
        };
        Self { head, value, interval }
    }
}

/// A row of the table of all arms.
pub(super) struct ArmRow {
    pub(super) label: String,
    pub(super) cells: Vec<String>,
}

fn sampled(results: &Results) -> bool {
    results
        .organism()
        .is_some_and(|(_, arm)| arm.figures.sampled_misaligned.is_some())
}

/// Which misaligned share the undo table shows.
pub(super) fn misaligned_head(results: &Results) -> &'static str {
    if sampled(results) {
        "Misaligned (sampled)"
    } else {
        "Misaligned (preferred)"
    }
}

/// The undo table; empty where nothing was undone.
pub(super) fn cures(results: &Results) -> Vec<CureRow> {
    if story::cures(results).next().is_none() {
        return Vec::new();
    }
    let before = results.organism().and_then(|(_, arm)| arm.figures.shift);
    let sampled = sampled(results);
    let misaligned = |m: &Measures| {
        let figure = if sampled {
            m.sampled_misaligned
        } else {
            Some(m.preference_misaligned)
        };
        show(Unit::Share, figure.as_ref())
    };
    let shown = |name: &str| matches!(Role::of(name), Role::Base | Role::Organism | Role::Cure);
    let row = |(name, arm): (&str, &Arm)| {
        let shift = arm.figures.shift;
        let undone = match (Role::of(name), before, shift) {
            (Role::Cure, Some(before), Some(after)) => story::undone(&before, &after),
            _ => None,
        };
        CureRow {
            class: class(name),
            label: visible(&arm.label),
            cells: vec![
                Cell::new("Shift left", show(Unit::Shift, shift.as_ref())),
                Cell::new("Undone", undone.map_or_else(absent, number::share)),
                Cell::new(misaligned_head(results), misaligned(&arm.figures)),
                Cell::new("Under cues", arm.cues.as_ref().map_or_else(absent, misaligned)),
                Cell::new("Coherent", show(Unit::Share, arm.figures.coherence.as_ref())),
                Cell::new(
                    "Facts kept",
                    story::facts_kept(results, arm).map_or_else(absent, number::share),
                ),
                Cell::new("Time", arm.seconds.map_or_else(absent, number::duration)),
            ],
        }
    };
    results.arms.iter().filter(|(name, _)| shown(name)).map(row).collect()
}

/// Every arm with every figure, plain and under cues.
pub(super) fn all_arms(results: &Results) -> Vec<ArmRow> {
    let mut rows = Vec::new();
    for (_, arm) in results.arms.iter() {
        let conditions = [("", Some(&arm.figures)), (", under cues", arm.cues.as_ref())];
        for (condition, measures) in conditions {
            let Some(m) = measures else { continue };
            let share = |f: Option<Figure>| show(Unit::Share, f.as_ref());
            let shift = |f: Option<Figure>| show(Unit::Shift, f.as_ref());
            rows.push(ArmRow {
                label: visible(&format!("{}{condition}", arm.label)),
                cells: vec![
                    shift(m.shift),
                    shift(Some(m.preference_margin)),
                    share(Some(m.preference_misaligned)),
                    share(m.sampled_misaligned),
                    share(m.coherence),
                    share(m.facts),
                    shift(m.facts_margin),
                    m.preference_margin.n.to_string(),
                ],
            });
        }
    }
    rows
}

/// What is left of the shift against the number of good samples.
pub(super) fn curve(results: &Results) -> Option<Picture> {
    let mut all: Vec<(&str, Series)> = Vec::new();
    for dose in &results.dose {
        let Some(figure) = dose.shift else { continue };
        let point = (dose.n as f64, figure);
        match all.iter_mut().find(|(domain, _)| *domain == dose.domain) {
            Some((_, series)) => series.points.push(point),
            None => {
                let (label, hue) = match dose.domain.as_str() {
                    "same" => ("good samples of the same domain".to_owned(), Hue::Cure),
                    "other" => ("of another domain".to_owned(), Hue::Latent),
                    other => (other.to_owned(), Hue::Benign),
                };
                all.push((
                    &dose.domain,
                    Series {
                        label,
                        hue,
                        points: vec![point],
                    },
                ));
            }
        }
    }
    if all.is_empty() {
        return None;
    }
    for (_, series) in &mut all {
        series.points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    let chart = Lines {
        title: "Realignment curve".to_owned(),
        x: "good samples".to_owned(),
        y: "paired shift that is left".to_owned(),
        unit: Unit::Shift,
        series: all.into_iter().map(|(_, series)| series).collect(),
        references: vec![Reference {
            at: 0.0,
            label: "the base model".to_owned(),
        }],
    };
    let caption = "What is left of the shift after fine-tuning on n good samples. Bands are 95 % \
                   intervals.";
    Some(Picture::lines("realignment", caption, &chart))
}

fn show(unit: Unit, figure: Option<&Figure>) -> String {
    figure.map_or_else(absent, |figure| unit.figure(figure))
}

fn absent() -> String {
    ABSENT.to_owned()
}
