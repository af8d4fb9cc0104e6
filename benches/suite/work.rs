//! The jobs: what each does, who does it, and the least that it takes.

use crate::machine::Machine;
use crate::{LAYER, TEXTS, TOKENS};

/// A job that both sides do.
pub struct Job {
    /// Its name in the results.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// The job's name in our worker.
    pub ours: &'static str,
    /// Who else does it, under which name there; the best one counts.
    pub theirs: &'static [(&'static str, &'static str)],
    /// What a figure counts.
    pub unit: Unit,
    /// Steps of one repetition.
    pub steps: usize,
    /// Arithmetic of a step, and bytes of memory that it cannot but read or write.
    pub least: (f64, f64),
    /// The ratio to reach.
    pub target: f64,
}

/// What a figure counts.
#[derive(Clone, Copy, PartialEq)]
pub enum Unit {
    /// Tokens a second, with this many tokens to a step.
    Tokens(f64),
    /// Seconds.
    Seconds,
    /// MiB.
    Mib,
    /// Time with over time without.
    Times,
}

impl Unit {
    /// A step's seconds (or whatever was measured) as a figure.
    pub fn figure(self, measured: f64) -> f64 {
        match self {
            Self::Tokens(tokens) => tokens / measured,
            Self::Seconds | Self::Mib | Self::Times => measured,
        }
    }

    /// How much better `ours` is than `theirs`: above 1 when we are.
    pub fn ratio(self, ours: f64, theirs: f64) -> f64 {
        match self {
            Self::Tokens(_) => ours / theirs,
            Self::Seconds | Self::Mib | Self::Times => theirs / ours,
        }
    }

    /// Its sign.
    pub fn sign(self) -> &'static str {
        match self {
            Self::Tokens(_) => "tok/s",
            Self::Seconds => "s",
            Self::Mib => "MiB",
            Self::Times => "×",
        }
    }
}

impl Job {
    /// Whether it measures memory, not time.
    pub fn is_memory(&self) -> bool {
        self.unit == Unit::Mib
    }

    /// Whether weights are bf16 on both sides.
    pub fn is_bf16(&self) -> bool {
        self.ours.ends_with("_bf16")
    }

    /// The side that the ratio is to: torch in the same precision.
    pub fn rival(&self) -> &'static str {
        if self.is_bf16() { "torch:bf16" } else { "torch:f32" }
    }

    /// The best that this machine could do, in the job's unit.
    pub fn floor(&self, machine: &Machine) -> f64 {
        match self.unit {
            Unit::Mib => self.least.1 / (1 << 20) as f64,
            Unit::Times => 1.0,
            unit => unit.figure(machine.floor(self.is_bf16(), self.least.0, self.least.1)),
        }
    }
}

const BATCH: f64 = (TEXTS * TOKENS) as f64;
pub(crate) const LAYERS: f64 = 30.0;
/// Weights of the linear maps of all blocks, and of the unembedding.
pub(crate) const BLOCKS: f64 = LAYERS * (576.0 * (576.0 + 192.0 + 192.0 + 576.0) + 3.0 * 576.0 * 1536.0);
pub(crate) const VOCAB: f64 = 49_152.0 * 576.0;
const F32: f64 = 4.0 * (BLOCKS + VOCAB);
/// Q4_1 blocks of 20 bytes for 32 weights; the embedding as Q8_0, 34 bytes.
const STORED: f64 = BLOCKS * 20.0 / 32.0 + VOCAB * 34.0 / 32.0;
/// Weights of the blocks up to the middle layer.
const BELOW: f64 = BLOCKS * (LAYER + 1) as f64 / LAYERS;
const ABOVE: f64 = BLOCKS - BELOW;
const SAE: f64 = 2.0 * 576.0 * 8192.0;
const ADAPTER: f64 = LAYERS * 32.0 * (4.0 * 576.0 + 2.0 * (576.0 + 192.0) + 3.0 * (576.0 + 1536.0));

