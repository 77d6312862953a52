#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets: OUT/TARGET/*.

    seeds.py OUT CHANNEL

Text comes from this repository; archives are made small, or taken from the test channel when they are.
"""
import bz2
import hashlib
import io
import json
import marshal
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SMALL = 20_000  # bytes; larger seeds slow every run down

PIP = r"""dependencies:
- python=3.11
- pip:
  - -i https://me:${HOME}@h/simple --extra-index-url=https://h/cu118 -f ./w
  - torch[a,b]==2.1.0+cu118 ; python_version >= '3.8' and (os_name == 'posix' or extra == 'x')
  - pkg @ https://h/pkg-1.0-py3-none-any.whl#sha256=00
  - ./dist/pkg-1.0-py3-none-any.whl[x]
  - |
    six~=1.16,!=1.17 \
      --hash=sha256:0000000000000000000000000000000000000000000000000000000000000000
    -r more.txt  # in a file of its own
"""

LOCK = """version: 7
platforms:
- name: linux-64
environments:
  default:
    channels:
    - url: https://conda.anaconda.org/conda-forge/
    packages:
      linux-64:
      - conda: https://conda.anaconda.org/conda-forge/noarch/tzdata-2025b-h78e105d_0.conda
packages:
- conda: https://conda.anaconda.org/conda-forge/noarch/tzdata-2025b-h78e105d_0.conda
  sha256: 5aaa366385d716557e365f0a4e9c3fca43ba196872abbbe3d56bb610d131e192
  md5: 4222072737ccff51314b5ece9c7d6f5a
  license: LicenseRef-Public-Domain
  size: 122968
  timestamp: 1742727099393
"""


CONDA_LOCK = """version: 1
metadata:
  content_hash: {linux-64: x}
  channels: [{url: conda-forge, used_env_vars: []}]
  platforms: [linux-64]
  sources: [environment.yml]
package:
- name: tzdata
  version: 2025b
  manager: conda
  platform: linux-64
  dependencies: {}
  url: https://conda.anaconda.org/conda-forge/noarch/tzdata-2025b-h78e105d_0.conda
  hash: {md5: 4222072737ccff51314b5ece9c7d6f5a}
  category: main
  optional: false
- name: tqdm
  version: 4.66.1
  manager: pip
  platform: linux-64
  dependencies: {}
  url: https://h/tqdm-4.66.1-py3-none-any.whl
  hash: {sha256: 5aaa366385d716557e365f0a4e9c3fca43ba196872abbbe3d56bb610d131e192}
  category: dev
  optional: false
