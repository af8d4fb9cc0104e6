//! The learning rate over the steps.

use serde::{Deserialize, Serialize};

/// How the learning rate goes on after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// It stays.
    Constant,
    /// It falls to zero on a straight line.
    Linear,
    /// It falls to zero on half a cosine wave (Loshchilov & Hutter 2017).
    Cosine,
}

impl Schedule {
    /// The share of the full learning rate at step `step` of `steps`, counted from 0.
    ///
    /// During the warm-up it rises evenly and never is zero, so that no step is wasted; the last step comes before
    /// the zero of the decay.
    pub fn factor(self, step: u64, steps: u64, warmup: u64) -> f64 {
        if step < warmup {
            return (step + 1) as f64 / (warmup + 1) as f64;
        }
        let done = (step - warmup) as f64 / steps.saturating_sub(warmup).max(1) as f64;
        match self {
            Self::Constant => 1.0,
            Self::Linear => 1.0 - done,
            Self::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_evenly_then_follows_its_curve() {
        let factors = |schedule: Schedule| (0..8).map(|s| schedule.factor(s, 8, 4)).collect::<Vec<_>>();
        assert_eq!(factors(Schedule::Constant), [0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(factors(Schedule::Linear)[4..], [1.0, 0.75, 0.5, 0.25]);
        let cosine = factors(Schedule::Cosine);
        assert!(cosine[4] == 1.0 && (cosine[6] - 0.5).abs() < 1e-12 && cosine[7] > 0.1);
    }

    #[test]
    fn a_warm_up_longer_than_the_run_only_rises() {
        assert_eq!(Schedule::Linear.factor(2, 3, 5), 0.5);
        assert_eq!(Schedule::Linear.factor(0, 1, 0), 1.0);
    }
}
