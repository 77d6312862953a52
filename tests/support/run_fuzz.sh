#!/bin/bash
# Random input for every parser, a minute each (SECONDS_EACH): see tests/fuzz/run.sh. `make fuzz` calls it.
set -euo pipefail
source "$(dirname "$0")/common.sh"
cd "$root"

step "what fuzzing needs"
"$support/need.sh"
need_rust
make_fixtures small
wait_for_fixtures
export IMGBUILD_TEST_CHANNEL_DIR=$fixtures/channel
RUNS=${RUNS:--1} SECONDS_EACH=${SECONDS_EACH:-60} tests/fuzz/run.sh "$@"
