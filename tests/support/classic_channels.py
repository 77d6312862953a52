#!/usr/bin/env python3
"""Cuts the channels of the two classic PyTorch environments out of the pytorch channel's index.

    classic_channels.py REPODATA.json > tests/it/data/classic_channels.json
    classic_channels.py --whole REPODATA.json > all.json

What comes from the pytorch channel is as its index has it (less licences); python, numpy, MKL, the
CUDA libraries and the rest that it depends on are small stand-ins, metadata only. The output is
channel -> subdir -> file name -> record. With --whole nothing is left out of the index.
"""

import hashlib
import json
import re
import sys

KEPT = ("build", "build_number", "constrains", "depends", "features", "md5", "name", "sha256", "size", "subdir",
        "timestamp", "track_features", "version")
VERSIONS = {"pytorch": r"1\.12\.1|1\.13\.1|2\.0\.[01]|2\.1\.0",
            "torchvision": r"0\.13\.1|0\.14\.1|0\.15\.[02]|0\.16\.0",
            "torchaudio": r"0\.12\.1|0\.13\.1|2\.0\.[012]|2\.1\.0", "torchtriton": r".*", "pytorch-cuda": r".*",
            "ffmpeg": r".*", "libjpeg-turbo": r".*"}
TIME = 1_600_000_000_000

# Of one CUDA release: the version of each library that pytorch-cuda bounds.
LIBRARIES = {
    "11.6": "libcublas=11.9.2.110 libcufft=10.7.1.112 libcusolver=11.3.4.124 libcusparse=11.7.2.124 libnpp=11.6.3.124 "
            "libnvjpeg=11.6.2.124",
    "11.7": "libcublas=11.10.3.66 libcufft=10.7.2.124 libcusolver=11.4.0.1 libcusparse=11.7.4.91 libnpp=11.7.4.75 "
            "libnvjpeg=11.8.0.2",
    "11.8": "libcublas=11.11.3.6 libcufft=10.9.0.58 libcusolver=11.4.1.48 libcusparse=11.7.5.86 libnpp=11.8.0.86 "
            "libnvjpeg=11.9.0.86",
    "12.1": "libcublas=12.1.0.26 libcufft=11.0.2.4 libcusolver=11.4.4.55 libcusparse=12.0.2.55 libnpp=12.0.2.50 "
            "libnvjpeg=12.1.1.14 libnvjitlink=12.1.105",
    "12.4": "libcublas=12.4.5.8 libcufft=11.2.1.3 libcusolver=11.6.1.9 libcusparse=12.3.1.170 libnpp=12.2.5.30 "
            "libnvjpeg=12.3.1.117 libnvjitlink=12.4.127",
}
PARTS = ("cuda-cudart", "cuda-cupti", "cuda-nvrtc", "cuda-nvtx")
PYTHONS = ("3.8.18", "3.9.18", "3.10.13", "3.11.7")


def record(name, version, build="0", depends=(), subdir="linux-64", **more):
    """A file name and a record of a package that nobody fetches."""
    file = f"{name}-{version}-{build}.tar.bz2"
    number = re.fullmatch(r"(?:.*_)?(\d+)", build)
    return file, {"build": build, "build_number": int(number.group(1)) if number else 0, "depends": list(depends),
                  "name": name, "sha256": hashlib.sha256(file.encode()).hexdigest(), "size": 1000, "subdir": subdir,
                  "timestamp": TIME, "version": version, **more}


def wanted(record_, whole):
    """Whether a record of the index is kept."""
    pattern = VERSIONS.get(record_["name"])
    if whole:
        return True
    if not pattern or not re.fullmatch(pattern, record_["version"]):
        return False
    python = re.match(r"py3\.?(\d+)", record_["build"])
    return not python or python.group(1) == "9"


def pytorch(index, whole):
    """The pytorch channel: its linux-64 as it is, and the noarch that chooses between CPU and GPU."""
    linux = {file: {key: value for key, value in item.items() if key in KEPT}
             for file, item in sorted(index.items()) if wanted(item, whole)}
    noarch = dict([
        record("pytorch-mutex", "1.0", "cuda", subdir="noarch", noarch="generic", build_number=100),
        record("pytorch-mutex", "1.0", "cpu", subdir="noarch", noarch="generic", track_features="pytorch-mutex"),
        record("cpuonly", "2.0", "0", ["pytorch-mutex 1.0 cpu"], subdir="noarch", noarch="generic",
               track_features="cpuonly"),
    ])
    return {"linux-64": linux, "noarch": noarch}


