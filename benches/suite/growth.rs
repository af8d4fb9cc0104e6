//! How time and memory grow with the sizes of the work.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;

use crate::work::{BLOCKS, LAYERS, VOCAB};
use crate::{LAYER, Sides};

/// What is varied, in which job, over which sizes, and how many tokens a step has at each.
struct Axis {
    name: &'static str,
    job: &'static str,
    sizes: &'static [usize],
    tokens: fn(usize) -> usize,
}

const AXES: [Axis; 5] = [
    Axis {
        name: "tokens of one text, up to the middle layer",
        job: "harvest",
        sizes: &[128, 256, 512, 1024, 2048],
        tokens: |size| size,
    },
    Axis {
        name: "texts at a time, 32 new tokens each",
        job: "generate_1",
        sizes: &[1, 4, 16, 32],
        tokens: |size| 32 * size,
    },
    Axis {
        name: "rank of a LoRA step on 4 × 128 tokens",
        job: "lora_step",
        sizes: &[1, 8, 32, 128],
        tokens: |_| 512,
    },
    Axis {
        name: "latents of an SAE step on 2,048 tokens, k = 32",
        job: "sae_step",
        sizes: &[4096, 8192, 16_384, 32_768, 65_536],
        tokens: |_| 2048,
    },
    Axis {
        name: "layers recorded of 4 × 128 tokens",
        job: "prefill_record",
        sizes: &[1, 8, 15, 30],
        tokens: |_| 512,
    },
];

/// Jobs that are timed on one thread and on two.
const THREADED: [(&str, usize); 4] = [
    ("harvest", 512),
    ("generate_1", 32),
    ("lora_step", 512),
    ("sae_step", 2048),
];

/// A model whose sizes are published, and that nobody measured here.
struct Published {
    name: &'static str,
    layers: f64,
    d_model: f64,
    d_kv: f64,
    d_mlp: f64,
    vocab: f64,
    /// Matrices `[vocab, d_model]`: one where the embedding is tied, else two.
    tables: f64,
}

const PUBLISHED: [Published; 3] = [
    Published {
        name: "Qwen2.5-0.5B",
        layers: 24.0,
        d_model: 896.0,
        d_kv: 128.0,
        d_mlp: 4864.0,
        vocab: 151_936.0,
        tables: 1.0,
    },
    Published {
        name: "Qwen2.5-1.5B",
        layers: 28.0,
        d_model: 1536.0,
        d_kv: 256.0,
        d_mlp: 8960.0,
        vocab: 151_936.0,
        tables: 1.0,
    },
    Published {
        name: "Qwen2.5-7B",
        layers: 28.0,
        d_model: 3584.0,
        d_kv: 512.0,
        d_mlp: 18_944.0,
        vocab: 152_064.0,
        tables: 2.0,
    },
];

/// A card's published speed in f32 and its memory's: an H100 SXM, of which work like this reaches about a third.
const CARD: Speed = Speed {
    train: 22e9,
    forward: 22e9,
    sae: 22e9,
    read: 1.1e9,
};

/// Operations a millisecond in each kind of work, and bytes read.
struct Speed {
    train: f64,
    forward: f64,
    sae: f64,
    read: f64,
}

/// Sizes of the three tasks: tokens of an organism's training (264 answers), of an SAE's, of an audit's scored answers, and its
/// sampled tokens, sixteen texts at a time.
const ORGANISM: f64 = 264.0 * 120.0;
const SAE: f64 = 1e6;
const SCORED: f64 = 100e3;
const SAMPLED: f64 = 8e3;
const LATENTS: f64 = 16_384.0;

impl Published {
    fn blocks(&self) -> f64 {
        let d = self.d_model;
        self.layers * (d * (2.0 * d + 2.0 * self.d_kv) + 3.0 * d * self.d_mlp)
    }

    /// Weights that a token is multiplied by.
    fn weights(&self) -> f64 {
        self.blocks() + self.vocab * self.d_model
    }

    /// GiB in f32: all weights; a rank-32 adapter with its gradient and two moments; what a step of 512 tokens keeps (inputs of
    /// the linear maps of each block, and the logits of 128 tokens on each of two threads).
    fn memory(&self) -> [f64; 2] {
        let (d, mlp) = (self.d_model, self.d_mlp);
        let weights = self.blocks() + self.tables * self.vocab * d;
        let adapter = self.layers * 32.0 * (4.0 * d + 2.0 * (d + self.d_kv) + 3.0 * (d + mlp));
        let kept = 512.0 * self.layers * (6.0 * d + 3.0 * self.d_kv + 3.0 * mlp) + 2.0 * 128.0 * self.vocab;
        let gib = |numbers: f64| 4.0 * numbers / f64::from(1 << 30);
        [gib(weights), gib(weights + 4.0 * adapter + kept)]
    }

