"""Tiny packages, each with one thing that a linker can get wrong."""

import struct
import tarfile

from .archive import Entry, Package, placeholder_for
from .store import Recipe

LONG = "share/names-demo/" + "/".join(["a-folder-with-a-rather-long-name"] * 3) + "/file.txt"  # over 100 bytes
LONGER = "share/names-demo/" + "/".join(["a-folder-with-a-rather-long-name"] * 8) + "/file.txt"  # over 255 bytes


def text(path, content, mode=0o644, **more):
    """A text file entry."""
    return Entry(path, mode, data=content.encode(), **more)


def printing_elf(message):
    """A static x86-64 program, assembled by hand, that prints the C string `message`."""
    code = bytes.fromhex(
        "488d3500000000"  # lea rsi, [rip + message], filled in below
        "31d2" "803c1600" "7405" "48ffc2" "ebf5"  # rdx = strlen(rsi)
        "b801000000" "bf01000000" "0f05"  # write(1, rsi, rdx)
        "b83c000000" "31ff" "0f05")  # exit(0)
    start, base = 64 + 56, 0x400000
    code = code[:3] + struct.pack("<i", len(code) - 7) + code[7:]
    body = code + message + b"\0"
    size = start + len(body)
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack(
        "<HHIQQQIHHHHHH", 2, 62, 1, base + start, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return header + struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000) + body


def hello(version, form):
    """The dead-simple one."""
    return Package("hello-demo", version, "0", [
        text("bin/hello-demo", f"#!/bin/sh\necho 'hello from hello-demo {version}'\n", 0o755),
        text("share/hello-demo/version.txt", version + "\n"),
    ], format=form, license="MIT", summary="Says hello")


def prefix():
    """Placeholders in text and in binaries: once, twice in a string, in a shebang, in a hard-linked pair."""
    mark = placeholder_for("prefix-demo")
    raw = mark.encode()
    as_text = {"placeholder": mark, "file_mode": "text"}
    as_binary = {"placeholder": mark, "file_mode": "binary"}
    twice = b"\x00\x01PATH=" + raw + b"/bin:" + raw + b"/sbin\0tail\xff\xfe" + b"/opt\0" + raw + b"\0end\x80"
    return Package("prefix-demo", "1.0", "h1a2b3c4_0", [
        text("etc/prefix-demo.conf", f"root = {mark}\nlib = {mark}/lib:{mark}/lib64\nplain = /usr/lib\n", **as_text),
        text("etc/prefix-demo-crlf.conf", f"root = {mark}\r\n\r\nend", **as_text),
        text("etc/prefix-demo-none.conf", "declares a placeholder and holds none\n", **as_text),
        text("bin/prefix-demo-sh", f"#!/bin/sh\nexec cat {mark}/etc/prefix-demo.conf\n", 0o755, **as_text),
        text("bin/prefix-demo-py", f"#!{mark}/bin/python -s\nprint('{mark}')\n", 0o755, **as_text),
        Entry("bin/prefix-demo-show", 0o755, data=printing_elf(raw + b"/share/prefix-demo"), **as_binary),
        Entry("lib/prefix-demo/twice.bin", 0o644, data=twice, **as_binary),
        Entry("lib/prefix-demo/twice.linked.bin", hardlink="lib/prefix-demo/twice.bin"),
        text("share/prefix-demo/untouched.txt", f"no placeholder is declared here: {mark}\n"),
    ], license="MIT", summary="Prefix placeholders")


def links(form):
    """Hard and soft links."""
    return Package("links-demo", "1.0", "0", [
        text("lib/links-demo/real.txt", "one file, three names\n"),
        Entry("lib/links-demo/same.txt", hardlink="lib/links-demo/real.txt"),
        Entry("share/links-demo/also-same.txt", hardlink="lib/links-demo/real.txt"),
        Entry("lib/links-demo/soft.txt", symlink="real.txt"),
        Entry("lib/links-demo/soft-of-soft.txt", symlink="soft.txt"),
        Entry("share/links-demo/up.txt", symlink="../../lib/links-demo/real.txt"),
        Entry("share/links-demo/folder", symlink="../../lib/links-demo"),
        Entry("share/links-demo/dangling", symlink="nowhere/at-all"),
    ], format=form, license="MIT", summary="Hard and soft links")


