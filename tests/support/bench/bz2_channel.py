"""A channel whose packages are all .tar.bz2, made from another; kept in the fixtures' cache."""

import json
import os
import subprocess
import tarfile
import zipfile

from measure import say
from project import described, files_of, place


def make(channel, out, cache, wanted):
    """Converts the packages whose names are wanted; those that are .tar.bz2 already are taken as they are."""
    kept = os.path.join(cache, "bench-bz2")
    os.makedirs(kept, exist_ok=True)
    index = {"linux-64": {}, "noarch": {}}
    for subdir, name, record in files_of(channel):
        if record["name"] not in wanted:
            continue
        os.makedirs(os.path.join(out, subdir), exist_ok=True)
        source = os.path.join(channel, subdir, name)
        if name.endswith(".conda"):
            name = name.removesuffix(".conda") + ".tar.bz2"
            made = os.path.join(kept, record["sha256"])
            if not os.path.exists(made):
                say(f"converting {name}")
                convert(source, made + ".new")
                os.replace(made + ".new", made)
            source = made
        target = os.path.join(out, subdir, name)
        if not os.path.exists(target):
            place(source, target)
        index[subdir][name] = described(target, record)
    for subdir, records in index.items():
        with open(os.path.join(out, subdir, "repodata.json"), "w", encoding="utf-8") as file:
            json.dump({"packages": records, "packages.conda": {}}, file)
    return out


def convert(conda, target):
    """A .conda's two tars as one, info first, as conda-build orders a .tar.bz2."""
    with zipfile.ZipFile(conda) as archive, tarfile.open(target, "w:bz2", format=tarfile.GNU_FORMAT) as out:
        for part in ("info-", "pkg-"):
            name = next(n for n in archive.namelist() if n.startswith(part))
            with subprocess.Popen(["zstd", "-dqc"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as zstd:
                feeder = os.fork()
                if feeder == 0:
                    feed(archive, name, zstd)
                zstd.stdin.close()
                copy(zstd.stdout, out)
                os.waitpid(feeder, 0)


def feed(archive, name, zstd):
    """In a child process: the packed bytes into zstd."""
    zstd.stdout.close()
    with archive.open(name) as source:
        while block := source.read(1 << 20):
            zstd.stdin.write(block)
    zstd.stdin.close()
    os._exit(0)


def copy(stream, out):
    """All members of a tar stream into another tar."""
    with tarfile.open(fileobj=stream, mode="r|") as source:
        for member in source:
            out.addfile(member, source.extractfile(member) if member.isreg() else None)
