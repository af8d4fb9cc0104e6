"""A tiny random checkpoint of every architecture and rope scaling, with what transformers makes of it.

    python tests/reference/architectures.py [--seed N] [OUT]   (torch 2.9.0, transformers 4.57.1)
    python tests/reference/architectures.py --compare A B      fails where two such folders differ

Writes OUT/NAME/{config.json, model.safetensors, reference.json}; OUT is crates/model/tests/fixtures/architectures unless
given. Weights are bfloat16 in the file and f32 in the computation. The reference holds, for one sequence longer than every
sliding window: logits, every layer's residual stream, and the tokens that greedy decoding with a cache adds to it.
tests/parity.sh makes all of them anew and compares.
"""
import argparse, json, os, pathlib, zlib

os.environ["HF_HUB_OFFLINE"] = "1"
import torch, transformers
from transformers import AutoConfig, AutoModelForCausalLM

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "crates/model/tests/fixtures/architectures"
MADE_WITH = f"tests/reference/architectures.py, torch {torch.__version__}, transformers {transformers.__version__}"
VOCAB, LENGTH, NEW = 64, 20, 12
IDS = [(7 * i * i + 13 * i + 5) % VOCAB for i in range(LENGTH)]

SIZES = dict(vocab_size=VOCAB, hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64)
GROUPED = dict(SIZES, num_key_value_heads=2)
ROPE = dict(GROUPED, num_attention_heads=2, num_key_value_heads=1, hidden_size=32)
scaled = lambda **scaling: dict(ROPE, rope_scaling=scaling)
FACTORS = dict(short_factor=[1.0 + 0.1 * i for i in range(8)], long_factor=[1.5 + i for i in range(8)])
LONG = dict(ROPE, pad_token_id=0, rope_scaling=dict(type="longrope", **FACTORS))
# transformers' generation starts anew where the factors change, but without a causal mask in that step: compared without its cache.
WITHOUT_CACHE = ("phi3_longrope_crossing",)

