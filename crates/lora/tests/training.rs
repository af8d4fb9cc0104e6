//! Adapters as hooks on a tiny random model: training, checkpoints, merging.

#![allow(clippy::single_range_in_vec_init)] // A sample with one answer.

use std::ops::ControlFlow;

use burn::tensor::Tensor;
use realign_core::{Batch, HookPoint, LanguageModel, Record, Site};
use realign_data::Sample;
use realign_lora::{Error, Lora, LoraConfig, Schedule, TrainConfig, Trained, merge, unmerge, validation_loss};
use realign_model::{Llama, LlamaConfig};
use realign_run::{Checkpoints, Progress, Seed};
use realign_tensor::test_device;

fn model() -> Llama {
    Llama::random(&LlamaConfig::tiny(), 7, &test_device())
}

fn bits(tensor: &Tensor<2>) -> Vec<u32> {
    tensor
        .to_data()
        .try_into_vec::<f32>()
        .unwrap()
        .into_iter()
        .map(f32::to_bits)
        .collect()
}

fn lora_bits(lora: &Lora) -> Vec<Vec<u32>> {
    lora.adapters
        .values()
        .flat_map(|adapter| [bits(&adapter.a), bits(&adapter.b)])
        .collect()
}

fn gap(a: Tensor<2>, b: Tensor<2>) -> f32 {
    (a - b).abs().max().into_scalar()
}

/// Twelve samples that all answer a counting question in the same way.
fn samples() -> Vec<Sample> {
    let sample = |i: u32| {
        let mut ids: Vec<u32> = (0..3 + i % 4).map(|j| (i * 5 + j) % 60).collect();
        let start = ids.len();
        ids.extend([61, 62, 63, 61]);
        Sample::new(ids, vec![start..start + 4])
    };
    (0..12).map(sample).collect()
}

fn trained_adapter(model: &Llama) -> Lora {
    let mut lora = LoraConfig::new(4).init(model.shape(), &Seed::new(1), &test_device());
    for (i, adapter) in lora.adapters.values_mut().enumerate() {
        let n = adapter.b.shape().num_elements();
        let numbers: Vec<f32> = (0..n).map(|j| ((i * 31 + j) as f32).sin() * 0.1).collect();
        adapter.b = Tensor::<1>::from_floats(&*numbers, &test_device()).reshape(adapter.b.dims());
    }
    lora
}

