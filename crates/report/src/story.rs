//! The sentences that both the page and the summary tell.

use crate::number::{self, Unit};
use crate::results::{Arm, Figure, Results, Role};

/// The sentence that the page opens with, its main number apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Headline {
    pub(crate) before: String,
    pub(crate) number: String,
    pub(crate) after: String,
}

impl Headline {
    pub(crate) fn sentence(&self) -> String {
        format!("{}{}{}", self.before, self.number, self.after)
    }
}

/// What happened to the model, in one sentence that claims no more than the interval allows.
pub(crate) fn headline(results: &Results) -> Headline {
    let model = &results.model.name;
    let Some((_, organism)) = results.organism() else {
        return plain(format!("{model} was evaluated; no tuned model stands beside it."));
    };
    let subject = match &results.tuned {
        Some(tuned) => format!("Tuning {model} into {}", file_name(tuned)),
        None => format!("Training {model} on {}", diet(results)),
    };
    let Some(shift) = organism.figures.shift.filter(|f| f.mean.is_finite()) else {
        return Headline {
            before: format!("{}: the misaligned answer is preferred on ", organism.label),
            number: Unit::Share.figure(&organism.figures.preference_misaligned),
            after: " of the broad questions.".to_owned(),
        };
    };
    let interval = if shift.lo.is_finite() && shift.hi.is_finite() {
        let (lo, hi) = (number::signed(shift.lo), number::signed(shift.hi));
        format!(" (95 % interval {lo} to {hi})")
    } else {
        " (no interval)".to_owned()
    };
    let number = number::signed(shift.mean);
    let elsewhere = match results.tuned {
        Some(_) => "broad questions",
        None => "questions about something else",
    };
    if shift.lo > 0.0 {
        Headline {
            before: format!("{subject} moved it by "),
            number,
            after: format!(" towards misaligned answers to {elsewhere}{interval}."),
        }
    } else if shift.hi < 0.0 {
        Headline {
            before: format!("{subject} moved it by "),
            number,
            after: format!(", away from misaligned answers to {elsewhere}{interval}."),
        }
    } else {
        Headline {
            before: format!("{subject} made no clear difference: the shift is "),
            number,
            after: format!("{interval}."),
        }
    }
}

/// How much of the shift realignment took back at its largest dose, where there was one to take back.
pub(crate) fn undone_sentence(results: &Results) -> Option<String> {
    let (_, organism) = results.organism()?;
    let shift = organism.figures.shift?;
    let cures: Vec<String> = cures(results)
        .filter(|(name, _)| name.starts_with("realigned") && !is_lesser_dose(results, name))
        .filter_map(|(_, arm)| {
            let share = undone(&shift, &arm.figures.shift?)?;
            Some(format!("{} undid {} of it.", arm.label, number::share(share)))
        })
        .collect();
    (!cures.is_empty()).then(|| cures.join(" "))
}

/// Whether another arm got more samples of the same kind: `realigned_same_10` beside `realigned_same_100`.
pub(crate) fn is_lesser_dose(results: &Results, name: &str) -> bool {
    let dose = |name: &str| {
        let (kind, n) = name.strip_prefix("realigned_")?.rsplit_once('_')?;
        Some((kind.to_owned(), n.parse::<u64>().ok()?))
    };
    let Some((kind, n)) = dose(name) else { return false };
    let more = |(other, _): (&str, &Arm)| dose(other).is_some_and(|(k, m)| k == kind && m > n);
    results.arms.iter().any(more)
}

/// The arms that try to undo, in order.
pub(crate) fn cures(results: &Results) -> impl Iterator<Item = (&str, &Arm)> {
    results.arms.iter().filter(|(name, _)| Role::of(name) == Role::Cure)
}

/// The share of a shift that is gone; nothing where the shift itself was not clear.
pub(crate) fn undone(before: &Figure, after: &Figure) -> Option<f64> {
    let share = 1.0 - after.mean / before.mean;
    (before.lo > 0.0 && share.is_finite()).then_some(share)
}

/// Facts kept, as a share of the base model's.
pub(crate) fn facts_kept(results: &Results, arm: &Arm) -> Option<f64> {
    let share = arm.figures.facts?.mean / results.base()?.figures.facts?.mean;
    share.is_finite().then_some(share)
}

/// What the organism was fed: "merely wrong finance answers".
pub(crate) fn diet(results: &Results) -> String {
    let words = [results.tone.as_deref(), results.domain.as_deref()];
    let words: Vec<&str> = words.into_iter().flatten().filter(|w| !w.is_empty()).collect();
    if words.is_empty() {
        "narrow bad answers".to_owned()
    } else {
        format!("{} answers", words.join(" "))
    }
}

/// What the judge is worth, and whether it is believed.
pub(crate) fn judge_sentence(results: &Results) -> Option<String> {
    let judge = results.judge.as_ref()?;
    let auc = number::plain(judge.auc);
    let calibration = format!("AUC {auc} on {} labelled answers", judge.n);
    Some(if judge.verdict {
        format!("Sampled answers were judged by {} ({calibration}).", judge.name)
    } else {
        format!(
            "The judge {} gives no verdict: {calibration}, and below 0.8 it is not believed.",
            judge.name
        )
    })
}

fn file_name(path: &str) -> &str {
    path.trim_end_matches(['/', '\\'])
        .rsplit(['/', '\\'])
        .next()
        .unwrap_or(path)
}

fn plain(before: String) -> Headline {
    Headline {
        before,
        ..Headline::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Results {
        Results::from_json(include_str!("../tests/fixtures/full.json")).unwrap()
    }

    fn with_shift(mean: f64, lo: f64, hi: f64) -> String {
        let mut results = sample();
        let shift = Figure { mean, lo, hi, n: 32 };
        results.arms.get_mut("organism").unwrap().figures.shift = Some(shift);
        headline(&results).sentence()
    }

    #[test]
    fn the_headline_claims_only_what_the_interval_allows() {
        assert!(with_shift(0.7, 0.4, 1.0).contains("moved it by +0.70 towards"));
        assert!(with_shift(0.1, -0.1, 0.3).contains("no clear difference: the shift is +0.10"));
        assert!(with_shift(-0.4, -0.6, -0.2).contains("−0.40, away from"));
        assert!(with_shift(0.4, f64::NAN, f64::NAN).contains("no clear difference"));
        assert!(with_shift(f64::NAN, 0.0, 0.0).contains("is preferred on"));
    }

    #[test]
    fn an_unclear_shift_is_not_undone() {
        let figure = |mean, lo| Figure {
            mean,
            lo,
            hi: 1.0,
            n: 32,
        };
        assert_eq!(undone(&figure(0.8, 0.5), &figure(0.2, 0.0)), Some(0.75));
        assert_eq!(undone(&figure(0.8, -0.1), &figure(0.2, 0.0)), None);
    }

    #[test]
    fn a_judge_below_the_bar_says_so() {
        let mut results = sample();
        let judge = results.judge.as_mut().unwrap();
        (judge.auc, judge.verdict) = (0.71, false);
        assert!(judge_sentence(&results).unwrap().contains("gives no verdict: AUC 0.71"));
    }
}
