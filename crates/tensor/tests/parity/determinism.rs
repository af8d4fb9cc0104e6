//! The same bits twice, and on any number of threads.

use std::sync::Arc;

use burn::tensor::Device;
use rayon::ThreadPoolBuilder;
use realign_tensor::{
    AdamWStep, Spans, adamw, add_rms_norm, attention, cross_entropy, low_rank_linear, product, rms_norm, rotary,
    sparse_decode, sparse_encode, swiglu,
};

use crate::numbers::{Outcome, bits, leaf, outcome, uniform, values, whole};

/// Every operation and its gradients, each large enough for several threads.
fn everything() -> Vec<Outcome> {
    let device = Device::flex();
    let matrix = |seed, shape: [usize; 2]| leaf(uniform(seed, shape, &device));
    let (x, y) = (matrix(1, [300, 64]), matrix(2, [300, 64]));
    let tall = matrix(20, [300, 200]);
    let (w, wide) = (matrix(3, [64, 200]), matrix(4, [512, 64]));
    let (vector, bias) = (leaf(uniform(5, [64], &device)), leaf(uniform(6, [512], &device)));
    let (a, b) = (matrix(7, [64, 8]), matrix(8, [8, 200]));
    let (code, columns) = (matrix(9, [300, 9]), whole(10, [300, 9], 512, &device));
    let q = leaf(uniform(11, [300, 6, 16], &device));
    let [k, v] = [12, 13].map(|seed| leaf(uniform(seed, [300, 2, 16], &device)));
    let spans = Arc::new(Spans::packed(&[100, 7, 193]));
    let angle = uniform(14, [300, 8], &device);
    let (param, first, second) = adamw(
        uniform(15, [90, 700], &device),
        uniform(16, [90, 700], &device),
        uniform(17, [90, 700], &device),
        uniform(18, [90, 700], &device).abs(),
        AdamWStep::new(1e-3, 2),
    );
    vec![
        outcome!(product(x.clone(), w.clone()); x, w),
        outcome!(rms_norm(x.clone(), vector.clone(), 1e-5); x, vector),
        outcome!(add_rms_norm(x.clone(), y.clone(), vector.clone(), 1e-5).1; x, y, vector),
        outcome!(rotary(q.clone(), angle.clone().cos(), angle.sin()); q),
        outcome!(attention(q.clone(), k.clone(), v.clone(), spans); q, k, v),
        outcome!(swiglu(x.clone(), y.clone()); x, y),
        outcome!(low_rank_linear(tall.clone(), x.clone(), a.clone(), b.clone(), 2.0); tall, x, a, b),
        outcome!(sparse_encode(x.clone(), wide.clone(), bias.clone(), 9).0; x, wide, bias),
        outcome!(sparse_decode(code.clone(), columns, wide.clone()); code, wide),
        outcome!(cross_entropy(x.clone(), wide.clone().inner(), whole(19, [300], 512, &device)); x),
        vec![
            ("param", values(param)),
            ("first", values(first)),
            ("second", values(second)),
        ],
    ]
}

fn on_threads(threads: usize) -> Vec<Outcome> {
    ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .unwrap()
        .install(everything)
}

#[test]
fn every_operation_gives_the_same_bits_twice_and_on_any_number_of_threads() {
    let once = on_threads(2);
    for threads in [2, 1, 5] {
        let again = on_threads(threads);
        for (operation, (once, again)) in once.iter().zip(&again).enumerate() {
            for ((name, once), (_, again)) in once.iter().zip(again) {
                assert!(
                    bits(once) == bits(again),
                    "operation {operation}, {name}: differs on {threads} threads"
                );
            }
        }
    }
}
