//! What this machine can do: the ceilings under which floors are computed, and whether it is idle enough to measure.

use std::time::{Duration, Instant};

use rayon::prelude::*;
use realign::burn::tensor::Device;
use realign::tensor::{Frozen, Packed, product};
use realign_bench::numbers;
use serde::Serialize;

/// The machine and its measured ceilings.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// Threads that this process may use.
    pub threads: usize,
    /// Floating-point operations of a large f32 product, in 10⁹ a second, all threads: the best of several, by the gemm crate and
    /// by our own kernel.
    pub gflops: f64,
    /// The same with a bf16 weight.
    pub bf16_gflops: f64,
    /// Bytes read from memory, in 10⁹ a second, all threads: the best of several.
    pub read_gb_s: f64,
}

impl Machine {
    /// Measures it; takes about two seconds.
    pub fn measure() -> Self {
        let device = Device::flex();
        let (a, b) = (numbers([1024, 1024], &device), numbers([1024, 1024], &device));
        let work = 2.0 * 1024f64.powi(3);
        let by_gemm = best(10, || drop(product(a.clone(), b.clone()).into_data()));
        let weight: Vec<f32> = b.into_data().iter().collect();
        let by_panels = |packed| {
            let weight = Frozen::packed(packed, &device);
            best(10, || drop(weight.apply(a.clone()).into_data()))
        };
        let f32_seconds = by_gemm.min(by_panels(Packed::f32(&weight, [1024, 1024])));
        let bf16_seconds = by_panels(Packed::bf16(&weight, [1024, 1024]));
        // Larger than any cache here.
        let big = vec![1f32; 256 << 20];
        let read = best(3, || {
            let sum: f32 = big
                .par_chunks(1 << 20)
                .map(|part| {
                    let mut lanes = [0f32; 64];
                    for chunk in part.chunks_exact(64) {
                        for i in 0..64 {
                            lanes[i] += chunk[i];
                        }
                    }
                    lanes.iter().sum::<f32>()
                })
                .sum();
            std::hint::black_box(sum);
        });
        Self {
            cpu: cpu(),
            threads: rayon::current_num_threads(),
            gflops: work / f32_seconds / 1e9,
            bf16_gflops: work / bf16_seconds / 1e9,
            read_gb_s: (big.len() * 4) as f64 / read / 1e9,
        }
    }

    /// The least seconds for this much arithmetic and this much of memory to read.
    pub fn floor(&self, bf16: bool, flops: f64, bytes: f64) -> f64 {
        let gflops = if bf16 { self.bf16_gflops } else { self.gflops };
        (flops / (gflops * 1e9)).max(bytes / (self.read_gb_s * 1e9))
    }
}

fn best(runs: usize, mut f: impl FnMut()) -> f64 {
    let one = |_| {
        let start = Instant::now();
        f();
        start.elapsed().as_secs_f64()
    };
    (0..runs).map(one).fold(f64::INFINITY, f64::min)
}

fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.to_owned())
}

/// Whether the processor has instructions for bf16, as far as is known: speeds would not tell where others share the machine.
pub fn has_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    true
}

/// Processors that something kept busy while this process slept for a second; nothing where the system does not say. The system's
/// load average would count the build that the command began with.
pub fn busy() -> Option<f64> {
    let [idle_before, all_before] = ticks()?;
    std::thread::sleep(Duration::from_secs(1));
    let [idle, all] = ticks()?;
    Some(((all - all_before) - (idle - idle_before)) / TICKS)
}

/// Ticks of a processor in a second, as Linux reports them.
const TICKS: f64 = 100.0;

/// Ticks of all processors since the system started: idle or waiting for a disk, and all.
fn ticks() -> Option<[f64; 2]> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let words = stat.lines().next()?.split_whitespace().skip(1);
    let ticks: Vec<f64> = words.map_while(|word| word.parse().ok()).collect();
    // Guests' ticks, from the ninth on, are among the users' already.
    let ticks: [f64; 8] = *ticks.first_chunk()?;
    Some([ticks[3] + ticks[4], ticks.iter().sum()])
}

/// The peak memory of this process in MiB; 0 where the system does not say.
pub fn peak_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().split(' ').next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}
