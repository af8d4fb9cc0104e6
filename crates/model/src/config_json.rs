//! A model's description as the fields of a `config.json`: what [`crate::Architecture::config`] reads.

use realign_core::Site;
use realign_tensor::Activation;
use serde_json::{Map, Value, json};

use crate::{Architecture, DecoderConfig, RopeScaling};

/// The fields of a `config.json` that transformers and [`DecoderConfig::from_json`] read.
///
/// What it cannot say is left out: [`crate::same_model`] tells when that is read back.
pub(crate) fn config_json(config: &DecoderConfig) -> Map<String, Value> {
    let (shape, architecture) = (&config.shape, config.architecture);
    let mut fields = Fields(Map::new());
    fields.set("architectures", [class(architecture)]);
    fields.set("model_type", architecture.model_type());
    fields.set("vocab_size", shape.vocab);
    fields.set("tie_word_embeddings", config.tied);
    fields.set("torch_dtype", "float32");
    let activation = match config.activation {
        Activation::Silu => "silu",
        Activation::Gelu => "gelu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
    };
    if architecture == Architecture::Gpt2 {
        fields.set("n_embd", shape.d_model);
        fields.set("n_inner", shape.d_mlp);
        fields.set("n_layer", shape.n_layers);
        fields.set("n_head", shape.n_heads);
        fields.set("n_positions", shape.context);
        fields.set("layer_norm_epsilon", number(config.norm_eps));
        fields.set("activation_function", activation);
        return fields.0;
    }
    fields.set("hidden_size", shape.d_model);
    fields.set("intermediate_size", shape.d_mlp);
    fields.set("num_hidden_layers", shape.n_layers);
    fields.set("num_attention_heads", shape.n_heads);
    fields.rope(config);
    let attention = config.biases.contains(Site::O);
    match architecture {
        Architecture::GptNeoX => {
            fields.set("layer_norm_eps", number(config.norm_eps));
            fields.set("use_parallel_residual", config.parallel);
            fields.set("attention_bias", attention);
            fields.set("hidden_act", activation);
            return fields.0;
        }
        Architecture::Gemma2 | Architecture::Gemma3 => {
            fields.set("hidden_activation", activation);
            let scalar = f64::from(config.attention_scale).powi(-2);
            // A width, which the root's rounding hides.
            let whole = (scalar - scalar.round()).abs() < 1e-5 * scalar;
            fields.set("query_pre_attn_scalar", if whole { scalar.round() } else { scalar });
            fields.set("attn_logit_softcapping", config.attention_softcap.map(number));
            fields.set("final_logit_softcapping", config.logit_softcap.map(number));
        }
        _ => fields.set("hidden_act", activation),
    }
    fields.set("num_key_value_heads", shape.n_kv_heads);
    fields.set("head_dim", shape.d_head);
    fields.set("rms_norm_eps", number(config.norm_eps));
    fields.set("attention_bias", attention);
    fields.set("mlp_bias", config.biases.contains(Site::Down));
    // transformers' own default is beyond most vocabularies.
    fields.set("pad_token_id", Value::Null);
    let window = config.layers.iter().find_map(|layer| layer.window);
    fields.set("sliding_window", window);
    let several = matches!(
        architecture,
        Architecture::Qwen2 | Architecture::Qwen3 | Architecture::Gemma2 | Architecture::Gemma3
    );
    if several {
        fields.set("use_sliding_window", window.is_some());
        let kind = |sliding| if sliding { "sliding_attention" } else { "full_attention" };
        let kinds = config.layers.iter().map(|layer| kind(layer.window.is_some()));
        fields.set("layer_types", kinds.collect::<Vec<_>>());
    }
    fields.0
}

/// transformers' class.
fn class(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::Llama => "LlamaForCausalLM",
        Architecture::Mistral => "MistralForCausalLM",
        Architecture::Qwen2 => "Qwen2ForCausalLM",
        Architecture::Qwen3 => "Qwen3ForCausalLM",
        Architecture::Qwen3Moe => "Qwen3MoeForCausalLM",
        Architecture::Gemma2 => "Gemma2ForCausalLM",
        Architecture::Gemma3 => "Gemma3ForCausalLM",
        Architecture::Gpt2 => "GPT2LMHeadModel",
        Architecture::GptNeoX => "GPTNeoXForCausalLM",
        Architecture::Olmo2 => "Olmo2ForCausalLM",
        Architecture::Phi3 => "Phi3ForCausalLM",
    }
}

/// The shortest decimal that is this number in f32: 1e-6, and not its digits in f64.
fn number(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::from(x))
}

struct Fields(Map<String, Value>);

impl Fields {
    fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.to_owned(), value.into());
    }

    /// Rotary positions, and how far they reach.
    fn rope(&mut self, config: &DecoderConfig) {
        let shape = &config.shape;
        let mut context = shape.context;
        if let Some(rope) = config.ropes.first() {
            let share = rope.width as f64 / shape.d_head as f64;
            let (base, partial) = match config.architecture {
                Architecture::GptNeoX => ("rotary_emb_base", "rotary_pct"),
                _ => ("rope_theta", "partial_rotary_factor"),
            };
            self.set(base, rope.theta);
            self.set(partial, share);
            let scaling = match &rope.scaling {
                &RopeScaling::Linear { factor } => {
                    if config.architecture != Architecture::Gemma3 {
                        context = (context as f64 / factor).ceil() as usize;
                    }
                    json!({"rope_type": "linear", "factor": factor})
                }
                RopeScaling::Yarn {
                    factor,
                    trained,
                    fast,
                    slow,
                    truncate,
                    amplitude,
                } => json!({"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": trained,
                    "beta_fast": fast, "beta_slow": slow, "truncate": truncate, "attention_factor": amplitude}),
                // A GGUF keeps the divisors and not what they were made of: these are what Llama 3.1 and 3.2 have.
                RopeScaling::Divided { by } => json!({"rope_type": "llama3", "factor": by.last(),
                    "original_max_position_embeddings": 8192, "low_freq_factor": 1.0, "high_freq_factor": 4.0}),
                _ => Value::Null,
            };
            self.set("rope_scaling", scaling);
        }
        if let Some(local) = config.ropes.get(1) {
            self.set("rope_local_base_freq", local.theta);
        }
        self.set("max_position_embeddings", context);
    }
}
