#!/bin/sh
# Installs what the tests and the demo need, with apt when it may; else says exactly what is missing and ends with 2.
#
#     need.sh              everything
#     need.sh PROGRAM...   only what these programs come from
set -eu

# program:debian package. sbin is on no ordinary user's PATH, so look there too.
ALL="python3:python3 dpkg-deb:dpkg zstd:zstd patchelf:patchelf mmdebstrap:mmdebstrap dockerd:docker.io
docker:DOCKER_CLI docker-registry:docker-registry skopeo:skopeo podman:podman openssl:openssl iptables:iptables htpasswd:apache2-utils cc:gcc c++:g++ chromium:chromium
git:git make:make strace:strace unshare:util-linux torchrun:python3-torch
catatonit:catatonit runc:runc
slurmctld:slurmctld slurmd:slurmd munged:munge sbatch:slurm-client"
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

has() {
    case "$1" in
        # Debian splits venv off; an empty one can be made without it, so ask for ensurepip.
        python3) python3 -c 'import ensurepip, venv, bz2' 2>/dev/null ;;
        *) command -v "$1" >/dev/null 2>&1 ;;
    esac
}

# docker.io of Debian 13 and later leaves the client to docker-cli.
package_of() {
    for pair in $ALL; do
        [ "${pair%%:*}" = "$1" ] || continue
        case "${pair#*:}" in
            python3) echo python3 python3-venv ;;
            DOCKER_CLI) apt-cache show docker-cli >/dev/null 2>&1 && echo docker-cli || echo docker.io ;;
            *) echo "${pair#*:}" ;;
        esac
        return
    done
    echo "$1"
}

missing=""
programs="$*"
[ -n "$programs" ] || for pair in $ALL; do programs="$programs ${pair%%:*}"; done
for program in $programs; do
    has "$program" || missing="$missing $program"
done
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -e "$keyring" ] || missing="$missing debian-archive-keyring"
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "need.sh: missing:$missing - and there is no apt-get here; the tests' fixtures need Debian or a relative" >&2
    exit 2
fi
if [ "$(id -u)" = 0 ]; then
    sudo=""
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    sudo="sudo -n"
else
    packages=""
    for program in $missing; do packages="$packages $(package_of "$program")"; done
    echo "need.sh: missing:$missing - and may not install them (neither root nor sudo without a password)." >&2
    echo "         Run: sudo apt-get install$packages" >&2
    exit 2
fi

echo "need.sh: installing what is missing:$missing" >&2
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get -qq update >&2 </dev/null
packages=""
for program in $missing; do packages="$packages $(package_of "$program")"; done
# The tests start their own daemons: keep the packages from starting theirs.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null
    $sudo chmod 755 "$policy"
    trap '$sudo rm -f "$policy"' EXIT
    trap 'exit 130' INT TERM
fi
# shellcheck disable=SC2086
$sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $packages >&2 </dev/null
for program in $programs; do
    has "$program" || { echo "need.sh: $program is still missing after installing$packages" >&2; exit 2; }
done
