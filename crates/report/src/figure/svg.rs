//! The few SVG elements that the figures are made of.

use std::fmt::Write;

use crate::text::escape;

/// Where a text's given point lies in it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// An SVG document under construction.
pub(super) struct Svg {
    body: String,
    width: f64,
}

impl Svg {
    pub(super) fn new(width: f64) -> Self {
        Self {
            body: String::new(),
            width,
        }
    }

    pub(super) const fn width(&self) -> f64 {
        self.width
    }

    pub(super) fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        self.push(format_args!(
            "<line class=\"{class}\" x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\"/>",
            px(from.0),
            px(from.1),
            px(to.0),
            px(to.1)
        ));
    }

    pub(super) fn rect(&mut self, class: &str, at: (f64, f64), size: (f64, f64), radius: f64) {
        self.push(format_args!(
            "<rect class=\"{class}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" rx=\"{}\"/>",
            px(at.0),
            px(at.1),
            px(size.0.max(0.0)),
            px(size.1.max(0.0)),
            px(radius)
        ));
    }

    pub(super) fn text(&mut self, class: &str, anchor: Anchor, at: (f64, f64), text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        self.push(format_args!(
            "<text class=\"{class}\" text-anchor=\"{anchor}\" x=\"{}\" y=\"{}\">{}</text>",
            px(at.0),
            px(at.1),
            escape(text)
        ));
    }

    /// An open line through the points.
    pub(super) fn polyline(&mut self, class: &str, points: &[(f64, f64)]) {
        let data = path(points.iter().copied());
        self.push(format_args!("<path class=\"{class}\" d=\"{data}\"/>"));
    }

    /// A filled area between an upper and a lower edge, both from left to right.
    pub(super) fn area(&mut self, class: &str, upper: &[(f64, f64)], lower: &[(f64, f64)]) {
        let data = path(upper.iter().copied().chain(lower.iter().rev().copied()));
        self.push(format_args!("<path class=\"{class}\" d=\"{data}Z\"/>"));
    }

    /// Opens a group that tells `tip` when pointed at, tapped or focused.
    pub(super) fn open_tip(&mut self, class: &str, tip: &str) {
        let tip = escape(tip);
        self.push(format_args!(
            "<g class=\"tip {class}\" tabindex=\"0\" role=\"img\" aria-label=\"{tip}\">\
             <title>{tip}</title>"
        ));
    }

    /// Opens a group that only sets a colour.
    pub(super) fn open_group(&mut self, class: &str) {
        self.push(format_args!("<g class=\"{class}\">"));
    }

    pub(super) fn close(&mut self) {
        self.body.push_str("</g>\n");
    }

    /// The marker of a series, a different shape for each hue.
    pub(super) fn marker(&mut self, hue: super::Hue, (x, y): (f64, f64)) {
        use super::Hue;
        let polygon = |points: &[(f64, f64)]| path(points.iter().map(|(dx, dy)| (x + dx, y + dy))) + "Z";
        let data = match hue {
            Hue::Organism | Hue::Base => {
                self.push(format_args!(
                    "<circle class=\"mark\" cx=\"{}\" cy=\"{}\" r=\"4\"/>",
                    px(x),
                    px(y)
                ));
                return;
            }
            Hue::Cure => polygon(&[(-3.7, -3.7), (3.7, -3.7), (3.7, 3.7), (-3.7, 3.7)]),
            Hue::Latent => polygon(&[(0.0, -5.2), (5.2, 0.0), (0.0, 5.2), (-5.2, 0.0)]),
            Hue::Benign => polygon(&[(0.0, -5.0), (4.8, 3.6), (-4.8, 3.6)]),
            Hue::Control => polygon(&[(-3.6, -3.6), (3.6, -3.6), (0.0, 4.4)]),
        };
        self.push(format_args!("<path class=\"mark\" d=\"{data}\"/>"));
    }

    /// The whole document.
    pub(super) fn finish(self, height: f64, title: &str) -> String {
        let (width, height) = (px(self.width), px(height));
        format!(
            "<svg class=\"chart\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
             height=\"{height}\" role=\"group\" aria-label=\"{}\">\n{}</svg>",
            escape(title),
            self.body
        )
    }

    fn push(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = self.body.write_fmt(element);
        self.body.push('\n');
    }
}

/// The width of a text in CSS pixels, on the generous side: system fonts differ.
pub(super) fn text_width(text: &str, size: f64) -> f64 {
    let ems: f64 = text
        .chars()
        .map(|c| match c {
            'i' | 'l' | 'j' | '.' | ',' | ':' | '\'' | '|' | ' ' | '\u{202f}' => 0.35,
            'm' | 'w' | 'M' | 'W' | '%' | '…' => 0.9,
            'A'..='Z' | '+' | '−' => 0.74,
            c if c.is_ascii() => 0.63,
            _ => 1.0,
        })
        .sum();
    ems * size
}

/// The text cut to a width in CSS pixels.
pub(super) fn fit(text: &str, size: f64, width: f64) -> String {
    let mut chars = text.chars().count();
    let mut fitted = text.to_owned();
    while chars > 1 && text_width(&fitted, size) > width {
        chars -= 1;
        fitted = crate::text::shorten(text, chars);
    }
    fitted
}

fn path(points: impl Iterator<Item = (f64, f64)>) -> String {
    let mut data = String::new();
    for (i, (x, y)) in points.enumerate() {
        data.push(if i == 0 { 'M' } else { 'L' });
        let _ = write!(data, "{} {}", px(x), px(y));
    }
    data
}

/// A coordinate with one decimal at most, so that every platform writes the same digits.
fn px(x: f64) -> String {
    let tenths = if x.is_finite() { (x * 10.0).round() } else { 0.0 };
    let x = tenths / 10.0 + 0.0;
    format!("{x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coordinates_have_one_decimal_and_no_negative_zero() {
        assert_eq!(px(0.1 + 0.2), "0.3");
        assert_eq!(px(-0.01), "0");
        assert_eq!(px(12.0), "12");
        assert_eq!(px(f64::NAN), "0");
    }

    #[test]
    fn a_fitted_text_is_not_wider_than_asked() {
        let text = "A rather long label for a bar";
        assert!(text_width(&fit(text, 13.0, 90.0), 13.0) <= 90.0);
        assert_eq!(fit(text, 13.0, 900.0), text);
    }
}
