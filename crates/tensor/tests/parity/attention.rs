//! Packed attention: against the reference, against one sequence at a time, and with a cache.

use std::sync::Arc;

use burn::tensor::Tensor;
use proptest::prelude::*;
use realign_tensor::{AttentionOptions, Span, Spans, attention, attention_with, test_device};

use crate::numbers::{Layout, Outcome, agree, leaf, outcome, same, uniform, values};

/// Sums over keys of exponentials of sums over a head.
const TOLERANCE: f32 = 1e-5;

fn span(queries: std::ops::Range<usize>, context: impl IntoIterator<Item = u32>, own: usize) -> Span {
    Span {
        queries,
        context: context.into_iter().collect(),
        own,
    }
}

/// Causal structures of every kind, with the number of key rows.
fn structures() -> Vec<(&'static str, Spans, usize)> {
    vec![
        ("one token", Spans::packed(&[1]), 1),
        ("packed", Spans::packed(&[5, 1, 0, 40]), 46),
        ("rows that nobody sees", Spans::packed(&[3]), 7),
        (
            "shared prefix",
            Spans {
                spans: vec![span(0..4, [], 0), span(4..6, 0..4, 4), span(6..9, 0..4, 6)],
            },
            9,
        ),
        (
            "a branch of a branch",
            Spans {
                spans: vec![span(0..2, [], 0), span(2..3, 0..2, 2), span(3..5, 0..3, 3)],
            },
            5,
        ),
        (
            "cached",
            Spans {
                spans: vec![span(0..1, [0, 1, 2], 8), span(1..3, [7, 3], 9)],
            },
            12,
        ),
    ]
}

fn run(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, spans: &Arc<Spans>) -> Outcome {
    let (q, k, v) = (leaf(q), leaf(k), leaf(v));
    outcome!(attention(q.clone(), k.clone(), v.clone(), spans.clone()); q, k, v)
}

#[test]
fn attention_agrees_for_every_structure_grouping_and_layout() {
    for (name, spans, rows) in structures() {
        let spans = Arc::new(spans);
        for [heads, kv_heads, d] in [[1, 1, 1], [3, 3, 8], [4, 2, 33], [6, 1, 64]] {
            for layout in Layout::ALL {
                agree(
                    TOLERANCE,
                    &format!("{name}, {heads} heads on {kv_heads}, {layout:?}"),
                    |device| {
                        let q = layout.tensor(1, [spans.n_queries(), heads, d], device) * 3.0;
                        let [k, v] = [2, 3].map(|seed| layout.tensor(seed, [rows, kv_heads, d], device));
                        run(q, k, v, &spans)
                    },
                );
            }
        }
    }
}

/// Every kind of option and some of them together.
fn options(d: usize) -> [AttentionOptions; 6] {
    let plain = AttentionOptions::new(d);
    [
        plain.with_scale(0.31),
        plain.with_softcap(Some(0.7)),
        plain.with_window(Some(1)),
        plain.with_window(Some(3)),
        plain.with_window(Some(1000)),
        plain.with_scale(0.5).with_softcap(Some(2.0)).with_window(Some(17)),
    ]
}

fn run_with(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, spans: &Arc<Spans>, options: AttentionOptions) -> Outcome {
    let (q, k, v) = (leaf(q), leaf(k), leaf(v));
    outcome!(attention_with(q.clone(), k.clone(), v.clone(), spans.clone(), options); q, k, v)
}

#[test]
fn windows_caps_and_scales_agree_for_every_structure_and_grouping() {
    for (name, spans, rows) in structures() {
        let spans = Arc::new(spans);
        for [heads, kv_heads, d] in [[3, 3, 8], [4, 2, 33], [6, 1, 64]] {
            for options in options(d) {
                agree(
                    TOLERANCE,
                    &format!("{name}, {heads} heads on {kv_heads}, {options:?}"),
                    |device| {
                        let q = uniform(1, [spans.n_queries(), heads, d], device) * 3.0;
                        let [k, v] = [2, 3].map(|seed| uniform(seed, [rows, kv_heads, d], device));
                        run_with(q, k, v, &spans, options)
                    },
                );
            }
        }
    }
}

