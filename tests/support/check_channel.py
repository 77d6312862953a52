#!/usr/bin/env python3
"""Proves a channel genuine: py-rattler solves it, installs into a prefix, and the Python there runs.

    check_channel.py CHANNEL PREFIX SPEC... [-- PYTHON-CODE]

Runs in a Python that has py-rattler (see need.sh venv). Without code, imports what a broken relocation would break.
"""

import asyncio
import os
import pathlib
import subprocess
import sys

import rattler

IMPORTS = "import ssl, sqlite3, ctypes, lzma, bz2, zlib, hashlib, uuid, readline, curses, decimal, zoneinfo; " \
          "ssl.create_default_context(); print('imports fine:', __import__('sys').version)"


async def install(channel, prefix, specs):
    """Solves the specs against the channel and installs the result."""
    cache = pathlib.Path(prefix).parent / ".rattler"
    virtual = [rattler.GenericVirtualPackage(rattler.PackageName(name), rattler.Version(version),
                                             rattler.BuildString(build))
               for name, version, build in (("__glibc", "2.36", "0"), ("__unix", "0", "0"), ("__linux", "5.10", "0"),
                                            ("__cuda", "13.2", "0"), ("__archspec", "1", "x86_64"))]
    records = await rattler.solve(
        sources=[rattler.Channel(pathlib.Path(channel).resolve().as_uri())],
        specs=[rattler.MatchSpec(s) for s in specs],
        gateway=rattler.Gateway(cache_dir=cache / "repodata"),
        platforms=["linux-64", "noarch"], virtual_packages=virtual)
    await rattler.install(records=records, target_prefix=prefix, cache_dir=cache / "pkgs",
                          platform=rattler.Platform("linux-64"))
    return records


def main():
    """Reads the command line."""
    arguments = sys.argv[1:]
    code = IMPORTS
    if "--" in arguments:
        cut = arguments.index("--")
        arguments, code = arguments[:cut], arguments[cut + 1]
    if len(arguments) < 3:
        sys.exit(__doc__)
    channel, prefix, *specs = arguments
    records = asyncio.run(install(channel, os.path.abspath(prefix), specs))
    for record in sorted(records, key=lambda r: r.name.normalized):
        print(f"{record.name.normalized} {record.version} {record.build}")
    conda_meta = [rattler.PrefixRecord.from_path(p) for p in pathlib.Path(prefix, "conda-meta").glob("*.json")]
    names = lambda found: {r.name.normalized for r in found}
    assert names(conda_meta) == names(records), "conda-meta is not the solution"
    python = os.path.join(prefix, "bin", "python")
    if os.path.exists(python):
        environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
        subprocess.run([python, "-I", "-c", code], check=True, env=environment)


if __name__ == "__main__":
    main()
