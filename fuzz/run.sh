#!/usr/bin/env bash
# Builds the fuzz targets and runs each for some time, with what is kept in `seeds` and `crashes` to start from.
#
#   fuzz/run.sh [SECONDS [TARGET…]]      600 seconds and every target without an argument
#
# Needs Rust and a C++ compiler; stable Rust will do. What libFuzzer finds worth keeping goes to target/fuzz/corpus, what breaks
# to target/fuzz/artifacts: move it to crashes/TARGET under a name that says what it is, and a plain test replays it.
set -euo pipefail

# Cargo calls this script with the compiler and its arguments for each crate of the workspace: libFuzzer sees what those reach.
# Third-party crates are shared with the tests; what they are generic over is compiled here.
if [[ ${1:-} == */rustc ]]; then
    case " $* " in
    *" --crate-name build_script_"*) exec "$@" ;;
    esac
    coverage=(level=4 inline-8bit-counters pc-table trace-compares)
    exec "$@" --cfg fuzzing -Cpasses=sancov-module "${coverage[@]/#/-Cllvm-args=-sanitizer-coverage-}"
fi

cd "$(dirname "$0")/.."
seconds=${1:-600}
targets=("${@:2}")
if [ ${#targets[@]} = 0 ]; then targets=(fuzz/fuzz_targets/*.rs); fi
targets=("${targets[@]##*/}")

RUSTC_WORKSPACE_WRAPPER="$PWD/fuzz/run.sh" CARGO_PROFILE_DEV_OPT_LEVEL=3 \
    cargo build --workspace --bin 'fuzz_*' --features realign-fuzz/libfuzzer --locked
built=${CARGO_TARGET_DIR:-target}/debug

failed=0
for target in "${targets[@]%.rs}"; do
    corpus=target/fuzz/corpus/$target artifacts=target/fuzz/artifacts/$target log=target/fuzz/$target.log
    mkdir -p "$corpus" "$artifacts"
    kept=("fuzz/seeds/$target")
    if [ -d "fuzz/crashes/$target" ]; then kept+=("fuzz/crashes/$target"); fi
    if "$built/fuzz_$target" "$corpus" "${kept[@]}" -artifact_prefix="$artifacts/" -max_total_time="$seconds" \
        -max_len=65536 -rss_limit_mb=2048 -timeout=10 -print_final_stats=1 >"$log" 2>&1; then
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        covered=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -1)
        echo "$target: $runs inputs in $seconds s, $covered edges, no finding"
    else
        echo "$target: FOUND something, see $log"
        grep -E 'ERROR|panicked|Test unit written' "$log" | head -5 || true
        failed=1
    fi
done
exit $failed
