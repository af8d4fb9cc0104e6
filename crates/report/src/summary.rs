//! The summary that ends a run on the terminal.

use std::path::Path;

use crate::number::{self, ABSENT, Unit};
use crate::results::{Arm, Measures, Results};
use crate::story;
use crate::text::{shorten, visible_line, wrap};

const WIDTH: usize = 80;
const LABEL: usize = 32;
const MOST_ARMS: usize = 11;

/// The run in at most 25 lines of at most 80 characters of plain text, ending with the page's path.
///
/// Only the path may be longer than a line: it has to stay whole to be clicked.
pub fn summary(results: &Results, page: &Path) -> String {
    let mut lines = Vec::new();
    let mut story = story::headline(results).sentence();
    if let Some(undone) = story::undone_sentence(results) {
        story.push_str(&format!(" {undone}"));
    }
    paragraph(&mut lines, &story, 5);
    lines.push(String::new());

    lines.push(format!(
        "{:LABEL$}{:>20}{:>9}{:>6}{:>7}{:>6}",
        "", "shift [95 %]", "misalig.", "cues", "coher.", "facts"
    ));
    let mut telling: Vec<&Arm> = results
        .arms
        .iter()
        .filter(|(name, _)| !story::is_lesser_dose(results, name))
        .map(|(_, arm)| arm)
        .collect();
    let more = results.arms.len() > telling.len();
    if telling.len() + usize::from(more) > MOST_ARMS {
        telling.truncate(MOST_ARMS - 1);
    }
    let shown = telling.len();
    lines.extend(telling.into_iter().map(|arm| row(results, arm)));
    if results.arms.len() > shown {
        lines.push(format!("({} more on the page)", results.arms.len() - shown));
    }
    lines.push(String::new());

    if let Some(judge) = story::judge_sentence(results) {
        paragraph(&mut lines, &judge, 2);
    }
    if !results.targets.is_empty() {
        let missed: Vec<&str> = results
            .targets
            .iter()
            .filter(|t| !t.reached)
            .map(|t| t.name.as_str())
            .collect();
        let reached = results.targets.len() - missed.len();
        let mut text = format!("{reached} of {} targets reached", results.targets.len());
        if !missed.is_empty() {
            text.push_str(&format!("; missed: {}", missed.join(", ")));
        }
        paragraph(&mut lines, &text, 2);
    }
    let seconds: f64 = results.timings.iter().map(|(_, t)| t.0).filter(|t| t.is_finite()).sum();
    let mut cost = format!("seed {}, {}", results.seed, results.device);
    if seconds > 0.0 {
        cost.push_str(&format!(", {}", number::duration(seconds)));
    }
    if let Some(mib) = results.peak_rss_mib {
        cost.push_str(&format!(", peak memory {mib:.0} MiB"));
    }
    paragraph(&mut lines, &cost, 1);
    lines.push(page.display().to_string());
    let mut text = lines.join("\n");
    text.push('\n');
    text
}

/// One arm; shares are of preferred answers where none were sampled.
fn row(results: &Results, arm: &Arm) -> String {
    let share = |mean: Option<f64>| mean.map_or_else(|| ABSENT.to_owned(), number::share);
    let misaligned = |m: &Measures| {
        let sampled = results
            .organism()
            .is_some_and(|(_, o)| o.figures.sampled_misaligned.is_some());
        if sampled {
            m.sampled_misaligned.map(|f| f.mean)
        } else {
            Some(m.preference_misaligned.mean)
        }
    };
    let shift = arm
        .figures
        .shift
        .map_or_else(|| ABSENT.to_owned(), |f| Unit::Shift.figure(&f));
    let row = format!(
        "{:LABEL$}{shift:>20}{:>9}{:>6}{:>7}{:>6}",
        shorten(&visible_line(&arm.label), LABEL - 1),
        share(misaligned(&arm.figures)),
        share(arm.cues.as_ref().and_then(misaligned)),
        share(arm.figures.coherence.map(|f| f.mean)),
        share(arm.figures.facts.map(|f| f.mean)),
    );
    shorten(&number::ascii(&row), WIDTH)
}

/// Adds a text in at most `most` lines; what doesn't fit ends in an ellipsis.
fn paragraph(lines: &mut Vec<String>, text: &str, most: usize) {
    let mut wrapped = wrap(&number::ascii(&visible_line(text)), WIDTH);
    if wrapped.len() > most {
        wrapped.truncate(most);
        if let Some(last) = wrapped.last_mut() {
            *last = shorten(&format!("{last} …"), WIDTH - 1);
            if !last.ends_with('…') {
                last.push('…');
            }
        }
    }
    lines.extend(wrapped);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(name: &str) -> Results {
        Results::from_json(match name {
            "full" => include_str!("../tests/fixtures/full.json"),
            _ => include_str!("../tests/fixtures/audit.json"),
        })
        .unwrap()
    }

    fn check(results: &Results) -> String {
        let text = summary(results, Path::new("runs/demo/report.html"));
        assert!(text.lines().count() <= 25, "{text}");
        assert!(text.lines().all(|l| l.chars().count() <= WIDTH), "{text}");
        assert!(text.ends_with("runs/demo/report.html\n"), "{text}");
        assert!(!text.contains('\u{1b}'));
        text
    }

    #[test]
    fn a_full_run_fits_a_terminal() {
        let text = check(&sample("full"));
        assert!(text.contains("+0.69 [+0.44, +0.95]"), "{text}");
        assert!(text.contains("targets reached; missed: "), "{text}");
    }

    #[test]
    fn an_audit_fits_a_terminal() {
        let text = check(&sample("audit"));
        assert!(!text.contains("undid") && !text.contains("targets"), "{text}");
    }

    #[test]
    fn long_names_and_many_arms_still_fit() {
        let mut results = sample("full");
        let arm = results.base().unwrap().clone();
        for i in 0..40 {
            let mut arm = arm.clone();
            arm.label = format!("an arm \u{1b}[31m with a name that never wants to end, number {i}");
            results.arms.insert(format!("realigned_{i}"), arm);
        }
        results.model.name = "model ".repeat(200);
        for target in &mut results.targets {
            (target.reached, target.name) = (false, "word ".repeat(60));
        }
        results.judge.as_mut().unwrap().name = "judge".repeat(80);
        results.device = "device".repeat(80);
        check(&results);
    }
}
