//! A direction of the residual stream.

use burn::tensor::{Tensor, TensorData};
use rand::{Rng, RngExt};
use realign_core::HookPoint;
use realign_run::Seed;

/// A vector at a hook point: what a feature, a difference of means or a latent's decoder row writes.
#[derive(Clone, Debug)]
pub struct Direction {
    /// Where it lives.
    pub at: HookPoint,
    /// The vector, `[d]`.
    pub vector: Tensor<1>,
    /// What it is called in reports and files.
    pub name: String,
}

impl Direction {
    /// A direction at a hook point.
    pub fn new(at: HookPoint, vector: Tensor<1>, name: impl Into<String>) -> Self {
        Self {
            at,
            vector,
            name: name.into(),
        }
    }

    /// Euclidean length.
    pub fn norm(&self) -> f64 {
        dot(&self.to_vec(), &self.to_vec()).sqrt()
    }

    /// The same direction with length 1; the zero vector stays.
    pub fn unit(&self) -> Self {
        self.with_norm(1.0)
    }

    /// The same direction with this length; the zero vector stays.
    pub fn with_norm(&self, norm: f64) -> Self {
        self.with(rescaled(self.to_vec(), norm), self.name.clone())
    }

    /// Cosine of the angle to another direction; 0 where either is zero.
    ///
    /// # Panics
    /// Where their widths differ.
    pub fn cosine(&self, other: &Self) -> f64 {
        let (a, b) = (self.to_vec(), self.other(other));
        let norms = (dot(&a, &a) * dot(&b, &b)).sqrt();
        if norms > 0.0 { dot(&a, &b) / norms } else { 0.0 }
    }

    /// A random direction of the same length, evenly from the sphere: a control.
    ///
    /// Each `index` gives another one; the numbers come from the stream `steering.random.{index}`.
    pub fn random_like(&self, seed: &Seed, index: usize) -> Self {
        let drawn = gaussian(self.width(), &mut seed.stream(&format!("steering.random.{index}")));
        self.with(rescaled(drawn, self.norm()), format!("{} · random {index}", self.name))
    }

    /// A random direction of the same length, orthogonal to this one: a control.
    ///
    /// The numbers come from the stream `steering.orthogonal.{index}`.
    pub fn orthogonal_like(&self, seed: &Seed, index: usize) -> Self {
        let drawn = gaussian(self.width(), &mut seed.stream(&format!("steering.orthogonal.{index}")));
        let drawn = projected_out(drawn, &self.to_vec());
        self.with(
            rescaled(drawn, self.norm()),
            format!("{} · orthogonal {index}", self.name),
        )
    }

    /// This direction less its component along `other`; it is shorter then, unless they are orthogonal.
    ///
    /// # Panics
    /// Where their widths differ.
    pub fn without(&self, other: &Self) -> Self {
        let name = format!("{} without {}", self.name, other.name);
        self.with(projected_out(self.to_vec(), &self.other(other)), name)
    }

    /// Sum of two directions at this one's hook point.
    ///
    /// # Panics
    /// Where their widths differ.
    pub fn plus(&self, other: &Self) -> Self {
        let sum = self
            .to_vec()
            .iter()
            .zip(self.other(other))
            .map(|(a, b)| a + b)
            .collect();
        self.with(sum, format!("{} + {}", self.name, other.name))
    }

    /// Difference of two directions at this one's hook point.
    ///
    /// # Panics
    /// Where their widths differ.
    pub fn minus(&self, other: &Self) -> Self {
        let difference = self
            .to_vec()
            .iter()
            .zip(self.other(other))
            .map(|(a, b)| a - b)
            .collect();
        self.with(difference, format!("{} − {}", self.name, other.name))
    }

    /// The vector times a number.
    pub fn times(&self, factor: f64) -> Self {
        let scaled = self.to_vec().iter().map(|&x| (f64::from(x) * factor) as f32).collect();
        self.with(scaled, self.name.clone())
    }

    /// The numbers, `[d]`.
    pub fn to_vec(&self) -> Vec<f32> {
        self.vector.to_data().try_into_vec().expect("realign's tensors are f32")
    }

    /// Number of numbers.
    pub fn width(&self) -> usize {
        self.vector.dims()[0]
    }

    fn other(&self, other: &Self) -> Vec<f32> {
        assert_eq!(
            self.width(),
            other.width(),
            "directions of shapes [{}] and [{}]",
            self.width(),
            other.width()
        );
        other.to_vec()
    }

