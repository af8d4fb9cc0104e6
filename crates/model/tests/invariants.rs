//! What holds for every model, on a small one of random weights.

use std::ops::ControlFlow;

use burn::tensor::Tensor;
use realign_core::{Batch, Hook, HookPoint, LanguageModel, Record, Replay, Until, rows};
use realign_model::{GenerateConfig, Llama, LlamaConfig};
use realign_tensor::test_device;

/// Untied: with a tied embedding, random weights repeat the last token for ever.
fn model() -> Llama {
    let mut config = LlamaConfig::tiny();
    config.tied = false;
    Llama::random(&config, 7, &test_device())
}

/// Some token ids below 64.
fn some_ids(n: usize, seed: usize) -> Vec<u32> {
    (0..n)
        .map(|i| ((i * 37 + seed * 101 + i * i * 13) % 64) as u32)
        .collect()
}

fn floats<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().try_into_vec().unwrap()
}

fn bits<const D: usize>(x: Tensor<D>) -> Vec<u32> {
    floats(x).into_iter().map(f32::to_bits).collect()
}

fn assert_close(found: Tensor<2>, expected: Tensor<2>, tolerance: f32) {
    assert_eq!(found.dims(), expected.dims());
    for (i, (f, e)) in floats(found).into_iter().zip(floats(expected)).enumerate() {
        assert!((f - e).abs() <= tolerance, "element {i}: {f} against {e}");
    }
}

fn every_point(model: &Llama) -> Vec<HookPoint> {
    let layers = (0..model.shape().n_layers).flat_map(HookPoint::of_layer);
    [HookPoint::Embed, HookPoint::FinalNorm]
        .into_iter()
        .chain(layers)
        .collect()
}

fn generate(config: &GenerateConfig, model: &dyn LanguageModel, prompts: &[Vec<u32>]) -> Vec<Vec<u32>> {
    config.generate(model, &mut (), prompts, &mut |_, _| ControlFlow::Continue(()))
}

/// Adds a constant to the activations at one point.
struct Add(HookPoint, f32);

impl Hook for Add {
    fn wants(&self, at: HookPoint) -> bool {
        at == self.0
    }
    fn stream(&mut self, _at: HookPoint, x: Tensor<2>, _batch: &Batch) -> Tensor<2> {
        x + self.1
    }
}

#[test]
fn hooks_that_change_nothing_leave_every_bit() {
    let model = model();
    let batch = Batch::packed([some_ids(9, 1), some_ids(4, 2)]);
    let plain = bits(model.forward(&batch, &mut ()));
    let mut record = Record::new(every_point(&model));
    assert_eq!(bits(model.forward(&batch, &mut record)), plain);
    assert_eq!(
        bits(model.forward(&batch, &mut ((), Record::new(every_point(&model))))),
        plain
    );
    assert_eq!(bits(model.forward(&batch, &mut None::<Record>)), plain);
    assert_eq!(bits(record.take(HookPoint::FinalNorm).unwrap()), plain);
    // And one that changes something is felt.
    assert_ne!(
        bits(model.forward(&batch, &mut Add(HookPoint::ResidPre(1), 0.5))),
        plain
    );
}

#[test]
fn every_point_is_handed_to_the_hook() {
    let model = model();
    let mut record = Record::new(every_point(&model));
    model.forward(&Batch::packed([some_ids(5, 3)]), &mut record);
    for at in every_point(&model) {
        assert!(
            record.get(at).is_some() || record.get_heads(at).is_some(),
            "{at} was not reached"
        );
    }
}

#[test]
fn cached_generation_is_uncached_greedy_decoding() {
    let model = model();
    let prompt = some_ids(6, 4);
    let found = generate(&GenerateConfig::new(20), &model, std::slice::from_ref(&prompt));
    let mut ids = prompt.clone();
    for _ in 0..20 {
        let hidden = model.forward(&Batch::packed([&ids]), &mut ());
        let logits = floats(model.logits(rows(hidden, &[ids.len() - 1])));
        let best = (0..logits.len())
            .max_by(|&a, &b| logits[a].total_cmp(&logits[b]))
            .unwrap();
        ids.push(best as u32);
    }
    assert_eq!(found[0], ids[prompt.len()..]);
    assert!(
        found[0].iter().any(|id| *id != found[0][0]),
        "a model that repeats itself tests nothing"
    );
}

#[test]
fn hooks_run_while_sampling() {
    let model = model();
    let prompts = [some_ids(6, 4)];
    let mut steer = Add(HookPoint::ResidPost(1), 3.0);
    let config = GenerateConfig::new(12);
    let steered = config.generate(&model, &mut steer, &prompts, &mut |_, _| ControlFlow::Continue(()));
    assert_ne!(steered, generate(&config, &model, &prompts));
}

