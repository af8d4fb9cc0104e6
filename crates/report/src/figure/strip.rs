//! A calibration strip: each judge's AUC against the least that earns a verdict.

use super::svg::{Anchor, Svg, fit};
use super::{Layout, ticks};

/// Judges on one scale of AUC.
#[derive(Debug, Clone)]
pub struct Strip {
    /// What is shown, for readers of the picture's description.
    pub title: String,
    /// The AUC below which a judge gives no verdict.
    pub least: f64,
    /// The judges, from the top.
    pub marks: Vec<Mark>,
}

/// One judge.
#[derive(Debug, Clone)]
pub struct Mark {
    /// The judge's name.
    pub label: String,
    /// Its AUC.
    pub auc: f64,
    /// How many labelled answers it was calibrated on.
    pub n: usize,
}

impl Strip {
    /// The chart as inline SVG.
    pub fn svg(&self, layout: Layout) -> String {
        const ROW: f64 = 46.0;
        const TOP: f64 = 24.0;
        let width = layout.width();
        let (left, right) = (14.0, width - 18.0);
        let mut svg = Svg::new(width);
        let worst = self
            .marks
            .iter()
            .map(|m| m.auc)
            .filter(|a| a.is_finite())
            .fold(0.5, f64::min);
        let axis = ticks(worst.max(0.0), 1.0, 6);
        let x = |v: f64| left + (v - axis.lo()) / (axis.hi() - axis.lo()) * (right - left);
        let bottom = TOP + ROW * self.marks.len() as f64;

        svg.rect(
            "refuse",
            (x(axis.lo()), TOP),
            (x(self.least) - x(axis.lo()), bottom - TOP),
            0.0,
        );
        svg.text("tick", Anchor::Start, (x(axis.lo()) + 2.0, 15.0), "no verdict");
        svg.text("tick", Anchor::End, (right, 15.0), "gives verdicts");
        for &tick in &axis.values {
            svg.line("grid", (x(tick), TOP), (x(tick), bottom));
            let label = super::Unit::Plain.tick(tick, axis.step);
            svg.text("tick", Anchor::Middle, (x(tick), bottom + 18.0), &label);
        }
        svg.line("reference", (x(self.least), TOP - 6.0), (x(self.least), bottom));
        for (i, mark) in self.marks.iter().enumerate() {
            let y = TOP + ROW * i as f64;
            let trusted = mark.auc >= self.least;
            let hue = if trusted {
                super::Hue::Cure
            } else {
                super::Hue::Organism
            };
            let value = crate::number::plain(mark.auc);
            svg.open_tip(hue.class(), &format!("{}: AUC {value}, n = {}", mark.label, mark.n));
            svg.rect("hit", (left, y), (right - left, ROW), 0.0);
            let label = fit(&mark.label, 13.0, right - left - 60.0);
            svg.text("label", Anchor::Start, (left + 2.0, y + 18.0), &label);
            svg.text("value", Anchor::End, (right - 2.0, y + 18.0), &value);
            if mark.auc.is_finite() {
                svg.line("stem", (x(axis.lo()), y + 33.0), (x(mark.auc), y + 33.0));
                svg.marker(hue, (x(mark.auc), y + 33.0));
            }
            svg.close();
        }
        let label = "AUC on labelled answers (0.5 is guessing)";
        svg.text(
            "axis",
            Anchor::Start,
            (left, bottom + 38.0),
            &fit(label, 12.0, width - 20.0),
        );
        svg.finish(bottom + 46.0, &self.title)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_judge_worse_than_guessing_still_lies_on_the_axis() {
        let mark = Mark {
            label: "coin".into(),
            auc: 0.31,
            n: 120,
        };
        let strip = Strip {
            title: "t".into(),
            least: 0.8,
            marks: vec![mark],
        };
        let svg = strip.svg(Layout::Wide);
        assert!(
            svg.contains(">0.2<") && svg.contains("coin: AUC 0.31, n = 120"),
            "{svg}"
        );
    }
}
