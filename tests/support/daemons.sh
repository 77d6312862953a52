#!/bin/bash
# Starts and stops what the tests talk to: a Docker daemon (a private one, unless one answers) and two registries.
#
#     daemons.sh start STATE   starts what is not running and prints shell assignments: DOCKER_HOST, REGISTRY,
#                              REGISTRY_AUTH (same, asks for user "tester", password "secret")
#     daemons.sh stop STATE    stops what `start` started, by pid, and unmounts what it left
#
# With IMGBUILD_PRIVATE_DOCKER=1 it starts its own daemon even if another answers.
set -euo pipefail
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

say() { echo "daemons: $*" >&2; }
fail() { say "$*"; exit 2; }

# A pid file is believed only if that process still runs the program: pids come round again.
alive() {
    local pid
    pid=$(cat "$state/$1.pid" 2>/dev/null) && [ -n "$pid" ] && [ -r "/proc/$pid/cmdline" ] \
        && tr '\0' ' ' < "/proc/$pid/cmdline" | grep -q -F -- "$state"
}

stop_one() {
    if alive "$1"; then
        local pid
        pid=$(cat "$state/$1.pid")
        kill "$pid" 2>/dev/null || true
        for _ in $(seq 150); do
            alive "$1" || break
            sleep 0.1
        done
        if alive "$1"; then
            say "$1 (pid $pid) does not stop: killing it"
            kill -9 "$pid" 2>/dev/null || true
        fi
    fi
    rm -f "$state/$1.pid"
}

unmount_all() {
    # Deepest first; what a killed daemon leaves: overlay mounts, shm, namespaces.
    awk -v root="$state/" 'index($5, root) == 1 { print $5 }' /proc/self/mountinfo | sort -r | while read -r point; do
        umount -l "$(printf '%b' "$point")" 2>/dev/null || say "cannot unmount $point"
    done
}

