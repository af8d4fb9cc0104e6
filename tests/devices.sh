#!/usr/bin/env bash
# The tests of kernels, of model parity, of LoRA and of SAE steps on every device.
#
#   tests/devices.sh [DEVICE…]      flex, ndarray, tch, wgpu, remote; all of them without an argument
#
# Needs Rust and python3. tch wants PyTorch 2.9.0: from the environment that REALIGN_VENV names, or a new one in
# target/torch-venv (7 GB). wgpu wants a Vulkan driver; where apt-get is there and we are root, Mesa's software driver is
# installed: it shows that results are right and says nothing about speed. remote is flex in another process, over a socket of this
# machine. Devices share one build (about 20 minutes from nothing).
set -euo pipefail
cd "$(dirname "$0")/.."
devices=${*:-flex ndarray tch wgpu remote}
features=()

if [[ " $devices " == *" tch "* ]]; then
    venv=${REALIGN_VENV:-target/torch-venv}
    if [ ! -x "$venv/bin/python" ]; then python3 -m venv "$venv"; fi
    "$venv/bin/python" -c 'import torch; assert torch.__version__.startswith("2.9.0")' 2>/dev/null ||
        "$venv/bin/python" -m pip install -q torch==2.9.0 numpy
    venv=$(realpath "$venv")
    export LIBTORCH_USE_PYTORCH=1 PATH="$venv/bin:$PATH"
    packages=$("$venv/bin/python" -c 'import torch, pathlib; print(pathlib.Path(torch.__file__).parent.parent)')
    libraries=$(printf '%s:' "$packages/torch/lib" "$packages"/nvidia/*/lib)
    export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:-}"
    features+=(--features realign/tch)
fi
if [[ " $devices " == *" wgpu "* ]]; then
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ] && ! ldconfig -p | grep -q libvulkan.so.1; then
        apt-get update -qq && apt-get install -y -qq libvulkan1 mesa-vulkan-drivers >/dev/null
    fi
    export XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-$(mktemp -d)}
    features+=(--features realign/wgpu)
fi

if [[ " $devices " == *" remote "* ]]; then features+=(--features realign/remote); fi

cargo_test() { cargo test --workspace --locked ${features[@]+"${features[@]}"} "$@"; }

# Sets `spec` to what a server that was just started lends.
lend() {
    local said=target/devices-server.json
    : >"$said"
    "${CARGO_TARGET_DIR:-target}/debug/realign" device-server --listen 127.0.0.1:0 --json >"$said" &
    server=$!
    trap 'kill $server' EXIT
    for _ in $(seq 50); do
        spec=remote:$(sed -n 's/.*"address":"\([^"]*\)".*/\1/p' "$said")
        if [ "$spec" != remote: ]; then return; fi
        sleep 0.2
    done
    echo "the device server says nothing"
    return 1
}

mkdir -p target
failed=0
for device in $devices; do
    started=$SECONDS
    spec=$device
    tests=(--test parity --test architectures --test smollm2 --test invariants --test training)
    if [ "$device" = remote ]; then
        tests+=(--test remote)
        # With the tests' own features, and the command for `--test remote`: a plain build would build burn again.
        cargo_test "${tests[@]}" --no-run
        lend
    fi
    log=target/devices-$device.log
    # The unit tests of the SAE's step are in its library.
    if REALIGN_TEST_DEVICE=$spec cargo_test "${tests[@]}" >"$log" 2>&1 &&
        REALIGN_TEST_DEVICE=$spec cargo_test --lib step:: >>"$log" 2>&1; then
        passed=$(grep -c '^test .* ok$' "$log")
        echo "$device: $passed tests passed in $((SECONDS - started)) s"
    else
        echo "$device: FAILED, see $log"
        grep -E '^test .* FAILED|panicked at|^error' "$log" | head -20 || true
        failed=1
    fi
done
exit $failed
