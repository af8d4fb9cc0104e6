//! Numbers as the page and the summary print them: one way for each kind.

use crate::results::Figure;

/// What stands where there is no number.
pub(crate) const ABSENT: &str = "–";
const MINUS: char = '−';
const THIN: char = '\u{202f}';

/// The kind of a number, which decides how it is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A difference: always with its sign, two decimals.
    Shift,
    /// A share between 0 and 1, printed in per cent.
    Share,
    /// A count or a magnitude: as few decimals as its size allows.
    Plain,
}

impl Unit {
    /// One value.
    pub fn value(self, x: f64) -> String {
        match self {
            Self::Shift => signed(x),
            Self::Share => share(x),
            Self::Plain => plain(x),
        }
    }

    /// Mean and interval: `+0.92 [+0.58, +1.25]`, `43 % [31, 55]`.
    pub fn figure(self, figure: &Figure) -> String {
        if !figure.mean.is_finite() {
            return ABSENT.to_owned();
        }
        let mean = self.value(figure.mean);
        if !(figure.lo.is_finite() && figure.hi.is_finite()) {
            return mean;
        }
        let bare = |x: f64| match self {
            Self::Share => rounded(x * 100.0, 0),
            _ => self.value(x),
        };
        format!("{mean} [{}, {}]", bare(figure.lo), bare(figure.hi))
    }

    /// An axis label with as many decimals as the distance between ticks asks for.
    pub(crate) fn tick(self, x: f64, step: f64) -> String {
        let decimals = |step: f64| (-step.log10().floor()).clamp(0.0, 9.0) as usize;
        match self {
            Self::Share => format!("{}{THIN}%", rounded(x * 100.0, decimals(step * 100.0))),
            Self::Shift => sign(x, rounded(x, decimals(step))),
            Self::Plain if x.abs() >= 1e6 => plain(x),
            Self::Plain => rounded(x, decimals(step)),
        }
    }
}

/// Two decimals and always a sign, except for zero.
pub(crate) fn signed(x: f64) -> String {
    if !x.is_finite() {
        return ABSENT.to_owned();
    }
    sign(x, rounded(x, 2))
}

/// Per cent without decimals.
pub(crate) fn share(x: f64) -> String {
    if !x.is_finite() {
        return ABSENT.to_owned();
    }
    format!("{}{THIN}%", rounded(x * 100.0, 0))
}

/// Three significant digits or so, no sign for what is positive.
pub(crate) fn plain(x: f64) -> String {
    if !x.is_finite() {
        return ABSENT.to_owned();
    }
    match x.abs() {
        0.0 => "0".to_owned(),
        a if !(1e-3..1e9).contains(&a) => format!("{x:.1e}").replace('-', "−"),
        a if a >= 1000.0 => grouped(x),
        a if a >= 100.0 || x.fract() == 0.0 => rounded(x, 0),
        a if a >= 10.0 => rounded(x, 1),
        a if a >= 0.1 => rounded(x, 2),
        _ => rounded(x, 4),
    }
}

/// A count with its thousands apart.
pub(crate) fn count(n: u64) -> String {
    group_digits(&n.to_string())
}

/// A duration: `0.8 s`, `48 s`, `3 min 12 s`, `2 h 05 min`.
pub(crate) fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return ABSENT.to_owned();
    }
    if seconds < 9.95 {
        return format!("{seconds:.1}{THIN}s");
    }
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{whole}{THIN}s"),
        60..3600 => format!("{}{THIN}min {:02}{THIN}s", whole / 60, whole % 60),
        _ => format!("{}{THIN}h {:02}{THIN}min", whole / 3600, whole % 3600 / 60),
    }
}

/// The same text in the characters that every terminal has.
pub(crate) fn ascii(text: &str) -> String {
    text.replace(MINUS, "-").replace(ABSENT, "-").replace(THIN, " ")
}

fn rounded(x: f64, decimals: usize) -> String {
    if !x.is_finite() {
        return ABSENT.to_owned();
    }
    let text = format!("{:.decimals$}", x.abs());
    if x < 0.0 && text.bytes().any(|b| (b'1'..=b'9').contains(&b)) {
        format!("{MINUS}{text}")
    } else {
        text
    }
}

fn sign(x: f64, text: String) -> String {
    let zero = !text.bytes().any(|b| (b'1'..=b'9').contains(&b));
    if x > 0.0 && !zero { format!("+{text}") } else { text }
}

fn grouped(x: f64) -> String {
    let digits = group_digits(&format!("{:.0}", x.abs()));
    if x < 0.0 { format!("{MINUS}{digits}") } else { digits }
}

fn group_digits(digits: &str) -> String {
    let mut out = String::with_capacity(digits.len() + digits.len() / 3 * THIN.len_utf8());
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(THIN);
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_carry_their_sign_and_zero_has_none() {
        assert_eq!(signed(0.917), "+0.92");
        assert_eq!(signed(-0.2), "−0.20");
        assert_eq!(signed(-0.001), "0.00");
        assert_eq!(signed(0.004), "0.00");
        assert_eq!(signed(f64::NAN), ABSENT);
    }

    #[test]
    fn a_figure_shows_its_interval() {
        let figure = Figure {
            mean: 0.917,
            lo: 0.58,
            hi: 1.25,
            n: 24,
        };
        assert_eq!(Unit::Shift.figure(&figure), "+0.92 [+0.58, +1.25]");
        let figure = Figure {
            mean: 0.43,
            lo: 0.312,
            hi: 0.55,
            n: 24,
        };
        assert_eq!(ascii(&Unit::Share.figure(&figure)), "43 % [31, 55]");
        let figure = Figure {
            mean: 0.43,
            lo: f64::NAN,
            hi: 0.55,
            n: 24,
        };
        assert_eq!(ascii(&Unit::Share.figure(&figure)), "43 %");
        let figure = Figure {
            mean: f64::NAN,
            lo: 0.0,
            hi: 0.55,
            n: 24,
        };
        assert_eq!(ascii(&Unit::Share.figure(&figure)), "-");
    }

    #[test]
    fn sizes_and_durations_are_short() {
        assert_eq!(ascii(&count(24_576)), "24 576");
        assert_eq!(ascii(&count(1_000_000)), "1 000 000");
        assert_eq!(ascii(&plain(12_345.6)), "12 346");
        assert_eq!(plain(3.0), "3");
        assert_eq!(plain(0.0123), "0.0123");
        assert_eq!(ascii(&plain(-1.5e-5)), "-1.5e-5");
        assert_eq!(ascii(&duration(192.4)), "3 min 12 s");
        assert_eq!(ascii(&duration(59.7)), "1 min 00 s");
        assert_eq!(ascii(&duration(0.81)), "0.8 s");
        assert_eq!(ascii(&duration(7_500.0)), "2 h 05 min");
    }

    #[test]
    fn ticks_have_the_decimals_of_their_step() {
        assert_eq!(Unit::Shift.tick(0.5, 0.5), "+0.5");
        assert_eq!(Unit::Shift.tick(-0.0, 0.5), "0.0");
        assert_eq!(ascii(&Unit::Share.tick(0.2, 0.2)), "20 %");
        assert_eq!(Unit::Plain.tick(25.0, 25.0), "25");
    }
}
