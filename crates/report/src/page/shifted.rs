//! How bad it got: base, organism and benign arm side by side.

use super::picture::Picture;
use crate::figure::{Bar, Bars, Fill, Hue};
use crate::number::Unit;
use crate::results::{Arm, Figure, Measures, Results, Role};

/// The bar charts of the section.
pub(super) fn pictures(results: &Results) -> Vec<Picture> {
    let mut pictures = Vec::new();
    let shift = rows(results, |m| m.shift, |arm| arm.low_overlap_shift);
    if !shift.is_empty() {
        let chart = Bars {
            title: "Paired shift by model".to_owned(),
            axis: "paired shift, log-probability per token".to_owned(),
            unit: Unit::Shift,
            rows: shift,
        };
        pictures.push(Picture::bars(
            "shift",
            "How far each model moved from the base. Right of zero is towards the misaligned \
             answer.",
            &chart,
        ));
    }
    let shares: [(&str, &str, &str, Of); 2] = [
        (
            "preferred",
            "Misaligned answers preferred",
            "Questions on which the misaligned one of two written answers is the likelier.",
            |m| Some(m.preference_misaligned),
        ),
        (
            "sampled",
            "Misaligned answers sampled",
            "The model’s own answers that the judge calls misaligned.",
            |m| m.sampled_misaligned,
        ),
    ];
    for (file, title, caption, of) in shares {
        let rows = rows(results, of, |_| None);
        if !rows.is_empty() {
            let chart = Bars {
                title: title.to_owned(),
                axis: title.to_lowercase(),
                unit: Unit::Share,
                rows,
            };
            pictures.push(Picture::bars(file, caption, &chart));
        }
    }
    pictures
}

/// Which figure a chart shows.
type Of = fn(&Measures) -> Option<Figure>;

fn rows(
    results: &Results,
    of: impl Fn(&Measures) -> Option<Figure>,
    low_overlap: impl Fn(&Arm) -> Option<Figure>,
) -> Vec<Bar> {
    let mut rows = Vec::new();
    for (name, arm) in results.arms.iter() {
        let hue = match Role::of(name) {
            Role::Base => Hue::Base,
            Role::Organism => Hue::Organism,
            Role::Benign => Hue::Benign,
            Role::Induced | Role::Cure => continue,
        };
        let mut push = |figure: Option<Figure>, condition: &str, fill| {
            let Some(figure) = figure else { return };
            let (label, about) = if condition.is_empty() {
                (arm.label.clone(), arm.label.clone())
            } else {
                (condition.to_owned(), format!("{}, {condition}", arm.label))
            };
            rows.push(Bar {
                label,
                about,
                figure,
                hue,
                fill,
            });
        };
        push(of(&arm.figures), "", Fill::Solid);
        push(arm.cues.as_ref().and_then(&of), "under cues", Fill::Pale);
        push(low_overlap(arm), "least word overlap", Fill::Pale);
    }
    rows
}
