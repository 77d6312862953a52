"""Writes conda packages: `.conda` and `.tar.bz2`, byte for byte the same for the same input."""

import bz2
import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
import zipfile
from dataclasses import dataclass, field

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
CHUNK = 1 << 20
# A fixed level with a worker thread: zstd then cuts jobs of a fixed size, so the number of cores does not matter.
ZSTD = ["zstd", "-q", "-3", "-T2", "-c"]


def placeholder_for(name):
    """The build prefix that conda-build leaves in files: 255 characters, so that any real prefix is shorter."""
    stem = f"/home/conda/feedstock_root/build_artifacts/{name}_1700000000000/_h_env"
    return (stem + "_placehold" * 30)[:255]


@dataclass
class Entry:
    """One path of a package. Exactly one of data, opener, symlink, hardlink and directory says what it is."""

    path: str
    mode: int = 0o644
    mtime: int = 1_700_000_000
    data: bytes = None
    opener: object = None  # () -> readable, for contents too large to hold
    size: int = None
    symlink: str = None
    hardlink: str = None  # path of an entry that sorts before this one
    directory: bool = False
    placeholder: str = None
    file_mode: str = "text"
    no_link: bool = False
    sha256: str = None

    @property
    def is_file(self):
        return self.data is not None or self.opener is not None

    def open(self):
        """A reader over the contents."""
        return io.BytesIO(self.data) if self.data is not None else self.opener()


@dataclass
class Package:
    """What a package is; `write` makes the archive."""

    name: str
    version: str
    build: str
    entries: list
    subdir: str = "linux-64"
    noarch: str = None  # "python" or "generic"
    depends: list = field(default_factory=list)
    constrains: list = field(default_factory=list)
    track_features: str = None
    entry_points: list = field(default_factory=list)
    license: str = "LicenseRef-Unknown"
    summary: str = ""
    home: str = ""
    format: str = ".conda"
    info_last: bool = False
    tar_format: int = tarfile.PAX_FORMAT
    extra_info: dict = field(default_factory=dict)

    @property
    def stem(self):
        return f"{self.name}-{self.version}-{self.build}"

    @property
    def filename(self):
        return self.stem + self.format

    def index(self):
        """info/index.json, as conda-build writes it."""
        number = re.search(r"(?:^|_)(\d+)(?:_|$)", self.build)
        newest = max((e.mtime for e in self.entries), default=1_700_000_000)
        index = {
            "arch": None if self.noarch else "x86_64",
            "build": self.build,
            "build_number": int(number[1]) if number else 0,
            "depends": sorted(self.depends),
            "license": self.license,
            "name": self.name,
            "platform": None if self.noarch else "linux",
            "subdir": self.subdir,
            "timestamp": newest * 1000,
            "version": self.version,
        }
        if self.constrains:
            index["constrains"] = sorted(self.constrains)
        if self.noarch:
            index["noarch"] = self.noarch
        if self.track_features:
            index["track_features"] = self.track_features
        return dict(sorted(index.items()))


class HashingReader:
    """Reads through to `inner` and hashes what passes, so that large files are read once."""

    def __init__(self, inner):
        self.inner, self.hash, self.count = inner, hashlib.sha256(), 0

    def read(self, size=-1):
        block = self.inner.read(size)
        self.hash.update(block)
        self.count += len(block)
        return block


def add_to_tar(tar, entry):
    """Adds one entry and, for a file, notes its sha256 and size on it."""
    info = tarfile.TarInfo(entry.path)
    info.mode, info.mtime = entry.mode, entry.mtime
    if entry.symlink is not None:
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, entry.symlink, 0o777
        tar.addfile(info)
    elif entry.hardlink is not None:
        info.type, info.linkname = tarfile.LNKTYPE, entry.hardlink
        tar.addfile(info)
    elif entry.directory:
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
    else:
        info.size = len(entry.data) if entry.data is not None else entry.size
        with entry.open() as source:
            reader = HashingReader(source)
            tar.addfile(info, reader)
        entry.sha256, entry.size = reader.hash.hexdigest(), reader.count


def hash_files(entries):
    """Hashes file contents ahead of the archive, for the layout that has info/ first."""
    for entry in entries:
        if entry.is_file:
            with entry.open() as source:
                reader = HashingReader(source)
                while reader.read(CHUNK):
                    pass
            entry.sha256, entry.size = reader.hash.hexdigest(), reader.count


