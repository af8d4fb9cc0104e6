//! A mean with its interval, and tests of differences.

use rand::RngExt;
use realign_run::Seed;
use serde::{Deserialize, Deserializer, Serialize};

/// Draws that suffice for a 95 % percentile interval.
pub const DRAWS: usize = 2000;

/// The 97.5 % quantile of the normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// A mean over `n` values with its 95 % interval.
///
/// Of no values at all, everything but `n` is NaN, which JSON holds as null.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The mean.
    #[serde(deserialize_with = "null_is_nan")]
    pub mean: f64,
    /// Lower end of the interval.
    #[serde(deserialize_with = "null_is_nan")]
    pub lo: f64,
    /// Upper end of the interval.
    #[serde(deserialize_with = "null_is_nan")]
    pub hi: f64,
    /// How many values.
    pub n: usize,
}

impl Figure {
    /// The figure of no values.
    pub const NONE: Self = Self {
        mean: f64::NAN,
        lo: f64::NAN,
        hi: f64::NAN,
        n: 0,
    };
}

fn null_is_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// Mean with a 95 % percentile-bootstrap interval, resampling whole clusters (Efron & Tibshirani 1993, ch. 8 and 13).
///
/// Values that share a cluster (answers to one question) are drawn together, since they are not independent.
///
/// # Shapes
/// - `values`, `clusters`: one per value; a cluster's number only has to be the same for its values
///
/// # Panics
/// If there are not as many clusters as values.
pub fn bootstrap(values: &[f64], clusters: &[usize], seed: &Seed, draws: usize) -> Figure {
    let groups = sums(values, clusters);
    if groups.is_empty() {
        return Figure::NONE;
    }
    let mut rng = seed.stream("eval.bootstrap");
    let mut draw = || {
        let (mut sum, mut n) = (0.0, 0);
        for _ in 0..groups.len() {
            let (s, m) = groups[rng.random_range(0..groups.len())];
            sum += s;
            n += m;
        }
        sum / n as f64
    };
    let means: Vec<f64> = (0..draws).map(|_| draw()).collect();
    let (lo, hi) = (quantile(&means, 0.025), quantile(&means, 0.975));
    Figure {
        mean: values.iter().sum::<f64>() / values.len() as f64,
        lo,
        hi,
        n: values.len(),
    }
}

/// Share of hits with its 95 % interval: Wilson's where every hit is a cluster of its own, else a clustered bootstrap.
///
/// Where all clusters agree a bootstrap has no width, though they may be few: Wilson's interval for as many
/// observations as there are clusters then stands in its place.
///
/// # Panics
/// If there are not as many clusters as hits.
pub fn share(hits: &[bool], clusters: &[usize], seed: &Seed, draws: usize) -> Figure {
    let values: Vec<f64> = hits.iter().map(|&hit| f64::from(u8::from(hit))).collect();
    let groups = sums(&values, clusters);
    let count = hits.iter().filter(|&&hit| hit).count();
    if groups.len() == hits.len() {
        return wilson(count, hits.len());
    }
    if count == 0 || count == hits.len() {
        let agreed = if count == 0 { 0 } else { groups.len() };
        return Figure {
            n: hits.len(),
            ..wilson(agreed, groups.len())
        };
    }
    bootstrap(&values, clusters, seed, draws)
}

/// Share of `successes` among `n` independent trials with Wilson's 95 % score interval (Wilson 1927).
///
/// # Panics
/// If there are more successes than trials.
pub fn wilson(successes: usize, n: usize) -> Figure {
    assert!(successes <= n, "wilson: {successes} successes, but {n} trials");
    if n == 0 {
        return Figure::NONE;
    }
    let (p, count) = (successes as f64 / n as f64, n as f64);
    let shrink = 1.0 + Z * Z / count;
    let centre = (p + Z * Z / (2.0 * count)) / shrink;
    let half = Z / shrink * (p * (1.0 - p) / count + Z * Z / (4.0 * count * count)).sqrt();
    // The ends are exact there, but for rounding.
    let lo = if successes == 0 { 0.0 } else { centre - half };
    let hi = if successes == n { 1.0 } else { centre + half };
    Figure { mean: p, lo, hi, n }
}

/// Two-sided p-value of a paired permutation test: how often random signs give a mean at least as far from 0
/// (Fisher 1935).
///
/// All signs are tried where these are no more than `draws`; else `draws` random ones, counting the observed one among
/// them so that p is never 0. Of no differences it is 1.
pub fn paired_permutation(differences: &[f64], seed: &Seed, draws: usize) -> f64 {
    let observed = differences.iter().sum::<f64>().abs();
    // Sums of the same numbers in another order of signs round differently.
    let tolerance = 1e-12 * differences.iter().map(|d| d.abs()).sum::<f64>();
    let as_far = |sum: f64| sum.abs() >= observed - tolerance;
    let n = differences.len();
    if n < 63 && 1_u64 << n <= draws as u64 {
        let signed = |signs: u64| {
            let term = |(i, d): (usize, &f64)| if signs >> i & 1 == 1 { -d } else { *d };
            differences.iter().enumerate().map(term).sum()
        };
        let all = 1_u64 << n;
        return (0..all).filter(|&signs| as_far(signed(signs))).count() as f64 / all as f64;
    }
    let mut rng = seed.stream("eval.permutation");
    let mut sum = || {
        differences
            .iter()
            .map(|d| if rng.random::<bool>() { -d } else { *d })
            .sum()
    };
    let hits = (0..draws).filter(|_| as_far(sum())).count();
    (hits + 1) as f64 / (draws + 1) as f64
}

