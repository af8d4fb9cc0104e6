//! Values and all gradients on flex equal those of the reference bodies, in every layout.

use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData};
use realign_tensor::{
    Activation, AdamWStep, activate, adamw, add_rms_norm, cross_entropy, encode_above, encode_batch_top_k, gated,
    low_rank_linear, product, rms_norm, rotary, sparse_decode, sparse_encode, swiglu, test_device, top_k,
};

use crate::numbers::{Layout, agree, close, exponentials, indices, leaf, outcome, same, uniform, values, whole};

/// Sums of a few products: rounding in another order.
const ELEMENTWISE: f32 = 2e-6;
/// Sums of hundreds of products, or exponentials of such.
const SUMS: f32 = 1e-5;

#[test]
fn products_agree_small_enough_for_one_thread_and_large() {
    for [m, k, n] in [[1, 1, 1], [3, 70, 5], [1, 300, 2000], [130, 70, 65]] {
        for layout_a in Layout::ALL {
            for layout_b in Layout::ALL {
                agree(
                    SUMS,
                    &format!("[{m}, {k}] {layout_a:?} · [{k}, {n}] {layout_b:?}"),
                    |device| {
                        let a = leaf(layout_a.tensor(1, [m, k], device));
                        let b = leaf(layout_b.tensor(2, [k, n], device));
                        outcome!(product(a.clone(), b.clone()); a, b)
                    },
                );
            }
        }
    }
}

#[test]
fn a_product_over_nothing_is_zeros() {
    let device = test_device();
    let zeros = product(Tensor::zeros([2, 0], &device), Tensor::zeros([0, 3], &device));
    assert_eq!(values(zeros), [0.0; 6]);
    assert_eq!(
        product(Tensor::zeros([0, 4], &device), Tensor::zeros([4, 3], &device)).dims(),
        [0, 3]
    );
}

#[test]
fn rms_norms_agree() {
    for [rows, d] in [[1, 1], [37, 70], [16, 576]] {
        for layout in Layout::ALL {
            agree(SUMS, &format!("[{rows}, {d}] {layout:?}"), |device| {
                let x = leaf(layout.tensor(1, [rows, d], device));
                let weight = leaf(Layout::Inside.tensor(2, [d], device));
                outcome!(rms_norm(x.clone(), weight.clone(), 1e-5); x, weight)
            });
            agree(SUMS, &format!("added, [{rows}, {d}] {layout:?}"), |device| {
                let [x, delta] = [1, 3].map(|seed| leaf(layout.tensor(seed, [rows, d], device)));
                let weight = leaf(Layout::Inside.tensor(2, [d], device));
                let (sum, normed) = add_rms_norm(x.clone(), delta.clone(), weight.clone(), 1e-5);
                outcome!(Tensor::cat(vec![sum, normed], 1); x, delta, weight)
            });
        }
    }
}

#[test]
fn rotations_agree_and_are_undone_by_the_opposite_angle() {
    let [tokens, heads, d] = [19, 3, 10];
    for layout in Layout::ALL {
        agree(ELEMENTWISE, &format!("{layout:?}"), |device| {
            let x = leaf(layout.tensor(1, [tokens, heads, d], device));
            let angle = Layout::Transposed.tensor(2, [tokens, d / 2], device);
            outcome!(rotary(x.clone(), angle.clone().cos(), angle.sin()); x)
        });
        let device = test_device();
        let x: Tensor<3> = layout.tensor(1, [tokens, heads, d], &device);
        let angle = uniform(2, [tokens, d / 2], &device);
        let turned = rotary(x.clone(), angle.clone().cos(), angle.clone().sin());
        let back = rotary(turned, angle.clone().cos(), angle.neg().sin());
        close(ELEMENTWISE, "back", &values(back), &values(x));
    }
}

#[test]
fn swiglu_agrees_in_more_than_one_block_and_at_both_ends() {
    for layout in Layout::ALL {
        agree(ELEMENTWISE, &format!("{layout:?}"), |device| {
            // Up to 150: far beyond where exp overflows.
            let gate = leaf(layout.tensor(1, [50, 700], device) * 150.0);
            let up = leaf(layout.tensor(2, [50, 700], device));
            outcome!(swiglu(gate.clone(), up.clone()); gate, up)
        });
        agree(SUMS, &format!("near zero, {layout:?}"), |device| {
            let gate = leaf(layout.tensor(1, [5, 70], device));
            let up = leaf(Layout::Contiguous.tensor(2, [5, 70], device));
            outcome!(swiglu(gate.clone(), up.clone()); gate, up)
        });
    }
}