#[test]
fn a_batch_is_its_sequences_one_at_a_time() {
    let model = model();
    let sequences: Vec<Vec<u32>> = [7, 1, 12, 3].into_iter().map(|n| some_ids(n, n)).collect();
    let batch = Batch::packed(&sequences);
    let hidden = model.forward(&batch, &mut ());
    for (i, ids) in sequences.iter().enumerate() {
        let tokens: Vec<usize> = batch.tokens(i).collect();
        assert_close(
            rows(hidden.clone(), &tokens),
            model.forward(&Batch::packed([ids]), &mut ()),
            1e-5,
        );
    }
    let config = GenerateConfig::new(10);
    let together = generate(&config, &model, &sequences);
    let alone: Vec<_> = sequences
        .iter()
        .map(|ids| generate(&config, &model, std::slice::from_ref(ids)).remove(0))
        .collect();
    assert_eq!(together, alone);
}

#[test]
fn a_shared_prefix_is_as_if_repeated() {
    let model = model();
    let (prefix, first, second) = (some_ids(8, 5), some_ids(4, 6), some_ids(6, 7));
    let mut batch = Batch::new();
    let question = batch.push(&prefix);
    let answers = [batch.push_after(question, &first), batch.push_after(question, &second)];
    let hidden = model.forward(&batch, &mut ());
    for (segment, answer) in answers.into_iter().zip([&first, &second]) {
        let whole = [prefix.as_slice(), answer].concat();
        let separate = model.forward(&Batch::packed([whole]), &mut ());
        assert_close(rows(hidden.clone(), &batch.path(segment)), separate, 1e-4);
    }
}

#[test]
fn replay_is_a_plain_run() {
    let model = model();
    let replay = Replay::new(&model, 1);
    let batch = Batch::packed([some_ids(9, 1), some_ids(4, 2)]);
    // At the remembered block, above it, and below it, where nothing can be reused; each twice.
    for at in [
        HookPoint::ResidPost(1),
        HookPoint::ResidPre(2),
        HookPoint::ResidMid(1),
        HookPoint::Embed,
    ] {
        for strength in [0.0, 0.5, -2.0, 0.5] {
            let plain = model.forward(&batch, &mut Add(at, strength));
            assert_eq!(
                bits(replay.forward(&batch, &mut Add(at, strength))),
                bits(plain),
                "{at}, {strength}"
            );
        }
    }
    let other = Batch::packed([some_ids(9, 1), some_ids(4, 3)]);
    assert_eq!(
        bits(replay.forward(&other, &mut ())),
        bits(model.forward(&other, &mut ()))
    );
    // The same tokens, cut elsewhere, are another batch.
    let ids = other.ids().to_vec();
    let whole = Batch::packed([ids]);
    assert_eq!(
        bits(replay.forward(&whole, &mut ())),
        bits(model.forward(&whole, &mut ()))
    );
}

#[test]
fn a_run_up_to_a_block_and_the_rest_make_a_whole_run() {
    let model = model();
    let batch = Batch::packed([some_ids(9, 1), some_ids(4, 2)]);
    let resid = model.run(&batch, Until::Layer(1), None, &mut ());
    assert_eq!(
        bits(model.resume(&batch, 1, resid, &mut ())),
        bits(model.forward(&batch, &mut ()))
    );
}

#[test]
fn the_same_seed_gives_the_same_answers_and_another_does_not() {
    let model = model();
    let prompts: Vec<Vec<u32>> = [7, 3, 5].into_iter().map(|n| some_ids(n, n)).collect();
    let config = GenerateConfig::new(16)
        .with_temperature(1.0)
        .with_top_k(40)
        .with_top_p(0.95)
        .with_seed(3);
    let first = generate(&config, &model, &prompts);
    assert_eq!(generate(&config, &model, &prompts), first);
    assert_ne!(generate(&config.clone().with_seed(4), &model, &prompts), first);
    // What else is in the batch changes nothing: each prompt has its own stream of random numbers.
    assert_eq!(generate(&config, &model, &prompts[..1])[0], first[0]);
}

#[test]
fn stop_tokens_and_a_break_end_an_answer() {
    let model = model();
    let prompts = [some_ids(6, 4)];
    let free = generate(&GenerateConfig::new(12), &model, &prompts).remove(0);
    let stop = free[5];
    let first = free.iter().position(|&id| id == stop).unwrap();
    let config = GenerateConfig::new(12).with_stop([stop]);
    assert_eq!(generate(&config, &model, &prompts)[0], free[..first]);
    let mut calls = 0;
    let broken = GenerateConfig::new(12).generate(&model, &mut (), &prompts, &mut |_, _| {
        calls += 1;
        if calls == 3 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    assert_eq!(broken[0], free[..3]);
}