def nvidia():
    """The nvidia channel: the libraries of each release."""
    made = []
    for cuda, libraries in LIBRARIES.items():
        full = cuda + ".89"
        pairs = [pair.split("=") for pair in libraries.split()]
        made += [record(name, version) for name, version in pairs]
        made += [record(name, full) for name in PARTS]
        made.append(record("cuda-libraries", cuda + ".0", "0", [f"{name} >={version}" for name, version in pairs]))
        made.append(record("cuda-runtime", cuda + ".0", "0", [f"cuda-libraries >={cuda}.0", f"cuda-cudart >={full}"]))
    return {"linux-64": dict(made), "noarch": {}}


def conda_forge():
    """conda-forge: Python, what torch needs of it, cudatoolkit, and torch builds of its own."""
    made = [record("mkl", "2022.1.0"), record("mkl", "2023.2.0"), record("blas", "1.0", "mkl"),
            record("blas", "1.0", "openblas"), record("jpeg", "9e"), record("libpng", "1.6.39"),
            record("ffmpeg", "6.0.0"), record("llvm-openmp", "15.0.7"), record("cudatoolkit", "10.2.89")]
    made += [record(name, version) for name, version in
             (("bzip2", "1.0.8"), ("freetype", "2.12.1"), ("gmp", "6.2.1"), ("gnutls", "3.6.13"), ("lame", "3.100"),
              ("libgcc-ng", "13.2.0"), ("libstdcxx-ng", "13.2.0"), ("libiconv", "1.17"), ("openh264", "2.1.1"),
              ("zlib", "1.2.13"), ("nettle", "3.4.1"))]
    made += [record("cudatoolkit", version) for version in ("11.3.1", "11.6.0", "11.7.0", "11.8.0")]
    for full in PYTHONS:
        major, minor = full.split(".")[:2]
        this, following = f"{major}.{minor}", f"{major}.{int(minor) + 1}"
        needs = [f"python >={this},<{following}.0a0"]
        tag = f"py{major}{minor}_0"
        made.append(record("python", full, "0", ["__glibc >=2.17,<3.0.a0"]))
        made.append(record("python_abi", this, f"4_cp{major}{minor}", constrains=[f"python {this}.*"]))
        made += [record(name, version, tag, needs) for name, version in
                 (("numpy", "1.26.4"), ("pillow", "10.0.1"), ("pyyaml", "6.0.1"))]
        made.append(record("pytorch", "2.3.1", f"cpu_generic_py{major}{minor}_0", [*needs, "numpy"]))
        for cuda, major_next in (("118", 12), ("120", 13)):
            release = f"{cuda[:2]}.{cuda[2]}"
            made.append(record("pytorch", "2.3.1", f"cuda{cuda}_py{major}{minor}_300",
                               [*needs, "numpy", "__cuda", f"cuda-version >={release},<{major_next}"]))
    pure = [record(name, version, "0", ["python >=3.8"], subdir="noarch", noarch="python") for name, version in
            (("typing_extensions", "4.9.0"), ("filelock", "3.13.1"), ("jinja2", "3.1.3"), ("networkx", "3.2.1"),
             ("sympy", "1.12"), ("requests", "2.31.0"))]
    for release in ("11.3", "11.8", "12.0", "12.1", "12.4"):
        major = release.split(".")[0]
        pure.append(record("cuda-version", release, "0", subdir="noarch", noarch="generic",
                           constrains=[f"__cuda >={major}", f"cudatoolkit {release}|{release}.*"]))
    return {"linux-64": dict(made), "noarch": dict(pure)}


def main():
    """Reads the index and prints the channels."""
    *flags, path = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        repodata = json.load(file)
    index = {**repodata["packages"], **repodata.get("packages.conda", {})}
    channels = {"pytorch": pytorch(index, "--whole" in flags), "nvidia": nvidia(), "conda-forge": conda_forge()}
    json.dump(channels, sys.stdout, separators=(",", ":"), sort_keys=True)
    print()


if __name__ == "__main__":
    main()
