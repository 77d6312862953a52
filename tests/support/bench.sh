#!/bin/bash
# Prints what builds cost on this machine, against the least they can cost and against `docker build`: docs/bench.md.
#
#     make bench [PARTS="floor cold docker bv replay"] [ENVS="torch many bz2"] [RUNS=3] [BENCH_JSON=FILE]
#                [REPLAY_LOCK=conda-lock.yml | REPLAY_LOCKS=FOLDER]
set -euo pipefail
source "$(dirname "$0")/common.sh"
cd "$root"

step "what the bench needs"
"$support/need.sh"
need_rust
case "${ENVS:-torch}" in
    *torch*|*bz2*) make_fixtures torch ;;
    *) make_fixtures small ;;
esac
cargo build --release --locked --bins --benches
wait_for_fixtures
case "${PARTS:-docker}" in *docker*|*bv*) start_daemons ;; esac
export PARTS="${PARTS:-}" ENVS="${ENVS:-}" RUNS="${RUNS:-3}" BENCH_JSON="${BENCH_JSON:-}"
python3 "$support/bench" --imgbuild "${CARGO_TARGET_DIR:-$root/target}/release/imgbuild" --channel "$fixtures/channel" \
    --base "$fixtures/base" --cache "$cache" --work "$fixtures/bench"
