//! What an architecture's tensors are called, and how they lie in the file.

use realign_core::{Shape, Site};

/// Names below the root, or inside a block; `None` where there is no such tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WeightNames {
    /// What stands before all names but the unembedding's: `model.`. A checkpoint may lack it.
    pub(crate) root: &'static str,
    /// What stands before a block's number.
    pub(crate) blocks: &'static str,
    pub(crate) embedding: &'static str,
    /// Learned positions.
    pub(crate) positions: Option<&'static str>,
    /// The final norm.
    pub(crate) norm: &'static str,
    pub(crate) unembedding: &'static str,
    pub(crate) attn_norm: &'static str,
    pub(crate) attn_norm_after: &'static str,
    pub(crate) mlp_norm: &'static str,
    pub(crate) mlp_norm_after: &'static str,
    pub(crate) q_norm: &'static str,
    pub(crate) k_norm: &'static str,
    /// A linear map's tensor, and how several share it.
    pub(crate) linear: fn(Site) -> (&'static str, Fused),
    /// Whether linear maps are stored `[in, out]` (GPT-2's Conv1D) and not `[out, in]`.
    pub(crate) transposed: bool,
    /// Whether norms multiply by one plus their weight (Gemma).
    pub(crate) norms_from_one: bool,
    /// A mixture's router.
    pub(crate) router: &'static str,
    /// What stands before an expert's number.
    pub(crate) experts: &'static str,
}

/// How linear maps share a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fused {
    /// They do not.
    No,
    /// One after another.
    Stacked,
    /// Head by head: a head's query, key and value, then the next head's.
    ByHead,
}

impl WeightNames {
    /// Llama's, which most others share in part.
    pub(crate) const LLAMA: Self = Self {
        root: "model.",
        blocks: "layers.",
        embedding: "embed_tokens",
        positions: None,
        norm: "norm",
        unembedding: "lm_head",
        attn_norm: "input_layernorm",
        attn_norm_after: "",
        mlp_norm: "post_attention_layernorm",
        mlp_norm_after: "",
        q_norm: "self_attn.q_norm",
        k_norm: "self_attn.k_norm",
        linear: llama_linear,
        transposed: false,
        norms_from_one: false,
        router: "mlp.gate",
        experts: "mlp.experts.",
    };

    /// Where a linear map's rows lie in its tensor.
    pub(crate) fn rows(&self, site: Site, shape: &Shape) -> Rows {
        let n = shape.linear(site)[1];
        let (q, kv) = (shape.linear(Site::Q)[1], shape.linear(Site::K)[1]);
        match (self.linear)(site).1 {
            Fused::No => Rows::all(n),
            Fused::Stacked => {
                let (start, total) = match site {
                    Site::Q => (0, q + 2 * kv),
                    Site::K => (q, q + 2 * kv),
                    Site::V => (q + kv, q + 2 * kv),
                    Site::Gate => (0, 2 * n),
                    Site::Up => (n, 2 * n),
                    Site::O | Site::Down => (0, n),
                };
                Rows {
                    start,
                    run: n,
                    stride: n,
                    total,
                }
            }
            Fused::ByHead => {
                let part = [Site::Q, Site::K, Site::V].iter().position(|s| *s == site);
                Rows {
                    start: part.unwrap_or(0) * shape.d_head,
                    run: shape.d_head,
                    stride: 3 * shape.d_head,
                    total: 3 * n,
                }
            }
        }
    }
}

fn llama_linear(site: Site) -> (&'static str, Fused) {
    let name = match site {
        Site::Q => "self_attn.q_proj",
        Site::K => "self_attn.k_proj",
        Site::V => "self_attn.v_proj",
        Site::O => "self_attn.o_proj",
        Site::Gate => "mlp.gate_proj",
        Site::Up => "mlp.up_proj",
        Site::Down => "mlp.down_proj",
    };
    (name, Fused::No)
}

/// Some rows of a tensor of `total`: runs of `run`, one every `stride`, from `start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rows {
    pub(crate) start: usize,
    pub(crate) run: usize,
    pub(crate) stride: usize,
    pub(crate) total: usize,
}

impl Rows {
    pub(crate) fn all(n: usize) -> Self {
        Self {
            start: 0,
            run: n,
            stride: n,
            total: n,
        }
    }

    /// The tensor's row that is a map's row `row`.
    pub(crate) fn source(&self, row: usize) -> usize {
        self.start + row / self.run * self.stride + row % self.run
    }

    /// A map's `n` rows of `width` numbers out of its tensor's.
    pub(crate) fn pick(&self, data: Vec<f32>, n: usize, width: usize) -> Vec<f32> {
        if n == self.total {
            return data;
        }
        (0..n)
            .flat_map(|row| &data[self.source(row) * width..][..width])
            .copied()
            .collect()
    }
}
