#!/bin/bash
# Builds the fuzz targets and runs each on its seeds: with RUNS inputs (default 20000), or for ever with RUNS=-1.
#
#     tests/fuzz/run.sh [TARGET...]
#
# The seeds are files of this repository and of the test channel (IMGBUILD_TEST_CHANNEL_DIR). The same seed of the random
# numbers each time: a failure in CI is a failure here. What is found lies in target/fuzz/TARGET/.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cd "$root"
target_dir=${CARGO_TARGET_DIR:-$root/target}
seeds=$target_dir/fuzz/seeds
"$here/seeds.py" "$seeds" "${IMGBUILD_TEST_CHANNEL_DIR:?the folder of the test channel}"
RUSTC_WORKSPACE_WRAPPER=$here/rustc.sh cargo build --release --locked -p imgbuild-fuzz

targets=("$@")
if [ $# = 0 ]; then
    for file in "$here"/targets/*.rs; do
        name=$(basename "$file" .rs)
        targets+=("${name//_/-}")
    done
fi
for name in "${targets[@]}"; do
    dir=$target_dir/fuzz/$name
    rm -rf "$dir/corpus"
    mkdir -p "$dir/corpus" "$dir/found"
    log=$dir/log
    # What is found new goes to the first folder. A hang is an input that takes over 20 s.
    if ! "$target_dir/release/fuzz-$name" "$dir/corpus" "$seeds/$name" -seed=1 -runs="${RUNS:-20000}" -max_len=65536 -timeout=20 \
        -rss_limit_mb=2048 -max_total_time="${SECONDS_EACH:-0}" -artifact_prefix="$dir/found/" >"$log" 2>&1; then
        tail -40 "$log" >&2
        echo "fuzz-$name failed; the input is in $dir/found" >&2
        exit 1
    fi
    printf '%-16s %s\n' "$name" "$(grep -E '^#[0-9]+.*DONE' "$log" | tail -1)"
done
