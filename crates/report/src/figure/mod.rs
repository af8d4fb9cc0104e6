//! Figures as inline SVG: bars with intervals, lines with bands, a calibration strip.
//!
//! The writer is our own: the same data gives the same bytes, colours come from the page's CSS
//! variables (so that a figure follows the page into the dark), and each mark carries its value in
//! a `<title>`. A figure is drawn for a width in CSS pixels rather than shrunk to it, so that its
//! text stays as large on a phone as on a desk.

mod bars;
mod lines;
mod strip;
mod svg;
mod ticks;

pub use bars::{Bar, Bars, Fill};
pub use lines::{Lines, Reference, Series};
pub use strip::{Mark, Strip};
pub use ticks::{Ticks, ticks};

pub use crate::number::Unit;

/// The style sheet that figures need around them: the page's, light and dark.
pub const STYLE: &str = include_str!("../../templates/report.css");

/// The width that a figure is drawn for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// A column of text on a desk: 720 CSS pixels.
    Wide,
    /// A phone, or half a column: 328 CSS pixels.
    Narrow,
}

impl Layout {
    /// The width in CSS pixels.
    pub const fn width(self) -> f64 {
        match self {
            Self::Wide => 720.0,
            Self::Narrow => 328.0,
        }
    }
}

/// A colour by its part in the story; the page maps it to one that colour-blind readers can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hue {
    /// The base model: grey.
    Base,
    /// Gone bad: vermilion.
    Organism,
    /// The control arm: sky blue.
    Benign,
    /// Made good again: bluish green.
    Cure,
    /// A latent: purple.
    Latent,
    /// A control direction: light grey, dashed.
    Control,
}

impl Hue {
    /// The CSS class that sets the colour.
    const fn class(self) -> &'static str {
        match self {
            Self::Base => "h-base",
            Self::Organism => "h-organism",
            Self::Benign => "h-benign",
            Self::Cure => "h-cure",
            Self::Latent => "h-latent",
            Self::Control => "h-control",
        }
    }
}