#[test]
fn a_window_is_the_attention_of_its_own_tokens() {
    let device = test_device();
    let [q, k, v] = [1, 2, 3].map(|seed| uniform(seed, [40, 2, 8], &device));
    for window in [1, 5, 39, 40] {
        let options = AttentionOptions::new(8).with_window(Some(window));
        let all = values(attention_with(
            q.clone(),
            k.clone(),
            v.clone(),
            Arc::new(Spans::packed(&[40])),
            options,
        ));
        for t in [0, 3, 17, 39] {
            let keys: Vec<usize> = (0..=t).skip((t + 1usize).saturating_sub(window)).collect();
            let last = Spans {
                spans: vec![span(0..1, 0..keys.len() as u32 - 1, keys.len() - 1)],
            };
            let alone = attention(rows(&q, &[t]), rows(&k, &keys), rows(&v, &keys), Arc::new(last));
            same(
                &format!("window {window}, token {t}"),
                &all[t * 16..][..16],
                &values(alone),
            );
        }
    }
}

#[test]
#[should_panic(expected = "leaves a query no key")]
fn a_window_of_nothing_is_refused() {
    let zeros = || Tensor::<3>::zeros([2, 1, 4], &test_device());
    let options = AttentionOptions::new(4).with_window(Some(0));
    let _ = attention_with(zeros(), zeros(), zeros(), Arc::new(Spans::packed(&[2])), options);
}

#[test]
fn scores_of_thousands_give_a_pattern_that_sums_to_one() {
    agree(TOLERANCE, "large", |device| {
        let [q, k] = [1, 2].map(|seed| leaf(uniform(seed, [9, 2, 8], device) * 100.0));
        let v = Tensor::<3>::ones([9, 2, 8], device);
        let value = values(attention(q, k, v, Arc::new(Spans::packed(&[4, 5]))));
        assert!(value.iter().all(|x| (x - 1.0).abs() < 1e-6), "{value:?}");
        vec![("value", value)]
    });
}

#[test]
fn the_first_token_sees_only_itself_and_no_later_one_reaches_back() {
    let device = test_device();
    let [q, k, v] = [1, 2, 3].map(|seed| uniform(seed, [6, 2, 4], &device));
    let spans = Arc::new(Spans::packed(&[6]));
    let before = values(attention(q.clone(), k.clone(), v.clone(), spans.clone()));
    assert_eq!(before[..8], values(v.clone())[..8]);
    let other = |x: Tensor<3>| x.slice_assign([4..6, 0..2, 0..4], uniform(9, [2, 2, 4], &device));
    let after = values(attention(q, other(k), other(v), spans));
    assert_eq!(before[..32], after[..32]);
    assert_ne!(before[32..], after[32..]);
}

/// Tokens `tokens` of every outcome's part, of `[token, width]`.
fn part(all: &[f32], width: usize, tokens: &[usize]) -> Vec<f32> {
    tokens
        .iter()
        .flat_map(|&t| &all[t * width..][..width])
        .copied()
        .collect()
}

fn rows(x: &Tensor<3>, tokens: &[usize]) -> Tensor<3> {
    let index: Vec<i32> = tokens.iter().map(|&t| t as i32).collect();
    x.clone().select(0, Tensor::from_ints(&index[..], &x.device()))
}