# dockerd killed by force leaves its containerd and shims: all name the state folder in their arguments.
stop_orphans() {
    local proc pid
    for proc in /proc/[0-9]*; do
        pid=${proc#/proc/}
        case "$(readlink "$proc/exe" 2>/dev/null)" in
            */containerd|*/containerd-shim*|*/dockerd|*/docker-proxy) ;;
            *) continue ;;
        esac
        if tr '\0' ' ' < "$proc/cmdline" 2>/dev/null | grep -q -F -- "$state/"; then
            # A shim's children are the containers: they would outlive it.
            # shellcheck disable=SC2046
            kill -9 "$pid" $(cat "$proc"/task/*/children 2>/dev/null) 2>/dev/null || true
        fi
    done
}

docker_answers() { docker ${1:+--host "$1"} version --format '{{.Server.Version}}' >/dev/null 2>&1; }

start_docker() {
    if [ "${IMGBUILD_PRIVATE_DOCKER:-}" != 1 ] && docker_answers ""; then
        say "using the Docker that answers at ${DOCKER_HOST:-the default socket}"
        docker_host=${DOCKER_HOST:-$(docker context inspect --format '{{.Endpoints.docker.Host}}' 2>/dev/null ||
            echo unix:///var/run/docker.sock)}
        return
    fi
    docker_host="unix://$state/docker.sock"
    if alive dockerd && docker_answers "$docker_host"; then return; fi
    [ "$(id -u)" = 0 ] || fail "may not start a Docker daemon: not root. Start one yourself and set DOCKER_HOST."
    command -v dockerd >/dev/null || fail "no dockerd here: run $here/need.sh"
    # A socket's path has 108 bytes at most.
    [ "${#state}" -le 65 ] || fail "the path $state is too long for a socket: choose a shorter one"
    stop_one dockerd
    stop_orphans
    unmount_all
    # dockerd refuses to start over the pid file of one that was killed.
    rm -rf "$state/docker.sock" "$state/exec" "$state/docker-own.pid"
    mkdir -p "$state/data" "$state/exec"
    echo '{}' > "$state/daemon.json"
    # No bridge and no iptables: two daemons must not fight over docker0. Containers use --network none or host.
    setsid dockerd --config-file "$state/daemon.json" --host "$docker_host" \
        --group "${IMGBUILD_SOCKET_GROUP:-0}" --data-root "$state/data" \
        --exec-root "$state/exec" --pidfile "$state/docker-own.pid" --bridge none --iptables=false --ip-forward=false \
        --ip-masq=false >"$state/dockerd.log" 2>&1 </dev/null 9>&- &
    echo $! > "$state/dockerd.pid"
    for _ in $(seq 300); do
        docker_answers "$docker_host" && return
        alive dockerd || break
        sleep 0.1
    done
    tail -5 "$state/dockerd.log" >&2
    fail "the private Docker daemon does not start; its log is $state/dockerd.log"
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# start_registry NAME [extra yaml]: leaves the address in $address.
start_registry() {
    local name=$1 extra=${2:-} port
    if alive "$name" && [ -s "$state/$name.address" ]; then
        address=$(cat "$state/$name.address")
        return
    fi
    command -v docker-registry >/dev/null || fail "no docker-registry here: run $here/need.sh"
    for _ in 1 2 3; do  # another process may take the port in between
        port=$(free_port)
        mkdir -p "$state/$name"
        cat > "$state/$name.yml" <<YAML
version: 0.1
log: {level: warn, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: "$state/$name"}, delete: {enabled: true}}
http: {addr: "127.0.0.1:$port", secret: loopback}
$extra
YAML
        setsid docker-registry serve "$state/$name.yml" >"$state/$name.log" 2>&1 </dev/null 9>&- &
        echo $! > "$state/$name.pid"
        for _ in $(seq 100); do
            if python3 -c "import socket; socket.create_connection(('127.0.0.1', $port), 1)" 2>/dev/null \
                && alive "$name"; then
                address="127.0.0.1:$port"
                echo "$address" > "$state/$name.address"
                return
            fi
            alive "$name" || break
            sleep 0.1
        done
    done
    tail -5 "$state/$name.log" >&2
    fail "the registry does not start; its log is $state/$name.log"
}

start() {
    mkdir -p "$state"
    exec 9>"$state/lock"
    flock 9
    start_docker
    local plain with_auth
    start_registry registry
    plain=$address
    htpasswd -Bbn tester secret > "$state/htpasswd" 2>/dev/null || fail "no htpasswd here: run $here/need.sh"
    start_registry registry-auth "auth: {htpasswd: {realm: tests, path: \"$state/htpasswd\"}}"
    with_auth=$address
    printf 'DOCKER_HOST=%q\nREGISTRY=%q\nREGISTRY_AUTH=%q\n' "$docker_host" "$plain" "$with_auth"
}

stop() {
    [ -d "$state" ] || return 0
    stop_one registry
    stop_one registry-auth
    stop_one dockerd
    stop_orphans
    unmount_all
    # The daemon's images go with it; the next run loads what it needs.
    rm -rf "$state/data" "$state/exec" "$state/registry" "$state/registry-auth" "$state/docker.sock" \
        "$state"/*.address "$state/docker-own.pid"
}

here=$(cd "$(dirname "$0")" && pwd)
action=${1:-} state=${2:-}
if [ -z "$state" ]; then
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
mkdir -p "$state"
state=$(cd "$state" && pwd -P)
# Only a private Docker needs root; its socket is then given to the group of whoever asked.
if [ "$(id -u)" != 0 ] && sudo -n true 2>/dev/null; then
    if [ -e "$state/dockerd.pid" ] || [ "${IMGBUILD_PRIVATE_DOCKER:-}" = 1 ] || ! docker_answers ""; then
        exec sudo -n env "IMGBUILD_SOCKET_GROUP=$(id -g)" IMGBUILD_PRIVATE_DOCKER=1 "PATH=$PATH" "$0" "$action" "$state"
    fi
fi
case "$action" in
    start) start ;;
    stop) stop ;;
    *) fail "start or stop, not '$action'" ;;
esac
