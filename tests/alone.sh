#!/usr/bin/env bash
# Each library alone as a dependency of an empty program, as `cargo add` would have it: no workspace, no backend.
#
# Usage: tests/alone.sh   (about six minutes; the target folder is target/alone)
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CARGO_TARGET_DIR=$root/target/alone

for folder in crates/*/; do
    name=$(sed -n 's/^name = "\(.*\)"/\1/p' "$folder/Cargo.toml" | head -n 1)
    # The façade's defaults are the command's.
    defaults=$([ "$name" = realign ] && echo false || echo true)
    program=$work/$name
    mkdir -p "$program/src"
    echo 'fn main() {}' >"$program/src/main.rs"
    cp Cargo.lock "$program"
    printf '[package]\nname = "alone"\nedition = "2024"\n[workspace]\n[dependencies]\n%s = { path = "%s", default-features = %s }\n' \
        "$name" "$root/$folder" "$defaults" >"$program/Cargo.toml"
    (cd "$program" && cargo check --quiet)
    echo "$name: compiles alone"
done