    fn with(&self, numbers: Vec<f32>, name: String) -> Self {
        let n = numbers.len();
        let vector = Tensor::from_data(TensorData::new(numbers, [n]), &self.vector.device());
        Self {
            at: self.at,
            vector,
            name,
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

fn rescaled(numbers: Vec<f32>, norm: f64) -> Vec<f32> {
    let found = dot(&numbers, &numbers).sqrt();
    if found == 0.0 {
        return numbers;
    }
    numbers
        .into_iter()
        .map(|x| (f64::from(x) * norm / found) as f32)
        .collect()
}

fn projected_out(numbers: Vec<f32>, along: &[f32]) -> Vec<f32> {
    let square = dot(along, along);
    if square == 0.0 {
        return numbers;
    }
    let share = dot(&numbers, along) / square;
    numbers
        .iter()
        .zip(along)
        .map(|(&x, &u)| (f64::from(x) - share * f64::from(u)) as f32)
        .collect()
}

/// Standard normal numbers (Box & Muller 1958).
fn gaussian(n: usize, rng: &mut impl Rng) -> Vec<f32> {
    let mut numbers = Vec::with_capacity(n + 1);
    while numbers.len() < n {
        let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * rng.random::<f64>()).sin_cos();
        numbers.extend([(radius * cos) as f32, (radius * sin) as f32]);
    }
    numbers.truncate(n);
    numbers
}

#[cfg(test)]
pub(crate) mod tests {
    use burn::tensor::Device;
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn direction(layer: usize, numbers: Vec<f32>) -> Direction {
        let n = numbers.len();
        let vector = Tensor::from_data(TensorData::new(numbers, [n]), &Device::flex());
        Direction::new(HookPoint::ResidPost(layer), vector, "test")
    }

    #[test]
    fn random_directions_have_the_same_norm_and_differ() {
        let direction = direction(0, (0..64).map(|i| i as f32).collect());
        let seed = Seed::new(1);
        let (first, second) = (direction.random_like(&seed, 0), direction.random_like(&seed, 1));
        for random in [&first, &second] {
            assert!((random.norm() / direction.norm() - 1.0).abs() < 1e-6);
            assert!(random.cosine(&direction).abs() < 0.5);
        }
        assert!(first.cosine(&second).abs() < 0.5);
        assert_eq!(first.to_vec(), direction.random_like(&seed, 0).to_vec());
    }

    #[test]
    fn normal_numbers_have_mean_0_and_variance_1() {
        let numbers = gaussian(20_001, &mut Seed::new(1).stream("test"));
        let mean = numbers.iter().map(|&x| f64::from(x)).sum::<f64>() / 20_001.0;
        assert!(mean.abs() < 0.03 && (dot(&numbers, &numbers) / 20_001.0 - 1.0).abs() < 0.05);
    }

    #[test]
    fn the_zero_vector_stays_zero() {
        let zero = direction(0, vec![0.0; 4]);
        assert_eq!(zero.unit().to_vec(), [0.0; 4]);
        assert_eq!(zero.cosine(&zero), 0.0);
        assert_eq!(zero.without(&zero).to_vec(), [0.0; 4]);
    }

    #[test]
    #[should_panic(expected = "shapes [2] and [3]")]
    fn other_widths_panic() {
        direction(0, vec![1.0; 2]).plus(&direction(0, vec![1.0; 3]));
    }

    proptest! {
        #[test]
        fn orthogonal_directions_are_orthogonal_and_as_long(
            numbers in prop::collection::vec(-10.0_f32..10.0, 8..40), index in 0_usize..100,
        ) {
            let direction = direction(0, numbers);
            prop_assume!(direction.norm() > 1e-3);
            let other = direction.orthogonal_like(&Seed::new(5), index);
            prop_assert!(other.cosine(&direction).abs() < 1e-5);
            prop_assert!((other.norm() / direction.norm() - 1.0).abs() < 1e-5);
        }

        #[test]
        fn without_leaves_nothing_along_the_other(
            a in prop::collection::vec(-10.0_f32..10.0, 8), b in prop::collection::vec(-10.0_f32..10.0, 8),
        ) {
            let (a, b) = (direction(0, a), direction(0, b));
            prop_assume!(b.norm() > 1e-2);
            let rest = a.without(&b);
            prop_assert!(dot(&rest.to_vec(), &b.unit().to_vec()).abs() < 1e-4);
            let restored = rest.plus(&a.minus(&rest));
            prop_assert!(restored.minus(&a).norm() < 1e-4);
        }
    }
}
