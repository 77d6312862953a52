#!/usr/bin/env python3
"""Makes a small channel of packages whose Python files are odd to compile.

    pyc_channel.py DIR MARKER

MARKER is the file that appears when anything of a package is run.
"""

import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from channel.archive import Entry, Package, write  # noqa: E402

SITE = "site-packages"
LIB = "lib/python3.11/site-packages"


def file(path, content, mtime=1_500_000_000):
    """A file of text or bytes."""
    return Entry(path, 0o644, mtime, data=content if isinstance(content, bytes) else content.encode())


def noarch(name, entries, more=()):
    """A package that is linked into the environment's Python, after those that it depends on too."""
    return Package(name, "1.0", "0", entries, subdir="noarch", noarch="python", depends=["python", *more])


def odd():
    """Files that do not compile beside some that do."""
    return noarch("pyc-odd", [
        file(f"{SITE}/odd/__init__.py", "X = 1\n"),
        file(f"{SITE}/odd/latin.py", "# coding: latin-1\nE = '\xe9'\n".encode("latin-1")),
        file(f"{SITE}/odd/warns.py", "P = '\\d'\nB = 1 is 1\n"),
        file(f"{SITE}/odd/empty.py", ""),
        file(f"{SITE}/odd/bad.py", "def (:\n"),
        file(f"{SITE}/odd/deep.py", "x" + ".x" * 100_000),
        file(f"{SITE}/odd/nul.py", "x = 1\0\n"),
        file(f"{SITE}/odd/template.py", "{{ name }} = {% if x %}\n"),
        file(f"{SITE}/odd/shipped.py", "X = 2\n"),
        file(f"{SITE}/odd/__pycache__/shipped.cpython-311.pyc", "as shipped"),
        file(f"{SITE}/odd/__pycache__/left.py", "X = 3\n"),
        file(f"{SITE}/odd/notes.txt", "X = 4\n"),
        file("python-scripts/odd-tool.py", "X = 5\n"),
        file("share/odd/example.py", "X = 6\n"),
    ])


def hostile(marker):
    """Files that would be run if anything of a package were."""
    mark = f"open({marker!r}, 'w').close()\n"
    names = ["sitecustomize", "usercustomize", "warnings", "marshal", "encodings/__init__", "encodings/hostile", "_imp",
             "hostile/__init__", "codecs", "os", "importlib/__init__"]
    return noarch("pyc-hostile", [
        *[file(f"{SITE}/{name}.py", mark) for name in names],
        file(f"{SITE}/hostile.pth", f"import os; {mark}"),
        file(f"{SITE}/cookie.py", "# coding: hostile\n"),
    ])


def sharing():
    """Packages that ship the same source."""
    return [
        noarch("pyc-share-a", [file(f"{SITE}/shared.py", "WHO = 'a'\n"), file(f"{SITE}/only_a.py", "WHO = 'a'\n")]),
        noarch("pyc-share-b", [file(f"{SITE}/shared.py", "WHO = 'b'\n")], ["pyc-share-a", "pyc-a-native"]),
        # Of one Python: it ships what it compiled, and loses both to a later package.
        Package("pyc-a-native", "1.0", "0",
                [file(f"{LIB}/shared.py", "WHO = 'native'\n"),
                 file(f"{LIB}/__pycache__/shared.cpython-311.pyc", "native's")], depends=["python"]),
    ]


def main():
    """Reads the command line."""
    out, marker = sys.argv[1:]
    plain = noarch("pyc-plain", [file(f"{SITE}/plain.py", "def f(x):\n    return x\n")])
    made = [odd(), hostile(marker), *sharing(), plain,
            Package("python", "3.11.2", "0_cpython", [Entry("bin/python3.11", 0o755, data=b"#!/bin/sh\nexit 7\n")])]
    index = {"linux-64": {}, "noarch": {}}
    for package in made:
        folder = os.path.join(out, package.subdir)
        os.makedirs(folder, exist_ok=True)
        index[package.subdir][package.filename] = write(package, folder)
    for subdir, records in index.items():
        repodata = {"info": {"subdir": subdir}, "packages": {}, "packages.conda": records, "repodata_version": 1}
        with open(os.path.join(out, subdir, "repodata.json"), "w", encoding="utf-8") as file_:
            json.dump(repodata, file_)


if __name__ == "__main__":
    main()
