//! Numbers in any layout, and how they are compared.

use burn::tensor::{Device, Int, Tensor, TensorData};
use proptest::prelude::RngExt;
use proptest::test_runner::{RngAlgorithm, TestRng};
use realign_tensor::test_device;

/// How a tensor lies in its buffer; the numbers are random in each.
#[derive(Clone, Copy, Debug)]
pub enum Layout {
    Contiguous,
    /// All axes in reverse order.
    Transposed,
    /// A part of a larger tensor, on every axis.
    Inside,
    /// Last row first.
    Flipped,
    /// One row, seen many times.
    Repeated,
}

impl Layout {
    pub const ALL: [Self; 5] = [
        Self::Contiguous,
        Self::Transposed,
        Self::Inside,
        Self::Flipped,
        Self::Repeated,
    ];

    /// Numbers in -1..1.
    pub fn tensor<const D: usize>(self, seed: u8, shape: [usize; D], device: &Device) -> Tensor<D> {
        match self {
            Self::Contiguous => uniform(seed, shape, device),
            Self::Transposed => {
                let (mut reversed, mut axes) = (shape, [0isize; D]);
                reversed.reverse();
                for (i, axis) in axes.iter_mut().enumerate() {
                    *axis = (D - 1 - i) as isize;
                }
                uniform(seed, reversed, device).permute(axes)
            }
            Self::Inside => uniform(seed, shape.map(|n| n + 3), device).slice(shape.map(|n| 2..n + 2)),
            Self::Flipped => uniform(seed, shape, device).flip([0]),
            Self::Repeated => {
                let mut row = shape;
                row[0] = 1;
                uniform(seed, row, device).expand(shape)
            }
        }
    }
}

/// Numbers in -1..1, the same on every device.
pub fn uniform<const D: usize>(seed: u8, shape: [usize; D], device: &Device) -> Tensor<D> {
    let mut rng = rng(seed);
    let data: Vec<f32> = (0..shape.iter().product())
        .map(|_| rng.random_range(-1.0..1.0))
        .collect();
    Tensor::from_data(TensorData::new(data, shape), device)
}

/// Whole numbers in `0..below`, the same on every device.
pub fn whole<const D: usize>(seed: u8, shape: [usize; D], below: i32, device: &Device) -> Tensor<D, Int> {
    let mut rng = rng(seed);
    let data: Vec<i32> = (0..shape.iter().product())
        .map(|_| rng.random_range(0..below))
        .collect();
    Tensor::from_data(TensorData::new(data, shape), device)
}

fn rng(seed: u8) -> TestRng {
    TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32])
}

/// The tensor as a parameter.
pub fn leaf<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    tensor.autodiff().require_grad()
}

/// A scalar that depends on every element of `y` differently.
pub fn loss<const D: usize>(y: Tensor<D>) -> Tensor<1> {
    let weights = uniform(99, y.dims(), &y.device().inner());
    (y * weights).sum()
}

pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.inner().into_data().try_into_vec().unwrap()
}

pub fn indices<const D: usize>(tensor: Tensor<D, Int>) -> Vec<i64> {
    tensor.into_data().iter::<i64>().collect()
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// How near two computations of the same sums come that differ in what else is in the batch, by device and relative to
/// the largest number. Flex adds in one order whatever the shape; the others' products choose an order by shape, and a
/// remote device has the reference bodies.
const SAME_SUMS: [(&str, f32); 5] = [
    ("flex", 0.0),
    ("ndarray", 1e-5),
    ("tch", 1e-5),
    ("wgpu", 1e-5),
    ("remote", 1e-5),
];

/// The same numbers, as nearly as [`SAME_SUMS`] says for this device: on flex bit for bit.
#[track_caller]
pub fn same(what: &str, found: &[f32], wanted: &[f32]) {
    let device = std::env::var("REALIGN_TEST_DEVICE").unwrap_or_else(|_| "flex".to_owned());
    let kind = device.split(':').next().unwrap_or_default();
    let row = SAME_SUMS.iter().find(|(name, _)| *name == kind);
    match row.unwrap_or_else(|| panic!("no tolerance for {device}")).1 {
        0.0 => assert_eq!(bits(found), bits(wanted), "{what}"),
        tolerance => close(tolerance, what, found, wanted),
    }
}

/// What an operation gave, by name: its value, and the gradient of [`loss`] with respect to each input.
pub type Outcome = Vec<(&'static str, Vec<f32>)>;

/// The gradients of `loss(y)` after the value `y` itself. Every input must have one.
macro_rules! outcome {
    ($y:expr; $($input:ident),*) => {{
        let y = $y;
        let value = $crate::numbers::values(y.clone());
        let grads = $crate::numbers::loss(y).backward();
        vec![
            ("value", value),
            $((stringify!($input), $crate::numbers::values($input.grad(&grads).expect("a parameter has a gradient")))),*
        ]
    }};
}
pub(crate) use outcome;

/// The reference's device.
#[allow(deprecated)] // burn keeps ndarray until 0.23.
pub fn reference() -> Device {
    Device::ndarray()
}

/// What exponentials of large logits cost more where products add up in another order: a logit of 60 is uncertain by some 60 · 2⁻²³,
/// which is 1e-5 of its exponential, and WGSL allows `exp` itself to be off by 3 + 2 |x| units in the last place.
pub fn exponentials() -> f32 {
    let device = std::env::var("REALIGN_TEST_DEVICE").unwrap_or_default();
    if ["wgpu", "vulkan", "metal"].contains(&device.as_str()) {
        4.0
    } else {
        1.0
    }
}

/// Flex gives what the reference gives: no number differs by more than `tolerance` times the largest of its kind, or
/// than `tolerance` where all are below one (inputs are of order one, and some gradients cancel to nothing).
#[track_caller]
pub fn agree(tolerance: f32, context: &str, run: impl Fn(&Device) -> Outcome) {
    let (flex, wanted) = (run(&test_device()), run(&reference()));
    for ((name, found), (_, wanted)) in flex.iter().zip(&wanted) {
        close(tolerance, &format!("{context}: {name}"), found, wanted);
    }
}

#[track_caller]
pub fn close(tolerance: f32, what: &str, found: &[f32], wanted: &[f32]) {
    assert_eq!(
        found.len(),
        wanted.len(),
        "{what}: {} numbers, not {}",
        found.len(),
        wanted.len()
    );
    let largest = wanted.iter().fold(1f32, |m, x| m.max(x.abs()));
    for (i, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        let difference = (found - wanted).abs();
        assert!(
            difference <= tolerance * largest,
            "{what}: {found} at {i}, not {wanted}: differs by {difference}, largest {largest}"
        );
    }
}
