//! Horizontal bars with 95 % intervals.

use super::svg::{Anchor, Svg, fit, text_width};
use super::{Hue, Layout, Unit, ticks};
use crate::results::Figure;

/// A bar chart: one bar to a row, its value in figures at the right.
#[derive(Debug, Clone)]
pub struct Bars {
    /// What is shown, for readers of the picture's description.
    pub title: String,
    /// What the axis measures.
    pub axis: String,
    /// How values are printed.
    pub unit: Unit,
    /// The rows, from the top.
    pub rows: Vec<Bar>,
}

/// One bar.
#[derive(Debug, Clone)]
pub struct Bar {
    /// What stands beside it.
    pub label: String,
    /// The same in full, for a reader who sees this bar alone.
    pub about: String,
    /// Its length and interval.
    pub figure: Figure,
    /// Its colour.
    pub hue: Hue,
    /// How it is filled.
    pub fill: Fill,
}

/// How a bar is filled; a second channel beside colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// The plain case.
    Solid,
    /// The same thing under another condition: pale with an outline, close below its sibling.
    Pale,
}

impl Bars {
    /// The chart as inline SVG.
    pub fn svg(&self, layout: Layout) -> String {
        let width = layout.width();
        let mut svg = Svg::new(width);
        let value = |bar: &Bar| self.unit.figure(&bar.figure);
        let widest = |f: &dyn Fn(&Bar) -> f64| self.rows.iter().map(f).fold(0.0, f64::max);
        let values = widest(&|bar| text_width(&value(bar), 12.0));
        let (left, right) = match layout {
            Layout::Wide => {
                let labels = widest(&|bar| text_width(&bar.label, 13.0)).min(230.0);
                (labels + 14.0, width - values - 22.0)
            }
            Layout::Narrow => (8.0, width - 14.0),
        };
        let ends = self
            .rows
            .iter()
            .flat_map(|bar| [bar.figure.mean, bar.figure.lo, bar.figure.hi]);
        let (lo, hi) = ends
            .filter(|x| x.is_finite())
            .fold((0.0, 0.0), |(lo, hi): (f64, f64), x| (lo.min(x), hi.max(x)));
        let hi = if self.unit == Unit::Share { 1.0 } else { hi };
        let axis = ticks(lo, hi, if layout == Layout::Wide { 7 } else { 5 });
        let x = |v: f64| left + (v - axis.lo()) / (axis.hi() - axis.lo()) * (right - left);

        let (thick, text_rows) = match layout {
            Layout::Wide => (18.0, 0.0),
            Layout::Narrow => (14.0, 20.0),
        };
        let mut tops = Vec::new();
        let mut y = 6.0;
        for (i, bar) in self.rows.iter().enumerate() {
            if i > 0 {
                y += match bar.fill {
                    Fill::Solid => 16.0,
                    Fill::Pale => 5.0,
                };
            }
            tops.push(y);
            y += thick + text_rows;
        }
        let bottom = y + 8.0;

        for &tick in &axis.values {
            let class = if tick == 0.0 { "zero" } else { "grid" };
            match layout {
                Layout::Wide => svg.line(class, (x(tick), 0.0), (x(tick), bottom)),
                // Beside the bars only: the labels lie in between.
                Layout::Narrow => {
                    for top in tops.iter().map(|top| top + text_rows) {
                        svg.line(class, (x(tick), top - 2.0), (x(tick), top + thick + 2.0));
                    }
                }
            }
            let label = self.unit.tick(tick, axis.step);
            svg.text("tick", Anchor::Middle, (x(tick), bottom + 16.0), &label);
        }
        let axis_label = fit(&self.axis, 12.0, width - 8.0);
        let (anchor, at) = match layout {
            Layout::Wide => (Anchor::Middle, f64::midpoint(left, right)),
            Layout::Narrow => (Anchor::Start, left),
        };
        svg.text("axis", anchor, (at, bottom + 36.0), &axis_label);

        for (bar, &top) in self.rows.iter().zip(&tops) {
            let shown = value(bar);
            svg.open_tip(
                bar.hue.class(),
                &format!("{}: {shown}, n = {}", bar.about, bar.figure.n),
            );
            let class = match bar.fill {
                Fill::Solid => "label",
                Fill::Pale => "label soft",
            };
            let middle = match layout {
                Layout::Wide => {
                    let label = fit(&bar.label, 13.0, left - 12.0);
                    svg.text(class, Anchor::End, (left - 10.0, top + thick / 2.0 + 4.5), &label);
                    let at = (width - 4.0, top + thick / 2.0 + 4.5);
                    svg.text("value", Anchor::End, at, &shown);
                    top + thick / 2.0
                }
                Layout::Narrow => {
                    let room = width - values - 14.0;
                    let label = fit(&bar.label, 13.0, room);
                    svg.text(class, Anchor::Start, (8.0, top + 13.0), &label);
                    svg.text("value", Anchor::End, (width - 4.0, top + 13.0), &shown);
                    top + text_rows + thick / 2.0
                }
            };
            // An invisible row that a finger can hit.
            svg.rect("hit", (0.0, top - 2.0), (width, thick + text_rows + 4.0), 0.0);
            let figure = &bar.figure;
            if figure.mean.is_finite() {
                let (a, b) = (x(figure.mean.min(0.0)), x(figure.mean.max(0.0)));
                let class = match bar.fill {
                    Fill::Solid => "bar",
                    Fill::Pale => "bar pale",
                };
                let top = middle - thick / 2.0;
                svg.rect(class, (a, top), ((b - a).max(1.5), thick), 2.0);
                if figure.lo.is_finite() && figure.hi.is_finite() {
                    let (a, b) = (x(figure.lo), x(figure.hi));
                    svg.line("whisker", (a, middle), (b, middle));
                    svg.line("whisker", (a, middle - 4.0), (a, middle + 4.0));
                    svg.line("whisker", (b, middle - 4.0), (b, middle + 4.0));
                }
            }
            svg.close();
        }
        svg.finish(bottom + 44.0, &self.title)
    }
}
