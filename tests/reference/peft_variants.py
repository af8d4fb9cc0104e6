"""LoRA adapters of every kind that realign reads, made by Python's peft for the tiny Llama, with the logits that peft gives.

    PYTHONHASHSEED=0 python tests/reference/peft_variants.py   (torch 2.9.0, transformers 4.57.1, peft 0.18.0)

Writes crates/lora/tests/fixtures/peft_{dora,patterns,saved,excluded}/, each with a reference.json. All are trained for a
few steps on random ids, so that neither B nor a magnitude nor a saved module is what it began as.

    python tests/reference/peft_variants.py check DIR      has peft open DIR/peft_*, which realign wrote, and compares the logits
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


def check(folder):
    for name in VARIANTS:
        model = AutoModelForCausalLM.from_pretrained(base.TINY, dtype=torch.float32)
        ours = torch.tensor(base.logits(PeftModel.from_pretrained(model, folder / name)))
        theirs = torch.tensor(json.loads((base.LORA / name / "reference.json").read_text())["adapted_logits"])
        print(f"{name}: largest difference {float((ours - theirs).abs().max()):.1e}")
        assert torch.allclose(ours, theirs, atol=1e-5), name


def main():
    for name, config in VARIANTS.items():
        torch.manual_seed(2)
        model = AutoModelForCausalLM.from_pretrained(base.TINY, dtype=torch.float32)
        tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **config)).train()
        optimizer = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=0.02)
        for _ in range(5):
            ids = torch.randint(0, 96, (4, 16))
            tuned(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        tuned.peft_config["default"].base_model_name_or_path = "tiny_llama"
        folder = base.LORA / name
        shutil.rmtree(folder, ignore_errors=True)
        tuned.save_pretrained(folder)
        (folder / "README.md").unlink()
        again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.TINY, dtype=torch.float32), folder)
        adapted = base.logits(again)
        assert adapted == base.logits(tuned)
        merged = torch.tensor(base.logits(again.merge_and_unload()))
        gap = float((merged - torch.tensor(adapted)).abs().max())
        base.write(folder, ids=base.IDS, adapted_logits=adapted, merged_minus_adapted=gap)


if __name__ == "__main__":
    check(pathlib.Path(sys.argv[2])) if sys.argv[1:2] == ["check"] else main()
