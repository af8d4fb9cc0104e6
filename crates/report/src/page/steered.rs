//! Turning it up and down: strength against shift, coherence beside it.

use super::picture::Picture;
use crate::figure::{Hue, Lines, Reference, Series};
use crate::number::Unit;
use crate::results::{Figure, Results, Strength};

/// A title and its figures for each model that was steered.
pub(super) fn groups(results: &Results) -> Vec<(String, Vec<Picture>)> {
    let mut starts: Vec<&str> = Vec::new();
    for strength in &results.strengths {
        if !starts.contains(&strength.base.as_str()) {
            starts.push(&strength.base);
        }
    }
    let groups = starts.into_iter().map(|start| {
        let title = match start {
            "base" => "Added to the base model".to_owned(),
            "organism" => "Taken out of the organism".to_owned(),
            other => format!("In {}", crate::text::visible(other)),
        };
        (title, pictures(results, start))
    });
    groups.filter(|(_, pictures)| !pictures.is_empty()).collect()
}

fn pictures(results: &Results, start: &str) -> Vec<Picture> {
    let mut pictures = Vec::new();
    let shifts = series(results, start, |s| s.shift);
    if !shifts.is_empty() {
        let organism = results.organism().and_then(|(_, arm)| arm.figures.shift);
        let reference = organism.filter(|f| f.mean.is_finite()).and_then(|shift| match start {
            "base" => Some(Reference {
                at: shift.mean,
                label: "the organism".to_owned(),
            }),
            "organism" => Some(Reference {
                at: -shift.mean,
                label: "the base model".to_owned(),
            }),
            _ => None,
        });
        let chart = Lines {
            title: format!("Shift by strength, {start}"),
            x: "strength".to_owned(),
            y: "shift caused by steering".to_owned(),
            unit: Unit::Shift,
            series: shifts,
            references: reference.into_iter().collect(),
        };
        let caption = "Shift against the same model left alone.";
        pictures.push(Picture::half_lines(&format!("steer-{}", slug(start)), caption, &chart));
    }
    for (file, what, caption, of) in [
        (
            "coherence",
            "coherent answers",
            "Sampled answers that stay coherent.",
            coherence as Of,
        ),
        (
            "facts",
            "facts kept",
            "Facts that the model still prefers.",
            facts as Of,
        ),
    ] {
        let shares = series(results, start, of);
        // Facts stand in where no answers were sampled; both would crowd a phone.
        if shares.is_empty() || pictures.len() > 1 {
            continue;
        }
        let chart = Lines {
            title: format!("{what} by strength, {start}"),
            x: "strength".to_owned(),
            y: what.to_owned(),
            unit: Unit::Share,
            series: shares,
            references: Vec::new(),
        };
        let file = format!("steer-{}-{file}", slug(start));
        pictures.push(Picture::half_lines(&file, caption, &chart));
    }
    pictures
}

type Of = fn(&Strength) -> Option<Figure>;

fn coherence(strength: &Strength) -> Option<Figure> {
    strength.coherence
}

fn facts(strength: &Strength) -> Option<Figure> {
    strength.facts
}

/// The curves of one figure, a curve to each direction, in order of appearance.
fn series(results: &Results, start: &str, of: impl Fn(&Strength) -> Option<Figure>) -> Vec<Series> {
    let mut all: Vec<(&str, Series)> = Vec::new();
    for strength in results.strengths.iter().filter(|s| s.base == start) {
        let Some(figure) = of(strength).filter(|_| strength.strength.is_finite()) else {
            continue;
        };
        let point = (strength.strength, figure);
        match all.iter_mut().find(|(name, _)| *name == strength.name) {
            Some((_, series)) => series.points.push(point),
            None => {
                let (label, hue) = look(&strength.name);
                all.push((
                    &strength.name,
                    Series {
                        label,
                        hue,
                        points: vec![point],
                    },
                ));
            }
        }
    }
    for (_, series) in &mut all {
        series.points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    all.into_iter().map(|(_, series)| series).collect()
}

fn look(name: &str) -> (String, Hue) {
    match name {
        "persona" => ("persona direction".to_owned(), Hue::Organism),
        "latent" => ("best latent".to_owned(), Hue::Latent),
        "random" => ("random".to_owned(), Hue::Control),
        "orthogonal" => ("orthogonal".to_owned(), Hue::Base),
        other if other.starts_with("latent") => (other.to_owned(), Hue::Latent),
        other => (other.to_owned(), Hue::Benign),
    }
}

/// A file name's part from free text.
fn slug(text: &str) -> String {
    let keep = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    text.chars().take(40).map(keep).collect()
}
