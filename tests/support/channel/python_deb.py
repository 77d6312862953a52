"""CPython from Debian's debs as a conda package: relocatable, site-packages where conda has it, .pyc shipped."""

import os
import re
import shutil
import subprocess
import tempfile

from . import native, pyc
from .archive import Entry, Package, placeholder_for
from .native import is_elf, short_hash, with_rpath
from .store import Recipe, die

# Extension modules whose libraries (Berkeley DB, NIS) the channel does not carry.
LEFT_OUT = ("_dbm.", "nis.", "ossaudiodev.")
COMMON = ["bzip2 >=1.0.8,<2.0a0", "libexpat >=2.5.0,<3.0a0", "libgcc >=12", "liblzma >=5.4.1,<6.0a0",
          "libsqlite >=3.40.1,<4.0a0", "libuuid >=2.38.1,<3.0a0", "libxcrypt >=4.4.33", "libzlib >=1.2.13,<2.0.0a0",
          "ncurses >=6.4,<7.0a0", "readline >=8.2,<9.0a0", "tzdata", "__glibc >=2.28,<3.0.a0"]
DEPENDS = {
    "3.11": [*COMMON, "libffi >=3.4,<4.0a0", "openssl >=3.0,<4.0a0"],
    "3.9": [*COMMON, "libffi >=3.3,<3.4.0a0", "mpdecimal >=2.5.1,<3.0a0", "openssl >=1.1.1a,<1.1.2a"],
}


def deb_names(minor):
    """The debs that make up Python `minor`."""
    return [f"python{minor}-minimal", f"libpython{minor}-minimal", f"libpython{minor}-stdlib", f"python{minor}",
            f"libpython{minor}"]


