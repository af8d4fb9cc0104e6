#!/usr/bin/env bash
# The tests of the tensor crate, which holds our `unsafe` kernels, under AddressSanitizer: reads and writes outside of what was
# allocated, or after it was freed, end the test.
#
#   tests/sanitizer.sh
#
# Crates of this workspace are compiled for it; third-party ones are shared with the plain tests, and what they allocate is
# watched as well. What assembly touches is not. Stable Rust will do.
set -euo pipefail

# Cargo calls this script with the compiler and its arguments for each crate of the workspace.
if [[ ${1:-} == */rustc ]]; then
    case " $* " in
    *" --crate-name build_script_"*) exec "$@" ;;
    esac
    RUSTC_BOOTSTRAP=1 exec "$@" -Zsanitizer=address -Cunsafe-allow-abi-mismatch=sanitizer
fi

cd "$(dirname "$0")/.."
# The process ends before the pool's threads do, which looks like a leak.
export ASAN_OPTIONS=detect_leaks=0
for tests in "--test parity" "--lib flex::" "--lib largest::" "--lib packed::"; do
    # shellcheck disable=SC2086
    RUSTC_WORKSPACE_WRAPPER="$PWD/tests/sanitizer.sh" cargo test --workspace --locked $tests
done
