#!/bin/sh
# Makes the tests' Python (py-rattler to read prefixes with, validators of SBOMs, ruff) in the cache and prints the interpreter's path.
#
#     venv.sh [CACHE]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cache=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/imgbuild-fixtures}
venv=$cache/venv
mkdir -p "$cache"
exec 9>"$cache/venv.lock"
flock 9
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || { rm -rf "$venv"; python3 -m venv "$venv" >&2; }
wanted=$(sha256sum < "$here/requirements.txt")
if [ "$(cat "$venv/installed" 2>/dev/null)" != "$wanted" ]; then
    "$venv/bin/python" -m pip install -q -r "$here/requirements.txt" >&2 </dev/null
    printf '%s\n' "$wanted" > "$venv/installed"
fi
echo "$venv/bin/python"
