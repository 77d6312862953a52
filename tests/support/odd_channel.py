#!/usr/bin/env python3
"""Makes a small channel of packages that are odd, broken or hostile.

    odd_channel.py DIR
"""

import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from channel.archive import Entry, Package, write  # noqa: E402

SHORT = "/short/prefix"


def text(path, content="text\n", mode=0o644):
    """A text file entry."""
    return Entry(path, mode, data=content.encode())


def package(name, entries, **more):
    """A package of version 1.0."""
    return Package(name, "1.0", "0", entries, **more)


def noarch_python(name, entries, entry_points):
    """A package that is linked into the environment's Python."""
    return package(name, entries, subdir="noarch", noarch="python", depends=["python"], entry_points=entry_points)


def packages():
    """All of them; python is a stand-in that is never run."""
    listed = {"_path": "share/never-packed", "path_type": "hardlink", "sha256": "0" * 64, "size_in_bytes": 1}
    return [
        Package("python", "3.11.2", "0_cpython", [text("bin/python3.11", "#!/bin/sh\n", 0o755)]),
        package("link-mode", [text("bin/a", "#!/bin/sh\n", 0o755), Entry("bin/b", 0o600, mtime=5, hardlink="bin/a")]),
        noarch_python("twice-command", [text("python-scripts/twice-command", "the file\n", 0o755),
                                        text("site-packages/twice.py", "def main():\n    pass\n")],
                      ["twice-command = twice:main"]),
        package("leaves-prefix", [text("share/../../../etc/passwd")]),
        noarch_python("leaves-by-command", [text("site-packages/m.py")], ["../../../usr/bin/env = m:main"]),
        package("short-placeholder", [Entry("bin/short", data=b"\0" + SHORT.encode() + b"/lib\0", placeholder=SHORT,
                                            file_mode="binary")]),
        package("lists-too-much", [text("share/packed")],
                extra_info={"paths.json": json.dumps({"paths": [listed], "paths_version": 1}).encode()}),
        package("a-link", [Entry("share/way", symlink="/etc")]),
        package("through-link", [text("share/way/passwd")]),
        package("own-link", [Entry("share/own", symlink="/etc"), text("share/own/passwd")]),
        package("set-id", [text("bin/set-id", "#!/bin/sh\n", 0o6755)]),
    ]


def main():
    """Reads the command line."""
    (out,) = sys.argv[1:]
    index = {"linux-64": {}, "noarch": {}}
    for made in packages():
        folder = os.path.join(out, made.subdir)
        os.makedirs(folder, exist_ok=True)
        index[made.subdir][made.filename] = write(made, folder)
    for subdir, records in index.items():
        repodata = {"info": {"subdir": subdir}, "packages": {}, "packages.conda": records, "repodata_version": 1}
        with open(os.path.join(out, subdir, "repodata.json"), "w", encoding="utf-8") as file:
            json.dump(repodata, file)


if __name__ == "__main__":
    main()