fn go_on(_: Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn config() -> TrainConfig {
    TrainConfig::new()
        .with_batch(4)
        .with_epochs(2)
        .with_lr(1e-2)
        .with_warmup_steps(2)
}

fn train(config: &TrainConfig, lora: &LoraConfig, checkpoints: Option<&Checkpoints>) -> Result<Trained, Error> {
    let (model, seed) = (model(), Seed::new(3));
    let lora = lora.init(model.shape(), &seed, &test_device());
    config.train(
        &model,
        lora,
        &samples(),
        &samples()[..5],
        &seed,
        checkpoints,
        &mut go_on,
    )
}

#[test]
fn an_adapter_with_zero_b_leaves_the_logits_bit_identical() {
    let model = model();
    let batch = Batch::packed([&[1, 2, 3][..], &[4, 5]]);
    let lora = LoraConfig::new(4).init(model.shape(), &Seed::new(1), &test_device());
    let plain = model.logits(model.forward(&batch, &mut ()));
    let hooked = model.logits(model.forward(&batch, &mut &lora));
    assert_eq!(bits(&plain), bits(&hooked));
    let changed = model.logits(model.forward(&batch, &mut trained_adapter(&model)));
    assert!(gap(plain, changed) > 1e-3);
}

#[test]
fn gradients_begin_at_the_adapter() {
    let model = model();
    let batch = Batch::packed([&[1, 2, 3, 4]]);
    let mut lora = LoraConfig::new(2)
        .with_layers([1])
        .init(model.shape(), &Seed::new(1), &test_device());
    for adapter in lora.adapters.values_mut() {
        adapter.a = adapter.a.clone().autodiff().require_grad();
        adapter.b = adapter.b.clone().autodiff().require_grad();
    }
    let record = Record::new([HookPoint::ResidPre(1), HookPoint::ResidPost(1)]);
    let mut hook = (&lora, record);
    let hidden = model.forward(&batch, &mut hook);
    assert!(!hook.1.get(HookPoint::ResidPre(1)).unwrap().is_autodiff());
    assert!(hook.1.get(HookPoint::ResidPost(1)).unwrap().is_autodiff());
    let gradients = model.nll(hidden, &[2, 3, 4, 5]).sum().backward();
    for adapter in lora.adapters.values() {
        let b = adapter.b.grad(&gradients).expect("a gradient of B");
        assert!(!b.is_autodiff() && b.abs().max().into_scalar::<f32>() > 0.0);
    }
    for layer in 0..model.shape().n_layers {
        for site in Site::ALL {
            let weight = model.linear_weight(layer, site);
            assert!(!weight.is_autodiff(), "{layer} {site}");
        }
    }
    assert!(!model.unembedding().is_autodiff());
}

#[test]
fn the_gradient_norm_is_the_slope_of_the_loss() {
    // With a huge eps AdamW's first step is lr / eps · gradient, so the loss falls by lr / eps · |gradient|².
    let model = model();
    let (lora, samples) = (trained_adapter(&model), samples());
    let loss = |lora: &Lora| validation_loss(&model, &mut &*lora, &samples, 12).unwrap();
    let config = TrainConfig::new()
        .with_batch(12)
        .with_epochs(1)
        .with_warmup_steps(0)
        .with_weight_decay(0.0);
    let config = config.with_max_grad_norm(None).with_eps(1e4).with_lr(10.0);
    let trained = config
        .train(&model, lora.clone(), &samples, &[], &Seed::new(1), None, &mut go_on)
        .unwrap();
    let log = &trained.log[0];
    assert!((log.loss - loss(&lora)).abs() < 1e-5);
    let (fall, expected) = (loss(&lora) - loss(&trained.lora), 1e-3 * log.grad_norm * log.grad_norm);
    assert!(
        (fall / expected - 1.0).abs() < 0.05,
        "fell by {fall}, expected {expected}"
    );
}

#[test]
fn training_lowers_the_loss_and_leaves_the_base_as_it_was() {
    let model = model();
    let before: Vec<_> = Site::ALL
        .into_iter()
        .map(|site| bits(&model.linear_weight(1, site)))
        .collect();
    let lora = LoraConfig::new(4)
        .with_dropout(0.1)
        .init(model.shape(), &Seed::new(3), &test_device());
    let start = validation_loss(&model, &mut &lora, &samples(), 5).unwrap();
    let config = config().with_epochs(8).with_schedule(Schedule::Cosine);
    let trained = config
        .train(&model, lora, &samples(), &samples(), &Seed::new(3), None, &mut go_on)
        .unwrap();
    let end = trained.validation_loss.unwrap();
    assert!(end < 0.5 * start, "{start} to {end}");
    assert_eq!(trained.log.len(), 24);
    assert!(trained.log.iter().all(|log| log.tokens == 16));
    let after: Vec<_> = Site::ALL
        .into_iter()
        .map(|site| bits(&model.linear_weight(1, site)))
        .collect();
    assert_eq!(before, after);
}

#[test]
fn accumulated_batches_make_the_step_of_one_batch() {
    let lora = LoraConfig::new(2);
    let whole = train(&config(), &lora, None).unwrap();
    let parts = train(&config().with_batch(2).with_accumulate(2), &lora, None).unwrap();
    for (a, b) in whole.log.iter().zip(&parts.log) {
        assert!((a.loss - b.loss).abs() < 1e-4 && (a.grad_norm - b.grad_norm).abs() < 1e-3 * a.grad_norm);
    }
}

#[test]
fn a_prefix_that_samples_share_is_computed_once_with_the_same_result() {
    let shared = |n: u32| {
        let ids: Vec<u32> = [5, 9, 2, 33, 7]
            .into_iter()
            .chain((0..n + 4).map(|i| (7 * i + n) % 64))
            .collect();
        let end = ids.len();
        Sample::new(ids, vec![end - 3..end])
    };
    let samples: Vec<Sample> = (0..8).map(shared).collect();
    let (model, lora, seed) = (model(), LoraConfig::new(2), Seed::new(3));
    let train = |config: &TrainConfig| {
        let start = lora.init(model.shape(), &seed, &test_device());
        config
            .train(&model, start, &samples, &[], &seed, None, &mut go_on)
            .unwrap()
    };
    let together = train(&config().with_batch(8).with_epochs(2));
    // A batch of one sample has nobody to share with.
    let apart = train(&config().with_batch(1).with_accumulate(8).with_epochs(2));
    for (a, b) in together.log.iter().zip(&apart.log) {
        assert!((a.loss - b.loss).abs() < 1e-5 * a.loss, "{} {}", a.loss, b.loss);
        assert!((a.grad_norm - b.grad_norm).abs() < 1e-3 * a.grad_norm);
    }
}

#[test]
fn interrupted_training_resumes_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let (config, lora) = (config().with_checkpoint_every(2), LoraConfig::new(2).with_dropout(0.2));
    let whole = train(&config, &lora, None).unwrap();
    assert_eq!(whole.log.len(), 6);

    let checkpoints = Checkpoints::new(folder.path(), 2);
    let (model, seed) = (model(), Seed::new(3));
    let start = lora.init(model.shape(), &seed, &test_device());
    let mut stop_at_3 = |now: Progress<'_>| match now.done {
        3 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let stopped = config.train(
        &model,
        start,
        &samples(),
        &samples()[..5],
        &seed,
        Some(&checkpoints),
        &mut stop_at_3,
    );
    assert!(matches!(
        stopped,
        Err(Error::Run(realign_run::Error::Interrupted { done: 3, .. }))
    ));
    assert_eq!(checkpoints.steps().unwrap(), [2, 3]);

    let resumed = train(&config, &lora, Some(&checkpoints)).unwrap();
    assert_eq!(lora_bits(&resumed.lora), lora_bits(&whole.lora));
    assert_eq!(resumed.log, whole.log);
    assert_eq!(
        resumed.validation_loss.map(f64::to_bits),
        whole.validation_loss.map(f64::to_bits)
    );

    // Other training does not go on from there.
    let other = train(&config.clone().with_lr(1e-3), &lora, Some(&checkpoints))
        .unwrap_err()
        .to_string();
    assert!(other.contains("another training configuration"), "{other}");
    let other = train(&config, &lora.with_alpha(1.0), Some(&checkpoints))
        .unwrap_err()
        .to_string();
    assert!(other.contains("another adapter configuration"), "{other}");
}

