//! Products with packed weights: values and gradients on flex equal those of the reference body on the unpacked weight.

use std::sync::Arc;

use burn::tensor::TensorData;
use realign_tensor::{Blocks, Frozen, Packed, packed_product, product, test_device};

use crate::numbers::{Layout, agree, close, leaf, outcome, same, uniform, values};

/// Sums of hundreds of products, in another order.
const SUMS: f32 = 1e-5;

/// The same of bf16 where the processor multiplies it itself, and rounds the input: eight bits each.
/// (`flex/bf16.rs` tests with numbers that lose nothing, for equality.)
const BF16_SUMS: f32 = 1e-2;

/// One weight in each form; of blocks both with and without minima, and of both lengths.
fn forms(seed: u8, shape: [usize; 2]) -> Vec<Packed> {
    let device = test_device();
    let numbers = |seed, n: usize| values(uniform::<1>(seed, [n], &device));
    let weights = numbers(seed, shape[0] * shape[1]);
    let byte = |w: &f32| (w * 127.0) as i8;
    let blocks = |len: usize, mins: bool| Blocks {
        len,
        scales: numbers(seed + 1, weights.len() / len)
            .iter()
            .map(|s| s / 100.0)
            .collect(),
        mins: if mins {
            numbers(seed + 2, weights.len() / len)
        } else {
            Vec::new()
        },
    };
    let bytes: Vec<i8> = weights.iter().map(byte).collect();
    let nibbles: Vec<u8> = bytes.chunks(2).map(|pair| pair[0] as u8).collect();
    vec![
        Packed::f32(&weights, shape),
        Packed::bf16(&weights, shape),
        Packed::q8(&weights, shape),
        Packed::bytes(bytes.clone(), blocks(16, false), shape),
        Packed::bytes(bytes, blocks(32, true), shape),
        Packed::nibbles(nibbles.clone(), blocks(32, true), shape),
        Packed::nibbles(nibbles, blocks(32, false), shape),
    ]
}

#[test]
fn they_agree_for_one_row_few_and_many() {
    for [m, d_in, d_out] in [
        [0, 32, 4],
        [1, 32, 1],
        [1, 576, 70],
        [3, 64, 33],
        [7, 96, 65],
        [16, 64, 40],
        [40, 96, 50],
    ] {
        for packed in forms(3, [d_out, d_in]) {
            let name = format!("{m} rows, {packed:?}");
            let sums = if name.contains("bf16") { BF16_SUMS } else { SUMS };
            let packed = Arc::new(packed);
            for layout in [Layout::Contiguous, Layout::Transposed, Layout::Inside] {
                if m > 0 {
                    agree(sums, &name, |device| {
                        let x = leaf(layout.tensor(1, [m, d_in], device));
                        outcome!(packed_product(x.clone(), &packed); x)
                    });
                }
            }
            let device = test_device();
            let x = uniform(1, [m, d_in], &device);
            let frozen = Frozen::packed((*packed).clone(), &device);
            let wanted = product(x.clone(), frozen.dense());
            // Few rows are not rounded.
            let sums = if m <= 32 { SUMS } else { sums };
            close(sums, &name, &values(frozen.apply(x)), &values(wanted));
        }
    }
}

#[test]
fn a_row_of_a_batch_is_the_row_alone() {
    let device = test_device();
    for packed in forms(5, [40, 96]) {
        let frozen = Frozen::packed(packed, &device);
        let x = uniform(1, [9, 96], &device);
        let together = values(frozen.apply(x.clone()));
        for row in 0..9 {
            let alone = values(frozen.apply(x.clone().slice([row..row + 1, 0..96])));
            same(&format!("row {row} of {frozen:?}"), &together[row * 40..][..40], &alone);
        }
    }
}

#[test]
fn rows_are_looked_up_in_either_form() {
    let device = test_device();
    for packed in forms(7, [20, 64]) {
        let all = packed.to_vec();
        let dense = burn::tensor::Tensor::<2>::from_data(TensorData::new(all.clone(), [20, 64]), &device);
        let linear = Frozen::linear(dense.clone().transpose());
        assert_eq!(
            values(linear.dense()),
            values(Frozen::from_rows(&all, [20, 64], &device).dense())
        );
        for frozen in [Frozen::packed(packed, &device), dense.transpose().into(), linear] {
            let found = values(frozen.rows(&[3, 19, 3]));
            let wanted: Vec<f32> = [3, 19, 3]
                .iter()
                .flat_map(|&row: &usize| all[row * 64..][..64].to_vec())
                .collect();
            assert_eq!(found, wanted, "{frozen:?}");
        }
    }
}

#[test]
fn an_edit_that_changes_nothing_keeps_the_bits() {
    let device = test_device();
    for packed in forms(9, [20, 64]) {
        let frozen = Frozen::packed(packed, &device);
        let kept = frozen.edited(|w| w);
        assert_eq!(
            (format!("{kept:?}"), kept.size()),
            (format!("{frozen:?}"), frozen.size())
        );
        let doubled = frozen.edited(|w| w.mul_scalar(2.0));
        assert_eq!(values(doubled.dense()), values(frozen.dense().mul_scalar(2.0)));
    }
}

#[test]
fn packing_loses_what_its_bits_say() {
    let weights = values(uniform::<1>(1, [64 * 32], &test_device()));
    let off = |packed: Packed| -> f32 {
        let pairs = packed.to_vec().into_iter().zip(&weights);
        pairs.map(|(found, wanted)| (found - wanted).abs()).fold(0.0, f32::max)
    };
    // Half a unit in the last of 8 bits, and half of a 127th of the largest.
    assert!(off(Packed::bf16(&weights, [64, 32])) <= 1.0 / 512.0);
    assert!(off(Packed::q8(&weights, [64, 32])) <= 0.5 / 127.0 + 1e-6);
    let zeros = Packed::q8(&[0.0; 64], [2, 32]);
    assert_eq!(zeros.to_vec(), [0.0; 64]);
}
