//! What an architecture's tensors are called, and how they lie in the file.

use realign_core::{Fused, ModuleNames, Rows, Shape, Site};

/// Names below the root, or inside a block; `None` where there is no such tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WeightNames {
    /// Those of modules. A checkpoint may lack the root.
    pub(crate) modules: ModuleNames,
    /// Learned positions.
    pub(crate) positions: Option<&'static str>,
    /// The final norm.
    pub(crate) norm: &'static str,
    pub(crate) attn_norm: &'static str,
    pub(crate) attn_norm_after: &'static str,
    pub(crate) mlp_norm: &'static str,
    pub(crate) mlp_norm_after: &'static str,
    pub(crate) q_norm: &'static str,
    pub(crate) k_norm: &'static str,
    /// Whether what is fused by head lies one after another (GGUF's order).
    pub(crate) stacked: bool,
    /// Whether norms multiply by one plus their weight (Gemma).
    pub(crate) norms_from_one: bool,
    /// A mixture's router.
    pub(crate) router: &'static str,
    /// What stands before an expert's number.
    pub(crate) experts: &'static str,
}

impl WeightNames {
    /// Llama's, which most others share in part.
    pub(crate) const LLAMA: Self = Self {
        modules: ModuleNames::LLAMA,
        positions: None,
        norm: "norm",
        attn_norm: "input_layernorm",
        attn_norm_after: "",
        mlp_norm: "post_attention_layernorm",
        mlp_norm_after: "",
        q_norm: "self_attn.q_norm",
        k_norm: "self_attn.k_norm",
        stacked: false,
        norms_from_one: false,
        router: "mlp.gate",
        experts: "mlp.experts.",
    };

    /// The same names for what a GGUF holds: llama.cpp's converter unfolds heads, turns transposed maps and adds the norms'
    /// one. [`crate::Checkpoint`] translates the names themselves.
    pub(crate) fn of_gguf(self) -> Self {
        Self {
            modules: ModuleNames {
                transposed: false,
                ..self.modules
            },
            stacked: true,
            norms_from_one: false,
            ..self
        }
    }

    /// The GGUF name of a tensor, without `.weight` or `.bias`.
    pub(crate) fn to_gguf(self, stem: &str) -> Option<String> {
        if stem == self.modules.unembedding {
            return Some("output".to_owned());
        }
        let inner = stem.strip_prefix(self.modules.root)?;
        if let Some((_, own)) = self.outer().into_iter().find(|(outer, _)| *outer == inner) {
            return Some(own.to_owned());
        }
        let (layer, inner) = inner.strip_prefix(self.modules.blocks)?.split_once('.')?;
        let (_, own) = self.in_block().into_iter().find(|(name, _)| *name == inner)?;
        Some(format!("blk.{layer}.{own}"))
    }

    /// The reverse of [`WeightNames::to_gguf`].
    pub(crate) fn to_hf(self, stem: &str) -> Option<String> {
        if stem == "output" {
            return Some(self.modules.unembedding.to_owned());
        }
        if let Some((outer, _)) = self.outer().into_iter().find(|(_, own)| *own == stem) {
            return Some(format!("{}{outer}", self.modules.root));
        }
        let (layer, inner) = stem.strip_prefix("blk.")?.split_once('.')?;
        let (name, _) = self.in_block().into_iter().find(|(_, own)| *own == inner)?;
        Some(format!("{}{}{layer}.{name}", self.modules.root, self.modules.blocks))
    }

    /// Names outside of the blocks, ours and GGUF's.
    fn outer(self) -> [(&'static str, &'static str); 3] {
        [
            (self.modules.embedding, "token_embd"),
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
            let (name, fused) = (self.modules.linear)(site);
            let own = match (site, fused) {
                (Site::Q | Site::K | Site::V, Fused::Stacked | Fused::ByHead) => "attn_qkv",
                (Site::Q, _) => "attn_q",
                (Site::K, _) => "attn_k",
                (Site::V, _) => "attn_v",
                (Site::O, _) => "attn_output",
                // Gate and up in one are GGUF's up, and so is what stands for a gate where there is none.
                (Site::Gate, Fused::No) if name != (self.modules.linear)(Site::Up).0 => "ffn_gate",
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
        match (self.modules.linear)(site).1 {
            Fused::ByHead if self.stacked => Fused::Stacked,
            fused => fused,
        }
        .rows(site, shape)
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
            let outer = [names.modules.embedding, names.norm].map(|name| format!("{}{name}", names.modules.root));
            let linear = Site::ALL.map(|site| {
                format!(
                    "{}{}12.{}",
                    names.modules.root,
                    names.modules.blocks,
                    (names.modules.linear)(site).0
                )
            });
            for name in outer
                .into_iter()
                .chain(linear)
                .chain([names.modules.unembedding.to_owned()])
            {
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
    fn what_is_fused_by_head_lies_one_after_another_in_a_gguf() {
        let shape = Shape {
            n_layers: 1,
            d_model: 8,
            n_heads: 4,
            n_kv_heads: 4,
            d_head: 2,
            d_mlp: 6,
            vocab: 8,
            context: 8,
            sites: realign_core::Sites::UNGATED,
        };
        let neox = Architecture::GptNeoX.names();
        let first = |names: WeightNames| {
            let rows = names.rows(Site::K, &shape);
            [0, 1, 2].map(|row| rows.source(row))
        };
        assert_eq!(first(neox), [2, 3, 8]);
        assert_eq!(first(neox.of_gguf()), [8, 9, 10]);
    }
}
