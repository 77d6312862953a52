#!/bin/bash
# Makes a minimal Debian 12 base image with mmdebstrap, the same bytes for the same packages.
#
#     make_base.sh OUT [ARCH]  -> OUT (OCI layout folder), OUT.oci.tar (OCI archive), OUT.docker.tar (docker-archive)
#
# For another ARCH than amd64 the packages are unpacked and nothing of them is run.
# It holds what a conda environment needs from its system and nothing else: libc, bash, libstdc++ and libgcc.
set -euo pipefail

out=${1:?usage: make_base.sh OUT [ARCH]}
arch=${2:-amd64}
here=$(cd "$(dirname "$0")" && pwd)
suite=bookworm
cache=${IMGBUILD_FIXTURES_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/imgbuild-fixtures}
PATH="$PATH:/usr/sbin:/sbin"
mkdir -p "$(dirname "$out")" "$cache/base"
out=$(cd "$(dirname "$out")" && pwd)/$(basename "$out")

# Part of the key: what the archive is made by and of. The packages' versions come from the same lists as the channel's.
versions=$(cd "$here" && python3 -c '
import sys
from channel.debs import Suite
for deb in sorted(Suite(*sys.argv[1:4]).fetch(sys.argv[4:]).values(), key=lambda d: d.name):
    print(deb.key)' "$cache" "$suite" "$arch" libc6 bash coreutils base-files libstdc++6 libgcc-s1)
key=$(printf '%s\n' "$arch" "$versions" | cat - "$0" "$here/oci_layout.py" | sha256sum | cut -c1-24)
tarball=$cache/base/$key.tar

if [ ! -e "$tarball" ]; then
    echo "make_base: Debian $suite for $arch with mmdebstrap" >&2
    # Debian's own release date of the newest file would do as well; a fixed one never moves.
    export SOURCE_DATE_EPOCH=1700000000
    security=$(cd "$here" && python3 -c '
from channel.debs import mirrors
main, security = mirrors()
print(f"deb {main} bookworm main")
if security: print(f"deb {security} bookworm-security main")')
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    printf '%s\n' "$security" > "$work/sources.list"
    mode=auto
    [ "$(id -u)" = 0 ] && mode=root
    what=(--variant=essential --include=libstdc++6,libgcc-s1)
    [ "$arch" = amd64 ] || what=(--variant=extract --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr
        --include=libc6,bash,coreutils,base-files,libstdc++6,libgcc-s1
        --extract-hook='cd "$1" && ln -s bash usr/bin/sh && mkdir opt &&
            rm -rf etc/hostname etc/resolv.conf etc/apt/sources.list.d/* var/cache/* var/lib/apt/lists/*')
    mmdebstrap --quiet --mode="$mode" --architectures="$arch" "${what[@]}" \
        --keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
        --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --customize-hook='rm -rf "$1"/var/cache/* "$1"/var/log/* "$1"/var/lib/apt/lists/* "$1"/etc/apt/sources.list' \
        --customize-hook='rm -f "$1"/etc/hostname "$1"/etc/resolv.conf "$1"/etc/machine-id' \
        "$suite" "$work/rootfs.tar" "$work/sources.list" >&2 </dev/null
    mv "$work/rootfs.tar" "$tarball.new.$$"
    mv "$tarball.new.$$" "$tarball"
fi
python3 "$here/oci_layout.py" "$tarball" "$out" "$arch"
echo "make_base: $out, $out.oci.tar, $out.docker.tar" >&2