#[test]
fn every_activation_agrees_alone_and_as_a_gate() {
    for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
        for layout in Layout::ALL {
            // Not at ELEMENTWISE: one less the square of a number near one is left of two that cancel.
            for (scale, rows) in [(1.0, 5), (5.0, 300), (150.0, 5)] {
                let name = format!("{activation:?} to {scale}, {layout:?}");
                agree(SUMS, &name, |device| {
                    let x = leaf(layout.tensor(1, [rows, 70], device) * scale);
                    outcome!(activate(x.clone(), activation); x)
                });
                agree(SUMS, &name, |device| {
                    let gate = leaf(layout.tensor(1, [rows, 70], device) * scale);
                    let up = leaf(layout.tensor(2, [rows, 70], device));
                    outcome!(gated(gate.clone(), up.clone(), activation); gate, up)
                });
            }
        }
    }
}

#[test]
fn activations_have_their_textbook_values() {
    let device = test_device();
    let x = Tensor::<2>::from_floats([[-3.0, -0.5, 0.0, 1.0, 2.0]], &device);
    for (activation, wanted) in [
        (
            Activation::Silu,
            [-0.142_277_6, -0.188_770_3, 0.0, 0.731_058_6, 1.761_594_2],
        ),
        (
            Activation::Gelu,
            [-0.004_049_695, -0.154_268_8, 0.0, 0.841_344_7, 1.954_499_7],
        ),
        (
            Activation::GeluTanh,
            [-0.003_637_4, -0.154_286, 0.0, 0.841_192, 1.954_597_7],
        ),
    ] {
        close(
            1e-6,
            &format!("{activation:?}"),
            &values(activate(x.clone(), activation)),
            &wanted,
        );
    }
}

#[test]
fn low_rank_maps_agree() {
    for rows in [1, 33, 300] {
        for layout in Layout::ALL {
            agree(SUMS, &format!("{rows} rows, {layout:?}"), |device| {
                let y = leaf(layout.tensor(1, [rows, 90], device));
                let x = leaf(layout.tensor(2, [rows, 70], device));
                let a = leaf(layout.tensor(3, [70, 4], device));
                let b = leaf(layout.tensor(4, [4, 90], device));
                outcome!(low_rank_linear(y.clone(), x.clone(), a.clone(), b.clone(), 0.5); y, x, a, b)
            });
        }
    }
}

#[test]
fn a_low_rank_map_leaves_an_output_that_others_hold_as_it_is() {
    let device = test_device();
    let [y, x] = [1, 2].map(|seed| uniform(seed, [3, 5], &device));
    let (a, b) = (uniform(3, [5, 2], &device), uniform(4, [2, 5], &device));
    let before = values(y.clone());
    assert_ne!(values(low_rank_linear(y.clone(), x, a, b, 1.0)), before);
    assert_eq!(values(y), before);
}

#[test]
fn top_k_agrees_from_one_to_all_of_a_row() {
    for k in [1, 7, 64, 150] {
        for layout in Layout::ALL {
            agree(ELEMENTWISE, &format!("k = {k}, {layout:?}"), |device| {
                let x = leaf(layout.tensor(1, [5, 150], device));
                let (values, columns) = top_k(x.clone(), k);
                let mut outcome = outcome!(values; x);
                outcome.push(("columns", indices(columns).into_iter().map(|i| i as f32).collect()));
                outcome
            });
        }
    }
}

#[test]
fn of_equal_numbers_the_lower_column_comes_first() {
    let device = test_device();
    let x: Tensor<2> = whole(1, [6, 200], 9, &device).float();
    let mut x = values(x);
    x[5] = f32::NEG_INFINITY;
    x[6] = f32::NAN;
    for k in [0, 1, 30, 200] {
        let (found, columns) = top_k(Tensor::from_data(TensorData::new(x.clone(), [6, 200]), &device), k);
        let (found, columns) = (values(found), indices(columns));
        for (row, x) in x.chunks(200).enumerate() {
            // NaN is the smallest of all.
            let key = |i: usize| if x[i].is_nan() { f32::NEG_INFINITY } else { x[i] };
            let mut order: Vec<usize> = (0..200).collect();
            order.sort_by(|&i, &j| key(j).total_cmp(&key(i)));
            for (place, &column) in order.iter().take(k).enumerate() {
                let at = row * k + place;
                assert_eq!(
                    (columns[at], found[at]),
                    (column as i64, key(column)),
                    "k = {k}, row {row}"
                );
            }
        }
    }
}