/// All jobs.
pub const JOBS: &[Job] = &[
    Job {
        name: "load",
        about: "a GGUF file to its first token",
        ours: "load",
        theirs: &[("torch:f32", "load")],
        unit: Unit::Seconds,
        steps: 1,
        least: (2.0 * 8.0 * (BLOCKS + VOCAB), STORED),
        target: 10.0,
    },
    Job {
        name: "prefill",
        about: "4 × 128 tokens, all logits",
        ours: "prefill",
        theirs: &[("torch:f32", "prefill"), ("torch:bf16", "prefill")],
        unit: Unit::Tokens(BATCH),
        steps: 1,
        least: (2.0 * BATCH * (BLOCKS + VOCAB), F32),
        target: 2.2,
    },
    Job {
        name: "prefill_record",
        about: "the same, keeping every layer's residual stream",
        ours: "prefill_record",
        theirs: &[("torch:f32", "prefill_record"), ("torch:bf16", "prefill_record")],
        unit: Unit::Tokens(BATCH),
        steps: 1,
        least: (2.0 * BATCH * (BLOCKS + VOCAB), F32),
        target: 2.2,
    },
    Job {
        name: "harvest",
        about: "the middle layer's activations of 4 × 128 tokens",
        ours: "harvest",
        theirs: &[("torch:f32", "harvest"), ("torch:bf16", "harvest")],
        unit: Unit::Tokens(BATCH),
        steps: 1,
        least: (2.0 * BATCH * BELOW, 4.0 * BELOW),
        target: 4.0,
    },
    Job {
        name: "generate_1_f32",
        about: "32 tokens after 32, greedy, one text, f32 weights",
        ours: "generate_1",
        theirs: &[("torch:f32", "generate_1"), ("torch:bf16", "generate_1")],
        unit: Unit::Tokens(32.0),
        steps: 1,
        least: (2.0 * 63.0 * (BLOCKS + VOCAB), 32.0 * F32),
        target: 3.0,
    },
    Job {
        name: "generate_1_stored",
        about: "the same from the weights as the file stores them (Q4_1)",
        ours: "generate_1_stored",
        theirs: &[("torch:f32", "generate_1"), ("llama", "generate_1")],
        unit: Unit::Tokens(32.0),
        steps: 1,
        least: (2.0 * 63.0 * (BLOCKS + VOCAB), 32.0 * STORED),
        target: 10.0,
    },
    Job {
        name: "generate_16",
        about: "32 tokens after 32, greedy, sixteen texts",
        ours: "generate_16",
        theirs: &[("torch:f32", "generate_16"), ("torch:bf16", "generate_16")],
        unit: Unit::Tokens(512.0),
        steps: 1,
        least: (2.0 * 16.0 * (63.0 * BLOCKS + 32.0 * VOCAB), 32.0 * F32),
        target: 4.0,
    },
    Job {
        name: "lora_step",
        about: "one AdamW step, rank 32 at all linear maps, 4 × 128 tokens",
        ours: "lora_step",
        theirs: &[("torch:f32", "lora_step"), ("torch:bf16", "lora_step")],
        unit: Unit::Tokens(BATCH),
        steps: 2,
        least: (BATCH * (4.0 * (BLOCKS + VOCAB) + 6.0 * ADAPTER), 2.0 * F32),
        target: 3.0,
    },
    Job {
        name: "prefill_bf16",
        about: "4 × 128 tokens, all logits, bf16 weights",
        ours: "prefill_bf16",
        theirs: &[("torch:bf16", "prefill")],
        unit: Unit::Tokens(BATCH),
        steps: 1,
        least: (2.0 * BATCH * (BLOCKS + VOCAB), F32 / 2.0),
        target: 1.2,
    },
    Job {
        name: "lora_step_bf16",
        about: "one AdamW step, rank 32 at all linear maps, 4 × 128 tokens, bf16 weights",
        ours: "lora_step_bf16",
        theirs: &[("torch:bf16", "lora_step")],
        unit: Unit::Tokens(BATCH),
        steps: 2,
        least: (BATCH * (4.0 * (BLOCKS + VOCAB) + 6.0 * ADAPTER), F32),
        target: 1.2,
    },
    Job {
        name: "lora_memory",
        about: "peak memory of a process that does that step",
        ours: "lora_step",
        theirs: &[("torch:f32", "lora_memory")],
        unit: Unit::Mib,
        steps: 1,
        least: (0.0, F32 + 16.0 * ADAPTER),
        target: 2.0,
    },
    Job {
        name: "sae_step",
        about: "one step of a TopK SAE, 576 → 8,192, k = 32, 2,048 tokens",
        ours: "sae_step",
        theirs: &[
            ("torch:f32", "sae_step_sparse"),
            ("torch:f32", "sae_step_dense"),
            ("torch:bf16", "sae_step_sparse"),
        ],
        unit: Unit::Tokens(2048.0),
        steps: 4,
        // One dense product; Adam reads four arrays and writes three.
        least: (2048.0 * SAE, 7.0 * 4.0 * SAE),
        target: 6.0,
    },
    Job {
        name: "attribution",
        about: "Δ-attribution of 8,192 latents from 4 × 128 tokens",
        ours: "attribution",
        theirs: &[("torch:f32", "attribution"), ("torch:bf16", "attribution")],
        unit: Unit::Tokens(BATCH),
        steps: 1,
        // Only completions, half of the tokens, have logits.
        least: (BATCH * (2.0 * BLOCKS + 2.0 * ABOVE + 2.0 * VOCAB), F32),
        target: 1.0,
    },
    Job {
        name: "hook_overhead",
        about: "a forward pass with hooks that look and do nothing, over one without",
        ours: "hook_overhead",
        theirs: &[("torch:f32", "hook_overhead")],
        unit: Unit::Times,
        steps: 4,
        least: (0.0, 0.0),
        target: 1.0,
    },
];
