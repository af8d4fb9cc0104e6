"""LoRA adapters of every kind that realign reads, made by Python's peft for tiny models, with the logits that peft gives.

    PYTHONHASHSEED=0 python tests/reference/peft_variants.py   (torch 2.9.0, transformers 4.57.1, peft 0.18.0)

Writes crates/lora/tests/fixtures/peft_{dora,patterns,saved,excluded}/ for the tiny Llama, and peft_{gpt2,gpt_neox,phi3}*/ for
architectures whose linear maps share modules (of crates/model/tests/fixtures/architectures), each with a reference.json. All
are trained for a few steps on random ids, so that neither B nor a magnitude nor a saved module is what it began as.

    python tests/reference/peft_variants.py check DIR      has peft open DIR/peft_*, which realign wrote, and compares the logits
    python tests/reference/peft_variants.py own DIR        the same for DIR/own_*, whose logits are realign's in DIR/own_*/logits.json
"""
import peft_adapter as base  # sets HF_HUB_OFFLINE, before peft is imported
import json, pathlib, shutil, sys
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

VARIANTS = {
    "peft_dora": dict(r=4, lora_alpha=8, use_dora=True, target_modules=base.SITES),
    "peft_patterns": dict(
        r=4, lora_alpha=8, use_rslora=True, use_dora=False,
        target_modules=r".*\.(self_attn|mlp)\.(q|v|up|down)_proj",
        rank_pattern={"q_proj": 2, r"layers\.1\.mlp\.(up|down)_proj": 3, "up_proj": 6},
        alpha_pattern={"v_proj": 32, r"model.layers.0.mlp.down_proj": 1},
    ),
    "peft_saved": dict(
        r=2, lora_alpha=8, use_dora=True, target_modules=["q_proj", "down_proj"], layers_to_transform=[0], layers_pattern="layers",
        modules_to_save=["embed_tokens", "lm_head", "layers.1.mlp.down_proj"],
    ),
    "peft_excluded": dict(r=2, lora_alpha=4, target_modules="all-linear", exclude_modules=r".*\.(k|gate)_proj|model\.layers\.1\.mlp\..*"),
}


ARCHITECTURES = base.ROOT / "crates/model/tests/fixtures/architectures"
# name: (architecture, configuration)
FUSED = {
    "peft_gpt2": ("gpt2", dict(r=4, lora_alpha=8, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True, rank_pattern={"attn.c_attn": 6}, alpha_pattern={"h.1.mlp.c_proj": 2})),
    "peft_gpt2_dora": ("gpt2", dict(r=2, lora_alpha=4, use_dora=True, target_modules=["attn.c_attn"], fan_in_fan_out=True, modules_to_save=["wte"])),
    "peft_gpt_neox": ("gpt_neox", dict(r=3, lora_alpha=8, use_rslora=True, target_modules="all-linear")),
    "peft_gpt_neox_dora": ("gpt_neox", dict(r=2, lora_alpha=4, use_dora=True, target_modules=["query_key_value", "dense"], layers_to_transform=[1])),
    "peft_phi3": ("phi3", dict(r=2, lora_alpha=8, target_modules=["qkv_proj", "o_proj", "gate_up_proj", "down_proj"], modules_to_save=["lm_head", "layers.1.mlp.gate_up_proj"])),
    "peft_phi3_dora": ("phi3", dict(r=2, lora_alpha=4, use_dora=True, target_modules=r"model\.layers\.0\.(self_attn\.qkv|mlp\.gate_up)_proj")),
}
ALL = {name: (base.TINY, config) for name, config in VARIANTS.items()} | {
    name: (ARCHITECTURES / architecture, config) for name, (architecture, config) in FUSED.items()
}


def load(model):
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)


def own(folder):
    for path in sorted(folder.glob("own_*")):
        kept = json.loads((path / "logits.json").read_text())
        base.IDS = kept["ids"]
        plain = torch.tensor(base.logits(load(ARCHITECTURES / kept["architecture"])))
        ours = torch.tensor(base.logits(PeftModel.from_pretrained(load(ARCHITECTURES / kept["architecture"]), path)))
        theirs = torch.tensor(kept["logits"]).reshape(ours.shape)
        apart, moved = float((ours - theirs).abs().max()), float((ours - plain).abs().max())
        print(f"{path.name}: largest difference {apart:.1e} (the adapter itself moves a logit by up to {moved:.1f})")
        assert apart < 1e-4 and moved > 0.1, path


def check(folder):
    for name, (model, _) in ALL.items():
        model = load(model)
        base.IDS = json.loads((base.LORA / name / "reference.json").read_text())["ids"]
        ours = torch.tensor(base.logits(PeftModel.from_pretrained(model, folder / name)))
        theirs = torch.tensor(json.loads((base.LORA / name / "reference.json").read_text())["adapted_logits"])
        print(f"{name}: largest difference {float((ours - theirs).abs().max()):.1e}")
        assert torch.allclose(ours, theirs, atol=1e-5), name


def main():
    tiny_llamas = base.IDS
    for name, (path, config) in ALL.items():
        torch.manual_seed(2)
        model = load(path)
        vocab = model.config.vocab_size
        base.IDS = tiny_llamas if path == base.TINY else [i % vocab for i in tiny_llamas]
        tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **config)).train()
        optimizer = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=0.02)
        for _ in range(5):
            ids = torch.randint(0, vocab, (4, 16))
            tuned(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        tuned.peft_config["default"].base_model_name_or_path = path.name
        folder = base.LORA / name
        shutil.rmtree(folder, ignore_errors=True)
        tuned.save_pretrained(folder)
        (folder / "README.md").unlink()
        again = PeftModel.from_pretrained(load(path), folder)
        adapted = base.logits(again)
        assert adapted == base.logits(tuned)
        merged = torch.tensor(base.logits(again.merge_and_unload()))
        gap = float((merged - torch.tensor(adapted)).abs().max())
        base.write(folder, ids=base.IDS, adapted_logits=adapted, merged_minus_adapted=gap)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["check", folder]:
            check(pathlib.Path(folder))
        case ["own", folder]:
            own(pathlib.Path(folder))
        case _:
            main()