#[test]
fn sparse_codes_agree() {
    for layout in Layout::ALL {
        agree(SUMS, &format!("{layout:?}"), |device| {
            let x = leaf(Layout::Transposed.tensor(1, [37, 40], device));
            let w_enc = leaf(layout.tensor(2, [200, 40], device));
            let b_enc = leaf(Layout::Contiguous.tensor(3, [200], device));
            let (values, columns) = sparse_encode(x.clone(), w_enc.clone(), b_enc.clone(), 6);
            let mut outcome = outcome!(values; x, w_enc, b_enc);
            outcome.push(("columns", indices(columns).into_iter().map(|i| i as f32).collect()));
            outcome
        });
    }
}

/// A code's values as `[token, d_sae]`: what only fills a row up says nothing.
fn dense(code: (Tensor<2>, Tensor<2, Int>), d_sae: usize) -> Tensor<2> {
    let (values, indices) = code;
    let zeros = Tensor::zeros([values.dims()[0], d_sae], &values.device());
    zeros.scatter(1, indices, values, IndexingUpdateOp::Add)
}

#[test]
fn codes_of_any_number_of_latents_agree() {
    for layout in Layout::ALL {
        // None, some, and all that are positive.
        for level in [30.0, 0.5, -30.0] {
            agree(SUMS, &format!("above {level}, {layout:?}"), |device| {
                let x = leaf(Layout::Transposed.tensor(1, [37, 40], device));
                let w_enc = leaf(layout.tensor(2, [200, 40], device));
                let b_enc = leaf(Layout::Contiguous.tensor(3, [200], device));
                let threshold = Layout::Contiguous.tensor(4, [200], device) + level;
                let code = encode_above(x.clone(), w_enc.clone(), b_enc.clone(), threshold);
                outcome!(dense(code, 200); x, w_enc, b_enc)
            });
        }
        for k in [0, 1, 6, 200] {
            agree(SUMS, &format!("k = {k} of a batch, {layout:?}"), |device| {
                let x = leaf(Layout::Transposed.tensor(1, [37, 40], device));
                let w_enc = leaf(layout.tensor(2, [200, 40], device));
                let b_enc = leaf(Layout::Contiguous.tensor(3, [200], device));
                let code = encode_batch_top_k(x.clone(), w_enc.clone(), b_enc.clone(), k);
                outcome!(dense(code, 200); x, w_enc, b_enc)
            });
        }
    }
}

#[test]
fn of_equal_activations_the_earlier_token_and_the_lower_latent_come_first() {
    let device = test_device();
    // Pre-activations are the entries of a table of few values.
    let (tokens, n) = (9, 20);
    let table: Tensor<2> = whole(1, [tokens, n], 5, &device).float() - 1.0;
    let mut table = values(table);
    table[7] = f32::NAN;
    let x = || Tensor::<2>::from_data(TensorData::new(table.clone(), [tokens, n]), &device);
    let (eye, zeros) = (Tensor::eye(n, &device), Tensor::zeros([n], &device));
    for k in [0, 1, 3, 20] {
        // A product would spread what is not a number over its row.
        let code = encode_batch_top_k(x().mask_fill(x().is_nan(), -1.0), eye.clone(), zeros.clone(), k);
        let found = values(dense(code, n));
        let mut order: Vec<usize> = (0..tokens * n).filter(|&i| table[i] > 0.0).collect();
        order.sort_by(|&i, &j| table[j].total_cmp(&table[i]));
        let mut wanted = vec![0.0; tokens * n];
        order.iter().take(k * tokens).for_each(|&i| wanted[i] = table[i]);
        assert_eq!(found, wanted, "k = {k}");
    }
    let (found, columns) = encode_above(x(), eye, zeros, Tensor::full([n], 1.0, &device));
    let wide = found.dims()[1];
    let (found, columns) = (values(found), indices(columns));
    for (row, x) in table.chunks(n).enumerate().skip(1) {
        let mut order: Vec<usize> = (0..n).filter(|&i| x[i] > 1.0).collect();
        order.sort_by(|&i, &j| x[j].total_cmp(&x[i]));
        for place in 0..wide {
            let at = row * wide + place;
            match order.get(place) {
                Some(&column) => assert_eq!((columns[at], found[at]), (column as i64, x[column]), "row {row}"),
                None => assert_eq!(found[at], 0.0, "row {row}"),
            }
        }
    }
    // The row of what is not a number.
    assert!(found[..wide].iter().all(|x| *x == 0.0));
}

