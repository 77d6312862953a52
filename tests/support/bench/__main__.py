"""The bench: what builds cost, as ratios within one run. bench.sh calls it; docs/bench.md explains every row.

PARTS (environment, else all): floor cold docker bv replay. ENVS: torch many bz2. RUNS: a row is the best of so many.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass

import builder
import bz2_channel
import cold
import docker_build
import replays
from measure import Failed
from project import Project, without_giants
from table import Table

PARTS, ENVS = ("floor", "cold", "docker", "bv", "replay"), ("torch", "many", "bz2")
TORCH = ("python=3.11", "pytorch", "numpy", "pyyaml", "tqdm", "pip")
# One large package among those of the bzip2 environment.
LARGE = "cuda-nvrtc"


@dataclass
class Setting:
    """What all parts share."""

    imgbuild: str
    programs: dict
    base: str
    cache: str
    serve: str
    runs: int


def chosen(variable, known):
    """The words of an environment variable, all known ones without it."""
    words = os.environ.get(variable, "").split() or list(known)
    unknown = [word for word in words if word not in known]
    if unknown:
        sys.exit(f"{variable}: {unknown[0]} is none of {' '.join(known)}")
    return words


def programs():
    """The bench's own programs, which cargo has built: {name: path}."""
    command = ["cargo", "build", "--release", "--locked", "--benches", "--message-format=json", "--quiet"]
    found = {}
    for line in subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["kind"] == ["bench"]:
            found[message["target"]["name"]] = message["executable"]
    return found


def environments(options, envs, work):
    """(name, project, channel) of each environment, made when its turn comes."""
    many = without_giants(options.channel)
    for name in envs:
        channel, packages = options.channel, {"torch": TORCH}.get(name, [*many, "python=3.11"])
        if name == "bz2":
            packages = [*packages, LARGE]
            wanted = set(many) | {LARGE, "cuda-version"}
            channel = bz2_channel.make(channel, os.path.join(work, "bz2-channel"), options.cache, wanted)
        project = Project(os.path.join(work, name), options.imgbuild, options.base, packages)
        yield name, project.make(channel)
        shutil.rmtree(project.folder)


def main():
    """Runs the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("imgbuild", "channel", "base", "cache", "work"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    parts, envs = chosen("PARTS", PARTS), chosen("ENVS", ENVS)
    setting = Setting(options.imgbuild, programs(), options.base, options.cache,
                      os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "serve.py"),
                      int(os.environ.get("RUNS", "3")))
    table = Table()
    shutil.rmtree(options.work, ignore_errors=True)
    os.makedirs(options.work)
    try:
        if "replay" in parts:
            replays.run(table, setting, options.work)
        for name, project in environments(options, envs, options.work) if set(parts) - {"replay"} else ():
            if {"floor", "cold"} & set(parts):
                cold.run(table, setting, name, project, parts)
            # bzip2 differs in decoding alone.
            if "docker" in parts and name != "bz2":
                docker_build.run(table, setting, name, project)
            if "bv" in parts and name != "bz2":
                builder.run(table, setting, name, project)
    except Failed as error:
        sys.exit(f"bench: {error}")
    finally:
        shutil.rmtree(options.work, ignore_errors=True)
        if os.environ.get("BENCH_JSON"):
            table.write(os.environ["BENCH_JSON"])
    table.summary()


if __name__ == "__main__":
    main()
