//! Round numbers for an axis.

/// The ticks of an axis: evenly spaced multiples of a round step that cover a range.
#[derive(Debug, Clone, PartialEq)]
pub struct Ticks {
    /// The distance between ticks: 1, 2 or 5 times a power of ten.
    pub step: f64,
    /// The ticks, ascending; the first and the last are the ends of the axis.
    pub values: Vec<f64>,
}

impl Ticks {
    /// The lower end of the axis.
    pub fn lo(&self) -> f64 {
        self.values[0]
    }

    /// The upper end of the axis.
    pub fn hi(&self) -> f64 {
        self.values[self.values.len() - 1]
    }
}

/// At most `most` (and at least two) ticks whose ends enclose `lo` and `hi`.
///
/// Fewer than three can't straddle zero, so `most` counts as at least three. An empty, reversed or
/// non-finite range is widened into one that can be drawn; magnitudes end at 1e12.
pub fn ticks(lo: f64, hi: f64, most: usize) -> Ticks {
    const LARGEST: f64 = 1e12;
    let most = most.max(3);
    let finite = |x: f64| {
        if x.is_finite() { x.clamp(-LARGEST, LARGEST) } else { 0.0 }
    };
    let (mut lo, mut hi) = (finite(lo).min(finite(hi)), finite(lo).max(finite(hi)));
    // Below this, neighbouring multiples of the step would be the same number.
    let smallest = (lo.abs().max(hi.abs()) * 1e-6).max(1e-9);
    if hi - lo < smallest {
        let middle = f64::midpoint(lo, hi);
        let half = if middle == 0.0 { 0.5 } else { middle.abs() * 0.1 };
        (lo, hi) = (middle - half, middle + half);
    }

    let rough = (hi - lo) / (most - 1) as f64;
    let mut power = rough.log10().floor() as i32 - 1;
    loop {
        for digit in [1.0, 2.0, 5.0] {
            // Dividing by a positive power of ten keeps 0.1 the nearest double to 0.1.
            let (scale, step) = if power < 0 {
                let tens = 10f64.powi(-power);
                (Scale::Over(tens), digit / tens)
            } else {
                (Scale::Times(10f64.powi(power)), digit * 10f64.powi(power))
            };
            // A hair of slack, so that 0.3 does not become 0.30000000000000004's neighbour.
            let first = (lo / step + 1e-9).floor();
            let last = (hi / step - 1e-9).ceil();
            let count = (last - first) as usize + 1;
            if (2..=most).contains(&count) {
                let at = |i: usize| match scale {
                    Scale::Over(tens) => (first + i as f64) * digit / tens,
                    Scale::Times(tens) => (first + i as f64) * digit * tens,
                };
                // Adding zero turns a negative zero into zero.
                return Ticks {
                    step,
                    values: (0..count).map(|i| at(i) + 0.0).collect(),
                };
            }
        }
        power += 1;
    }
}

#[derive(Clone, Copy)]
enum Scale {
    Over(f64),
    Times(f64),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn everyday_ranges_get_the_ticks_that_a_person_would_draw() {
        assert_eq!(ticks(0.0, 1.0, 6).values, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]);
        assert_eq!(ticks(-0.23, 1.25, 6).values, [-0.5, 0.0, 0.5, 1.0, 1.5]);
        assert_eq!(ticks(0.0, 100.0, 5).values, [0.0, 50.0, 100.0]);
        assert_eq!(ticks(0.0, 0.3, 4).values, [0.0, 0.1, 0.2, 0.3]);
    }

    #[test]
    fn ranges_that_cannot_be_drawn_are_widened() {
        for (lo, hi) in [(0.0, 0.0), (3.0, 3.0), (f64::NAN, 1.0), (f64::INFINITY, f64::NAN)] {
            let ticks = ticks(lo, hi, 5);
            assert!(ticks.lo() < ticks.hi(), "{lo} {hi}: {ticks:?}");
        }
        assert!(ticks(2.0, 1.0, 5).lo() <= 1.0);
    }

    proptest! {
        #[test]
        fn ticks_cover_ascend_and_are_few(
            lo in -1e9f64..1e9, span in 0f64..1e9, shrink in 0i32..12, most in 2usize..12,
        ) {
            let scale = 10f64.powi(-shrink);
            let (lo, hi) = (lo * scale, (lo + span) * scale);
            let ticks = ticks(lo, hi, most);
            prop_assert!((2..=most.max(3)).contains(&ticks.values.len()));
            prop_assert!(ticks.values.windows(2).all(|w| w[0] < w[1]));
            let slack = ticks.step * 1e-6;
            prop_assert!(ticks.lo() <= lo + slack && hi <= ticks.hi() + slack, "{ticks:?}");
            let digit = ticks.step / 10f64.powi((ticks.step.log10() + 1e-9).floor() as i32);
            prop_assert!([1.0, 2.0, 5.0].iter().any(|d| (digit - d).abs() < 1e-6), "{ticks:?}");
            for v in &ticks.values {
                let multiple = v / ticks.step;
                prop_assert!((multiple - multiple.round()).abs() < 1e-6);
            }
        }

        #[test]
        fn any_pair_of_numbers_gives_an_axis(lo in any::<f64>(), hi in any::<f64>()) {
            let ticks = ticks(lo, hi, 5);
            prop_assert!(ticks.values.iter().all(|v| v.is_finite()) && ticks.lo() < ticks.hi());
        }
    }
}
