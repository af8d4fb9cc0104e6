//! What the benchmarks share: SmolLM2-135M's sizes, numbers, and the allocator of the `realign` command.
//!
//! ```text
//! cargo bench -p realign-bench --bench ops
//! cargo bench -p realign-bench --bench model -- generate
//! ```

use realign::burn::tensor::{Device, Int, Tensor, TensorData};
use realign::model::LlamaConfig;

// Large tensors come and go; an allocator that keeps their memory is most of the speed on the CPU.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The sizes of SmolLM2-135M.
pub fn smollm2() -> LlamaConfig {
    let mut config = LlamaConfig::tiny();
    config.n_layers = 30;
    config.d_model = 576;
    config.n_heads = 9;
    config.n_kv_heads = 3;
    config.d_head = 64;
    config.d_mlp = 1536;
    config.vocab = 49_152;
    config.context = 2048;
    config.rope_theta = 100_000.0;
    config
}

/// Numbers in -1..1 without a pattern that a kernel could profit from.
pub fn numbers<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    let data: Vec<f32> = (0..shape.iter().product())
        .map(|i| 2.0 * scattered(i) as f32 - 1.0)
        .collect();
    Tensor::from_data(TensorData::new(data, shape), device)
}

/// Whole numbers in `0..below`.
pub fn whole<const D: usize>(shape: [usize; D], below: usize, device: &Device) -> Tensor<D, Int> {
    let data: Vec<i32> = (0..shape.iter().product())
        .map(|i| (scattered(i) * below as f64) as i32)
        .collect();
    Tensor::from_data(TensorData::new(data, shape), device)
}

/// Token ids of a text of this length.
pub fn text(tokens: usize) -> Vec<u32> {
    (0..tokens)
        .map(|i| (scattered(i) * smollm2().vocab as f64) as u32)
        .collect()
}

/// Multiples of the golden ratio, without their whole part: evenly spread over 0..1.
fn scattered(i: usize) -> f64 {
    (i as f64 * 0.618_033_988_749_895).fract()
}