fn length() -> impl Strategy<Value = usize> {
    1usize..12
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn packed_is_one_at_a_time(
        lengths in prop::collection::vec(length(), 1..6),
        (kv_heads, group, d) in (1usize..4, 1usize..4, 1usize..40),
        seed in 0u8..90,
    ) {
        let (device, n) = (test_device(), lengths.iter().sum());
        let (q_width, kv_width) = (kv_heads * group * d, kv_heads * d);
        let q = uniform(seed, [n, kv_heads * group, d], &device);
        let [k, v] = [1, 2].map(|more| uniform(seed + more, [n, kv_heads, d], &device));
        // The loss weighs elements by where they are, so both sides take plain sums of squares instead.
        let grads = |q: &Tensor<3>, k: &Tensor<3>, v: &Tensor<3>, spans: Spans| {
            let (q, k, v) = (leaf(q.clone()), leaf(k.clone()), leaf(v.clone()));
            let y = attention(q.clone(), k.clone(), v.clone(), Arc::new(spans));
            let value = values(y.clone());
            let grads = y.powi_scalar(2).sum().backward();
            [value, values(q.grad(&grads).unwrap()), values(k.grad(&grads).unwrap()), values(v.grad(&grads).unwrap())]
        };
        let packed = grads(&q, &k, &v, Spans::packed(&lengths));
        let mut start = 0;
        for length in lengths {
            let tokens: Vec<usize> = (start..start + length).collect();
            let alone = grads(&rows(&q, &tokens), &rows(&k, &tokens), &rows(&v, &tokens), Spans::packed(&[length]));
            for (i, (packed, alone)) in packed.iter().zip(&alone).enumerate() {
                let width = if i < 2 { q_width } else { kv_width };
                same(&format!("part {i}"), &part(packed, width, &tokens), alone);
            }
            start += length;
        }
    }

    #[test]
    fn with_any_options_packed_is_one_at_a_time_and_flex_is_the_reference(
        lengths in prop::collection::vec(1usize..40, 1..4),
        (kv_heads, group, d) in (1usize..3, 1usize..4, 1usize..40),
        (window, cap) in (prop::option::of(1usize..45), prop::option::of(0.1f32..5.0)),
        seed in 0u8..90,
    ) {
        let n = lengths.iter().sum();
        let options = AttentionOptions::new(d).with_window(window).with_softcap(cap);
        let inputs = |device: &burn::tensor::Device| {
            let q = uniform(seed, [n, kv_heads * group, d], device);
            let [k, v] = [1, 2].map(|more| uniform(seed + more, [n, kv_heads, d], device));
            (q, k, v)
        };
        let spans = Arc::new(Spans::packed(&lengths));
        agree(TOLERANCE, &format!("{options:?}"), |device| {
            let (q, k, v) = inputs(device);
            run_with(q, k, v, &spans, options)
        });
        let (q, k, v) = inputs(&test_device());
        let all = values(attention_with(q.clone(), k.clone(), v.clone(), spans, options));
        let (mut start, width) = (0, kv_heads * group * d);
        for length in lengths {
            let tokens: Vec<usize> = (start..start + length).collect();
            let alone = Arc::new(Spans::packed(&[length]));
            let alone = attention_with(rows(&q, &tokens), rows(&k, &tokens), rows(&v, &tokens), alone, options);
            same("values", &part(&all, width, &tokens), &values(alone));
            start += length;
        }
    }

    #[test]
    fn a_shared_prefix_is_the_whole_sequence(
        prefix in length(),
        continuations in prop::collection::vec(length(), 1..4),
        seed in 0u8..90,
    ) {
        let (device, n) = (test_device(), prefix + continuations.iter().sum::<usize>());
        let [q, k, v] = [0, 1, 2].map(|more| uniform(seed + more, [n, 2, 6], &device));
        let mut spans = vec![span(0..prefix, [], 0)];
        let mut start = prefix;
        for &length in &continuations {
            spans.push(span(start..start + length, 0..prefix as u32, start));
            start += length;
        }
        let shared = values(attention(q.clone(), k.clone(), v.clone(), Arc::new(Spans { spans: spans.clone() })));
        for branch in &spans[1..] {
            let tokens: Vec<usize> = (0..prefix).chain(branch.queries.clone()).collect();
            let whole = Arc::new(Spans::packed(&[tokens.len()]));
            let alone = values(attention(rows(&q, &tokens), rows(&k, &tokens), rows(&v, &tokens), whole));
            same("branch", &part(&shared, 12, &tokens), &alone);
        }
    }

    #[test]
    fn the_last_token_with_a_cache_is_that_of_the_whole_sequence(
        n in 1usize..30,
        unused in 0usize..5,
        seed in 0u8..90,
    ) {
        let device = test_device();
        let q = uniform(seed, [n, 4, 5], &device);
        let [k, v] = [1, 2].map(|more| uniform(seed + more, [n + unused, 2, 5], &device));
        let tokens: Vec<usize> = (0..n).collect();
        let packed = Arc::new(Spans::packed(&[n]));
        let whole = values(attention(q.clone(), rows(&k, &tokens), rows(&v, &tokens), packed));
        let cached = Spans { spans: vec![span(0..1, 0..n as u32 - 1, n - 1)] };
        let last = values(attention(rows(&q, &[n - 1]), k, v, Arc::new(cached)));
        same("last", &whole[(n - 1) * 20..], &last);
    }
}
