//! Gradients against finite differences, and the absence of gradients where weights are frozen.

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use realign_tensor::{
    Activation, AttentionOptions, Span, Spans, activate, add_rms_norm, attention, attention_with, cross_entropy, gated,
    low_rank_linear, product, rms_norm, rotary, sparse_decode, swiglu, test_device,
};

use crate::numbers::{leaf, loss, reference, uniform, values, whole};

/// Central differences in f32: truncation of order `STEP²`, rounding of order `1e-7 / STEP`.
const STEP: f32 = 1e-2;
const TOLERANCE: f32 = 2e-3;

/// Checks the gradient of `loss(f(x))` at `x` in every direction.
fn check<const D: usize, const E: usize>(name: &str, x: Tensor<D>, f: impl Fn(Tensor<D>) -> Tensor<E>) {
    let device = x.device();
    let (shape, numbers) = (x.dims(), values(x.clone()));
    let parameter = leaf(x);
    let grads = loss(f(parameter.clone())).backward();
    let analytic = values(parameter.grad(&grads).expect("a parameter has a gradient"));
    let at = |numbers: Vec<f32>| values(loss(f(Tensor::from_data(TensorData::new(numbers, shape), &device))))[0];
    for (i, analytic) in analytic.into_iter().enumerate() {
        let moved = |by: f32| {
            let mut numbers = numbers.clone();
            numbers[i] += by;
            at(numbers)
        };
        let numeric = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
        let difference = (numeric - analytic).abs();
        assert!(
            difference < TOLERANCE,
            "{name}: gradient {analytic} at {i}, by differences {numeric}"
        );
    }
}

fn devices() -> [Device; 2] {
    [test_device(), reference()]
}

#[test]
fn attention_has_the_gradient_of_its_values() {
    let context = Span {
        queries: 3..5,
        context: vec![1, 0],
        own: 4,
    };
    let spans = Arc::new(Spans {
        spans: vec![
            Span {
                queries: 0..3,
                context: vec![],
                own: 0,
            },
            context,
        ],
    });
    for device in devices() {
        let q = uniform(1, [5, 4, 3], &device);
        let [k, v] = [2, 3].map(|seed| uniform(seed, [7, 2, 3], &device));
        check("q", q.clone(), |q| attention(q, k.clone(), v.clone(), spans.clone()));
        check("k", k.clone(), |k| attention(q.clone(), k, v.clone(), spans.clone()));
        check("v", v.clone(), |v| attention(q.clone(), k.clone(), v, spans.clone()));
        let options = AttentionOptions::new(3)
            .with_scale(0.8)
            .with_softcap(Some(0.5))
            .with_window(Some(2));
        let with = |q: Tensor<3>, k: Tensor<3>, v: Tensor<3>| attention_with(q, k, v, spans.clone(), options);
        check("capped q", q.clone(), |q| with(q, k.clone(), v.clone()));
        check("capped k", k.clone(), |k| with(q.clone(), k, v.clone()));
        check("capped v", v.clone(), |v| with(q.clone(), k.clone(), v));
    }
}

#[test]
fn rms_norm_has_the_gradient_of_its_values() {
    for device in devices() {
        let (x, weight) = (uniform(1, [3, 7], &device), uniform(2, [7], &device));
        check("x", x.clone(), |x| rms_norm(x, weight.clone(), 0.1));
        check("weight", weight.clone(), |weight| rms_norm(x.clone(), weight, 0.1));

        let delta = uniform(3, [3, 7], &device);
        let added = |x, delta, weight| {
            let (sum, normed) = add_rms_norm(x, delta, weight, 0.1);
            sum * normed
        };
        check("added x", x.clone(), |x| added(x, delta.clone(), weight.clone()));
        check("added delta", delta.clone(), |delta| {
            added(x.clone(), delta, weight.clone())
        });
        check("added weight", weight.clone(), |weight| {
            added(x.clone(), delta.clone(), weight)
        });
    }
}

#[test]
fn the_other_operations_have_the_gradients_of_their_values() {
    for device in devices() {
        let [x, y] = [1, 2].map(|seed| uniform(seed, [3, 4], &device));
        check("gate", x.clone(), |x| swiglu(x, y.clone()));
        check("up", y.clone(), |y| swiglu(x.clone(), y));
        for activation in [Activation::Gelu, Activation::GeluTanh] {
            check("gelu gate", x.clone(), |x| gated(x, y.clone(), activation));
            check("gelu up", y.clone(), |y| gated(x.clone(), y, activation));
            check("gelu", x.clone(), |x| activate(x, activation));
        }
        check("silu", x.clone(), |x| activate(x, Activation::Silu));
        check("a", x.clone(), |x| product(x, y.clone().transpose()));
        let angle = uniform(3, [3, 2], &device);
        check("rotated", uniform(4, [3, 2, 4], &device), |x| {
            rotary(x, angle.clone().cos(), angle.clone().sin())
        });
        let columns = whole(5, [3, 4], 6, &device);
        check("latents", x.clone(), |x| {
            sparse_decode(x, columns.clone(), uniform(6, [6, 5], &device))
        });
        let targets = whole(7, [3], 9, &device);
        check("hidden", x, |x| {
            cross_entropy(x, uniform(8, [9, 4], &device), targets.clone())
        });
    }
}

