#!/usr/bin/env python3
"""Turns a root file system tar into an OCI layout folder, an OCI archive and a docker-archive of one layer.

    oci_layout.py ROOTFS.tar OUT [ARCHITECTURE]     -> OUT/, OUT.oci.tar, OUT.docker.tar
"""

import gzip
import hashlib
import io
import json
import os
import shutil
import sys
import tarfile

EPOCH = 1_700_000_000
CREATED = "2023-11-14T22:13:20Z"
OCI = "application/vnd.oci.image"
NAME = "debian-base:test"


def normalised(source, out):
    """Copies a tar: sorted, mtimes clamped, no device nodes, no owner names, ./ taken off."""
    with tarfile.open(source) as old, tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as new:
        members = [m for m in old if m.isfile() or m.isdir() or m.issym() or m.islnk()]
        # A hard link needs its first name before it, wherever the alphabet puts them.
        members.sort(key=lambda m: (m.islnk(), m.name))
        for member in members:
            name = member.name.removeprefix("./").strip("/")
            if name in ("", ".") or name.split("/")[0] == "dev" and not member.isdir():
                continue
            content = old.extractfile(member) if member.isfile() else None
            member.name, member.uname, member.gname = name, "", ""
            member.mtime = min(int(member.mtime), EPOCH)
            if member.islnk():
                member.linkname = member.linkname.removeprefix("./")
            member.pax_headers = {}
            new.addfile(member, content)


def add(tar, name, data):
    """Adds a file to an archive, with nothing of this machine in its header."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = len(data), EPOCH, 0o644
    tar.addfile(info, io.BytesIO(data))


def main():
    """Reads the command line."""
    source, out, architecture = [*sys.argv[1:], "amd64"][:3]
    # As Debian's own images say it.
    platform = {"architecture": architecture, "os": "linux", **({"variant": "v8"} if architecture == "arm64" else {})}
    raw = io.BytesIO()
    normalised(source, raw)
    layer_tar = raw.getvalue()
    layer = gzip.compress(layer_tar, compresslevel=6, mtime=0)
    blobs = {}

    def blob(media, data, **more):
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return {"mediaType": media, "digest": f"sha256:{digest}", "size": len(data), **more}

    as_json = lambda value: json.dumps(value, sort_keys=True).encode()
    config = {
        **platform, "created": CREATED,
        "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"],
                   "Cmd": ["bash"], "Labels": {"org.example.base": "debian-12"}},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer_tar).hexdigest()]},
        "history": [{"created": CREATED, "created_by": "mmdebstrap bookworm", "comment": "Debian 12 minimal base"}],
    }
    layers = [blob(f"{OCI}.layer.v1.tar+gzip", layer)]
    config_blob = blob(f"{OCI}.config.v1+json", as_json(config))
    manifest = {"schemaVersion": 2, "mediaType": f"{OCI}.manifest.v1+json", "config": config_blob, "layers": layers,
                "annotations": {"org.opencontainers.image.title": "debian-base",
                                "org.opencontainers.image.version": "12"}}
    entry = blob(f"{OCI}.manifest.v1+json", as_json(manifest), platform=platform,
                 annotations={"org.opencontainers.image.ref.name": "latest"})
    index = as_json({"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": [entry]})
    files = {"oci-layout": as_json({"imageLayoutVersion": "1.0.0"}), "index.json": index,
             **{f"blobs/sha256/{digest}": data for digest, data in blobs.items()}}

    fresh = f"{out}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    for name, data in files.items():
        os.makedirs(os.path.dirname(os.path.join(fresh, name)), exist_ok=True)
        with open(os.path.join(fresh, name), "wb") as target:
            target.write(data)
    shutil.rmtree(out, ignore_errors=True)
    os.rename(fresh, out)

    with tarfile.open(f"{out}.oci.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in sorted(files.items()):
            add(tar, name, data)
    digest = hashlib.sha256(layer_tar).hexdigest()
    config_name = config_blob["digest"].removeprefix("sha256:") + ".json"
    with tarfile.open(f"{out}.docker.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        add(tar, config_name, as_json(config))
        add(tar, f"{digest}/layer.tar", layer_tar)
        add(tar, "manifest.json", as_json([{"Config": config_name, "RepoTags": [NAME],
                                            "Layers": [f"{digest}/layer.tar"]}]))
    print(f"{entry['digest']}  {len(layer) / 1e6:.1f} MB compressed, {len(layer_tar) / 1e6:.1f} MB", file=sys.stderr)


if __name__ == "__main__":
    main()