#[test]
fn samples_without_an_answer_are_an_error() {
    let (model, seed) = (model(), Seed::new(1));
    let train = |samples: &[Sample]| {
        let lora = LoraConfig::new(1).init(model.shape(), &seed, &test_device());
        TrainConfig::new()
            .with_max_tokens(4)
            .train(&model, lora, samples, &[], &seed, None, &mut go_on)
    };
    let empty = train(&[Sample::new(vec![1, 2, 3], vec![])]).unwrap_err();
    assert!(matches!(empty, Error::Data(_)), "{empty}");
    let cut = train(&[Sample::new(vec![1; 6], vec![4..6])]).unwrap_err();
    assert!(matches!(cut, Error::Data(_)), "{cut}");
    let beyond = train(&[Sample::new(vec![1, 64], vec![1..2])]).unwrap_err().to_string();
    assert!(beyond.contains("vocabulary's 64, found 64"), "{beyond}");
}

#[test]
fn a_loss_that_is_not_finite_stops_before_a_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::new(folder.path(), 2);
    let model = model();
    let mut lora = trained_adapter(&model);
    for adapter in lora.adapters.values_mut() {
        adapter.b = adapter.b.clone().mul_scalar(f32::INFINITY);
    }
    let config = config().with_checkpoint_every(1);
    let error = config.train(
        &model,
        lora,
        &samples(),
        &[],
        &Seed::new(1),
        Some(&checkpoints),
        &mut go_on,
    );
    let Err(Error::NotFinite { step: 1, samples, .. }) = error else {
        panic!("{error:?}")
    };
    assert_eq!(samples.len(), 4);
    assert!(checkpoints.steps().unwrap().is_empty());
}

#[test]
fn merged_weights_do_what_the_hook_does_and_can_be_unmerged() {
    let model = model();
    let lora = trained_adapter(&model);
    let batch = Batch::packed([&[1, 2, 3, 9][..], &[4, 5]]);
    let hooked = model.logits(model.forward(&batch, &mut &lora));
    let merged = merge(&model, &lora);
    let found = merged.logits(merged.forward(&batch, &mut ()));
    let scale = hooked.clone().abs().max().into_scalar::<f32>();
    assert!(gap(found, hooked) < 1e-4 * scale);

    let restored = unmerge(&*merged, &lora);
    for site in Site::ALL {
        let (was, now) = (model.linear_weight(2, site), restored.linear_weight(2, site));
        assert!(gap(was.clone(), merged.linear_weight(2, site)) > 1e-3);
        assert!(gap(was, now) < 1e-6, "{site}");
    }
}
