# Sourced by run_tests.sh and demo.sh: where things are, progress lines, clean-up on every way out.
# shellcheck shell=bash

support=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$support/../.." && pwd)
fixtures=${IMGBUILD_FIXTURES:-$root/.fixtures}
cache=${IMGBUILD_FIXTURES_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/imgbuild-fixtures}
mkdir -p "$fixtures" "$cache"
fixtures=$(cd "$fixtures" && pwd -P)
# A Unix socket's path is 108 bytes at most: a deep clone keeps its daemons elsewhere.
daemons=$fixtures/daemons
[ "${#daemons}" -le 60 ] || daemons=/var/tmp/imgbuild-$(id -u)-$(printf %s "$fixtures" | cksum | cut -d' ' -f1)
export IMGBUILD_FIXTURES_CACHE=$cache PYTHONPYCACHEPREFIX=$fixtures/pycache

step() { printf '\n=== [%4ds] %s\n' "$SECONDS" "$*" >&2; }

background=()
clean_up() {
    local status=$?
    trap - EXIT
    for pid in "${background[@]}"; do
        kill "$pid" 2>/dev/null || true
    done
    "$support/daemons.sh" stop "$daemons" || true
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

need_rust() {
    command -v cargo >/dev/null && return
    [ -x "$HOME/.cargo/bin/cargo" ] && PATH="$HOME/.cargo/bin:$PATH" && return
    echo "no cargo here: install Rust (rustup.rs, or your distribution's rustup package) and run again" >&2
    exit 2
}

# make_fixtures SET: the channel and the bases, in the background; its output waits in a log until it is asked for.
make_fixtures() {
    (
        "$support/make_channel.py" --set "$1" --out "$fixtures/channel" --cache "$cache" &&
            "$support/make_base.sh" "$fixtures/base" && "$support/make_base.sh" "$fixtures/base-arm64" arm64
    ) >"$fixtures/fixtures.log" 2>&1 </dev/null &
    fixtures_pid=$!
    background+=("$fixtures_pid")
}

# Shows the fixtures' progress and waits for them.
wait_for_fixtures() {
    tail -n +1 -f "$fixtures/fixtures.log" --pid="$fixtures_pid" >&2 &
    local shown=$!
    wait "$fixtures_pid" || { wait "$shown"; echo "the fixtures could not be made; see above" >&2; exit 2; }
    wait "$shown" || true
}

# Starts the daemons and exports DOCKER_HOST, REGISTRY, REGISTRY_AUTH.
start_daemons() {
    local assignments
    assignments=$("$support/daemons.sh" start "$daemons") || exit 2
    eval "$assignments"
    export DOCKER_HOST REGISTRY REGISTRY_AUTH
}
