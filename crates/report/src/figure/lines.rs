//! Lines with bands: dose-response and realignment curves.

use super::svg::{Anchor, Svg, fit, text_width};
use super::{Hue, Layout, Unit, ticks};
use crate::results::Figure;

/// A line chart.
#[derive(Debug, Clone)]
pub struct Lines {
    /// What is shown, for readers of the picture's description.
    pub title: String,
    /// What the horizontal axis measures.
    pub x: String,
    /// What the vertical axis measures.
    pub y: String,
    /// How vertical values are printed.
    pub unit: Unit,
    /// The curves.
    pub series: Vec<Series>,
    /// Horizontal lines to compare with.
    pub references: Vec<Reference>,
}

/// One curve: a figure at each place.
#[derive(Debug, Clone)]
pub struct Series {
    /// Its name in the legend.
    pub label: String,
    /// Its colour, marker and dash.
    pub hue: Hue,
    /// Places and figures, ascending in place.
    pub points: Vec<(f64, Figure)>,
}

/// A horizontal line with a name.
#[derive(Debug, Clone)]
pub struct Reference {
    /// Its height.
    pub at: f64,
    /// Its name.
    pub label: String,
}

const TOP: f64 = 30.0;

impl Lines {
    /// The chart as inline SVG.
    pub fn svg(&self, layout: Layout) -> String {
        let width = layout.width();
        let plot_height = if layout == Layout::Wide { 260.0 } else { 200.0 };
        let mut svg = Svg::new(width);

        let figures = || self.series.iter().flat_map(|s| &s.points).map(|(_, f)| f);
        let heights = figures()
            .flat_map(|f| [f.mean, f.lo, f.hi])
            .chain(self.references.iter().map(|r| r.at));
        let (lo, hi) = range(heights.chain([0.0]));
        let hi = if self.unit == Unit::Share { hi.max(1.0) } else { hi };
        let places = self.series.iter().flat_map(|s| &s.points).map(|(x, _)| *x);
        let (first, last) = range(places);
        let y_axis = ticks(lo, hi, 6);
        let x_axis = ticks(first, last, if layout == Layout::Wide { 9 } else { 6 });

        let labels = y_axis.values.iter().map(|&v| self.unit.tick(v, y_axis.step));
        let left = labels.map(|l| text_width(&l, 12.0)).fold(0.0, f64::max) + 12.0;
        let right = width - 14.0;
        let bottom = TOP + plot_height;
        let x = |v: f64| left + (v - x_axis.lo()) / (x_axis.hi() - x_axis.lo()) * (right - left);
        let y = |v: f64| bottom - (v - y_axis.lo()) / (y_axis.hi() - y_axis.lo()) * plot_height;

        svg.text("axis", Anchor::Start, (0.0, 14.0), &fit(&self.y, 12.0, width));
        for &tick in &y_axis.values {
            let class = if tick == 0.0 { "zero" } else { "grid" };
            svg.line(class, (left, y(tick)), (right, y(tick)));
            let label = self.unit.tick(tick, y_axis.step);
            svg.text("tick", Anchor::End, (left - 8.0, y(tick) + 4.0), &label);
        }
        for &tick in &x_axis.values {
            svg.line("stub", (x(tick), bottom), (x(tick), bottom + 4.0));
            let label = Unit::Plain.tick(tick, x_axis.step);
            svg.text("tick", Anchor::Middle, (x(tick), bottom + 19.0), &label);
        }
        let middle = f64::midpoint(left, right);
        svg.text(
            "axis",
            Anchor::Middle,
            (middle, bottom + 39.0),
            &fit(&self.x, 12.0, width),
        );

        for series in &self.series {
            bands(&mut svg, series, &x, &y);
        }
        for reference in &self.references {
            let height = y(reference.at);
            svg.line("reference", (left, height), (right, height));
            // Above the line, unless that is where the plot ends.
            let at = if height - 6.0 < TOP + 8.0 {
                height + 15.0
            } else {
                height - 6.0
            };
            let label = fit(&reference.label, 12.0, right - left);
            svg.text("reference-label", Anchor::End, (right, at), &label);
        }
        for series in &self.series {
            curve(&mut svg, series, &x, &y);
        }
        for series in &self.series {
            for (place, figure) in series.points.iter().filter(|(_, f)| f.mean.is_finite()) {
                let tip = format!(
                    "{}, {} {}: {}, n = {}",
                    series.label,
                    self.x,
                    crate::number::plain(*place),
                    self.unit.figure(figure),
                    figure.n
                );
                svg.open_tip(series.hue.class(), &tip);
                svg.rect("hit", (x(*place) - 11.0, y(figure.mean) - 11.0), (22.0, 22.0), 0.0);
                svg.marker(series.hue, (x(*place), y(figure.mean)));
                svg.close();
            }
        }
        let end = self.legend(&mut svg, bottom + 62.0);
        svg.finish(end, &self.title)
    }

