use burn::tensor::Device;
use realign_core::*;
use realign_model::*;
use std::time::Instant;
#[global_allocator]
static A: mimalloc::MiMalloc = mimalloc::MiMalloc;
fn main() {
    let dev = Device::flex();
    let t = Instant::now();
    let ck = Checkpoint::open(std::path::Path::new("/work/smollm2.gguf")).unwrap();
    let config = ck.config().unwrap();
    println!("{config:?}");
    let model = Llama::load(&config, &ck, &dev).unwrap();
    println!("load {:?}", t.elapsed());
    let a = burn::tensor::Tensor::<2>::ones([1024, 1024], &dev);
    for _ in 0..3 {
        let t = Instant::now();
        let c = a.clone().matmul(a.clone());
        let s = t.elapsed();
        std::hint::black_box(c);
        println!("gemm 1024^3: {:.0} GFLOP/s", 2.147 / s.as_secs_f64());
    }
    for (n, len) in [(4usize, 128usize), (16, 128), (16, 64)] {
        let seqs: Vec<Vec<u32>> = (0..n)
            .map(|i| (0..len).map(|j| (5 + (i * 7919 + j * 104729) % 48000) as u32).collect())
            .collect();
        let batch = Batch::packed(&seqs);
        for _ in 0..3 {
            let t = Instant::now();
            let h = model.forward(&batch, &mut ());
            let s = h.clone().sum().into_scalar::<f32>();
            let f = t.elapsed();
            let nll = model.nll(h, batch.ids());
            let s2 = nll.sum().into_scalar::<f32>();
            println!(
                "{n}x{len}: hidden {:.0} tok/s, +nll all {:.0} tok/s  ({s} {s2})",
                batch.len() as f64 / f.as_secs_f64(),
                batch.len() as f64 / t.elapsed().as_secs_f64()
            );
        }
    }
    for n in [1, 16, 40] {
        let prompts: Vec<Vec<u32>> = (0..n)
            .map(|i| (0..32).map(|j| (5 + (i * 7919 + j * 104729) % 48000) as u32).collect())
            .collect();
        let t = Instant::now();
        let out = GenerateConfig::new(32)
            .with_temperature(0.6)
            .generate(&model, &mut (), &prompts, &mut |_, _| {
                std::ops::ControlFlow::Continue(())
            });
        let k: usize = out.iter().map(Vec::len).sum();
        println!("generate batch {n}: {:.0} tok/s", k as f64 / t.elapsed().as_secs_f64());
    }
}
