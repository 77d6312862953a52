#!/bin/bash
# The demo: everything a user does, for real, on a fresh Debian machine with Rust. See `make demo`.
set -euo pipefail
source "$(dirname "$0")/common.sh"
cd "$root"

# Shows a command as a user types it, then runs it.
type_and_run() {
    printf '\n\033[1m$ %s\033[0m\n' "$*"
    local begun=$SECONDS
    "$@"
    printf '  (%d s)\n' $((SECONDS - begun))
}

step "what the demo needs"
"$support/need.sh"
need_rust
"$support/venv.sh" "$cache" >/dev/null

step "a conda channel with PyTorch for CUDA and a Debian base, from wheels and Debian's packages"
echo "(about 3 GB to download the first time; kept in $cache)"
make_fixtures torch

step "building imgbuild meanwhile (cargo build --release)"
cargo build --release --locked
PATH="${CARGO_TARGET_DIR:-$root/target}/release:$PATH"

step "the channel and the base"
wait_for_fixtures
step "Docker: yours if one answers, else a private one"
start_daemons

project=$fixtures/demo
rm -rf "$project" "$fixtures/channel.url"
mkdir -p "$project/src"
"$support/serve.py" "$fixtures/channel" >"$fixtures/channel.url" 2>/dev/null </dev/null &
background+=("$!")
while [ ! -s "$fixtures/channel.url" ] && kill -0 "$!"; do sleep 0.1; done
channel=$(cat "$fixtures/channel.url")
sed "s|@CHANNEL@|$channel|" "$support/envs/torch.yml" > "$project/env.yml"
cat > "$project/imgbuild.yaml" <<YAML
# The CUDA version that the target machines' driver offers: nothing here is probed for a GPU.
cuda: "13.2"
# A local Debian; without this line it is docker.io/library/debian:bookworm-slim.
base: oci:$fixtures/base
YAML
cat > "$project/src/train.py" <<'PY'
"""What a user would train."""

import torch

model = torch.nn.Linear(8, 1)
print("train.py: torch", torch.__version__, "loss", model(torch.ones(4, 8)).square().mean().item())
PY
cd "$project"
export IMGBUILD_CACHE_DIR=$project/cache

step "the demo proper, in $project"
type_and_run cat env.yml imgbuild.yaml
type_and_run imgbuild lock env.yml
type_and_run imgbuild build env.yml -t train:dev --code src:/workspace --load
type_and_run docker run --rm train:dev python -c 'import torch; print(torch.__version__, torch.version.cuda)'
type_and_run docker run --rm train:dev python /workspace/train.py
type_and_run imgbuild build env.yml --code src:/workspace -o type=oci,dest=out/
step "the same build again: nothing to do"
type_and_run imgbuild build env.yml -t train:dev --code src:/workspace --load
type_and_run imgbuild probe train:dev --cpu --nproc 4

step "done in $((SECONDS / 60)) min $((SECONDS % 60)) s"
cat <<TEXT

What to type next, in a folder with an env.yml of your own:

    ${CARGO_TARGET_DIR:-$root/target}/release/imgbuild build env.yml -t train:dev --load
    ${CARGO_TARGET_DIR:-$root/target}/release/imgbuild probe train:dev --gpus 4

The demo's project is $project (env.yml, its lock, src/, out/).
TEXT
