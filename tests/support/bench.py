#!/usr/bin/env python3
"""Prints what builds cost: wall time, CPU time and peak memory, each measured in this one run.

    bench.py IMGBUILD CHANNEL_DIR BASE_LAYOUT [RUNS]

The channel must hold PyTorch (make_channel.py --set torch). Packages are downloaded once, over loopback, before the
cold builds; every cold build starts with an empty layer cache. A row is the best of RUNS (default 3).

With a Docker daemon at hand, cold starts too: what imports take in fresh containers, with and without the .pyc files
that the build makes.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SUPPORT = Path(__file__).resolve().parent
PEAK_LIMIT_MB = 300
# torch as its package ships it, with .pyc; the others are noarch packages, which ship none.
IMPORTS = ("torch", "sympy", "networkx, jinja2, fsspec")
TIMED = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


class Cost:
    """What one command took: seconds of wall and CPU time, peak memory in MB."""

    def __init__(self, command, env):
        before = os.times()
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.out, errors = process.communicate()
        after = os.times()
        if process.returncode != 0:
            sys.exit(f"{' '.join(map(str, command))} failed:\n{errors}")
        self.wall = after.elapsed - before.elapsed
        self.cpu = after.children_user + after.children_system - before.children_user - before.children_system

    def __lt__(self, other):
        return self.wall < other.wall


def peak_mb(command, env):
    """Peak resident memory of a command: asked of a process of its own, whose only child it is."""
    code = (
        "import resource,subprocess,sys; subprocess.run(sys.argv[1:],check=True,stdout=2);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    run = [sys.executable, "-c", code, *map(str, command)]
    return int(subprocess.run(run, env=env, check=True, capture_output=True, text=True).stdout) / 1000


def drop_layers(cache):
    """Empties the layer cache; packages and the lock stay."""
    for folder in ("layers", "blobs", "surveys"):
        shutil.rmtree(cache / folder, ignore_errors=True)


def cold_starts(build, env, runs):
    """Seconds that imports take in a fresh container: {imports: (with .pyc, without)}."""
    found = {}
    for column, (tag, flags) in enumerate([("bench:pyc", []), ("bench:no-pyc", ["--no-compile"])]):
        Cost([*build, "--load", "-t", tag, *flags], env)
        for imports in IMPORTS:
            command = ["docker", "run", "--rm", tag, "python", "-c", TIMED.format(imports)]
            # One more run, first: it reads the image's files from the disk.
            times = [float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                     for _ in range(runs + 1)][1:]
            found.setdefault(imports, [0, 0])[column] = min(times)
        subprocess.run(["docker", "rmi", tag], check=True, capture_output=True)
    return found


def main():
    """Runs the builds and prints the table."""
    imgbuild, channel, base = (Path(arg).resolve() for arg in sys.argv[1:4])
    runs = int(sys.argv[4]) if len(sys.argv) > 4 else 3
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        cache, code = project / "cache", project / "src"
        code.mkdir()
        env = dict(os.environ, IMGBUILD_CACHE_DIR=str(cache), CONDA_OVERRIDE_CUDA="13.2")
        spec = (SUPPORT / "envs" / "torch.yml").read_text().replace("@CHANNEL@", f"file://{channel}")
        (project / "env.yml").write_text(spec)
        build = [imgbuild, "--quiet", "build", project / "env.yml", "--base", f"oci:{base}", "--code", code]

        def change_code(number):
            (code / "train.py").write_text(f"print({number})\n")

        change_code(0)
        Cost(build, env)
        rows = []
        cold = []
        for _ in range(runs):
            drop_layers(cache)
            cold.append(Cost(build, env))
        rows.append(("cold build, packages downloaded", min(cold)))
        shutil.rmtree(cache / "pyc")
        drop_layers(cache)
        rows.append(("cold build, Python files compiled", Cost(build, env)))
        rows.append(("nothing changed", min(Cost(build, env) for _ in range(runs))))
        changed = []
        for number in range(1, runs + 1):
            change_code(number)
            changed.append(Cost(build, env))
        rows.append(("one line of code changed", min(changed)))
        drop_layers(cache)
        peak = peak_mb(build, env)
        print(f"{'torch environment, best of ' + str(runs):34} {'wall s':>8} {'CPU s':>8}")
        for name, cost in rows:
            print(f"{name:34} {cost.wall:8.2f} {cost.cpu:8.2f}")
        print(f"peak memory of a cold build: {peak:.0f} MB (limit {PEAK_LIMIT_MB} MB)")
        if subprocess.run(["docker", "version"], capture_output=True).returncode == 0:
            print(f"{'import in a fresh container':34} {'.pyc s':>8} {'none s':>8}")
            for imports, (with_pyc, without) in cold_starts(build, env, runs).items():
                print(f"{imports:34} {with_pyc:8.2f} {without:8.2f}")
        else:
            print("no Docker daemon: no cold starts")
        if peak > PEAK_LIMIT_MB:
            sys.exit("the limit is exceeded")


if __name__ == "__main__":
    main()
