"""GGUFs of the tiny checkpoints, as llama.cpp's converter writes them, checked with llama.cpp itself.

    python tests/reference/gguf_architectures.py [OUT]   (gguf 0.19.0, llama-cpp-python 0.3.36, after architectures.py)

Writes OUT/NAME.gguf (OUT is crates/model/tests/fixtures/gguf unless given) in F32 from crates/model/tests/fixtures/architectures/NAME, whose
reference.json holds transformers' logits. Each file is refused here unless llama.cpp opens it and gives the same logits
(TOLERANCE says where it computes something else, and why).
"""
import json, pathlib, re, sys

import gguf, numpy, torch
from llama_cpp_plain import Llama
from safetensors.torch import load_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCE = ROOT / "crates/model/tests/fixtures/architectures"
OUT = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "crates/model/tests/fixtures/gguf"
# name: GGUF's architecture
MODELS = {
    "llama": "llama",
    "llama_biases": "llama",
    "llama_linear": "llama",
    "llama_llama3": "llama",
    "llama_yarn_default": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2_gguf": "gemma2",
    "gemma3_gguf": "gemma3",
    "phi3": "phi3",
    "phi3_partial": "phi3",
    "gpt2": "gpt2",
    "gpt_neox": "gptneox",
    "olmo2": "olmo2",
}
# With fused weights, in blocks of 32 (Q8_0) too.
QUANTISED = ["phi3_partial", "gpt_neox"]
# llama.cpp's GELU is a table in f16. It has no sliding window for Phi-3 ("currently disabled").
TOLERANCE = {"gemma2": 5e-3, "gemma3": 5e-3, "gpt2": 5e-3, "gptneox": 5e-3, "phi3 with a window": 2.0}


def permuted(w, heads):
    """The converter's order of a Llama's query and key rows, for rotation by neighbours."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def tensors(name, arch, config):
    """The converter's names, layouts and offsets."""
    layers = config.get("num_hidden_layers") or config["n_layer"]
    names = gguf.get_tensor_name_map(next(a for a, n in gguf.MODEL_ARCH_NAMES.items() if n == arch), layers)
    heads = config.get("num_attention_heads") or config["n_head"]
    for key, w in load_file(SOURCE / name / "model.safetensors").items():
        w = w.to(torch.float32).numpy()
        if arch == "llama" and re.search(r"q_proj\.(weight|bias)$", key):
            w = permuted(w, heads)
        if arch == "llama" and re.search(r"k_proj\.(weight|bias)$", key):
            w = permuted(w, config["num_key_value_heads"])
        if arch.startswith("gemma") and key.endswith("norm.weight"):
            w = w + 1
        if arch == "gpt2" and re.search(r"\.(c_attn|c_proj|c_fc)\.weight$", key):
            w = w.T
        if arch == "gptneox" and "query_key_value" in key:  # head by head to queries, keys, values
            w = w.reshape(heads, 3, -1, *w.shape[1:]).swapaxes(0, 1).reshape(w.shape)
        stem, suffix = key.rsplit(".", 1)
        yield f"{names.get_name(stem)}.{suffix}", numpy.ascontiguousarray(w)


def write(name, arch, config, quantised=False):
    writer = gguf.GGUFWriter(OUT / f"{name}{'.q8_0' if quantised else ''}.gguf", arch)
    get = lambda *keys: next((config[k] for k in keys if config.get(k) is not None), None)
    heads, width = get("num_attention_heads", "n_head"), get("hidden_size", "n_embd")
    writer.add_context_length(get("max_position_embeddings", "n_positions"))
    writer.add_embedding_length(width)
    writer.add_block_count(get("num_hidden_layers", "n_layer"))
    writer.add_feed_forward_length(get("intermediate_size", "n_inner") or 4 * width)
    writer.add_head_count(heads)
    writer.add_vocab_size(config["vocab_size"])
    if get("num_key_value_heads"):
        writer.add_head_count_kv(get("num_key_value_heads"))
    if get("head_dim"):
        writer.add_key_length(get("head_dim"))
        writer.add_value_length(get("head_dim"))
    if get("rms_norm_eps"):
        writer.add_layer_norm_rms_eps(get("rms_norm_eps"))
    else:
        writer.add_layer_norm_eps(get("layer_norm_eps", "layer_norm_epsilon"))
    head = get("head_dim") or width // heads
    if arch != "gpt2":
        writer.add_rope_dimension_count(int(head * (get("rotary_pct", "partial_rotary_factor") or 1)))
        writer.add_rope_freq_base(float(get("rope_theta", "rotary_emb_base")))
    if arch == "gptneox":
        writer.add_parallel_residual(config["use_parallel_residual"])
    if get("sliding_window") and arch in ("gemma2", "gemma3", "phi3"):
        writer.add_sliding_window(config["sliding_window"])
    if arch == "gemma2":
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    scaling = get("rope_scaling") or {}
    if scaling.get("rope_type") in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(scaling["rope_type"]))
        writer.add_rope_scaling_factor(scaling["factor"])
    if scaling.get("rope_type") == "yarn":
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
    if scaling.get("rope_type") == "llama3":  # as the converter: what each frequency is divided by
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
        from transformers import AutoConfig

        hf = AutoConfig.from_pretrained(SOURCE / name)
        plain = 1.0 / hf.rope_theta ** (numpy.arange(0, head, 2, dtype=numpy.float32) / head)
        writer.add_tensor("rope_freqs.weight", (plain / ROPE_INIT_FUNCTIONS["llama3"](hf, "cpu")[0].numpy()).astype(numpy.float32))
    # Tokens that nobody reads: llama.cpp wants some.
    n = config["vocab_size"]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([b"<unk>", b"<s>", b"</s>"] + [b"t%d" % i for i in range(3, n)])
    writer.add_token_scores([0.0] * n)
    writer.add_token_types([2, 3, 3] + [1] * (n - 3))
    for key, w in tensors(name, arch, config):
        if quantised and w.ndim == 2 and "token_embd" not in key:
            q8 = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(key, gguf.quants.quantize(w, q8), raw_dtype=q8)
        else:
            writer.add_tensor(key, w)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for name, arch in MODELS.items():
        config = json.loads((SOURCE / name / "config.json").read_text())
        write(name, arch, config)
        if name in QUANTISED:
            write(name, arch, config, quantised=True)
        reference = json.loads((SOURCE / name / "reference.json").read_text())
        path = OUT / f"{name}.gguf"
        model = Llama(str(path), n_ctx=64, logits_all=True, verbose=False, n_threads=1, type_k=0, type_v=0)  # an f32 cache
        model.eval(reference["ids"])
        ours = numpy.array(model.scores[: len(reference["ids"])])
        theirs = numpy.array(reference["logits"]).reshape(ours.shape)
        off = abs(ours - theirs).max() / max(1, abs(theirs).max())
        print(f"{name}: {path.stat().st_size} bytes, llama.cpp is off by {off:.2e}")
        assert off < (TOLERANCE.get("phi3 with a window" if name == "phi3" else arch, 2e-5)), name


if __name__ == "__main__":
    main()
