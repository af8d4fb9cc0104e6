//! How sure we are: controls, calibration, targets, and what it takes to run it again.

use super::picture::Picture;
use crate::figure::{Bar, Bars, Fill, Hue, Mark, Strip};
use crate::number::{self, Unit};
use crate::results::{Effect, Results};
use crate::text::visible;

/// The AUC below which a judge gives no verdict.
const LEAST_AUC: f64 = 0.8;

/// A target and whether it was reached.
pub(super) struct Verdict {
    pub(super) name: String,
    pub(super) wanted: String,
    pub(super) found: String,
    pub(super) reached: bool,
}

/// A stage's time.
pub(super) struct Timing {
    pub(super) stage: String,
    pub(super) time: String,
    /// Per cent of the longest stage.
    pub(super) width: String,
}

/// Same-norm controls beside the persona direction and the best latent.
pub(super) fn controls(results: &Results) -> Option<Picture> {
    let controls = results.controls.as_ref()?;
    let latent = results.latents.first();
    let latent = latent.map(|l| Effect {
        up: l.effect_up,
        down: l.effect_down,
    });
    let named = [
        ("Persona direction", Hue::Organism, controls.persona),
        ("First latent", Hue::Latent, latent),
        ("Random direction", Hue::Control, controls.random),
        ("Orthogonal direction", Hue::Control, controls.orthogonal),
    ];
    let mut rows = Vec::new();
    for (label, hue, effect) in named {
        let Some(effect) = effect else { continue };
        for (figure, how, fill) in [
            (effect.up, "up in the base", Fill::Solid),
            (effect.down, "down in the organism", Fill::Pale),
        ] {
            let Some(figure) = figure else { continue };
            let about = format!("{label}, {how}");
            let label = if fill == Fill::Solid { label } else { how };
            rows.push(Bar {
                label: label.to_owned(),
                about,
                figure,
                hue,
                fill,
            });
        }
    }
    if rows.is_empty() {
        return None;
    }
    let chart = Bars {
        title: "Steering against its controls".to_owned(),
        axis: "shift caused by steering".to_owned(),
        unit: Unit::Shift,
        rows,
    };
    let caption = "The same push with directions that should do nothing. Full bars: added to the \
                   base model. Pale bars: taken out of the organism.";
    Some(Picture::bars("controls", caption, &chart))
}

/// The judges' calibration.
pub(super) fn judges(results: &Results) -> Option<Picture> {
    let judges = if results.judges.is_empty() {
        results.judge.as_slice()
    } else {
        results.judges.as_slice()
    };
    if judges.is_empty() {
        return None;
    }
    let mark = |j: &crate::Judge| Mark {
        label: j.name.clone(),
        auc: j.auc,
        n: j.n,
    };
    let chart = Strip {
        title: "Calibration of the judges".to_owned(),
        least: LEAST_AUC,
        marks: judges.iter().map(mark).collect(),
    };
    let caption = "How well each judge tells labelled answers apart. Below 0.8 it gives no \
                   verdict, and shares that would rest on it are left out.";
    Some(Picture::strip("judges", caption, &chart))
}

/// The targets.
pub(super) fn verdicts(results: &Results) -> Vec<Verdict> {
    let verdict = |t: &crate::Target| Verdict {
        name: visible(&t.name),
        wanted: visible(&t.wanted),
        found: visible(&t.found),
        reached: t.reached,
    };
    results.targets.iter().map(verdict).collect()
}

/// Where the time went.
pub(super) fn timings(results: &Results) -> Vec<Timing> {
    let seconds = || results.timings.iter().map(|(_, t)| t.0).filter(|t| t.is_finite());
    let longest = seconds().fold(0.0, f64::max);
    let timing = |(stage, t): (&str, &crate::Real)| {
        let share = if longest > 0.0 && t.0 > 0.0 { t.0 / longest } else { 0.0 };
        Timing {
            stage: visible(stage),
            time: number::duration(t.0),
            width: format!("{:.1}", 100.0 * share),
        }
    };
    results.timings.iter().map(timing).collect()
}

/// The time of all stages together.
pub(super) fn total(results: &Results) -> String {
    number::duration(results.timings.iter().map(|(_, t)| t.0).filter(|t| t.is_finite()).sum())
}

/// Everything that identifies the run.
pub(super) fn provenance(results: &Results) -> Vec<(String, String)> {
    let mut rows: Vec<(String, String)> = Vec::new();
    let mut push = |name: &str, value: String| {
        if !value.is_empty() {
            rows.push((visible(name), visible(&value)));
        }
    };
    push("Model", results.model.name.clone());
    push("SHA-256 of the model", results.model.sha256.clone());
    push("Tuned model", results.tuned.clone().unwrap_or_default());
    push("Seed", results.seed.to_string());
    push("Device", format!("{}, {} threads", results.device, results.threads));
    let memory = results.peak_rss_mib.filter(|m| m.is_finite());
    push("Peak memory", memory.map(|m| format!("{m:.0} MiB")).unwrap_or_default());
    push("Ended", results.created.clone());
    for (name, version) in results.versions.iter() {
        push(name, version.clone());
    }
    for (name, hash) in results.data.iter() {
        push(name, hash.clone());
    }
    rows
}
