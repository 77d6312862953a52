#!/usr/bin/env python3
"""Reads conda-meta of a prefix and an environment of a lock with py-rattler; prints both as JSON.

    read_prefix.py PREFIX LOCK ENVIRONMENT
"""

import json
import pathlib
import sys

import rattler

PLAIN = ("url", "channel", "file_name", "build_number", "subdir", "license", "size", "depends", "constrains",
         "track_features")


def facts(record):
    """What `conda list` and `conda env export` show of a package, and what tells its archive."""
    known = {name: getattr(record, name) for name in PLAIN}
    hashes = {name: getattr(record, name).hex() for name in ("sha256", "md5")}
    texts = {name: str(getattr(record, name)) for name in ("version", "build", "timestamp", "noarch")}
    return {"name": record.name.normalized, **texts, **hashes, **known}


def listed(records):
    """In an order of their own."""
    return sorted((facts(record) for record in records), key=lambda known: known["name"])


def main():
    """Reads the command line."""
    prefix, lock, name = sys.argv[1:]
    installed = [rattler.PrefixRecord.from_path(path) for path in pathlib.Path(prefix, "conda-meta").glob("*.json")]
    environment = rattler.LockFile.from_path(lock).environment(name)
    (platform,) = environment.platforms()
    locked = environment.conda_repodata_records_for_platform(platform)
    files = {record.name.normalized: [str(path) for path in record.files] for record in installed}
    json.dump({"installed": listed(installed), "locked": listed(locked), "files": files}, sys.stdout)


if __name__ == "__main__":
    main()
