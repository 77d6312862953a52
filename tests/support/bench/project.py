"""One environment of the bench: a channel of its own that grows, an env.yml, a cache."""

import hashlib
import io
import json
import os
import shutil
import tarfile

from measure import cost

# Both are .tar.bz2 in the channel, which Python can write, and in every environment of the bench.
SMALL, LARGER = "typing_extensions", "networkx"
GIANTS = ("pytorch", "torchvision", "triton", "nccl", "cudnn", "cuda-", "cusparselt", "libcu", "libnv", "numpy-2.0")
# rattler's installer fails on the last.
OTHER = ("unsatisfiable-demo", "variant-demo", "post-link-demo", "clobber-", "names-demo", "empty-dir-demo")
# Python 3.9 and what is only for it.
OLD = ("python-3.9", "openssl-1.1", "libffi-3.3", "pip-26.0", "setuptools-82", "python_abi-3.9", "mpdecimal")


def files_of(channel):
    """(subdir, file name, record) of every package of a channel."""
    for subdir in ("linux-64", "noarch"):
        with open(os.path.join(channel, subdir, "repodata.json"), encoding="utf-8") as source:
            repodata = json.load(source)
        for kind in ("packages", "packages.conda"):
            for name, record in repodata[kind].items():
                yield subdir, name, record


def without_giants(channel):
    """The names of the packages of the environment without torch: all that install together."""
    left_out = GIANTS + OTHER + OLD
    return sorted({record["name"] for _, name, record in files_of(channel) if not name.startswith(left_out)})


class Project:
    """A folder with env.yml, src/, channel/ and cache/, and the commands over them."""

    def __init__(self, folder, imgbuild, base, packages):
        self.folder, self.imgbuild, self.base = folder, imgbuild, base
        self.channel, self.cache, self.code = (os.path.join(folder, n) for n in ("channel", "cache", "src"))
        self.packages = packages
        self.env = dict(os.environ, IMGBUILD_CACHE_DIR=self.cache, CONDA_OVERRIDE_CUDA="13.2", NO_COLOR="1")

    def make(self, channel, url=None):
        """Lays everything out; the channel's packages are hard links where they can be."""
        shutil.rmtree(self.folder, ignore_errors=True)
        os.makedirs(self.code)
        for subdir in ("linux-64", "noarch"):
            os.makedirs(os.path.join(self.channel, subdir))
        self.records = {}
        for subdir, name, record in files_of(channel):
            self.records[(subdir, name)] = record
            place(os.path.join(channel, subdir, name), os.path.join(self.channel, subdir, name))
        self.index()
        self.change_code(0)
        self.point_at(url or f"file://{self.channel}")
        return self

    def point_at(self, url):
        """Writes env.yml for a channel at that address."""
        lines = ["name: bench", "channels:", f'  - "{url}"', "dependencies:", *(f"  - {p}" for p in self.packages)]
        with open(self.path("env.yml"), "w", encoding="utf-8") as out:
            out.write("\n".join(lines) + "\n")

    def path(self, name):
        """A path in the folder."""
        return os.path.join(self.folder, name)

    def index(self):
        """Writes the channel's indexes."""
        for subdir in ("linux-64", "noarch"):
            mine = {name: record for (sub, name), record in self.records.items() if sub == subdir}
            repodata = {"info": {"subdir": subdir}, "removed": [], "repodata_version": 1,
                        "packages": {n: r for n, r in mine.items() if n.endswith(".tar.bz2")},
                        "packages.conda": {n: r for n, r in mine.items() if n.endswith(".conda")}}
            with open(os.path.join(self.channel, subdir, "repodata.json"), "w", encoding="utf-8") as out:
                json.dump(repodata, out)

    def bump(self, package, number):
        """Publishes a newer version of a package, without its predecessors, and locks again; its size in bytes."""
        for key, record in list(self.records.items()):
            if record["name"] != package:
                continue
            subdir, name = key
            version = ".".join(record["version"].split(".")[:3]) + f".{number}"
            new = f"{package}-{version}-{record['build']}.tar.bz2"
            path = os.path.join(self.channel, subdir, new)
            republish(os.path.join(self.channel, subdir, name), path, version)
            del self.records[key]
            self.records[(subdir, new)] = described(path, dict(record, version=version))
        self.index()
        self.lock("--update", package)
        return os.path.getsize(path)

    def lock(self, *flags):
        """Locks; not a part of what is measured."""
        return cost([self.imgbuild, "--quiet", "lock", self.path("env.yml"), "--base", f"oci:{self.base}", *flags],
                    self.env)

    def build(self, *flags, locked=True):
        """A build of the environment and its code; what the cache holds for a time is watched."""
        command = [self.imgbuild, "--quiet", "build", self.path("env.yml"), "--base", f"oci:{self.base}",
                   "--code", self.code, *(["--locked"] if locked else []), *flags]
        return cost(command, self.env, disk=[os.path.join(self.cache, name) for name in ("tmp", "blobs")])

    def change_code(self, number):
        """One line of the user's code."""
        with open(os.path.join(self.code, "train.py"), "w", encoding="utf-8") as out:
            out.write(f"print({number})\n")

    def drop_layers(self):
        """Empties the layer cache; what was downloaded stays (packages and the base), and so do compiled Python files
        and the lock, and what locking reads of the base."""
        for name in ("layers", "surveys", "images"):
            shutil.rmtree(os.path.join(self.cache, name), ignore_errors=True)
        base = os.listdir(os.path.join(self.base, "blobs", "sha256"))
        blobs = os.path.join(self.cache, "blobs", "sha256")
        for name in set(os.listdir(blobs)).difference(base):
            os.unlink(os.path.join(blobs, name))
        self.lock()

    def drop_cache(self):
        """Empties the whole cache."""
        shutil.rmtree(self.cache, ignore_errors=True)

    def layer_keys(self):
        """The keys of all layers that were ever built."""
        return set(os.listdir(os.path.join(self.cache, "layers")))

    def archives(self):
        """The package archives that the builds have used, as the channel has them."""
        known = {record["sha256"]: self.channel_file(key) for key, record in self.records.items()}
        return [known[name] for name in sorted(os.listdir(os.path.join(self.cache, "packages"))) if name in known]

    def compiled(self):
        """The compiled Python files that the layers have, those of a package in one file."""
        folder = os.path.join(self.cache, "pyc")
        return [os.path.join(folder, name) for name in sorted(os.listdir(folder))]

    def channel_file(self, key):
        """Where a package of the channel lies."""
        return os.path.join(self.channel, *key)


def place(source, target):
    """A hard link, or a copy where the folders are on different file systems."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def described(path, record):
    """A record with the file's own size and hashes."""
    with open(path, "rb") as source:
        data = source.read()
    return dict(record, size=len(data), sha256=hashlib.sha256(data).hexdigest(), md5=hashlib.md5(data).hexdigest())


def republish(old, new, version):
    """A .tar.bz2 of another version: its index.json says so and nothing else differs."""
    with tarfile.open(old, "r:bz2") as source, tarfile.open(new, "w:bz2") as target:
        for member in source:
            data = source.extractfile(member) if member.isreg() else None
            if member.name == "info/index.json":
                text = json.dumps(dict(json.load(data), version=version)).encode()
                member.size, data = len(text), io.BytesIO(text)
            target.addfile(member, data)