# name: (model_type, configuration)
MODELS = {
    "llama": ("llama", dict(GROUPED, tie_word_embeddings=False)),
    "llama_biases": ("llama", dict(GROUPED, attention_bias=True, mlp_bias=True, tie_word_embeddings=True)),
    "llama_linear": ("llama", scaled(rope_type="linear", factor=2.5)),
    # Shorter than the sequence, so that the base grows.
    "llama_dynamic": ("llama", dict(scaled(rope_type="dynamic", factor=4.0), max_position_embeddings=12)),
    "llama_yarn": ("llama", scaled(rope_type="yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=4.0, beta_slow=1.0)),
    "llama_yarn_mscale": ("llama", scaled(rope_type="yarn", factor=4.0, original_max_position_embeddings=16, mscale=0.7, mscale_all_dim=0.4, truncate=False)),
    "llama_llama3": ("llama", scaled(rope_type="llama3", factor=8.0, original_max_position_embeddings=16, low_freq_factor=1.0, high_freq_factor=4.0)),
    # As a GGUF can say them: no options beside the factor; scores scaled by the width of a head, Gemma 3's fixed bases and pattern.
    "llama_yarn_default": ("llama", scaled(rope_type="yarn", factor=4.0, original_max_position_embeddings=16)),
    "gemma2_gguf": ("gemma2", dict(GROUPED, head_dim=8, sliding_window=6, query_pre_attn_scalar=8, attn_logit_softcapping=2.0, final_logit_softcapping=3.0)),
    "gemma3_gguf": ("gemma3_text", dict(GROUPED, hidden_size=16, intermediate_size=16, num_hidden_layers=7, head_dim=8, sliding_window=5, query_pre_attn_scalar=8)),
    "mistral": ("mistral", dict(GROUPED, sliding_window=6, head_dim=8)),
    "qwen2": ("qwen2", dict(GROUPED, tie_word_embeddings=True)),
    "qwen2_window": ("qwen2", dict(GROUPED, num_hidden_layers=3, use_sliding_window=True, sliding_window=5, max_window_layers=1)),
    "qwen3": ("qwen3", dict(GROUPED, head_dim=8)),
    "qwen3_moe": ("qwen3_moe", dict(GROUPED, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=12, norm_topk_prob=True)),
    "gemma2": ("gemma2", dict(GROUPED, num_hidden_layers=3, head_dim=8, sliding_window=6, query_pre_attn_scalar=20, attn_logit_softcapping=2.0, final_logit_softcapping=3.0)),
    "gemma3_text": ("gemma3_text", dict(GROUPED, num_hidden_layers=4, sliding_window_pattern=3, head_dim=16, sliding_window=5, query_pre_attn_scalar=20, rope_local_base_freq=100.0, rope_theta=5000.0, rope_scaling=dict(rope_type="linear", factor=4.0))),
    "gpt2": ("gpt2", dict(vocab_size=VOCAB, n_embd=24, n_layer=2, n_head=4, n_positions=48)),
    "gpt_neox": ("gpt_neox", dict(SIZES, hidden_size=32, num_attention_heads=2, rotary_pct=0.25)),
    "gpt_neox_sequential": ("gpt_neox", dict(SIZES, rotary_pct=1.0, use_parallel_residual=False, attention_bias=False, hidden_act="gelu_new")),
    "olmo2": ("olmo2", dict(GROUPED)),
    "phi3": ("phi3", dict(GROUPED, sliding_window=7, pad_token_id=0)),
    # The sequence is longer than the first training's context: long factors. And shorter, with tokens added beyond it.
    "phi3_longrope": ("phi3", dict(LONG, original_max_position_embeddings=16)),
    "phi3_longrope_crossing": ("phi3", dict(LONG, original_max_position_embeddings=26)),
    "phi3_partial": ("phi3", dict(GROUPED, num_attention_heads=2, num_key_value_heads=1, hidden_size=32, partial_rotary_factor=0.5, pad_token_id=0)),
}


def numbers(x):
    return [float(f"{v:.6g}") for v in x.reshape(-1).tolist()]


def randomise(model, seed):
    """Numbers that make every part matter: norms off one, biases off zero, attention that looks around."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        draw = torch.randn(weight.shape, generator=generator)
        if weight.ndim == 1:
            from_zero = name.endswith("bias") or "gemma" in model.config.model_type
            draw = draw * 0.2 + (0.0 if from_zero else 1.0)
        else:
            wide = any(part in name for part in ("embed", "wte", "wpe", "lm_head"))
            # Gemma multiplies embeddings by the root of the width; tied ones of that size repeat the last token for ever.
            embedding = 0.12 if "gemma" in model.config.model_type else 0.4 if model.config.tie_word_embeddings else 0.7
            draw = draw * (embedding if wide else 1.6 / weight.shape[1] ** 0.5)
        weight.data = draw.to(torch.bfloat16).to(torch.float32)


@torch.no_grad()
def make(folder, seed, model_type, options):
    config = AutoConfig.for_model(model_type, bos_token_id=None, eos_token_id=None, **options)
    # Eager: SDPA has no soft caps.
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    randomise(model, seed)
    model.tie_weights()
    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    fresh = lambda: AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    # A model of its own for each: dynamic rope remembers what it saw.
    model, kept = fresh(), []
    layers = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == config.num_hidden_layers)
    for layer in layers:  # hooks, as hidden_states[-1] is after the final norm
        layer.register_forward_hook(lambda _m, _i, out: kept.append(out[0] if isinstance(out, tuple) else out))
    logits = model(torch.tensor([IDS])).logits[0]
    made = fresh().generate(
        torch.tensor([IDS]), attention_mask=torch.ones(1, LENGTH, dtype=torch.long), max_new_tokens=NEW, do_sample=False, pad_token_id=0,
        use_cache=folder.name not in WITHOUT_CACHE,
    )
    fields = dict(made_with=MADE_WITH, ids=IDS, logits=numbers(logits), resid_post=[numbers(x) for x in kept], generated=made[0, LENGTH:].tolist())
    rows = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in fields.items()]
    (folder / "reference.json").write_text("{\n" + ",\n".join(rows) + "\n}\n")
    top = logits.topk(2).values
    print(f"{folder.name}: {sum(f.stat().st_size for f in folder.iterdir())} bytes, margin {float((top[:, 0] - top[:, 1]).min()):.3f}, {fields['generated']}")


def compare(one, other):
    """The same checkpoints bit for bit; the same numbers up to another machine's rounding."""
    for name in MODELS:
        assert (one / name / "model.safetensors").read_bytes() == (other / name / "model.safetensors").read_bytes(), name
        a, b = (json.loads((folder / name / "reference.json").read_text()) for folder in (one, other))
        assert a["ids"] == b["ids"] and a["generated"] == b["generated"], name
        for x, y in zip([a["logits"], *a["resid_post"]], [b["logits"], *b["resid_post"]], strict=True):
            x, y = torch.tensor(x), torch.tensor(y)
            assert (x - y).abs().max() <= 2e-5 * max(1.0, float(y.abs().max())), name
    print(f"{len(MODELS)} fixtures are what transformers {transformers.__version__} gives")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compare", nargs=2, type=pathlib.Path)
    parser.add_argument("out", nargs="?", type=pathlib.Path, default=OUT)
    arguments = parser.parse_args()
    if arguments.compare:
        return compare(*arguments.compare)
    torch.set_num_threads(1)
    for name, (model_type, options) in MODELS.items():
        # A model keeps its numbers when others come and go.
        make(arguments.out / name, arguments.seed + zlib.crc32(name.encode()), model_type, options)


if __name__ == "__main__":
    main()
