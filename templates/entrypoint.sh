#!/bin/sh
# Runs the environment's activation scripts as `conda activate` would, then the command.
# Written by imgbuild for @PREFIX@.

# Activation scripts are written for bash; take it where the image has it.
if [ -z "${BASH_VERSION:-}" ] && command -v bash >/dev/null 2>&1; then
    exec bash "$0" "$@"
fi
for script in "@PREFIX@"/etc/conda/activate.d/*.sh; do
    if [ -r "$script" ]; then
        . "$script"
    fi
done
unset script
exec "$@"