"""
EXPLICIT = """# platform: linux-64
@EXPLICIT
https://conda.anaconda.org/conda-forge/noarch/tzdata-2025b-h78e105d_0.conda#4222072737ccff51314b5ece9c7d6f5a
"""


def tar(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def digest(data):
    return hashlib.sha256(data).hexdigest()


def documents():
    """A layer, and the config and the manifest of an image of it."""
    layer = tar({"etc/os-release": b"ID=debian\n", "usr/lib/x": b"x"})
    config = json.dumps({
        "architecture": "amd64", "os": "linux", "config": {"Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + digest(layer)]}, "history": [{"created_by": "x"}],
    }).encode()
    descriptor = lambda kind, data: {  # noqa: E731
        "mediaType": f"application/vnd.oci.image.{kind}", "digest": "sha256:" + digest(data), "size": len(data)}
    manifest = json.dumps({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", config), "layers": [descriptor("layer.v1.tar", layer)],
    }).encode()
    index = json.dumps({"schemaVersion": 2, "manifests": [descriptor("manifest.v1+json", manifest)]}).encode()
    return layer, config, manifest, index


def archives():
    layer, config, manifest, index = documents()
    blobs = {f"blobs/sha256/{digest(data)}": data for data in (layer, config, manifest)}
    listing = [{"Config": f"{digest(config)}.json", "RepoTags": ["x:1"], "Layers": ["layer.tar"]}]
    return {
        "oci": tar({"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": index, **blobs}),
        "docker": tar({"manifest.json": json.dumps(listing).encode(), f"{digest(config)}.json": config,
                       "layer.tar": layer}),
    }


def marshalled():
    """Code objects as this Python writes them, behind the byte that says its version."""
    minor = bytes([(sys.version_info.minor - 7) % 8])
    sources = {
        "usual": "import a.b\nX = ('a', 1 << 80, 1.5, 2j, b'b', ..., None)\ndef f(y, *z):\n    return lambda: y\n",
        "set": "def f(x):\n    return x in {'a', 'b c', None, 1}\n",
    }
    return {name: minor + marshal.dumps(compile(text, "/x.py", "exec")) for name, text in sources.items()}


def bzip2_files():
    """Two streams, a long run, and content whose block spells the magic number of a block."""
    table = [at for at in range(48) if 0x314159265359 >> (47 - at) & 1]
    spelling = bytes(table[at % len(table)] for at in range(400))
    return {
        "streams": bz2.compress(b"one stream") + bz2.compress(b"another", 1) + b"garbage",
        "run": bz2.compress(bytes(300_000), 1),
        "spelling": bz2.compress(spelling),
    }


def frames():
    """Frames with small windows, so that few bytes are several blocks; the first byte is a place in them."""
    text = "".join(f"{i * i % 977} {'ab' * (i % 7)} {i % 13}" for i in range(9000)).encode()
    packed = {}
    for level, log in ((1, 10), (3, 12), (12, 12), (19, 14)):
        command = ["zstd", "-q", "-c", f"-{level}", f"--zstd=wlog={log}"]
        done = subprocess.run(command, input=text, stdout=subprocess.PIPE, check=True)
        packed[f"level-{level}"] = b"\1" + done.stdout
    return packed


def main():
    out, channel = Path(sys.argv[1]), Path(sys.argv[2])

    def write(target, name, data):
        path = out / target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())

    def copy(target, pattern):
        for path in ROOT.glob(pattern):
            write(target, str(path.relative_to(ROOT)).replace("/", "_"), path.read_bytes())

    shutil.rmtree(out, ignore_errors=True)
    copy("env-yaml", "tests/support/envs/*.yml")
    copy("env-yaml", "images/*/env.yml")
    write("env-yaml", "pip", PIP)
    copy("imgbuild-yaml", "images/*/imgbuild.yaml")
    for name, text in enumerate(["python -c 'import x' \"a b\"", "8g", "12.9", "user:group", "reg.io/a/b:1", "pkg>=1=x",
                                 "ch::pkg[build=x]", "DIR:/dest", "oci:DIR:TAG", "/opt/conda", "535.104.05", "RTX 4090",
                                 "py3.9_cuda11.8_cudnn8.7.0_0"]):
        write("words", str(name), text)
    write("dockerignore", "usual", "*.pyc\n!keep/**\n/data\n\nsrc/a.pyc\nkeep/x\ndata/y")
    _, config, manifest, _ = documents()
    write("manifest", "manifest", manifest)
    write("manifest", "config", config)
    for name, data in archives().items():
        write("base-image", name, data)
    for path in channel.glob("*/*"):
        kind = b"\0" if path.suffix == ".conda" else b"\1"
        if path.name.endswith((".conda", ".tar.bz2")) and path.stat().st_size <= SMALL:
            write("conda-package", path.name, kind + path.read_bytes())
    subprocess.run([sys.executable, ROOT / "tests/support/make_wheels.py", out / "wheel"], check=True)
    for path in (out / "wheel").glob("*/*.whl"):
        path.rename(out / "wheel" / path.name)
    for name, data in bzip2_files().items():
        write("bzip2", name, data)
    for name, data in frames().items():
        write("frames", name, data)
    for name, data in marshalled().items():
        write("marshal", name, data)
    write("probe-output", "usual", 'IMGBUILD_PROBE_RANK {"rank": 0}\nTraceback (most recent call last):\n')
    write("condarc", "usual", "channels: [a, defaults]\nchannel_alias: https://u:p@h/t/TK\nssl_verify: false\n"
          "custom_channels: {a: https://h}\nproxy_servers: {https: http://p:1}\nchannel_priority: flexible\n")
    write("pylock", "usual", 'lock-version = "1.0"\ncreated-by = "uv"\n[[packages]]\nname = "a"\nversion = "1.0"\n'
          'wheels = [{ url = "https://h/a-1.0-cp311-cp311-manylinux_2_28_x86_64.whl", size = 9, hashes = { sha256 = "'
          + "ab" * 32 + '" } }]\n')
    write("lock", "own", LOCK)
    for name, text in (("own", LOCK), ("conda-lock", CONDA_LOCK), ("explicit", EXPLICIT)):
        write("given-lock", name, text)


if __name__ == "__main__":
    main()
