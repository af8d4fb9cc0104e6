//! GPT-NeoX (Black et al. 2022) and Pythia: partial rotary positions; attention and MLP read the same stream.

use realign_core::{ModuleNames, Site, Sites};
use realign_tensor::Activation;

use crate::fields::Fields;
use crate::llama::{activation, hf_names, rotated_width};
use crate::sizes::Sizes;
use crate::weight_names::WeightNames;
use crate::{Architecture, DecoderConfig, NormKind, Result, rope_scaling};

pub(crate) const NAMES: WeightNames = WeightNames {
    modules: ModuleNames::GPT_NEOX,
    norm: "final_layer_norm",
    ..WeightNames::LLAMA
};

pub(crate) fn config(fields: &Fields<'_>) -> Result<DecoderConfig> {
    let n_heads = fields.count("num_attention_heads")?;
    let mut names = hf_names();
    names.norm_eps = "layer_norm_eps".to_owned();
    let sizes = Sizes {
        path: fields.path(),
        names,
        n_layers: fields.count("num_hidden_layers")?,
        d_model: fields.count("hidden_size")?,
        n_heads,
        n_kv_heads: n_heads,
        d_head: None,
        d_mlp: fields.count("intermediate_size")?,
        vocab: fields.count("vocab_size")?,
        context: fields.count("max_position_embeddings")?,
        norm_eps: fields.number("layer_norm_eps")?.unwrap_or(1e-5),
    };
    let (mut shape, eps) = sizes.check()?;
    let width = rotated_width(fields, "rotary_pct", 0.25, shape.d_head)?;
    let theta = fields.number("rotary_emb_base")?.unwrap_or(10_000.0);
    if !(theta.is_finite() && theta >= 1.0) {
        return Err(fields.wrong("rotary_emb_base", "a base of at least 1"));
    }
    let (rope, context) = rope_scaling::read(fields, theta, width, sizes.context, None)?;
    shape.context = context as usize;
    shape.sites = Sites::UNGATED;
    let mut config = DecoderConfig::plain(Architecture::GptNeoX, shape, rope, eps);
    config.norm = NormKind::Layer;
    config.parallel = fields.flag("use_parallel_residual", true)?;
    config.biases = match fields.flag("attention_bias", true)? {
        true => Sites::UNGATED,
        false => Sites::of([Site::Up, Site::Down]),
    };
    config.activation = activation(fields, "hidden_act", Activation::Gelu)?;
    config.tied = fields.flag("tie_word_embeddings", false)?;
    Ok(config)
}
