//! How time and memory grow with the sizes of the work.

use std::error::Error;
use std::fmt::Write;

use crate::Sides;

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

/// Measures every size in a process of its own; tables in Markdown.
#[allow(clippy::print_stderr)]
pub(crate) fn measure(sides: &Sides, device: &str, runs: usize) -> Result<String, Box<dyn Error>> {
    let mut text = String::new();
    for axis in AXES {
        let _ = writeln!(text, "\n| {} | s | tok/s | peak MiB |\n|---|---|---|---|", axis.name);
        for &size in axis.sizes {
            eprintln!("{}: {size}", axis.name);
            let (seconds, mib) = one(sides, device, &format!("{}:{size}", axis.job), runs, None)?;
            let speed = (axis.tokens)(size) as f64 / seconds;
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
