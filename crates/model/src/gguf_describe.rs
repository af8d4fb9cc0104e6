//! A model's description as GGUF metadata: what [`crate::gguf_config`] reads.

use crate::gguf_writer::{GgufWriter, Meta};
use crate::{Architecture, DecoderConfig, NormKind, RopeScaling};

/// Adds the metadata of a model whose architecture GGUF calls `name`.
///
/// What a GGUF cannot say is left out: [`crate::same_model`] tells when that is read back.
pub(crate) fn describe(config: &DecoderConfig, name: &str, writer: GgufWriter) -> GgufWriter {
    let (shape, architecture) = (&config.shape, config.architecture);
    let rope = config.ropes.first();
    let context = match rope.map(|rope| &rope.scaling) {
        // How far positions reach without the scaling; Gemma 3 says how far they reach with it.
        Some(RopeScaling::Linear { factor }) if architecture != Architecture::Gemma3 => {
            (shape.context as f64 / factor).ceil() as usize
        }
        _ => shape.context,
    };
    let eps = match config.norm {
        NormKind::Rms => "attention.layer_norm_rms_epsilon",
        NormKind::Layer => "attention.layer_norm_epsilon",
    };
    let mut all: Vec<(&str, Meta<'_>)> = [
        ("context_length", context),
        ("embedding_length", shape.d_model),
        ("block_count", shape.n_layers),
        ("feed_forward_length", shape.d_mlp),
        ("attention.head_count", shape.n_heads),
        ("attention.head_count_kv", shape.n_kv_heads),
        ("attention.key_length", shape.d_head),
        ("attention.value_length", shape.d_head),
        ("vocab_size", shape.vocab),
    ]
    .into_iter()
    .map(|(key, value)| (key, Meta::U32(value as u32)))
    .collect();
    all.push((eps, Meta::F32(config.norm_eps)));
    if let Some(rope) = rope {
        all.push(("rope.dimension_count", Meta::U32(rope.width as u32)));
        all.push(("rope.freq_base", Meta::F32(rope.theta as f32)));
        match rope.scaling {
            RopeScaling::Linear { factor } => {
                all.push(("rope.scaling.type", Meta::Text("linear")));
                all.push(("rope.scaling.factor", Meta::F32(factor as f32)));
            }
            RopeScaling::Yarn {
                factor,
                trained,
                fast,
                slow,
                ..
            } => {
                all.push(("rope.scaling.type", Meta::Text("yarn")));
                all.push(("rope.scaling.factor", Meta::F32(factor as f32)));
                all.push(("rope.scaling.original_context_length", Meta::U32(trained as u32)));
                all.push(("rope.scaling.yarn_beta_fast", Meta::F32(fast as f32)));
                all.push(("rope.scaling.yarn_beta_slow", Meta::F32(slow as f32)));
            }
            _ => {}
        }
    }
    // The second rotary positions are those of layers with a window.
    if let Some(local) = config.ropes.get(1) {
        all.push(("rope.freq_base_swa", Meta::F32(local.theta as f32)));
    }
    if let Some(window) = config.layers.iter().find_map(|layer| layer.window) {
        all.push(("attention.sliding_window", Meta::U32(window as u32)));
    }
    for (key, cap) in [
        ("attn_logit_softcapping", config.attention_softcap),
        ("final_logit_softcapping", config.logit_softcap),
    ] {
        all.extend(cap.map(|cap| (key, Meta::F32(cap))));
    }
    if architecture == Architecture::GptNeoX {
        all.push(("use_parallel_residual", Meta::Bool(config.parallel)));
    }
    let writer = writer.meta("general.architecture", Meta::Text(name));
    all.into_iter().fold(writer, |writer, (key, value)| {
        writer.meta(&format!("{name}.{key}"), value)
    })
}

/// What each rotary frequency is divided by, where a GGUF has a tensor of that (`rope_freqs.weight`).
pub(crate) fn rope_divisors(config: &DecoderConfig) -> Option<Vec<f32>> {
    let rope = config.ropes.first()?;
    match rope.scaling {
        RopeScaling::Llama3 { .. } | RopeScaling::Divided { .. } => {
            let plain = crate::Rope::new(rope.theta, rope.width).frequencies(0);
            let scaled = rope.frequencies(0);
            Some(
                plain
                    .iter()
                    .zip(scaled)
                    .map(|(plain, scaled)| (plain / scaled) as f32)
                    .collect(),
            )
        }
        _ => None,
    }
}
