"""Native libraries: Debian's debs as conda packages that work in any prefix."""

import hashlib
import os
import re
import tempfile

from .archive import Entry, Package
from .debs import LIB_DIRS
from .store import Recipe, run

# conda name: (debs, other conda packages it needs, archive format, licence)
LIBRARIES = {
    "libgcc": (["libgcc-s1"], [], ".conda", "GPL-3.0-only WITH GCC-exception-3.1"),
    "libstdcxx": (["libstdc++6"], ["libgcc"], ".conda", "GPL-3.0-only WITH GCC-exception-3.1"),
    "libzlib": (["zlib1g"], [], ".conda", "Zlib"),
    "bzip2": (["libbz2-1.0"], [], ".tar.bz2", "bzip2-1.0.6"),
    "liblzma": (["liblzma5"], [], ".conda", "0BSD"),
    "libffi": (["libffi8"], [], ".tar.bz2", "MIT"),
    "libexpat": (["libexpat1"], [], ".conda", "MIT"),
    "libuuid": (["libuuid1"], [], ".tar.bz2", "BSD-3-Clause"),
    "libxcrypt": (["libcrypt1"], [], ".conda", "LGPL-2.1-or-later"),
    "ncurses": (["libncursesw6", "libtinfo6", "ncurses-base"], [], ".conda", "X11 AND BSD-3-Clause"),
    "readline": (["libreadline8"], ["ncurses"], ".tar.bz2", "GPL-3.0-only"),
    "libsqlite": (["libsqlite3-0"], [], ".conda", "blessing"),
    "openssl": (["libssl3", "openssl"], ["ca-certificates"], ".conda", "Apache-2.0"),
}
# The libraries of Debian 11 that its Python 3.9 needs in other versions.
LIBRARIES_39 = {
    "libffi": (["libffi7"], [], ".conda", "MIT"),
    "openssl": (["libssl1.1", "openssl"], ["ca-certificates"], ".tar.bz2", "OpenSSL"),
    "mpdecimal": (["libmpdec3"], [], ".conda", "BSD-2-Clause"),
}


def is_elf(data):
    """Whether the bytes are an ELF file."""
    return data is not None and data[:4] == b"\x7fELF"


def with_rpath(data, path, keep_own=False):
    """The ELF file with its search path set to the prefix's lib/, relative to itself."""
    up = os.path.relpath("lib", os.path.dirname(path))
    rpath = "$ORIGIN" if up == "." else f"$ORIGIN/{up}"
    with tempfile.NamedTemporaryFile(prefix="elf-") as work:
        work.write(data)
        work.flush()
        if keep_own:
            own = run(["patchelf", "--print-rpath", work.name]).strip()
            rpath = f"{own}:{rpath}" if own else rpath
        # DT_RPATH, as conda-build sets it: it also serves the libraries' own dependencies.
        run(["patchelf", "--force-rpath", "--set-rpath", rpath, work.name])
        with open(work.name, "rb") as source:
            return source.read()


def conda_path(path):
    """Where a deb's file goes in a prefix, or None for what stays out."""
    for folder in LIB_DIRS:
        if path.startswith(folder):
            return "lib/" + path.removeprefix(folder)
    if path == "usr/bin/openssl":
        return "bin/openssl"
    if path in ("usr/lib/ssl/openssl.cnf", "etc/ssl/openssl.cnf"):
        return "ssl/openssl.cnf"
    if path.startswith("lib/terminfo/"):
        return "share/terminfo/" + path.removeprefix("lib/terminfo/")
    return None


def library_entries(debs):
    """(entries, licence texts) of the debs' libraries."""
    entries, licences = {}, {}
    for deb in debs:
        for path, member in deb.members().items():
            if path.endswith("/copyright") and member.data:
                licences[f"licenses/{deb.name}/copyright"] = member.data
            target = conda_path(path)
            if target is None or (member.symlink or "").startswith("/"):
                continue
            data = with_rpath(member.data, target) if is_elf(member.data) else member.data
            entries[target] = Entry(target, member.mode, member.mtime, data=data, symlink=member.symlink)
    # The name a linker looks for: libz.so beside libz.so.1.
    for path, entry in list(entries.items()):
        plain = re.match(r"(lib/[^/]+\.so)\.\d+$", path)
        if plain and plain[1] not in entries:
            entries[plain[1]] = Entry(plain[1], symlink=os.path.basename(path), mtime=entry.mtime)
    return list(entries.values()), licences


def short_hash(keys):
    """The h... part of a build string, from what the package is made of."""
    return "h" + hashlib.sha256("\n".join(keys).encode()).hexdigest()[:7]


def library_recipes(suite, table):
    """One recipe a library."""
    fetched = suite.fetch(sorted({deb for debs, *_ in table.values() for deb in debs}))
    for name, (deb_names, needs, form, licence) in table.items():
        debs = [fetched[d] for d in deb_names]
        keys = [d.key for d in debs]

        def build(name=name, debs=debs, needs=needs, form=form, licence=licence, keys=keys):
            entries, licences = library_entries(debs)
            return Package(name, debs[0].upstream, f"{short_hash(keys)}_0", entries, license=licence, format=form,
                           depends=["__glibc >=2.28,<3.0.a0", *needs], extra_info=licences,
                           summary=f"{name}, from Debian's {debs[0].name}")

        yield Recipe(name, [name, needs, form, licence, *keys], [__file__], build)


def tzdata_recipe(suite):
    """tzdata, noarch: generic: hundreds of small files and many links."""
    deb = suite.fetch(["tzdata"])["tzdata"]

    def build():
        root = "usr/share/zoneinfo/"
        entries = []
        for path, member in deb.members().items():
            if path.startswith(root) and not (member.symlink or "").startswith("/"):
                target = "share/zoneinfo/" + path.removeprefix(root)
                entries.append(Entry(target, member.mode, member.mtime, data=member.data, symlink=member.symlink))
        return Package("tzdata", deb.upstream, f"{short_hash([deb.key])}_0", entries, subdir="noarch", noarch="generic",
                       license="LicenseRef-Public-Domain", summary="The IANA time zone database")

    return Recipe("tzdata", ["tzdata", deb.key], [__file__], build)