def modes():
    """Modes, mtimes, an empty file."""
    files = [text(f"share/modes-demo/m{mode:04o}", f"mode {mode:04o}\n", mode)
             for mode in (0o444, 0o600, 0o640, 0o644, 0o664, 0o700, 0o755, 0o775)]
    return Package("modes-demo", "1.0", "0", [
        *files, Entry("share/modes-demo/zero", data=b""),
        Entry("share/modes-demo/from-1980", data=b"mtime of a zip\n", mtime=315_532_800),
    ], format=".tar.bz2", license="MIT", summary="File modes, an empty file")


def empty_dir():
    """An empty directory, which conda makes; rattler 0.55 fails to link it, so it is on its own."""
    return Package("empty-dir-demo", "1.0", "0", [
        text("share/empty-dir-demo/file.txt", "beside an empty directory\n"),
        Entry("share/empty-dir-demo/empty", 0o755, directory=True),
    ], license="MIT", summary="Has an empty directory")


def activate():
    """Activation: scripts, their undoing, and variables as JSON."""
    return Package("activate-demo", "1.0", "0", [
        text("etc/conda/activate.d/activate-demo.sh",
             'export ACTIVATE_DEMO="on in ${CONDA_PREFIX}"\nexport ACTIVATE_DEMO_OLD_PATH="${PATH}"\n'),
        text("etc/conda/deactivate.d/activate-demo.sh", "unset ACTIVATE_DEMO ACTIVATE_DEMO_OLD_PATH\n"),
        text("etc/conda/env_vars.d/activate-demo.json", '{"ACTIVATE_DEMO_VAR": "from json"}\n'),
    ], license="MIT", summary="Activation scripts")


def noarch_python():
    """noarch: python with entry points, a script, data beside site-packages."""
    mark = placeholder_for("noarch-demo")
    return Package("noarch-demo", "1.0", "pyhd8ed1ab_0", [
        text("site-packages/noarch_demo/__init__.py", '"""A noarch package."""\n\n__version__ = "1.0"\n'),
        text("site-packages/noarch_demo/cli.py",
             "import sys\n\n\ndef main():\n    print('noarch-demo', sys.prefix)\n\n\n"
             "class App:\n    @staticmethod\n    def run():\n        print('app', sys.prefix)\n"),
        text("site-packages/noarch_demo-1.0.dist-info/METADATA",
             "Metadata-Version: 2.1\nName: noarch-demo\nVersion: 1.0\n"),
        text("site-packages/noarch_demo-1.0.dist-info/INSTALLER", "conda\n"),
        text("python-scripts/noarch-demo-script", f"#!{mark}/bin/python\nprint('script')\n", 0o755, placeholder=mark),
        text("share/noarch-demo/data.txt", "data\n"),
    ], subdir="noarch", noarch="python", depends=["python >=3.9"], license="MIT", summary="noarch: python",
        entry_points=["noarch-demo = noarch_demo.cli:main", "noarch-demo-app = noarch_demo.cli:App.run"])


def clobber(which, form):
    """Two packages that ship one path with other content, and one path with the same."""
    return Package(f"clobber-{which}", "1.0", "0", [
        text("share/clobber/who.txt", f"from clobber-{which}\n"),
        text("share/clobber/same.txt", "the same in both\n"),
        text(f"share/clobber/only-{which}.txt", f"only in clobber-{which}\n"),
    ], format=form, license="MIT", summary=f"Half {which} of a clobbering pair")


def post_link():
    """Scripts that conda would run after linking and before unlinking."""
    return Package("post-link-demo", "1.0", "0", [
        text("bin/.post-link-demo-post-link.sh",
             '#!/bin/bash\necho ran > "${PREFIX}/post-link-demo.txt"\necho done >> "${PREFIX}/.messages.txt"\n', 0o755),
        text("bin/.post-link-demo-pre-unlink.sh", '#!/bin/bash\nrm -f "${PREFIX}/post-link-demo.txt"\n', 0o755),
        text("share/post-link-demo/readme.txt", "has a post-link script\n"),
    ], license="MIT", summary="Has a post-link script")


