"""A tiny random Llama in sharded safetensors (transformers) and two LoRA adapters of it (peft), with their logits.

    PYTHONHASHSEED=0 python tests/reference/peft_adapter.py   (torch 2.9.0, transformers 4.57.1, peft 0.18.0)

Writes crates/model/tests/fixtures/tiny_llama/ and crates/lora/tests/fixtures/{peft_tiny,peft_rank1}/, each with a
reference.json. Both adapters are trained for a few steps on random ids, so B is not zero.
"""
import json, os, pathlib, shutil

os.environ["HF_HUB_OFFLINE"] = "1"  # before the imports: peft would look for the base model's name on the hub
import peft, torch, transformers
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY, LORA = ROOT / "crates/model/tests/fixtures/tiny_llama", ROOT / "crates/lora/tests/fixtures"
SITES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IDS = [3, 17, 95, 0, 42, 42, 8, 61, 77, 5, 90, 23]
MADE_WITH = f"tests/reference/peft_adapter.py, torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}"


def table(x):
    return [[float(f"{v:.8g}") for v in row] for row in x.tolist()]


@torch.no_grad()
def logits(model):
    return table(model.eval()(torch.tensor([IDS])).logits[0])


def write(folder, **fields):
    rows = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in {"made_with": MADE_WITH, **fields}.items()]
    (folder / "reference.json").write_text("{\n" + ",\n".join(rows) + "\n}\n")
    print(folder, sum(f.stat().st_size for f in folder.iterdir()), sorted(f.name for f in folder.iterdir()))


def tiny_llama():
    torch.manual_seed(0)
    shape = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=96, max_position_embeddings=128, rope_theta=10000.0, rms_norm_eps=1e-5, tie_word_embeddings=False, initializer_range=0.25, **shape
    ))
    for name, weight in model.named_parameters():  # norms of 1 would hide a norm that is not applied
        if "norm" in name:
            torch.nn.init.uniform_(weight, 0.5, 1.5)
    shutil.rmtree(TINY, ignore_errors=True)
    model.save_pretrained(TINY, max_shard_size="60KB")
    kept = []  # hooks, as hidden_states[-1] is after the final norm
    for layer in model.model.layers:
        layer.register_forward_hook(lambda _m, _i, out: kept.append(out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        out = model.eval()(torch.tensor([IDS]))
    write(TINY, ids=IDS, logits=table(out.logits[0]), resid_post=[table(x.reshape(len(IDS), -1)) for x in kept])


def adapter(folder, steps=5, **config):
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    base = logits(model)
    tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **config)).train()
    optimizer = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=0.02)
    for _ in range(steps):
        ids = torch.randint(0, 96, (4, 16))
        tuned(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    tuned.peft_config["default"].base_model_name_or_path = "tiny_llama"
    shutil.rmtree(folder, ignore_errors=True)
    tuned.save_pretrained(folder)
    (folder / "README.md").unlink()
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32), folder)
    assert logits(again) == logits(tuned)
    merged = torch.tensor(logits(again.merge_and_unload()))
    write(folder, ids=IDS, base_logits=base, adapted_logits=logits(tuned), merged_minus_adapted=float((merged - torch.tensor(logits(tuned))).abs().max()))


def main():
    tiny_llama()
    adapter(LORA / "peft_tiny", r=4, lora_alpha=8, use_rslora=True, target_modules=SITES)
    adapter(LORA / "peft_rank1", r=1, lora_alpha=8, target_modules=["down_proj"], layers_to_transform=[1])


if __name__ == "__main__":
    main()
