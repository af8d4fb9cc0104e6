//! L2-regularised logistic regression by Newton's method, in f64.

/// A fitted logistic regression: `log odds = weights · x + bias`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Logistic {
    pub(crate) weights: Vec<f64>,
    pub(crate) bias: f64,
}

/// Newton's method stops when the loss falls by less than this share.
const TOLERANCE: f64 = 1e-12;
const MAX_STEPS: usize = 100;

impl Logistic {
    /// Minimises `Σ log(1 + exp(-y (w·x + b))) + l2/2 |w|²` (y = ±1; the bias is not penalised).
    ///
    /// The Newton steps are taken in the span of the rows, so their systems are `[row, row]`: labelled answers are few
    /// and the residual stream is wide.
    ///
    /// # Panics
    /// If `l2` is not above 0, or rows and labels differ in number.
    pub(crate) fn fit(rows: &[Vec<f64>], labels: &[bool], l2: f64) -> Self {
        assert!(l2 > 0.0, "logistic: l2 is {l2}, expected above 0");
        let n = rows.len();
        assert_eq!(n, labels.len(), "logistic: {n} rows, but {} labels", labels.len());
        let gram: Vec<f64> = rows.iter().flat_map(|a| rows.iter().map(|b| dot(a, b))).collect();
        let y: Vec<f64> = labels.iter().map(|&label| f64::from(u8::from(label))).collect();
        let outputs = |alpha: &[f64], bias: f64| -> Vec<f64> {
            gram.chunks_exact(n.max(1)).map(|row| dot(row, alpha) + bias).collect()
        };
        let loss = |alpha: &[f64], f: &[f64], bias: f64| {
            let data: f64 = f.iter().zip(&y).map(|(f, y)| softplus(*f) - y * f).sum();
            // alpha' K alpha, since f = K alpha + bias.
            data + 0.5 * l2 * alpha.iter().zip(f).map(|(a, f)| a * (f - bias)).sum::<f64>()
        };
        let (mut alpha, mut bias) = (vec![0.0; n], 0.0);
        let mut f = vec![0.0; n];
        let mut current = loss(&alpha, &f, bias);
        for _ in 0..MAX_STEPS {
            // Iteratively reweighted least squares: (K + l2 S^-1) alpha + bias = f + S^-1 (y - p), with Σ alpha = 0.
            let p: Vec<f64> = f.iter().map(|&f| sigmoid(f)).collect();
            let weight: Vec<f64> = p.iter().map(|p| (p * (1.0 - p)).max(1e-9)).collect();
            let mut system = gram.clone();
            for i in 0..n {
                system[i * n + i] += l2 / weight[i];
            }
            let z: Vec<f64> = (0..n).map(|i| f[i] + (y[i] - p[i]) / weight[i]).collect();
            cholesky(&mut system, n);
            let (a, u) = (solve(&system, n, z), solve(&system, n, vec![1.0; n]));
            let target_bias = a.iter().sum::<f64>() / u.iter().sum::<f64>();
            let target: Vec<f64> = a.iter().zip(&u).map(|(a, u)| a - target_bias * u).collect();
            // Halve the step until the loss falls: far from the minimum a whole one may overshoot.
            let step = (0..30).map(|k| 0.5_f64.powi(k)).find_map(|step| {
                let mix = |from: f64, to: f64| from + step * (to - from);
                let alpha: Vec<f64> = alpha.iter().zip(&target).map(|(&a, &t)| mix(a, t)).collect();
                let bias = mix(bias, target_bias);
                let f = outputs(&alpha, bias);
                let new = loss(&alpha, &f, bias);
                (new < current).then_some((alpha, bias, f, new))
            });
            let Some((new_alpha, new_bias, new_f, new)) = step else {
                break;
            };
            let fell = current - new;
            (alpha, bias, f, current) = (new_alpha, new_bias, new_f, new);
            if fell <= TOLERANCE * current.abs() {
                break;
            }
        }
        let mut weights = vec![0.0; rows.first().map_or(0, Vec::len)];
        for (row, alpha) in rows.iter().zip(&alpha) {
            for (w, x) in weights.iter_mut().zip(row) {
                *w += alpha * x;
            }
        }
        Self { weights, bias }
    }

    /// The log odds of a row.
    pub(crate) fn log_odds(&self, row: &[f64]) -> f64 {
        dot(&self.weights, row) + self.bias
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `log(1 + exp(x))` without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// The lower Cholesky factor of a positive definite `[n, n]` matrix, in place.
fn cholesky(a: &mut [f64], n: usize) {
    for i in 0..n {
        for j in 0..=i {
            let (before, row) = a.split_at_mut(i * n);
            let other = if i == j { &row[..j] } else { &before[j * n..j * n + j] };
            let rest = row[j] - dot(&row[..j], other);
            row[j] = if i == j {
                rest.max(f64::MIN_POSITIVE).sqrt()
            } else {
                rest / before[j * n + j]
            };
        }
    }
}

/// Solves `L Lᵀ x = b` for the factor of [`cholesky`].
fn solve(l: &[f64], n: usize, mut b: Vec<f64>) -> Vec<f64> {
    for i in 0..n {
        b[i] = (b[i] - dot(&l[i * n..i * n + i], &b[..i])) / l[i * n + i];
    }
    for i in (0..n).rev() {
        b[i] /= l[i * n + i];
        for j in 0..i {
            b[j] -= l[i * n + j] * b[i];
        }
    }
    b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fit_equals_scipy_s_minimum() {
        let rows = [[0.0, 1.0], [1.0, 2.0], [2.0, 0.5], [3.0, 3.0], [1.5, -1.0], [0.2, 0.3]].map(|row| row.to_vec());
        let found = Logistic::fit(&rows, &[false, false, true, true, true, false], 0.7);
        let wanted = [1.444_911_710_8, -0.474_203_787_6, -1.416_701_734_3];
        for (found, wanted) in found.weights.iter().chain([&found.bias]).zip(wanted) {
            assert!((found - wanted).abs() < 1e-6, "{found}, expected {wanted}");
        }
    }

    #[test]
    fn more_columns_than_rows_and_separable_labels_converge() {
        let rows: Vec<Vec<f64>> = (0..12)
            .map(|i| (0..40).map(|j| f64::from(i * j % 7) - 3.0).collect())
            .collect();
        let labels: Vec<bool> = (0..12).map(|i| i % 3 == 0).collect();
        let found = Logistic::fit(&rows, &labels, 1e-4);
        // At the minimum the gradient vanishes: l2 w = Σ (y - p) x and Σ (y - p) = 0.
        let error: Vec<f64> = rows
            .iter()
            .zip(&labels)
            .map(|(r, &y)| f64::from(u8::from(y)) - sigmoid(found.log_odds(r)))
            .collect();
        assert!(error.iter().sum::<f64>().abs() < 1e-6);
        for j in 0..40 {
            let gradient: f64 =
                rows.iter().zip(&error).map(|(row, e)| row[j] * e).sum::<f64>() - 1e-4 * found.weights[j];
            assert!(gradient.abs() < 1e-6, "{gradient}");
        }
    }
}