def paths_json(entries):
    """info/paths.json; links carry the hash and size of what they lead to, as conda-build has it."""
    by_path = {e.path: e for e in entries}

    def target(entry, hops=0):
        if entry.hardlink is not None:
            return by_path[entry.hardlink]
        if entry.symlink is not None:
            found = by_path.get(os.path.normpath(os.path.join(os.path.dirname(entry.path), entry.symlink)))
            return target(found, hops + 1) if found and hops < 8 else None
        return entry

    paths = []
    for entry in entries:
        record = {"_path": entry.path}
        if entry.no_link:
            record["no_link"] = True
        if entry.directory:
            record["path_type"] = "directory"
        else:
            end = target(entry)
            real = end is not None and end.is_file
            record["path_type"] = "softlink" if entry.symlink is not None else "hardlink"
            record["sha256"] = end.sha256 if real else EMPTY_SHA256
            record["size_in_bytes"] = end.size if real else 0
            if entry.symlink is None and end.placeholder:
                record["file_mode"], record["prefix_placeholder"] = end.file_mode, end.placeholder
        paths.append(dict(sorted(record.items())))
    return {"paths": paths, "paths_version": 1}


def info_entries(package):
    """The info/ files. Call it once the files' hashes are known."""
    entries = package.entries
    as_json = lambda value: (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()
    listed = [e for e in entries if not e.directory]
    files = {
        "about.json": as_json({"home": package.home, "license": package.license, "summary": package.summary}),
        "files": "".join(f"{e.path}\n" for e in listed).encode(),
        "hash_input.json": as_json({"target_platform": package.subdir}),
        "index.json": as_json(package.index()),
        "paths.json": as_json(paths_json(entries)),
        "recipe/meta.yaml": f"package:\n  name: {package.name}\n  version: \"{package.version}\"\n".encode(),
        **package.extra_info,
    }
    by_path = {e.path: e for e in entries}
    prefixed = [(e, by_path.get(e.hardlink, e)) for e in listed]
    lines = [f'{t.placeholder} {t.file_mode} "{e.path}"\n' for e, t in prefixed if t.placeholder]
    if lines:
        files["has_prefix"] = "".join(lines).encode()
    if package.noarch == "python":
        noarch = {"type": "python"}
        if package.entry_points:
            noarch["entry_points"] = package.entry_points
        files["link.json"] = as_json({"noarch": noarch, "package_metadata_version": 1})
    stamp = package.index()["timestamp"] // 1000
    return [Entry(f"info/{name}", data=data, mtime=stamp) for name, data in sorted(files.items())]


def write_tar(raw, entries, tar_format):
    """Writes entries as an uncompressed tar to `raw`."""
    with tarfile.open(fileobj=raw, mode="w|", format=tar_format, bufsize=CHUNK) as tar:
        for entry in entries:
            add_to_tar(tar, entry)


def write_tar_zst(path, entries, tar_format):
    """Writes entries as a `.tar.zst` file through the zstd program."""
    with open(path, "wb") as out:
        packer = subprocess.Popen(ZSTD, stdin=subprocess.PIPE, stdout=out)
        with packer.stdin:
            write_tar(packer.stdin, entries, tar_format)
        if packer.wait() != 0:
            raise RuntimeError(f"zstd failed on {path}")


def write_conda(package, path):
    """Writes the `.conda` format: a stored zip of two zstd tars."""
    parts = []
    for kind in ("pkg", "info"):
        part = f"{path}.{kind}"
        entries = package.entries if kind == "pkg" else info_entries(package)
        write_tar_zst(part, entries, package.tar_format)
        parts.append((f"{kind}-{package.stem}.tar.zst", part))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        def member(name, size):
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.external_attr, info.create_system, info.file_size = 0o644 << 16, 3, size
            return info

        metadata = json.dumps({"conda_pkg_format_version": 2}).encode()
        archive.writestr(member("metadata.json", len(metadata)), metadata)
        for name, part in parts:
            with open(part, "rb") as source, archive.open(member(name, os.path.getsize(part)), "w") as out:
                while block := source.read(CHUNK):
                    out.write(block)
            os.unlink(part)


def write_tar_bz2(package, path):
    """Writes the `.tar.bz2` format: one tar, info/ first or (as old conda-build did) last."""
    hash_files(package.entries)
    info = info_entries(package)
    entries = package.entries + info if package.info_last else info + package.entries
    with bz2.open(path, "wb", compresslevel=9) as out:
        write_tar(out, entries, package.tar_format)


def write(package, folder):
    """Writes the archive into `folder` and returns its repodata record."""
    package.entries.sort(key=lambda e: e.path)
    seen = [e.path for e in package.entries]
    doubles = {p for p in seen if seen.count(p) > 1} if len(set(seen)) != len(seen) else set()
    if doubles:
        raise ValueError(f"{package.name} has a path twice: {sorted(doubles)[:5]}")
    for entry in package.entries:
        if entry.hardlink is not None and entry.hardlink >= entry.path:
            raise ValueError(f"{package.name}: the hard link {entry.path} comes before its target")
    path = os.path.join(folder, package.filename)
    (write_conda if package.format == ".conda" else write_tar_bz2)(package, path)
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as source:
        while block := source.read(CHUNK):
            sha256.update(block)
            md5.update(block)
    record = package.index() | {"sha256": sha256.hexdigest(), "md5": md5.hexdigest(), "size": os.path.getsize(path)}
    return dict(sorted(record.items()))
