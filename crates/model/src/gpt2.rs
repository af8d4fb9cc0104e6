//! GPT-2 (Radford et al. 2019): learned positions, LayerNorm, biases everywhere, an MLP without a gate.

use realign_core::{ModuleNames, Sites};
use realign_tensor::Activation;

use crate::fields::Fields;
use crate::llama::activation;
use crate::sizes::{Names, Sizes};
use crate::weight_names::WeightNames;
use crate::{Architecture, DecoderConfig, NormKind, Result, Rope};

pub(crate) const NAMES: WeightNames = WeightNames {
    modules: ModuleNames::GPT2,
    positions: Some("wpe"),
    norm: "ln_f",
    attn_norm: "ln_1",
    mlp_norm: "ln_2",
    ..WeightNames::LLAMA
};

pub(crate) fn config(fields: &Fields<'_>) -> Result<DecoderConfig> {
    fields.refuse_flag("scale_attn_by_inverse_layer_idx", "another scale in each layer is")?;
    let (d_model, n_heads) = (fields.count("n_embd")?, fields.count("n_head")?);
    let name = str::to_owned;
    let sizes = Sizes {
        path: fields.path(),
        names: Names {
            n_layers: name("n_layer"),
            d_model: name("n_embd"),
            n_heads: name("n_head"),
            n_kv_heads: name("n_head"),
            d_head: name("n_embd"),
            d_mlp: name("n_inner"),
            vocab: name("vocab_size"),
            context: name("n_positions"),
            norm_eps: name("layer_norm_epsilon"),
        },
        n_layers: fields.count("n_layer")?,
        d_model,
        n_heads,
        n_kv_heads: n_heads,
        d_head: None,
        d_mlp: fields.whole("n_inner")?.unwrap_or(d_model.saturating_mul(4)),
        vocab: fields.count("vocab_size")?,
        context: fields.count("n_positions")?,
        norm_eps: fields.number("layer_norm_epsilon")?.unwrap_or(1e-5),
    };
    let (mut shape, eps) = sizes.check()?;
    shape.sites = Sites::UNGATED;
    let mut config = DecoderConfig::plain(Architecture::Gpt2, shape, Rope::new(1.0, shape.d_head), eps);
    config.ropes.clear();
    config.layers.iter_mut().for_each(|layer| layer.rope = None);
    config.norm = NormKind::Layer;
    config.biases = Sites::UNGATED;
    config.activation = activation(fields, "activation_function", Activation::GeluTanh)?;
    config.tied = fields.flag("tie_word_embeddings", true)?;
    if !fields.flag("scale_attn_weights", true)? {
        config.attention_scale = 1.0;
    }
    Ok(config)
}