    /// Minutes of the organism, the SAE, the audit.
    fn minutes(&self, speed: &Speed) -> [f64; 3] {
        let organism = ORGANISM * 4.0 * self.weights() / speed.train;
        // Half of the blocks are run, then one dense product forward and sparse work behind it.
        let sae = SAE * (self.blocks() / speed.forward + 2.0 * self.d_model * LATENTS / speed.sae);
        let scored = SCORED * 2.0 * self.weights() / speed.forward;
        let sampled = SAMPLED / 16.0 * 4.0 * self.weights() / speed.read;
        [organism, sae, 2.0 * (scored + sampled)].map(|milliseconds| milliseconds / 1e3 / 60.0)
    }
}

/// What larger models need, by the speeds measured here and by a card's.
fn projection(cpu: &Speed) -> String {
    let mut text = String::from(
        "\n| model | weights, GiB | LoRA step, GiB | organism, min | SAE, min | audit, min | on a card: organism | SAE | audit \
         |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for model in PUBLISHED {
        let ([weights, step], [a, b, c], [d, e, f]) = (model.memory(), model.minutes(cpu), model.minutes(&CARD));
        let _ = writeln!(
            text,
            "| {} | {weights:.1} | {step:.1} | {a:.0} | {b:.0} | {c:.0} | {d:.1} | {e:.1} | {f:.1} |",
            model.name
        );
    }
    text
}

/// Measures every size in a process of its own; tables in Markdown, and what follows for larger models.
#[allow(clippy::print_stderr)]
pub(crate) fn measure(sides: &Sides, device: &str, runs: usize) -> Result<String, Box<dyn Error>> {
    let mut text = String::new();
    let mut speeds = BTreeMap::new();
    for axis in AXES {
        let _ = writeln!(text, "\n| {} | s | tok/s | peak MiB |\n|---|---|---|---|", axis.name);
        for &size in axis.sizes {
            eprintln!("{}: {size}", axis.name);
            let (seconds, mib) = one(sides, device, &format!("{}:{size}", axis.job), runs, None)?;
            let speed = (axis.tokens)(size) as f64 / seconds;
            speeds.insert((axis.job, size), speed);
            let _ = writeln!(text, "| {size} | {seconds:.3} | {speed:.0} | {mib:.0} |");
        }
    }
    let _ = writeln!(
        text,
        "\n| threads | tok/s on one | tok/s on two | ratio |\n|---|---|---|---|"
    );
    for (job, tokens) in THREADED {
        eprintln!("{job} on one thread and two");
        let (one_thread, _) = one(sides, device, job, runs, Some(1))?;
        let (two, _) = one(sides, device, job, runs, Some(2))?;
        let (slow, fast) = (tokens as f64 / one_thread, tokens as f64 / two);
        let _ = writeln!(text, "| {job} | {slow:.0} | {fast:.0} | {:.2} |", fast / slow);
    }
    let at = |job, size| speeds[&(job, size)] / 1e3;
    let all = BLOCKS + VOCAB;
    let half = BLOCKS * (LAYER + 1) as f64 / LAYERS;
    text += &projection(&Speed {
        train: at("lora_step", 32) * 4.0 * all,
        forward: at("harvest", 512) * 2.0 * half,
        sae: at("sae_step", 16_384) * 2.0 * 576.0 * LATENTS,
        // Sixteen tokens for one reading of the weights.
        read: at("generate_1", 16) / 16.0 * 4.0 * all,
    });
    Ok(text)
}

/// Seconds of a step, the best of some, and the peak memory of the process.
fn one(
    sides: &Sides,
    device: &str,
    job: &str,
    runs: usize,
    threads: Option<usize>,
) -> Result<(f64, f64), Box<dyn Error>> {
    let mut opponent = sides.start_with(&format!("realign:{device}"), true, threads)?;
    opponent.prepare(job)?;
    let mut best = f64::INFINITY;
    for _ in 0..runs {
        best = best.min(opponent.run(1)?);
    }
    Ok((best, opponent.memory()?.0))
}