class Interpreter:
    """A runnable Python of the channel, unpacked in the cache; it compiles .pyc files."""

    def __init__(self, cache, minor, suite):
        self.minor, self.tag = minor, "cpython-" + minor.replace(".", "")
        self.debs = suite.fetch([*deb_names(minor), "libexpat1", "zlib1g"])
        self.root = os.path.join(cache, "pythons", f"{minor}-{short_hash([d.key for d in self.debs.values()])}")

    def _unpack(self):
        if os.path.isdir(self.root):
            return
        os.makedirs(os.path.dirname(self.root), exist_ok=True)
        work = tempfile.mkdtemp(dir=os.path.dirname(self.root))
        for deb in self.debs.values():
            subprocess.run(["dpkg-deb", "-x", deb.path, work], check=True)
        try:
            os.rename(work, self.root)
        except OSError:
            shutil.rmtree(work)

    def popen(self, arguments):
        """Starts the interpreter with pipes on both sides and nothing of the machine's Python in it."""
        self._unpack()
        libs = ":".join(os.path.join(self.root, d) for d in ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"))
        environment = {"PATH": "/usr/bin:/bin", "LD_LIBRARY_PATH": libs, "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
        command = [os.path.join(self.root, "usr/bin", "python" + self.minor), "-I", "-S", "-B", "-W", "ignore"]
        return subprocess.Popen(command + arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


def patched(text, pattern, replacement, what):
    """The text with exactly one occurrence replaced."""
    text, count = re.subn(pattern, replacement, text, count=1, flags=re.DOTALL)
    if count != 1:
        die(f"Debian's Python is not as expected: cannot undo its patch of {what}")
    return text


def undebianised(path, data, minor, placeholder):
    """(contents, placeholder or None) of a standard library file with Debian's own paths taken out."""
    name = os.path.basename(path)
    if path == f"lib/python{minor}/site.py":
        upstream = (
            '            for libdir in libdirs:\n'
            '                path = os.path.join(prefix, libdir,\n'
            '                                    "python%d.%d" % sys.version_info[:2],\n'
            '                                    "site-packages")\n'
            '                sitepackages.append(path)\n')
        text = patched(data.decode(),
                       r"            if (?:is_virtual_environment|'VIRTUAL_ENV' in os\.environ)[^\n]*:\n.*?"
                       r"(        else:\n            sitepackages\.append\(prefix\)\n)",
                       lambda found: upstream + found[1], path)
        return text.encode(), None
    if path == f"lib/python{minor}/distutils/command/install.py":
        return data.replace(b'select_scheme("unix_local")', b'select_scheme("unix_prefix")'), None
    if path == f"lib/python{minor}/sysconfig.py" and b"posix_local" in data:
        text = data.decode()
        text = patched(text, r"    'deb_system': \{.*?    'posix_home': \{", "    'posix_home': {", path)
        text = patched(text, r", 'posix_local', 'deb_system'\)", ")", path)
        text = patched(text, r"    if sys\.base_prefix != sys\.prefix or hasattr\(sys, \"real_prefix\"\):\n.*?"
                             r"prefix_scheme = 'posix_local'\n", "    prefix_scheme = 'posix_prefix'\n", path)
        return text.encode(), None
    if re.fullmatch(r"_sysconfigdata__.*\.py", name):
        text = re.sub(r"/usr/lib/(x86_64|aarch64)-linux-gnu", "/usr/lib", data.decode())
        text = re.sub(r"(?<![\w.])/usr(?!/bin/)(?=[/' ])", placeholder, text)
        return text.encode(), placeholder
    return data, None


def standard_library(debs, minor, placeholder):
    """The entries below lib/pythonX.Y, the interpreter and its shared library."""
    entries = {}
    for deb in debs:
        for path, member in deb.members().items():
            if path.startswith(f"usr/lib/python{minor}/"):
                target = path.removeprefix("usr/")
                name = os.path.basename(target)
                if name in ("EXTERNALLY-MANAGED", "sitecustomize.py") or "/config-" in target:
                    continue
                if "/lib-dynload/" in target and name.startswith(LEFT_OUT):
                    continue
            elif path == f"usr/bin/python{minor}":
                target = f"bin/python{minor}"
            elif re.match(r"usr/lib/[^/]+-linux-gnu/libpython[^/]*$", path):
                target = "lib/" + os.path.basename(path)
            elif re.match(r"usr/share/man/man1/py[^/]*\.gz$", path):
                target = path.removeprefix("usr/")
            else:
                continue
            data, found = member.data, None
            if is_elf(data):
                # site.py is also frozen into the interpreter since 3.11. The two names are of one length.
                data = with_rpath(data.replace(b"dist-packages\0", b"site-packages\0"), target)
            elif data is not None:
                data, found = undebianised(target, data, minor, placeholder)
            entries[target] = Entry(target, member.mode, member.mtime, data=data, symlink=member.symlink,
                                    placeholder=found)
    return entries


def recipe(cache, minor, suite, form, interpreter=None):
    """The recipe of `python` for one minor version; `interpreter` compiles it where its own cannot run here."""
    interpreter = interpreter or Interpreter(cache, minor, suite)
    fetched = suite.fetch(deb_names(minor))
    debs = [fetched[n] for n in deb_names(minor)]
    debs.append(suite.fetch(["python3-distutils"])["python3-distutils"])
    keys = [d.key for d in debs]
    abi = "cp" + minor.replace(".", "")

    def build():
        placeholder = placeholder_for("python-split")
        entries = standard_library(debs, minor, placeholder)
        when = entries[f"bin/python{minor}"].mtime
        lib = f"lib/python{minor}"
        for link, goal in (("python", f"python{minor}"), ("python3", f"python{minor}"), ("pydoc", f"pydoc{minor}"),
                           ("pydoc3", f"pydoc{minor}")):
            entries[f"bin/{link}"] = Entry(f"bin/{link}", mtime=when, symlink=goal)
        entries[f"lib/libpython{minor}.so"] = Entry(f"lib/libpython{minor}.so", mtime=when,
                                                    symlink=f"libpython{minor}.so.1.0")
        pydoc = f"#!{placeholder}/bin/python{minor}\n\nimport pydoc\nif __name__ == '__main__':\n    pydoc.cli()\n"
        entries[f"bin/pydoc{minor}"] = Entry(f"bin/pydoc{minor}", 0o755, when, data=pydoc.encode(),
                                             placeholder=placeholder)
        readme = f"{lib}/site-packages/README.txt"
        entries[readme] = Entry(readme, mtime=when, data=b"This directory exists so that 3rd party packages can be "
                                                         b"installed\nhere.  Read the source for site.py for more "
                                                         b"details.\n")
        everything = list(entries.values())
        everything += pyc.compiled(interpreter, everything)
        return Package("python", debs[0].upstream, f"{short_hash(keys)}_0_cpython", everything,
                       depends=DEPENDS[minor], constrains=[f"python_abi {minor}.* *_{abi}"], license="Python-2.0",
                       summary="General purpose programming language", home="https://www.python.org/", format=form)

    sources = [__file__, native.__file__, pyc.__file__]
    return Recipe(f"python {minor}", [minor, form, *keys], sources, build), interpreter


def abi_recipe(minor):
    """python_abi: a package without any file."""
    abi = "cp" + minor.replace(".", "")

    def build():
        return Package("python_abi", minor, f"8_{abi}", [], subdir="noarch", noarch="generic",
                       constrains=[f"python {minor}.* *_cpython"], license="BSD-3-Clause",
                       summary="Metapackage to select python implementation")

    return Recipe(f"python_abi {minor}", [minor], [__file__], build)
