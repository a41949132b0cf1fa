#!/usr/bin/env bash
# Runs a target of cargo-fuzz from its committed seeds, with the stable compiler. Usage: fuzz.sh [TARGET|all] [SECONDS of each]
set -euo pipefail

cd "$(dirname "$0")/.."
target=${1:-all} seconds=${2:-60}
command -v cargo-fuzz >/dev/null || {
    echo "cargo-fuzz is missing: cargo install --locked cargo-fuzz" >&2
    exit 1
}
if [[ $target == all ]]; then
    mapfile -t targets < <(basename -s .rs fuzz/fuzz_targets/*.rs)
else
    targets=("$target")
fi
# Next to the other builds, not in the clone.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/fuzz"
for target in "${targets[@]}"; do
    mkdir -p "fuzz/corpus/$target"
    # Without a sanitizer: those need another compiler, and what is fuzzed is safe Rust.
    cargo fuzz run --sanitizer none "$target" "fuzz/corpus/$target" "tests/fuzz/seeds/$target" -- \
        -max_total_time="$seconds" -timeout=30 -rss_limit_mb=2048
done
