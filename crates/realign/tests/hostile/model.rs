//! A model of two blocks in the two forms that models come in, small enough to damage at every byte.

use std::path::Path;

/// The widths: small, and all different where the format allows it.
pub const VOCAB: usize = 16;
pub const D_MODEL: usize = 8;
pub const D_MLP: usize = 12;
pub const KV_ROWS: usize = 4;
pub const LAYERS: usize = 2;

/// One tensor: its name in a GGUF, its name at Hugging Face, its shape `[out, in]`.
pub struct Weight {
    pub gguf: String,
    pub hf: String,
    pub shape: Vec<usize>,
}

/// Every tensor of the model.
pub fn weights() -> Vec<Weight> {
    let weight = |gguf: String, hf: String, shape: &[usize]| Weight {
        gguf,
        hf,
        shape: shape.to_vec(),
    };
    let mut all = vec![weight(
        "token_embd.weight".into(),
        "model.embed_tokens.weight".into(),
        &[VOCAB, D_MODEL],
    )];
    for layer in 0..LAYERS {
        for (gguf, hf, shape) in [
            ("attn_norm", "input_layernorm", &[D_MODEL][..]),
            ("attn_q", "self_attn.q_proj", &[D_MODEL, D_MODEL]),
            ("attn_k", "self_attn.k_proj", &[KV_ROWS, D_MODEL]),
            ("attn_v", "self_attn.v_proj", &[KV_ROWS, D_MODEL]),
            ("attn_output", "self_attn.o_proj", &[D_MODEL, D_MODEL]),
            ("ffn_norm", "post_attention_layernorm", &[D_MODEL]),
            ("ffn_gate", "mlp.gate_proj", &[D_MLP, D_MODEL]),
            ("ffn_up", "mlp.up_proj", &[D_MLP, D_MODEL]),
            ("ffn_down", "mlp.down_proj", &[D_MODEL, D_MLP]),
        ] {
            all.push(weight(
                format!("blk.{layer}.{gguf}.weight"),
                format!("model.layers.{layer}.{hf}.weight"),
                shape,
            ));
        }
    }
    all.push(weight(
        "output_norm.weight".into(),
        "model.norm.weight".into(),
        &[D_MODEL],
    ));
    all
}

/// Some finite numbers for a tensor, as bytes.
pub fn numbers(shape: &[usize]) -> Vec<u8> {
    let n = shape.iter().product::<usize>();
    (0..n)
        .flat_map(|i| ((i as f32 * 0.7).sin() * 0.5).to_le_bytes())
        .collect()
}

/// Letters, and the tokens that frame a turn.
pub fn tokens() -> Vec<Vec<u8>> {
    let letters = ["a", "b", "h", "i", "e", "l", "o", "Ġ", "Ċ", "hi", "Ġhi", "u", "s"];
    let special = ["<unk>", "<|im_start|>", "<|im_end|>"];
    let all: Vec<Vec<u8>> = letters
        .iter()
        .chain(&special)
        .map(|token| token.as_bytes().to_vec())
        .collect();
    assert_eq!(all.len(), VOCAB);
    all
}

pub const CHAT_TEMPLATE: &str = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + \
                                 '<|im_end|>' + '\n' }}{% endfor %}";

pub const CONFIG: &str = r#"{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8,
    "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "vocab_size": 16, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "tie_word_embeddings": true, "hidden_act": "silu", "rope_scaling": null}"#;

/// A safetensors file of these tensors, all F32 and without a gap.
pub fn safetensors(tensors: &[(String, Vec<usize>, Vec<u8>)]) -> Vec<u8> {
    let mut at = 0;
    let entries: Vec<String> = tensors
        .iter()
        .map(|(name, shape, bytes)| {
            let start = at;
            at += bytes.len();
            format!(r#""{name}":{{"dtype":"F32","shape":{shape:?},"data_offsets":[{start},{at}]}}"#)
        })
        .collect();
    let header = format!("{{{}}}", entries.join(","));
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    tensors.iter().for_each(|(_, _, bytes)| file.extend(bytes));
    file
}

/// The model's `model.safetensors`.
pub fn model_safetensors() -> Vec<u8> {
    let tensors: Vec<_> = weights()
        .into_iter()
        .map(|weight| {
            let bytes = numbers(&weight.shape);
            (weight.hf, weight.shape, bytes)
        })
        .collect();
    safetensors(&tensors)
}

/// A folder with the model as Hugging Face keeps it.
pub fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    write("config.json", CONFIG.as_bytes());
    write("model.safetensors", &model_safetensors());
    write("tokenizer.json", tokenizer_json().as_bytes());
    write(
        "tokenizer_config.json",
        br#"{"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": "<unk>"}"#,
    );
    write("chat_template.jinja", CHAT_TEMPLATE.as_bytes());
    folder
}

/// The same tokens as a `tokenizer.json`.
pub fn tokenizer_json() -> String {
    let tokens: Vec<String> = tokens()
        .into_iter()
        .map(|token| String::from_utf8(token).unwrap())
        .collect();
    let vocab: serde_json::Map<String, serde_json::Value> = tokens
        .iter()
        .enumerate()
        .map(|(id, token)| (token.clone(), id.into()))
        .collect();
    let added: Vec<serde_json::Value> = tokens
        .iter()
        .enumerate()
        .filter(|(_, token)| token.starts_with('<'))
        .map(|(id, token)| {
            serde_json::json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        })
        .collect();
    let byte_level = serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
        "use_regex": true});
    serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": added, "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": [["h", "i"], ["Ġ", "hi"]]},
    })
    .to_string()
}

/// Reads whatever is at `path` as a model, and runs it on three tokens where that works.
pub fn load(path: &Path) -> Result<(), realign::model::Error> {
    use realign::core::LanguageModel;
    let device = realign::burn::tensor::Device::flex();
    let read = realign::model::Pretrained::load(path, &device)?;
    let vocab = read.model.shape().vocab as u32;
    let ids: Vec<u32> = (0..3).map(|i| i % vocab).collect();
    let hidden = read.model.forward(&realign::core::Batch::packed([&ids[..]]), &mut ());
    assert_eq!(hidden.dims(), [3, read.model.shape().d_model]);
    let text = read.tokenizer.encode_text("hi hello");
    read.tokenizer.decode(&text);
    Ok(())
}

/// A folder with a small adapter for [`realign::model::LlamaConfig::tiny`].
pub fn adapter() -> tempfile::TempDir {
    use realign::lora::LoraConfig;
    let folder = tempfile::tempdir().unwrap();
    let shape = realign::model::LlamaConfig::tiny().shape();
    let device = realign::burn::tensor::Device::flex();
    let lora = LoraConfig::new(2).init(&shape, &realign::run::Seed::new(1), &device);
    realign::lora::save(&lora, "base", folder.path()).unwrap();
    folder
}
