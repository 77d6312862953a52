"""Keeps finished packages and downloads between runs; a stored package is checked before it is used again."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

from . import archive

STARTED = time.monotonic()
UNUSED_MAX_AGE_S = 3 * 24 * 3600


def say(text):
    """One line of progress."""
    print(f"[{time.monotonic() - STARTED:6.1f}s] {text}", file=sys.stderr, flush=True)


def die(text):
    """Ends with a message that says what is missing."""
    sys.exit(f"make_channel: {text}")


def run(command, **options):
    """Runs a program; its output appears only when it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False, **options)
    if done.returncode != 0:
        die(f"{' '.join(map(str, command[:6]))} ... ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def file_sha256(path):
    """The sha256 of a file, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as source:
        while block := source.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@dataclass
class Recipe:
    """How to make one package: `inputs` is everything it depends on, `sources` the modules that make it."""

    label: str
    inputs: list
    sources: list
    build: object  # () -> archive.Package

    def key(self):
        """Changes when an input, the recipe's code or the archive writer changes."""
        digest = hashlib.sha256(json.dumps(self.inputs).encode())
        for source in [archive.__file__, *self.sources]:
            digest.update(file_sha256(source).encode())
        return digest.hexdigest()[:24]


class Store:
    """Finished packages under `folder`/packages/<key>/."""

    def __init__(self, folder):
        self.folder = folder
        self.packages = os.path.join(folder, "packages")
        os.makedirs(self.packages, exist_ok=True)
        self._prune()

    def _prune(self):
        """Drops packages that no run has used for three days, and what a killed run left."""
        for item in os.scandir(self.packages):
            limit = 24 * 3600 if item.name.startswith("tmp-") else UNUSED_MAX_AGE_S
            if time.time() - item.stat().st_mtime > limit:
                shutil.rmtree(item.path, ignore_errors=True)

    def get(self, recipe):
        """(repodata record, path of the archive), made now if it is not there or no longer what it was."""
        home = os.path.join(self.packages, recipe.key())
        found = self._read(home)
        if found:
            return found
        shutil.rmtree(home, ignore_errors=True)
        begun = time.monotonic()
        work = tempfile.mkdtemp(prefix="tmp-", dir=self.packages)
        try:
            package = recipe.build()
            record = archive.write(package, work)
            with open(os.path.join(work, "record.json"), "w", encoding="utf-8") as out:
                json.dump({"filename": package.filename, "record": record}, out)
            os.chmod(work, 0o755)
            try:
                os.rename(work, home)
            except OSError:  # another run made the same package meanwhile
                if not self._read(home):
                    raise
        finally:
            shutil.rmtree(work, ignore_errors=True)
        say(f"made {package.filename}  {record['size'] / 1e6:.1f} MB in {time.monotonic() - begun:.1f} s")
        return self._read(home)

    def _read(self, home):
        try:
            with open(os.path.join(home, "record.json"), encoding="utf-8") as source:
                stored = json.load(source)
        except OSError:
            return None
        path = os.path.join(home, stored["filename"])
        if not os.path.exists(path) or file_sha256(path) != stored["record"]["sha256"]:
            say(f"{stored['filename']} in the cache is damaged: made again")
            return None
        os.utime(home)  # for _prune
        return stored["record"], path


def place(path, folder):
    """Puts a stored archive into the channel: a hard link where that works, else a copy."""
    target = os.path.join(folder, os.path.basename(path))
    fresh = f"{target}.{os.getpid()}.new"
    try:
        os.link(path, fresh)
    except OSError:
        shutil.copyfile(path, fresh)
    os.replace(fresh, target)