/// The `q` quantile with linear interpolation between neighbours (Hyndman & Fan's type 7); NaN of no values.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let at = q.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    if below == above {
        below
    } else {
        below + (above - below) * at.fract()
    }
}

/// Sum and number of the values of each cluster, in order of the clusters' numbers.
fn sums(values: &[f64], clusters: &[usize]) -> Vec<(f64, usize)> {
    assert_eq!(
        values.len(),
        clusters.len(),
        "{} values, but {} clusters",
        values.len(),
        clusters.len()
    );
    let mut groups = std::collections::BTreeMap::new();
    for (value, cluster) in values.iter().zip(clusters) {
        let (sum, n) = groups.entry(cluster).or_insert((0.0, 0));
        *sum += value;
        *n += 1;
    }
    groups.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUES: [f64; 12] = [0.92, 1.4, -0.3, 0.7, 1.1, 0.2, 0.6, 1.9, 0.05, 0.8, 1.3, 0.4];

    fn close(found: f64, wanted: f64, tolerance: f64) {
        assert!((found - wanted).abs() <= tolerance, "{found}, expected {wanted}");
    }

    #[test]
    fn wilson_equals_scipy() {
        let figure = wilson(7, 40);
        close(figure.lo, 0.087_454_137_460_359, 1e-9);
        close(figure.hi, 0.319_499_903_317_877, 1e-9);
        let none = wilson(0, 12);
        close(none.lo, 0.0, 0.0);
        close(none.hi, 0.242_494_006_655_241, 1e-9);
    }

    #[test]
    fn the_bootstrap_agrees_with_scipy_s_up_to_its_noise() {
        let alone: Vec<usize> = (0..12).collect();
        let figure = bootstrap(&VALUES, &alone, &Seed::new(3), 20_000);
        close(figure.mean, 0.755_833_333_333, 1e-9);
        close(figure.lo, 0.4225, 0.015);
        close(figure.hi, 1.0933, 0.015);
        assert_eq!(figure, bootstrap(&VALUES, &alone, &Seed::new(3), 20_000));
        assert_ne!(figure, bootstrap(&VALUES, &alone, &Seed::new(4), 20_000));
    }

    #[test]
    fn clusters_are_drawn_whole() {
        let clusters = [0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4];
        let figure = bootstrap(&VALUES, &clusters, &Seed::new(3), 20_000);
        close(figure.lo, 0.595, 0.015);
        close(figure.hi, 0.8917, 0.015);
        // One question, whatever its number of answers, tells nothing about others.
        let one = bootstrap(&VALUES, &[7; 12], &Seed::new(3), 100);
        close(one.lo, one.hi, 1e-12);
    }

    #[test]
    fn unanimous_clusters_still_have_an_interval() {
        let clusters = [0, 0, 1, 1, 2, 2];
        let figure = share(&[true; 6], &clusters, &Seed::new(1), DRAWS);
        assert_eq!((figure.mean, figure.hi, figure.n), (1.0, 1.0, 6));
        assert_eq!(figure.lo, wilson(3, 3).lo);
        let mixed = share(
            &[true, false, true, true, false, false],
            &clusters,
            &Seed::new(1),
            DRAWS,
        );
        assert!(mixed.lo < mixed.mean && mixed.mean < mixed.hi);
    }

    #[test]
    fn the_permutation_test_equals_scipy_and_its_draws_come_near() {
        let differences = [0.3, -0.1, 0.5, 0.2, 0.4, -0.2, 0.6, 0.1];
        close(paired_permutation(&differences, &Seed::new(1), 256), 0.085_937_5, 1e-12);
        let many: Vec<f64> = differences.iter().cycle().take(24).map(|d| d - 0.17).collect();
        let p = paired_permutation(&many, &Seed::new(1), 2000);
        assert!(p > 0.05 && p <= 1.0, "{p}");
        assert!(paired_permutation(&[1.0; 30], &Seed::new(1), 999) <= 0.002);
    }

    #[test]
    fn nothing_measured_is_null_in_json_and_comes_back() {
        let none = bootstrap(&[], &[], &Seed::new(1), 10);
        let json = serde_json::to_string(&none).unwrap();
        assert_eq!(json, r#"{"mean":null,"lo":null,"hi":null,"n":0}"#);
        assert!(serde_json::from_str::<Figure>(&json).unwrap().mean.is_nan());
    }

    #[test]
    fn quantiles_interpolate() {
        assert_eq!(quantile(&[4.0, 1.0, 3.0, 2.0], 0.5), 2.5);
        assert_eq!(quantile(&[1.0], 0.9), 1.0);
        assert!(quantile(&[], 0.5).is_nan());
    }
}
