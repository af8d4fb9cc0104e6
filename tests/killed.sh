#!/usr/bin/env bash
# Kills `realign demo --quick` with -9 in three different stages and then at random moments, KILLS times in all, resumes it
# each time, and compares its results with those of a run that nobody disturbed. Timings, the peak memory and the moment of
# creation aside, they must be identical.
#
# Usage: tests/killed.sh [BINARY] [KILLS]   (3 kills by default, about three quick demos long)
set -euo pipefail
cd "$(dirname "$0")/.."
binary=${1:-target/release/realign}
kills=${2:-3}
work=$(mktemp -d)
trap 'kill -9 ${pid:-} 2>/dev/null || true; rm -rf "$work"' EXIT
# The command is part of the results, so that both runs must have the same one.
binary=$(realpath "$binary")
run() { (cd "$work/$1" && exec "$binary" demo --quick --out run) >>"$work/$1.log" 2>&1; }
compare() {
    python3 - "$work/whole/run/results.json" "$work/$1/run/results.json" <<'P'
import json, sys
def read(path):
    results = json.load(open(path))
    for field in ("timings", "peak_rss_mib", "created"):
        results.pop(field, None)
    for arm in results["arms"].values():
        arm.pop("seconds", None)
    for dose in results["dose"]:
        dose.pop("seconds", None)
    return results
whole, killed = map(read, sys.argv[1:])
different = [key for key in whole.keys() | killed.keys() if whole.get(key) != killed.get(key)]
sys.exit(f"these fields differ: {different}" if different else print("identical, timings aside"))
P
}
mkdir "$work/whole" "$work/killed"

echo "undisturbed run"
run whole

# A file of each stage, and how long after its appearance to kill.
for moment in "stages/tune-organism.json 8" "stages/corpus.json 4" "stages/choose-cures.json 6"; do
    read -r file delay <<<"$moment"
    (cd "$work/killed" && exec "$binary" demo --quick --out run) >>"$work/killed.log" 2>&1 & pid=$!
    until [ -e "$work/killed/run/$file" ]; do
        sleep 0.2
        kill -0 $pid 2>/dev/null || { echo "the run ended before $file was there"; cat "$work/killed.log"; exit 1; }
    done
    sleep "$delay"
    kill -9 $pid || { echo "nothing left to kill after $file"; exit 1; }
    wait $pid 2>/dev/null || true
    echo "killed $delay s after $file"
done
echo "last resumption"
run killed
compare killed

# Random moments: seconds between 0.5 and 8 after the start. A run that ends before it is killed is compared and begun anew.
RANDOM=1
for ((done = 3; done < kills; done++)); do
    mkdir -p "$work/random"
    (cd "$work/random" && exec "$binary" demo --quick --out run) >>"$work/random.log" 2>&1 & pid=$!
    sleep "$((RANDOM % 8)).$((RANDOM % 5 + 5))"
    if ! kill -9 $pid 2>/dev/null; then
        compare random
        rm -rf "$work/random"
    fi
    wait $pid 2>/dev/null || true
done
if [ -d "$work/random" ]; then
    run random
    compare random
fi
echo "killed $kills times"
