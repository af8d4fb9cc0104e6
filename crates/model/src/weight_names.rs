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
    /// Whether what is fused by head lies one after another (GGUF's order).
    pub(crate) stacked: bool,
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
        stacked: false,
        transposed: false,
        norms_from_one: false,
        router: "mlp.gate",
        experts: "mlp.experts.",
    };

    /// The same names for what a GGUF holds: llama.cpp's converter unfolds heads, turns transposed maps and adds the norms'
    /// one. [`crate::Checkpoint`] translates the names themselves.
    pub(crate) fn of_gguf(self) -> Self {
        Self {
            stacked: true,
            transposed: false,
            norms_from_one: false,
            ..self
        }
    }

    /// The GGUF name of a tensor, without `.weight` or `.bias`.
    pub(crate) fn to_gguf(self, stem: &str) -> Option<String> {
        if stem == self.unembedding {
            return Some("output".to_owned());
        }
        let inner = stem.strip_prefix(self.root)?;
        if let Some((_, own)) = self.outer().into_iter().find(|(outer, _)| *outer == inner) {
            return Some(own.to_owned());
        }
        let (layer, inner) = inner.strip_prefix(self.blocks)?.split_once('.')?;
        let (_, own) = self.in_block().into_iter().find(|(name, _)| *name == inner)?;
        Some(format!("blk.{layer}.{own}"))
    }

    /// The reverse of [`WeightNames::to_gguf`].
    pub(crate) fn to_hf(self, stem: &str) -> Option<String> {
        if stem == "output" {
            return Some(self.unembedding.to_owned());
        }
        if let Some((outer, _)) = self.outer().into_iter().find(|(_, own)| *own == stem) {
            return Some(format!("{}{outer}", self.root));
        }
        let (layer, inner) = stem.strip_prefix("blk.")?.split_once('.')?;
        let (name, _) = self.in_block().into_iter().find(|(_, own)| *own == inner)?;
        Some(format!("{}{}{layer}.{name}", self.root, self.blocks))
    }

    /// Names outside of the blocks, ours and GGUF's.
    fn outer(self) -> [(&'static str, &'static str); 3] {
        [
            (self.embedding, "token_embd"),
            (self.positions.unwrap_or_default(), "position_embd"),
            (self.norm, "output_norm"),
        ]
    }

    /// Names in a block, ours and GGUF's.
    fn in_block(self) -> Vec<(&'static str, &'static str)> {
        let mut names = vec![
            (self.attn_norm, "attn_norm"),
            (self.mlp_norm, "ffn_norm"),
            (self.attn_norm_after, "post_attention_norm"),
            (self.mlp_norm_after, "post_ffw_norm"),
            (self.q_norm, "attn_q_norm"),
            (self.k_norm, "attn_k_norm"),
        ];
        for site in Site::ALL {
            let (name, fused) = (self.linear)(site);
            let own = match (site, fused) {
                (Site::Q | Site::K | Site::V, Fused::Stacked | Fused::ByHead) => "attn_qkv",
                (Site::Q, _) => "attn_q",
                (Site::K, _) => "attn_k",
                (Site::V, _) => "attn_v",
                (Site::O, _) => "attn_output",
                // Gate and up in one are GGUF's up, and so is what stands for a gate where there is none.
                (Site::Gate, Fused::No) if name != (self.linear)(Site::Up).0 => "ffn_gate",
                (Site::Gate | Site::Up, _) => "ffn_up",
                (Site::Down, _) => "ffn_down",
            };
            names.push((name, own));
        }
        names.retain(|(name, _)| !name.is_empty());
        names
    }

    /// Where a linear map's rows lie in its tensor.
    pub(crate) fn rows(&self, site: Site, shape: &Shape) -> Rows {
        let n = shape.linear(site)[1];
        let (q, kv) = (shape.linear(Site::Q)[1], shape.linear(Site::K)[1]);
        let fused = match (self.linear)(site).1 {
            Fused::ByHead if self.stacked => Fused::Stacked,
            fused => fused,
        };
        match fused {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Architecture;

    #[test]
    fn names_map_to_gguf_and_back() {
        for architecture in Architecture::ALL {
            let names = architecture.names();
            let outer = [names.embedding, names.norm].map(|name| format!("{}{name}", names.root));
            let linear = Site::ALL.map(|site| format!("{}{}12.{}", names.root, names.blocks, (names.linear)(site).0));
            for name in outer.into_iter().chain(linear).chain([names.unembedding.to_owned()]) {
                // GPT-2 and GPT-NeoX have no gate: its name is another map's.
                let own = names.to_gguf(&name).unwrap_or_else(|| panic!("{architecture}: {name}"));
                assert_eq!(names.to_hf(&own).as_deref(), Some(&name[..]), "{architecture}: {own}");
            }
            assert_eq!(names.to_gguf("rotary_emb.inv_freq"), None);
        }
        let names = Architecture::Llama.names();
        assert_eq!(
            names.to_gguf("model.layers.3.self_attn.q_proj").unwrap(),
            "blk.3.attn_q"
        );
        let fused = Architecture::Phi3.names();
        assert_eq!(
            fused.to_gguf("model.layers.3.mlp.gate_up_proj").unwrap(),
            "blk.3.ffn_up"
        );
    }

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
            sites: realign_core::Sites::ALL,
        };
        let rows = |names: WeightNames, site, n| {
            let rows = names.rows(site, &shape);
            (0..n).map(|row| rows.source(row)).collect::<Vec<_>>()
        };
        let phi = Architecture::Phi3.names();
        assert_eq!(rows(phi, Site::K, 4), [8, 9, 10, 11]);
        assert_eq!(rows(phi, Site::V, 4), [12, 13, 14, 15]);
        assert_eq!(rows(phi, Site::Up, 3), [6, 7, 8]);
        let neox = Architecture::GptNeoX.names();
        assert_eq!(rows(neox, Site::K, 4), [2, 3, 8, 9]);
        assert_eq!(rows(neox.of_gguf(), Site::Q, 4), [0, 1, 2, 3]);
        let picked = neox
            .rows(Site::V, &shape)
            .pick((0..48).map(|i| i as f32).collect(), 8, 2);
        assert_eq!(picked[..6], [8.0, 9.0, 10.0, 11.0, 20.0, 21.0]);
    }
}