def generic():
    """noarch: generic."""
    return Package("generic-demo", "1.0", "0", [text("share/generic-demo/data.txt", "generic\n"),
                                               text("site-packages/not-mapped.txt", "stays where it is\n")],
                   subdir="noarch", noarch="generic", format=".tar.bz2", license="MIT", summary="noarch: generic")


def names(version, form, tar_format):
    """File names that a tar header has no room for, or that are not ASCII."""
    return Package("names-demo", version, "0", [
        text(LONG, "a path of over 100 bytes\n"), text(LONGER, "a path of over 255 bytes\n"),
        text("share/names-demo/größe-日本語-🐍.txt", "unicode\n"), text("share/names-demo/with space.txt", "a space\n"),
        Entry("share/names-demo/long-link", symlink="/".join(LONGER.split("/")[2:])),
    ], format=form, tar_format=tar_format, license="MIT", summary="Long and unusual file names")


def variant(build, depends, feature=None):
    """One package in a CPU and a CUDA build: the solver chooses by __cuda."""
    return Package("variant-demo", "1.0", build, [text("share/variant-demo/build.txt", build + "\n")], depends=depends,
                   track_features=feature, license="MIT", summary="Comes for CPU and for CUDA")


def unsatisfiable():
    """Asks for a Python that no channel here has."""
    return Package("unsatisfiable-demo", "1.0", "0", [text("share/unsatisfiable-demo/x", "x\n")],
                   depends=["python 2.7.*"], license="MIT", summary="Cannot be installed")


def info_last():
    """info/ at the end of the archive, where old conda-build put it."""
    return Package("info-last-demo", "1.0", "0", [text("share/info-last-demo/x.txt", "x\n"), text("zzz.txt", "z\n")],
                   format=".tar.bz2", info_last=True, license="MIT", summary="Has info/ last")


def ca_certificates(wheel):
    """The certificates of certifi's wheel, and a variable that makes Debian's OpenSSL find them."""
    bundle = wheel.zip.read("certifi/cacert.pem")
    return Package("ca-certificates", wheel.version.replace(".post1", ""), "hbd8a1cb_0", [
        Entry("ssl/cacert.pem", data=bundle), Entry("ssl/cert.pem", symlink="cacert.pem"),
        text("etc/conda/activate.d/ca-certificates.sh", 'export SSL_CERT_FILE="${CONDA_PREFIX}/ssl/cacert.pem"\n'),
        text("etc/conda/deactivate.d/ca-certificates.sh", "unset SSL_CERT_FILE\n"),
    ], subdir="noarch", noarch="generic", license="ISC", summary="Certificates for use with other packages")


def cuda_version(version):
    """conda-forge's metapackage that ties the CUDA libraries to what the driver can run."""
    return Package("cuda-version", version, "hbda6634_3", [], subdir="noarch", noarch="generic",
                   constrains=[f"__cuda >={version.split('.')[0]}", f"cudatoolkit {version}|{version}.*"],
                   license="LicenseRef-NVIDIA-End-User-License-Agreement", summary="Which CUDA the packages are for")


def recipes():
    """All of them."""
    made = {
        "hello-demo 1.0": lambda: hello("1.0", ".tar.bz2"), "hello-demo 1.1": lambda: hello("1.1", ".conda"),
        "prefix-demo": prefix, "links-demo": lambda: links(".tar.bz2"), "modes-demo": modes,
        "empty-dir-demo": empty_dir, "activate-demo": activate, "noarch-demo": noarch_python,
        "clobber-a": lambda: clobber("a", ".conda"),
        "clobber-b": lambda: clobber("b", ".tar.bz2"), "post-link-demo": post_link, "generic-demo": generic,
        "names-demo 1.0": lambda: names("1.0", ".tar.bz2", tarfile.GNU_FORMAT),
        "names-demo 1.1": lambda: names("1.1", ".conda", tarfile.PAX_FORMAT),
        "variant-demo cuda": lambda: variant("cuda130_0", ["__cuda >=13"]),
        "variant-demo cpu": lambda: variant("cpu_0", [], feature="variant-demo-cpu"),
        "unsatisfiable-demo": unsatisfiable, "info-last-demo": info_last,
    }
    return [Recipe(label, [label], [__file__], build) for label, build in made.items()]