    /// Draws the legend in as many rows as it needs and returns where it ends.
    fn legend(&self, svg: &mut Svg, top: f64) -> f64 {
        let width = svg.width();
        let (mut x, mut y) = (0.0, top);
        for series in &self.series {
            let label = fit(&series.label, 13.0, width - 34.0);
            let wide = 34.0 + text_width(&label, 13.0) + 12.0;
            if x > 0.0 && x + wide > width {
                (x, y) = (0.0, y + 20.0);
            }
            svg.open_group(series.hue.class());
            let dash = if series.hue == Hue::Control {
                "curve dashed"
            } else {
                "curve"
            };
            svg.polyline(dash, &[(x + 1.0, y - 4.0), (x + 25.0, y - 4.0)]);
            svg.marker(series.hue, (x + 13.0, y - 4.0));
            svg.text("label", Anchor::Start, (x + 31.0, y), &label);
            svg.close();
            x += wide;
        }
        y + 10.0
    }
}

fn bands(svg: &mut Svg, series: &Series, x: &dyn Fn(f64) -> f64, y: &dyn Fn(f64) -> f64) {
    let bounded = |f: &Figure| f.lo.is_finite() && f.hi.is_finite();
    for run in runs(&series.points, bounded) {
        let edge = |v: fn(&Figure) -> f64| -> Vec<(f64, f64)> {
            run.iter().map(|(place, figure)| (x(*place), y(v(figure)))).collect()
        };
        svg.open_group(series.hue.class());
        svg.area("band", &edge(|f| f.hi), &edge(|f| f.lo));
        svg.close();
    }
}

fn curve(svg: &mut Svg, series: &Series, x: &dyn Fn(f64) -> f64, y: &dyn Fn(f64) -> f64) {
    let class = if series.hue == Hue::Control {
        "curve dashed"
    } else {
        "curve"
    };
    for run in runs(&series.points, |f| f.mean.is_finite()) {
        let points: Vec<_> = run.iter().map(|(place, f)| (x(*place), y(f.mean))).collect();
        svg.open_group(series.hue.class());
        svg.polyline(class, &points);
        svg.close();
    }
}

/// The stretches of at least two neighbouring points that can be drawn.
fn runs(points: &[(f64, Figure)], drawable: impl Fn(&Figure) -> bool) -> impl Iterator<Item = &[(f64, Figure)]> {
    points
        .split(move |(place, figure)| !(place.is_finite() && drawable(figure)))
        .filter(|run| run.len() > 1)
}

fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (lo, hi) = values
        .filter(|x| x.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), x| (lo.min(x), hi.max(x)));
    if lo > hi { (0.0, 0.0) } else { (lo, hi) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mean: f64) -> Figure {
        Figure {
            mean,
            lo: mean - 0.1,
            hi: mean + 0.1,
            n: 24,
        }
    }

    #[test]
    fn a_missing_point_breaks_the_line_and_draws_no_mark() {
        let points = vec![(0.0, at(0.0)), (1.0, at(f64::NAN)), (2.0, at(0.5)), (3.0, at(0.9))];
        let series = Series {
            label: "persona".into(),
            hue: Hue::Organism,
            points,
        };
        let chart = Lines {
            title: "t".into(),
            x: "strength".into(),
            y: "shift".into(),
            unit: Unit::Shift,
            series: vec![series],
            references: Vec::new(),
        };
        let svg = chart.svg(Layout::Narrow);
        assert_eq!(svg.matches("<title>").count(), 3);
        assert_eq!(svg.matches("class=\"band\"").count(), 1);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
