//! Values and all gradients equal those of the reference bodies, whatever the shape from one row on and however each operand lies.

use burn::tensor::Tensor;
use proptest::prelude::*;
use realign_tensor::{
    Activation, AdamWStep, activate, adamw, add_rms_norm, cross_entropy, gated, low_rank_linear, product, rms_norm,
    rotary, sparse_decode, sparse_encode,
};

use crate::numbers::{Layout, agree, exponentials, leaf, outcome, values, whole};

/// Sums of a hundred products.
const SUMS: f32 = 1e-5;

fn layout() -> impl Strategy<Value = Layout> {
    prop::sample::select(&Layout::ALL[..])
}

/// Rows, up to more than a task's; not none, for which burn's own operations have no answer on every backend.
fn rows() -> impl Strategy<Value = usize> {
    prop_oneof![Just(1), 2usize..40, 40usize..200]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn products_agree(
        m in rows(), [of_y, of_a, of_x, of_b] in [layout(), layout(), layout(), layout()], k in 1usize..90, n in 1usize..90, rank in 1usize..40, scale in -4.0..4.0,
    ) {
        agree(SUMS, &format!("[{m}, {k}] {of_a:?} · [{k}, {n}] {of_b:?}"), |device| {
            let a = leaf(of_a.tensor(1, [m, k], device));
            let b = leaf(of_b.tensor(2, [k, n], device));
            outcome!(product(a.clone(), b.clone()); a, b)
        });
        agree(SUMS, &format!("[{m}, {k}] {of_x:?} of rank {rank} to {n} {of_y:?}, times {scale}"), |device| {
            let y = leaf(of_y.tensor(1, [m, n], device));
            let x = leaf(of_x.tensor(2, [m, k], device));
            let a = leaf(of_b.tensor(3, [k, rank], device));
            let b = leaf(of_b.tensor(4, [rank, n], device));
            outcome!(low_rank_linear(y.clone(), x.clone(), a.clone(), b.clone(), scale); y, x, a, b)
        });
    }

    #[test]
    fn what_is_done_row_by_row_agrees(rows in rows(), [of_x, of_y, of_grad] in [layout(), layout(), layout()], half in 1usize..80, heads in 1usize..4) {
        let d = 2 * half;
        let name = format!("[{rows}, {d}] {of_x:?}, {of_y:?}, {of_grad:?}");
        agree(SUMS, &name, |device| {
            let x = leaf(of_x.tensor(1, [rows, d], device));
            let weight = leaf(Layout::Inside.tensor(2, [d], device));
            outcome!(rms_norm(x.clone(), weight.clone(), 1e-5); x, weight)
        });
        agree(SUMS, &name, |device| {
            let x = leaf(of_x.tensor(1, [rows, d], device));
            let delta = leaf(of_y.tensor(2, [rows, d], device));
            let weight = leaf(Layout::Inside.tensor(3, [d], device));
            let (sum, normed) = add_rms_norm(x.clone(), delta.clone(), weight.clone(), 1e-5);
            outcome!(Tensor::cat(vec![sum, normed], 1); x, delta, weight)
        });
        agree(SUMS, &name, |device| {
            let x = leaf(of_x.tensor(1, [rows, heads, d], device));
            let angle = of_y.tensor(2, [rows, half], device) * 3.0;
            outcome!(rotary(x.clone(), angle.clone().cos(), angle.sin()); x)
        });
        for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
            agree(SUMS, &name, |device| {
                let gate = leaf(of_x.tensor(1, [rows, d], device) * 9.0);
                let up = leaf(of_y.tensor(2, [rows, d], device));
                outcome!(gated(gate.clone(), up.clone(), activation); gate, up)
            });
            agree(SUMS, &name, |device| {
                let x = leaf(of_x.tensor(1, [rows, d], device) * 9.0);
                outcome!(activate(x.clone(), activation); x)
            });
        }
        agree(SUMS, &name, |device| {
            let param = of_x.tensor(1, [rows, d], device);
            let grad = of_grad.tensor(2, [rows, d], device);
            let first = of_y.tensor(3, [rows, d], device);
            let second = of_y.tensor(4, [rows, d], device).abs();
            let (param, first, second) = adamw(param, grad, first, second, AdamWStep::new(1e-2, 3));
            vec![("param", values(param)), ("first", values(first)), ("second", values(second))]
        });
    }

    #[test]
    fn codes_and_losses_agree(
        tokens in rows(), [of_x, of_values, of_w] in [layout(), layout(), layout()], d_in in 1usize..60, d_sae in 1usize..300, most in 1usize..20,
    ) {
        let k = most.min(d_sae);
        let name = format!("[{tokens}, {d_in}] {of_x:?}, {d_sae} latents {of_w:?}, k = {k}");
        agree(SUMS, &name, |device| {
            // Small whole numbers: pre-activations are exact, and which of two nearly equal ones is larger is no matter of rounding.
            let small = |seed, shape: [usize; 2]| whole(seed, shape, 9, device).float() - 4.0;
            let x = leaf(small(1, [d_in, tokens]).transpose());
            let w_enc = leaf(small(2, [d_sae, d_in]));
            let b_enc = leaf(small(3, [1, d_sae]).reshape([d_sae]));
            let (values, _) = sparse_encode(x.clone(), w_enc.clone(), b_enc.clone(), k);
            outcome!(values; x, w_enc, b_enc)
        });
        agree(SUMS, &name, |device| {
            let activations = leaf(of_values.tensor(1, [tokens, k], device));
            let columns = whole(2, [tokens, k], d_sae as i32, device);
            let w_dec = leaf(of_w.tensor(3, [d_sae, d_in], device));
            outcome!(sparse_decode(activations.clone(), columns, w_dec.clone()); activations, w_dec)
        });
        agree(4.0 * SUMS * exponentials(), &name, |device| {
            let hidden = leaf(of_x.tensor(1, [tokens, d_in], device));
            let unembed = of_w.tensor(2, [d_sae, d_in], device) * 4.0;
            let targets = whole(3, [tokens], d_sae as i32, device);
            outcome!(cross_entropy(hidden.clone(), unembed, targets); hidden)
        });
    }
}
