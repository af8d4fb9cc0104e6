//! A figure on the page: drawn for a desk and for a phone, with its numbers as a table.

use crate::figure::{Bars, Layout, Lines, Strip};
use crate::number::{self, Unit};
use crate::results::Figure;
use crate::text::visible_line;

/// A figure ready for the template.
pub(super) struct Picture {
    pub(super) file: String,
    pub(super) caption: String,
    /// Inline SVG for a desk; half-column figures have none.
    pub(super) wide: Option<String>,
    /// Inline SVG for a phone.
    pub(super) narrow: String,
    pub(super) head: Vec<&'static str>,
    pub(super) rows: Vec<Vec<String>>,
}

impl Picture {
    pub(super) fn bars(file: &str, caption: &str, chart: &Bars) -> Self {
        let mut head = vec![""];
        head.extend(FIGURE);
        let rows = chart.rows.iter().map(|bar| {
            let mut row = vec![visible_line(&bar.about)];
            row.extend(cells(chart.unit, &bar.figure));
            row
        });
        Self {
            file: file.to_owned(),
            caption: caption.to_owned(),
            wide: Some(chart.svg(Layout::Wide)),
            narrow: chart.svg(Layout::Narrow),
            head,
            rows: rows.collect(),
        }
    }

    pub(super) fn lines(file: &str, caption: &str, chart: &Lines) -> Self {
        Self {
            wide: Some(chart.svg(Layout::Wide)),
            ..Self::half_lines(file, caption, chart)
        }
    }

    /// A line chart that takes half a column on a desk too.
    pub(super) fn half_lines(file: &str, caption: &str, chart: &Lines) -> Self {
        let mut head = vec!["", "at"];
        head.extend(FIGURE);
        let rows = chart.series.iter().flat_map(|series| {
            series.points.iter().map(|(place, figure)| {
                let mut row = vec![visible_line(&series.label), number::plain(*place)];
                row.extend(cells(chart.unit, figure));
                row
            })
        });
        Self {
            file: file.to_owned(),
            caption: caption.to_owned(),
            wide: None,
            narrow: chart.svg(Layout::Narrow),
            head,
            rows: rows.collect(),
        }
    }

    pub(super) fn strip(file: &str, caption: &str, chart: &Strip) -> Self {
        let row = |m: &crate::figure::Mark| vec![visible_line(&m.label), number::plain(m.auc), m.n.to_string()];
        Self {
            file: file.to_owned(),
            caption: caption.to_owned(),
            wide: Some(chart.svg(Layout::Wide)),
            narrow: chart.svg(Layout::Narrow),
            head: vec!["Judge", "AUC", "n"],
            rows: chart.marks.iter().map(row).collect(),
        }
    }
}

const FIGURE: [&str; 4] = ["mean", "from", "to", "n"];

fn cells(unit: Unit, figure: &Figure) -> [String; 4] {
    [
        unit.value(figure.mean),
        unit.value(figure.lo),
        unit.value(figure.hi),
        figure.n.to_string(),
    ]
}
