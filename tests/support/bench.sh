#!/bin/bash
# Prints what builds cost on this machine: see bench.py. `make bench` calls it.
set -euo pipefail
source "$(dirname "$0")/common.sh"
cd "$root"

step "what the bench needs"
"$support/need.sh"
need_rust
make_fixtures torch
cargo build --release --locked
wait_for_fixtures
python3 "$support/bench.py" "${CARGO_TARGET_DIR:-$root/target}/release/imgbuild" "$fixtures/channel" "$fixtures/base" "$@"
