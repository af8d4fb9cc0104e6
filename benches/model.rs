//! Whole-model work on a model of SmolLM2-135M's sizes with random weights: prefill, generation, a LoRA and an SAE step.

use std::hint::black_box;
use std::ops::ControlFlow;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use realign::burn::tensor::{Device, Tensor};
use realign::core::{Batch, HookPoint, LanguageModel, rows};
use realign::data::Sample;
use realign::lora::{self, LoraConfig};
use realign::model::{GenerateConfig, Llama};
use realign::run::Seed;
use realign::sae::{self, ActivationSource, ModelActivations, SaeConfig};
use realign_bench::{numbers, smollm2, text};

fn model() -> Llama {
    Llama::random(&smollm2(), 0, &Device::flex())
}

/// Packed texts of these lengths.
fn batch(lengths: &[usize]) -> Batch {
    Batch::packed(lengths.iter().map(|&n| text(n)))
}

fn prefill(c: &mut Criterion) {
    let model = model();
    let mut group = c.benchmark_group("prefill");
    group.sample_size(10).measurement_time(Duration::from_secs(10));
    for (name, lengths) in [
        ("one text of 512", vec![512]),
        ("ragged", vec![200, 12, 100, 37, 90, 73]),
    ] {
        let batch = batch(&lengths);
        group.throughput(Throughput::Elements(batch.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                let hidden = model.forward(&batch, &mut ());
                black_box(model.logits(rows(hidden, &[batch.len() - 1])))
            });
        });
    }
    group.finish();
}

fn generate(c: &mut Criterion) {
    let model = model();
    let mut group = c.benchmark_group("generate 32 tokens after 64");
    group.sample_size(10).measurement_time(Duration::from_secs(20));
    for prompts in [1, 8, 32] {
        let texts = vec![text(64); prompts];
        let config = GenerateConfig::new(32).with_temperature(1.0);
        group.throughput(Throughput::Elements(32 * prompts as u64));
        group.bench_function(format!("{prompts} at a time"), |b| {
            b.iter(|| black_box(config.generate(&model, &mut (), &texts, &mut |_, _| ControlFlow::Continue(()))));
        });
    }
    group.finish();
}

fn lora_step(c: &mut Criterion) {
    let (model, seed) = (model(), Seed::new(0));
    // Questions of 30 tokens and answers of 60; one step sees all of them.
    let samples: Vec<Sample> = (0..8)
        .map(|i| Sample::new(text(90 + i), std::iter::once(30..90 + i).collect()))
        .collect();
    let tokens: usize = samples.iter().map(Sample::len).sum();
    let config = lora::TrainConfig::new().with_batch(samples.len()).with_epochs(1);
    let adapter = LoraConfig::new(16).init(model.shape(), &seed, &Device::flex());
    let mut group = c.benchmark_group("LoRA");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(20))
        .throughput(Throughput::Elements(tokens as u64));
    group.bench_function("one step", |b| {
        b.iter(|| {
            let go_on = &mut |_: realign::run::Progress<'_>| ControlFlow::Continue(());
            black_box(
                config
                    .train(&model, adapter.clone(), &samples, &[], &seed, None, go_on)
                    .expect("it trains"),
            )
        });
    });
    group.finish();
}

/// The same activations again and again: the cost of the SAE alone.
struct Same(Tensor<2>);

impl ActivationSource for Same {
    fn next_batch(&mut self) -> Option<Tensor<2>> {
        Some(self.0.clone())
    }
    fn skip(&mut self, _batches: usize) {}
}

fn sae_steps(c: &mut Criterion) {
    let device = Device::flex();
    let (seed, at) = (Seed::new(0), HookPoint::ResidPost(15));
    // The first step also measures the data's scale; eight make that small.
    let (tokens, d_in) = (8 * 2048, smollm2().d_model);
    let config = sae::TrainConfig::new(tokens);
    let mut group = c.benchmark_group("SAE");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(20))
        .throughput(Throughput::Elements(tokens as u64));
    for d_sae in [2048, 8192] {
        let mut source = Same(numbers([config.batch_tokens, d_in], &device));
        group.bench_function(format!("eight steps, {d_sae} latents"), |b| {
            b.iter(|| {
                let go_on = &mut |_: realign::run::Progress<'_>| ControlFlow::Continue(());
                let sizes = SaeConfig::new(d_in, d_sae, 32);
                black_box(
                    config
                        .train(sizes, &mut source, at, &seed, &device, None, go_on)
                        .expect("it trains"),
                )
            });
        });
    }
    group.finish();

    let model = model();
    let mut group = c.benchmark_group("activations");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(20))
        .throughput(Throughput::Elements(2048));
    group.bench_function("2048 tokens", |b| {
        b.iter(|| {
            let batches = vec![batch(&[256; 2]); 4];
            let all = &|batch: &Batch| (0..batch.len()).collect();
            ModelActivations::new(&model, at, batches, 2048, all, 1 << 16, &seed)
                .next_batch()
                .map(black_box)
        });
    });
    group.finish();
}

criterion_group!(benches, prefill, generate, lora_step, sae_steps);
criterion_main!(benches);
