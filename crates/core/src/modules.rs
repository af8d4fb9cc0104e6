//! What Python calls a model's linear maps, and how several of them share a module.

use crate::{Shape, Site};

/// The modules of a model as Hugging Face's transformers names them: what adapters and checkpoints call its weights.
#[derive(Clone, Copy, Debug)]
pub struct ModuleNames {
    /// What stands before all names but the unembedding's: `model.`.
    pub root: &'static str,
    /// What stands before a block's number: `layers.`.
    pub blocks: &'static str,
    /// Token embeddings, below the root.
    pub embedding: &'static str,
    /// The map to logits.
    pub unembedding: &'static str,
    /// A linear map's module in a block, and how several share it.
    pub linear: fn(Site) -> (&'static str, Fused),
    /// Whether linear maps are stored `[in, out]` (GPT-2's Conv1D) and not `[out, in]`.
    pub transposed: bool,
}

/// How linear maps share a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fused {
    /// They do not.
    No,
    /// One after another.
    Stacked,
    /// Head by head: a head's query, key and value, then the next head's.
    ByHead,
}

/// Some rows of a tensor of `total`: runs of `run`, one every `stride`, from `start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// The first row.
    pub start: usize,
    /// Rows that follow each other.
    pub run: usize,
    /// From the beginning of a run to that of the next.
    pub stride: usize,
    /// Rows of the tensor.
    pub total: usize,
}

impl ModuleNames {
    /// Llama's, which most others share.
    pub const LLAMA: Self = Self {
        root: "model.",
        blocks: "layers.",
        embedding: "embed_tokens",
        unembedding: "lm_head",
        linear: |site| {
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
        },
        transposed: false,
    };

    /// Phi-3's: queries, keys and values in one, gate and up in another.
    pub const PHI3: Self = Self {
        linear: |site| match site {
            Site::Q | Site::K | Site::V => ("self_attn.qkv_proj", Fused::Stacked),
            Site::O => ("self_attn.o_proj", Fused::No),
            Site::Gate | Site::Up => ("mlp.gate_up_proj", Fused::Stacked),
            Site::Down => ("mlp.down_proj", Fused::No),
        },
        ..Self::LLAMA
    };

    /// GPT-2's, whose weights are stored `[in, out]`.
    pub const GPT2: Self = Self {
        root: "transformer.",
        blocks: "h.",
        embedding: "wte",
        linear: |site| match site {
            Site::Q | Site::K | Site::V => ("attn.c_attn", Fused::Stacked),
            Site::O => ("attn.c_proj", Fused::No),
            Site::Gate | Site::Up => ("mlp.c_fc", Fused::No),
            Site::Down => ("mlp.c_proj", Fused::No),
        },
        transposed: true,
        ..Self::LLAMA
    };

    /// GPT-NeoX's: queries, keys and values head by head.
    pub const GPT_NEOX: Self = Self {
        root: "gpt_neox.",
        embedding: "embed_in",
        unembedding: "embed_out",
        linear: |site| match site {
            Site::Q | Site::K | Site::V => ("attention.query_key_value", Fused::ByHead),
            Site::O => ("attention.dense", Fused::No),
            Site::Gate | Site::Up => ("mlp.dense_h_to_4h", Fused::No),
            Site::Down => ("mlp.dense_4h_to_h", Fused::No),
        },
        ..Self::LLAMA
    };

    /// The module of a block: `model.layers.3`.
    pub fn block(&self, layer: usize) -> String {
        format!("{}{}{layer}", self.root, self.blocks)
    }

    /// The module that holds a linear map: `model.layers.3.mlp.up_proj`.
    pub fn path(&self, layer: usize, site: Site) -> String {
        format!("{}.{}", self.block(layer), (self.linear)(site).0)
    }

    /// Where a linear map's rows lie in its module's.
    pub fn rows(&self, site: Site, shape: &Shape) -> Rows {
        (self.linear)(site).1.rows(site, shape)
    }
}

impl Fused {
    /// Where the rows of a linear map that shares a module in this way lie.
    pub fn rows(self, site: Site, shape: &Shape) -> Rows {
        let n = shape.linear(site)[1];
        let (q, kv) = (shape.linear(Site::Q)[1], shape.linear(Site::K)[1]);
        match self {
            Self::No => Rows::all(n),
            Self::Stacked => {
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
            Self::ByHead => {
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

impl Rows {
    /// All of a tensor's `n`.
    pub fn all(n: usize) -> Self {
        Self {
            start: 0,
            run: n,
            stride: n,
            total: n,
        }
    }

    /// The tensor's row that is a map's row `row`.
    pub fn source(&self, row: usize) -> usize {
        self.start + row / self.run * self.stride + row % self.run
    }

    /// A map's `n` rows of `width` numbers out of its tensor's.
    pub fn pick(&self, data: Vec<f32>, n: usize, width: usize) -> Vec<f32> {
        if n == self.total {
            return data;
        }
        (0..n)
            .flat_map(|row| &data[self.source(row) * width..][..width])
            .copied()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sites;

    #[test]
    fn fused_rows_are_found_by_head_and_one_after_another() {
        let shape = Shape {
            n_layers: 1,
            d_model: 8,
            n_heads: 4,
            n_kv_heads: 2,
            d_head: 2,
            d_mlp: 6,
            vocab: 8,
            context: 8,
            sites: Sites::ALL,
        };
        let rows = |names: ModuleNames, site, n| {
            let rows = names.rows(site, &shape);
            (0..n).map(|row| rows.source(row)).collect::<Vec<_>>()
        };
        assert_eq!(rows(ModuleNames::PHI3, Site::K, 4), [8, 9, 10, 11]);
        assert_eq!(rows(ModuleNames::PHI3, Site::V, 4), [12, 13, 14, 15]);
        assert_eq!(rows(ModuleNames::PHI3, Site::Up, 3), [6, 7, 8]);
        assert_eq!(rows(ModuleNames::GPT_NEOX, Site::K, 4), [2, 3, 8, 9]);
        let numbers = (0..48).map(|i| i as f32).collect();
        let picked = ModuleNames::GPT_NEOX.rows(Site::V, &shape).pick(numbers, 8, 2);
        assert_eq!(picked[..6], [8.0, 9.0, 10.0, 11.0, 20.0, 21.0]);
        assert_eq!(ModuleNames::GPT2.path(3, Site::V), "transformer.h.3.attn.c_attn");
        for site in Site::ALL {
            assert_eq!((ModuleNames::LLAMA.linear)(site).0, site.path());
        }
    }
}