#[test]
fn sparse_decoding_agrees_also_when_a_token_names_a_latent_twice() {
    for (k, latents) in [(6, 200), (9, 4), (1, 1)] {
        for layout in Layout::ALL {
            agree(SUMS, &format!("k = {k}, {layout:?}"), |device| {
                let activations = leaf(layout.tensor(1, [37, k], device));
                let columns = whole(2, [k, 37], latents, device).transpose();
                let w_dec = leaf(layout.tensor(3, [latents as usize, 40], device));
                outcome!(sparse_decode(activations.clone(), columns, w_dec.clone()); activations, w_dec)
            });
        }
    }
}

#[test]
fn a_code_of_no_latent_decodes_to_zeros_and_has_gradients() {
    let device = test_device();
    let activations = leaf(Tensor::<2>::zeros([3, 0], &device));
    let w_dec = leaf(uniform(1, [5, 4], &device));
    let columns = Tensor::from_data(TensorData::new(Vec::<i32>::new(), [3, 0]), &device);
    let found = outcome!(sparse_decode(activations.clone(), columns, w_dec.clone()); activations, w_dec);
    assert_eq!(
        found,
        [
            ("value", vec![0.0; 12]),
            ("activations", vec![]),
            ("w_dec", vec![0.0; 20])
        ]
    );
}

#[test]
fn cross_entropies_agree_in_more_than_one_chunk_and_over_a_large_vocabulary() {
    for (tokens, d, vocab) in [(1, 3, 2), (600, 20, 90), (257, 16, 5000)] {
        for layout in Layout::ALL {
            // Gradients are differences of rows of the unembedding, whose numbers go up to 4, weighted by exponentials.
            agree(
                4.0 * SUMS * exponentials(),
                &format!("{tokens} tokens, vocabulary {vocab}, {layout:?}"),
                |device| {
                    let hidden = leaf(layout.tensor(1, [tokens, d], device));
                    let unembed = layout.tensor(2, [vocab as usize, d], device) * 4.0;
                    let targets = whole(3, [tokens], vocab, device);
                    outcome!(cross_entropy(hidden.clone(), unembed, targets); hidden)
                },
            );
        }
    }
}

#[test]
fn cross_entropy_without_a_gradient_is_the_same_number() {
    let device = test_device();
    let hidden = uniform(1, [300, 16], &device);
    let (unembed, targets) = (uniform(2, [90, 16], &device), whole(3, [300], 90, &device));
    let plain = cross_entropy(hidden.clone(), unembed.clone(), targets.clone());
    let tracked = cross_entropy(leaf(hidden), unembed, targets);
    same("nll", &values(plain), &values(tracked));
}

#[test]
fn logits_of_thousands_neither_overflow_nor_lose_the_loss() {
    agree(SUMS, "large", |device| {
        let hidden = leaf(uniform(1, [9, 16], device) * 1000.0);
        let (unembed, targets) = (uniform(2, [50, 16], device) * 4.0, whole(3, [9], 50, device));
        outcome!(cross_entropy(hidden.clone(), unembed, targets); hidden)
    });
}

#[test]
fn adamw_steps_agree() {
    let step = AdamWStep {
        weight_decay: 0.1,
        clip: 0.3,
        ..AdamWStep::new(1e-2, 3)
    };
    for layout in Layout::ALL {
        agree(ELEMENTWISE, &format!("{layout:?}"), |device| {
            let [param, grad, first] = [1, 2, 3].map(|seed| layout.tensor(seed, [50, 700], device));
            let second = layout.tensor(4, [50, 700], device).abs();
            let (param, first, second) = adamw(param, grad, first, second, step);
            vec![
                ("param", values(param)),
                ("first", values(first)),
                ("second", values(second)),
            ]
        });
    }
}

#[test]
fn adamw_leaves_tensors_that_others_hold_as_they_are() {
    let device = test_device();
    let [param, grad, first] = [1, 2, 3].map(|seed| uniform(seed, [4, 5], &device));
    let second = uniform(4, [4, 5], &device).abs();
    let before = [values(param.clone()), values(first.clone()), values(second.clone())];
    let after = adamw(
        param.clone(),
        grad,
        first.clone(),
        second.clone(),
        AdamWStep::new(1e-2, 1),
    );
    assert_ne!(values(after.0), before[0]);
    assert_eq!([values(param), values(first), values(second)], before);
}

#[test]
fn the_first_adamw_step_is_the_learning_rate_against_the_sign() {
    let device = test_device();
    let grad = uniform(1, [30], &device);
    let zeros = Tensor::<1>::zeros([30], &device);
    let (param, _, _) = adamw(
        zeros.clone(),
        grad.clone(),
        zeros.clone(),
        zeros,
        AdamWStep::new(1e-2, 1),
    );
    close(1e-4, "param", &values(param), &values(grad.sign() * -1e-2));
}
