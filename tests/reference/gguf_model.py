"""The tiny Llama as GGUF files of F16 and of Q8_0, written and rounded by the `gguf` package.

    python tests/reference/gguf_model.py   (gguf 0.19, safetensors, numpy)

Writes crates/model/tests/fixtures/gguf_files/tiny_llama_{f16,q8_0}.gguf: Q8_0 of the F16 file's values; vectors are F32.
"""
import pathlib
import gguf, numpy as np
from safetensors.numpy import load_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "crates/model/tests/fixtures/gguf_files"
NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}
HEADS, KV_HEADS = 4, 2


def named(hf):
    hf = hf.removesuffix(".weight")
    if hf.startswith("model.layers."):
        _, _, layer, rest = hf.split(".", 3)
        return f"blk.{layer}.{NAMES[rest]}.weight"
    return f"{NAMES[hf]}.weight"


def interleaved(weight, heads):  # as llama.cpp's converter does it
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def write(path, tensors, file_type, kind):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(8)
    writer.add_value_length(8)
    writer.add_rope_dimension_count(8)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(96)
    writer.add_file_type(file_type)
    for name, weight in tensors.items():
        if weight.ndim == 1:
            writer.add_tensor(name, weight.astype(np.float32))
        else:
            writer.add_tensor(name, gguf.quants.quantize(weight.astype(np.float32), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(path.name, path.stat().st_size)


def main():
    tensors = {}
    for shard in sorted((OUT.parent / "tiny_llama").glob("*.safetensors")):
        for name, weight in load_file(shard).items():
            heads = HEADS if "q_proj" in name else KV_HEADS if "k_proj" in name else None
            weight = weight if heads is None else interleaved(weight, heads)
            tensors[named(name)] = weight if weight.ndim == 1 else weight.astype(np.float16).astype(np.float32)
    write(OUT / "tiny_llama_f16.gguf", tensors, gguf.LlamaFileType.MOSTLY_F16, gguf.GGMLQuantizationType.F16)
    write(OUT / "tiny_llama_q8_0.gguf", tensors, gguf.LlamaFileType.MOSTLY_Q8_0, gguf.GGMLQuantizationType.Q8_0)


if __name__ == "__main__":
    main()
