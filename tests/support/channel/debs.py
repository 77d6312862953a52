"""Fetches Debian packages of a given suite, whatever release the machine itself runs, and reads them.

The mirror is the machine's own: an apt root of our own asks it for another suite.
"""

import io
import os
import re
import subprocess
import tarfile
import time
from dataclasses import dataclass

from .store import die, file_sha256, run, say

LISTS_MAX_AGE_S = 24 * 3600
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
LIB_DIRS = tuple(f"{top}lib/{machine}-linux-gnu/" for machine in ("x86_64", "aarch64") for top in ("usr/", ""))


class NoSuite(Exception):
    """The machine's mirror does not carry the suite."""


@dataclass
class Member:
    """One file or symlink of a deb."""

    mode: int
    mtime: int
    data: bytes = None
    symlink: str = None


@dataclass
class Deb:
    """A fetched deb."""

    name: str
    version: str
    sha256: str
    path: str

    @property
    def upstream(self):
        """The version without Debian's epoch, revision and suffixes, as conda writes it."""
        version = self.version.split(":", 1)[-1].rsplit("-", 1)[0]
        return re.sub(r"\.dfsg.*", "", re.split(r"[+~]", version)[0]).replace("-", ".")

    @property
    def key(self):
        """What a package made from this deb depends on."""
        return f"{self.name} {self.version} {self.sha256}"

    def members(self):
        """{path without the leading ./: Member}, directories left out."""
        out = subprocess.run(["dpkg-deb", "--fsys-tarfile", self.path], stdout=subprocess.PIPE, check=True).stdout
        found = {}
        with tarfile.open(fileobj=io.BytesIO(out)) as tar:
            for item in tar:
                path = item.name.removeprefix("./")
                if item.isfile():
                    found[path] = Member(item.mode, int(item.mtime), data=tar.extractfile(item).read())
                elif item.issym():
                    found[path] = Member(0o777, int(item.mtime), symlink=item.linkname)
                elif item.islnk():
                    origin = found[item.linkname.removeprefix("./")]
                    found[path] = Member(origin.mode, origin.mtime, data=origin.data, symlink=origin.symlink)
        return found


def mirrors():
    """(main, security) mirror addresses of this machine's apt configuration."""
    form = "$(REPO_URI)|$(COMPONENT)"
    listed = run(["apt-get", "indextargets", "--format", form, "Created-By: Packages"]).split()
    main = security = None
    for line in listed:
        uri, component = line.rsplit("|", 1)
        parts = uri.rstrip("/").split("/")[1:]
        if component != "main":
            continue
        if any(part.startswith("debian-security") for part in parts):
            security = security or uri
        elif any(part.startswith("debian") for part in parts):
            main = main or uri
    if not main:
        die("apt on this machine has no Debian mirror configured; the channel is made from Debian's packages")
    return main, security


class Suite:
    """An apt root for one Debian suite and one architecture, which need not be the machine's."""

    def __init__(self, cache, name, architecture="amd64"):
        self.name = name
        self.root = os.path.join(cache, "apt", name if architecture == "amd64" else f"{name}-{architecture}")
        self.debs = os.path.join(cache, "debs")
        for folder in ("state/lists/partial", "cache/archives/partial", "etc/sources.list.d", "etc/preferences.d",
                       "etc/apt.conf.d", "etc/trusted.gpg.d"):
            os.makedirs(os.path.join(self.root, folder), exist_ok=True)
        os.makedirs(self.debs, exist_ok=True)
        self.apt = ["apt-get", "-q", "-o", f"Dir::Etc={self.root}/etc", "-o", f"Dir::State={self.root}/state",
                    "-o", f"Dir::State::status={self.root}/state/status", "-o", f"Dir::Cache={self.root}/cache",
                    "-o", "Acquire::Languages=none", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3",
                    "-o", f"APT::Architecture={architecture}", "-o", f"APT::Architectures={architecture}",
                    "-o", "Acquire::Check-Valid-Until=false"]

    def update(self):
        """Brings the package lists up to date, at most once a day."""
        stamp = os.path.join(self.root, "updated")
        if os.path.exists(stamp) and time.time() - os.path.getmtime(stamp) < LISTS_MAX_AGE_S:
            return
        main, security = mirrors()
        stanzas = [(main, self.name)] + ([(security, f"{self.name}-security")] if security else [])
        with open(f"{self.root}/etc/sources.list.d/suite.sources", "w", encoding="utf-8") as out:
            for uri, suite in stanzas:
                out.write(f"Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\nSigned-By: {KEYRING}\n\n")
        open(f"{self.root}/state/status", "a", encoding="utf-8").close()
        say(f"apt-get update for Debian {self.name}")
        done = subprocess.run(self.apt + ["--error-on=any", "update"], capture_output=True, text=True, check=False)
        if done.returncode != 0 and "unknown" in done.stderr.lower():  # apt before 2.1 has no --error-on
            done = subprocess.run(self.apt + ["update"], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise NoSuite(f"Debian {self.name} is not to be had from this machine's mirror:\n{done.stderr.strip()}")
        with open(stamp, "w", encoding="utf-8"):
            pass

    def fetch(self, names):
        """{name: Deb} of the newest versions, downloaded where the cache lacks them."""
        self.update()
        wanted, missing = {}, []
        # Not in the download folder: apt prints nothing for a file that lies there.
        for line in run(self.apt + ["--print-uris", "download", *names], cwd=self.root).splitlines():
            found = re.match(r"'[^']*' (\S+) \d+ SHA256:(\w+)", line)
            if not found:
                continue
            filename, sha256 = found.groups()
            name, version = filename.removesuffix(".deb").split("_")[:2]
            path = os.path.join(self.debs, filename)
            version = version.replace("%3a", ":")
            wanted[name] = Deb(name, version, sha256, path)
            if not os.path.exists(path) or file_sha256(path) != sha256:
                missing.append(f"{name}={version}")
        if missing:
            say(f"fetching {len(missing)} packages of Debian {self.name}")
            run(self.apt + ["download", *missing], cwd=self.debs)
        for name in names:
            if name not in wanted or file_sha256(wanted[name].path) != wanted[name].sha256:
                die(f"Debian {self.name} has no package {name}, or its download is damaged")
        return wanted