#[test]
fn a_frozen_operand_gets_no_gradient_and_the_other_its_own() {
    for device in devices() {
        let x = leaf(uniform(1, [3, 4], &device));
        let frozen = uniform(2, [4, 5], &device).autodiff();
        let grads = loss(product(x.clone(), frozen.clone())).backward();
        assert!(frozen.grad(&grads).is_none());
        let alone = values(x.grad(&grads).unwrap());

        let grads = loss(product(frozen.clone().transpose(), x.clone().transpose())).backward();
        assert!(frozen.grad(&grads).is_none() && x.grad(&grads).is_some());

        let both = leaf(frozen.inner());
        let grads = loss(product(x.clone(), both.clone())).backward();
        assert_eq!(values(x.grad(&grads).unwrap()), alone);
        assert!(both.grad(&grads).is_some());
    }
}

/// Adapters of a frozen model, frozen adapters, and each operand alone.
#[test]
fn a_low_rank_map_has_the_gradients_that_are_asked_for() {
    for device in devices() {
        let shapes = [[3, 6], [3, 4], [4, 2], [2, 6]];
        let run = |tracked: [bool; 4]| {
            let operands: [Tensor<2>; 4] = std::array::from_fn(|i| {
                let operand = uniform(i as u8, shapes[i], &device).autodiff();
                if tracked[i] { operand.require_grad() } else { operand }
            });
            let [y, x, a, b] = operands.clone();
            let grads = loss(low_rank_linear(y, x, a, b, 0.5)).backward();
            operands.map(|operand| operand.grad(&grads).map(values))
        };
        let all = run([true; 4]);
        for asked in 1..15 {
            let tracked = std::array::from_fn(|i| asked >> i & 1 == 1);
            let found = run(tracked);
            for i in 0..4 {
                assert_eq!(
                    found[i],
                    all[i].clone().filter(|_| tracked[i]),
                    "operand {i} of {tracked:?}"
                );
            }
        }
        let [y, x, a, b] = [0, 1, 2, 3].map(|i| uniform(i, shapes[i as usize], &device));
        let map = |y: &Tensor<2>, x: &Tensor<2>, a: &Tensor<2>, b: &Tensor<2>| {
            low_rank_linear(y.clone(), x.clone(), a.clone(), b.clone(), 0.5)
        };
        check("y", y.clone(), |y| map(&y, &x, &a, &b));
        check("x", x.clone(), |x| map(&y, &x, &a, &b));
        check("a", a.clone(), |a| map(&y, &x, &a, &b));
        check("b", b.clone(), |b| map(&y, &x, &a, &b));
    }
}

#[test]
fn constants_alone_leave_no_tape() {
    let device = test_device();
    let [x, y] = [1, 2].map(|seed| uniform(seed, [4, 4], &device).autodiff());
    assert!(!product(x.clone(), y.clone()).is_tracked());
    assert!(!swiglu(x.clone(), y.clone()).is_tracked());
    assert!(!low_rank_linear(x.clone(), x.clone(), y.clone(), y, 1.0).is_tracked());
    let weight = uniform(3, [4], &device).autodiff();
    assert!(!rms_norm(x.clone(), weight.clone(), 1e-5).is_tracked());
    let (sum, normed) = add_rms_norm(x.clone(), x, weight, 1e-5);
    assert!(!sum.is_tracked() && !normed.is_tracked());
}

#[test]
fn the_unembedding_gets_no_gradient() {
    for device in devices() {
        let hidden = leaf(uniform(1, [3, 4], &device));
        let unembed = uniform(2, [9, 4], &device).autodiff();
        let nll = cross_entropy(hidden.clone(), unembed.clone(), whole(3, [3], 9, &device));
        let grads = nll.sum().backward();
        assert!(unembed.grad(&grads).is_none() && hidden.grad(&grads).is_some());
    }
}

#[test]
#[should_panic(expected = "cross_entropy: the unembedding is frozen")]
fn an_unembedding_that_wants_a_gradient_is_refused() {
    let device = test_device();
    let (hidden, unembed) = (leaf(uniform(1, [3, 4], &device)), leaf(uniform(2, [9, 4], &device)));
    cross_entropy(hidden, unembed, whole(3, [3], 9, &device))
        .sum()
        .backward();
}
