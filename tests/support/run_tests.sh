#!/bin/bash
# The whole test run: format, lints, docs, Python lint, fixtures, daemons, tests. `make test` and CI call it.
#
#     run_tests.sh [arguments for cargo test]
set -euo pipefail
source "$(dirname "$0")/common.sh"
cd "$root"

step "what the tests need"
"$support/need.sh"
need_rust
python=$("$support/venv.sh" "$cache")

step "fixtures in the background: a channel with PyTorch, Python 3.11 and 3.9, and some of it for arm64; Debian bases"
make_fixtures all

step "cargo fmt"
cargo fmt --all --check
step "cargo clippy"
cargo clippy --release --all-targets --locked --workspace -- -D warnings
step "cargo doc"
RUSTDOCFLAGS="-D warnings" cargo doc --release --no-deps --document-private-items --locked

step "Python lint"
find templates tests/support tests/fuzz -name '*.py' -print0 2>/dev/null | xargs -0 python3 -m py_compile
if "$python" -m ruff --version >/dev/null 2>&1 || "$python" -m pip install -q ruff >/dev/null 2>&1 </dev/null; then
    find templates tests/support tests/fuzz -name '*.py' -print0 2>/dev/null |
        xargs -0 "$python" -m ruff check --no-cache --line-length 120 --target-version py39 \
            --select E,F,W,B --ignore E731,B023
else
    echo "ruff cannot be had here: the Python files are only compiled" >&2
fi

step "cargo test, built"
cargo test --release --locked --no-run

step "fixtures"
wait_for_fixtures
step "fuzz targets, 20,000 inputs each (make fuzz runs them longer)"
IMGBUILD_TEST_CHANNEL_DIR=$fixtures/channel RUNS=20000 tests/fuzz/run.sh
step "daemons"
start_daemons
export IMGBUILD_TEST_CHANNEL_DIR=$fixtures/channel IMGBUILD_TEST_BASE=$fixtures/base IMGBUILD_TEST_PYTHON=$python
export IMGBUILD_TEST_BASE_ARM64=$fixtures/base-arm64
export IMGBUILD_TEST_REGISTRY=$REGISTRY IMGBUILD_TEST_REGISTRY_AUTH=$REGISTRY_AUTH
export IMGBUILD_TEST_SUPPORT=$support IMGBUILD_TEST_UV=${python%/*}/uv IMGBUILD_TEST_WHEELS=$cache/wheels
echo "DOCKER_HOST=$DOCKER_HOST registry=$REGISTRY" >&2

step "cargo test"
cargo test --release --locked "$@"
step "all passed"
