#!/usr/bin/env python3
"""Builds a conda channel of genuine packages in a folder.

    make_channel.py --set small|torch|all --out DIR [--cache DIR]

small holds Python 3.11 with its libraries, numpy and some twenty other packages, the crafted ones, and Python and numpy
for arm64 (made of Debian's and PyPI's files for it, without running any of them); torch adds PyTorch with CUDA (about
3 GB of downloads, kept in the cache); all adds Python 3.9.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from channel.recipes import recipes  # noqa: E402
from channel.store import Store, die, place, run, say  # noqa: E402

PROGRAMS = {"dpkg-deb": "dpkg", "apt-get": "apt", "zstd": "zstd", "patchelf": "patchelf"}


def default_cache():
    """The folder that keeps downloads and finished packages between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "imgbuild-fixtures")


def pip_command(cache):
    """pip of a virtual environment in the cache: Debian's own Python may have none."""
    folder = os.path.join(cache, "venv")
    python = os.path.join(folder, "bin", "python")
    alive = os.path.exists(python) and subprocess.run([python, "-m", "pip", "--version"], capture_output=True,
                                                      check=False).returncode == 0
    if not alive:
        shutil.rmtree(folder, ignore_errors=True)
        run([sys.executable, "-m", "venv", folder])
    return [python, "-m", "pip"]


def write_repodata(folder, subdir, records):
    """repodata.json and repodata.json.zst of one subdir."""
    packages = {name: r for name, r in sorted(records.items()) if name.endswith(".tar.bz2")}
    condas = {name: r for name, r in sorted(records.items()) if name.endswith(".conda")}
    repodata = {"info": {"subdir": subdir}, "packages": packages, "packages.conda": condas, "removed": [],
                "repodata_version": 1}
    path = os.path.join(folder, subdir, "repodata.json")
    with open(path + ".new", "w", encoding="utf-8") as out:
        json.dump(repodata, out, indent=1, sort_keys=True)
    os.replace(path + ".new", path)
    run(["zstd", "-q", "-f", "-9", path, "-o", path + ".zst"])


def build(which, out, cache):
    """Makes what is not in the cache, puts everything in place and writes the indexes last."""
    store = Store(cache)
    channel = {"linux-64": {}, "linux-aarch64": {}, "noarch": {}}
    for subdir in channel:
        os.makedirs(os.path.join(out, subdir), exist_ok=True)
    for recipe in recipes(which, cache, pip_command(cache)):
        record, path = store.get(recipe)
        place(path, os.path.join(out, record["subdir"]))
        channel[record["subdir"]][os.path.basename(path)] = record
    for subdir, records in channel.items():
        write_repodata(out, subdir, records)
        for name in os.listdir(os.path.join(out, subdir)):
            if name not in records and not name.startswith("repodata.json"):
                os.unlink(os.path.join(out, subdir, name))
    everything = [r for records in channel.values() for r in records.values()]
    say(f"{out}: {len(everything)} packages, {sum(r['size'] for r in everything) / 1e6:.0f} MB")


def main():
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=["small", "torch", "all"], default="small", help="which packages")
    parser.add_argument("--out", required=True, help="the channel's folder")
    parser.add_argument("--cache", default=default_cache(), help="kept between runs (default: %(default)s)")
    options = parser.parse_args()
    missing = sorted({package for program, package in PROGRAMS.items() if not shutil.which(program)})
    if missing:
        die(f"not installed: {' '.join(missing)} (apt-get install {' '.join(missing)})")
    os.makedirs(options.cache, exist_ok=True)
    build(options.set, os.path.abspath(options.out), os.path.abspath(options.cache))


if __name__ == "__main__":
    main()
