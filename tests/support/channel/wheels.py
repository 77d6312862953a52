"""Wheels as conda packages: noarch: python ones and, for wheels with machine code, ones for a Python version."""

import configparser
import email.parser
import glob
import os
import re
import zipfile
from datetime import datetime, timezone

from . import pyc
from .archive import Entry, Package, placeholder_for
from .store import Recipe, die, file_sha256, run, say

# Python names that conda-forge spells another way.
CONDA_NAMES = {
    "torch": "pytorch", "nvidia-cublas": "libcublas", "nvidia-cuda-cccl": "cuda-cccl",
    "nvidia-cuda-cupti": "cuda-cupti", "nvidia-cuda-nvrtc": "cuda-nvrtc", "nvidia-cuda-runtime": "cuda-cudart",
    "nvidia-cudnn-cu13": "cudnn", "nvidia-cufft": "libcufft", "nvidia-cufile": "libcufile",
    "nvidia-cusolver": "libcusolver", "nvidia-cusparse": "libcusparse", "nvidia-cusparselt-cu13": "cusparselt",
    "nvidia-nccl-cu13": "nccl", "nvidia-nvjitlink": "libnvjitlink", "nvidia-nvshmem-cu13": "libnvshmem",
    "nvidia-nvtx": "cuda-nvtx", "typing-extensions": "typing_extensions",
}
TAGS = [f"manylinux_2_{n}_x86_64" for n in range(5, 37)] + ["manylinux1_x86_64", "manylinux2010_x86_64",
                                                          "manylinux2014_x86_64"]


def conda_name(name):
    """The conda name of a Python project."""
    name = re.sub(r"[-_.]+", "-", name).lower()
    return CONDA_NAMES.get(name, name)


class Pins:
    """The wheels of one pins file, downloaded into the cache."""

    def __init__(self, cache, pins_file, minor, pip):
        self.folder, self.minor = os.path.join(cache, "wheels"), minor
        os.makedirs(self.folder, exist_ok=True)
        with open(pins_file, encoding="utf-8") as source:
            lines = re.findall(r"^(\S+)==(\S+) --hash=sha256:(\w+)$", source.read(), re.MULTILINE)
        self.pins = {name: (version, sha256) for name, version, sha256 in lines}
        if any(self._find(name) is None for name in self.pins):
            say(f"pip download of {len(self.pins)} wheels ({os.path.basename(pins_file)})")
            short = minor.replace(".", "")
            tags = [word for tag in TAGS for word in ("--platform", tag)]
            run([*pip, "download", "-q", "--no-deps", "--require-hashes", "--only-binary", ":all:", *tags,
                 "--python-version", minor, "--implementation", "cp", "--abi", f"cp{short}", "--abi", "abi3", "--abi",
                 "none", "-d", self.folder, "-r", pins_file])

    def _find(self, name):
        version = self.pins[name][0]
        stem = re.sub(r"[-_.]+", "_", name)
        short = self.minor.replace(".", "")
        found = [w for w in glob.glob(os.path.join(self.folder, f"*-{version}-*.whl"))
                 if re.sub(r"[-_.]+", "_", os.path.basename(w).split("-")[0]).lower() == stem
                 and re.search(rf"-(py2\.py3|py3|cp{short})-", w)]
        return found[0] if found else None

    def wheel(self, name):
        """The wheel of a pinned project."""
        path = self._find(name)
        if path is None:
            die(f"pip did not bring the wheel of {name}")
        return Wheel(name, path, self.pins[name][1], self.minor)


def marker_holds(marker, minor, extra=""):
    """Whether a requirement's marker is true on x86-64 Linux with CPython `minor`."""
    facts = {"python_version": minor, "python_full_version": minor + ".0", "sys_platform": "linux", "os_name": "posix",
             "platform_system": "Linux", "platform_machine": "x86_64", "implementation_name": "cpython",
             "platform_python_implementation": "CPython", "extra": extra}
    numbers = lambda text: tuple(int(n) for n in re.findall(r"\d+", text))

    def one(found):
        left, relation, right = found.groups()
        left, right = (v.strip("'\"") if v[0] in "'\"" else facts[v] for v in (left, right))
        if re.fullmatch(r"[\d.]+", left) and re.fullmatch(r"[\d.]+", right):
            left, right = numbers(left), numbers(right)
        if relation == "in":
            return str(left in right)
        return str({"==": left == right, "!=": left != right, "<": left < right, "<=": left <= right,
                    ">": left > right, ">=": left >= right}[relation])

    word = r"('[^']*'|\"[^\"]*\"|[a-z_]+)"
    reduced = re.sub(word + r"\s*(==|!=|<=|>=|<|>|\bin\b)\s*" + word, one, marker)
    if not re.fullmatch(r"(True|False|and|or|not|[()\s])+", reduced):
        die(f"cannot judge the marker {marker!r}")
    return eval(reduced, {"__builtins__": {}})  # only True, False, and, or, not and brackets are left


class Wheel:
    """One wheel file."""

    def __init__(self, name, path, sha256, minor):
        self.name, self.path, self.sha256, self.minor = name, path, sha256, minor
        self.zip = zipfile.ZipFile(path)
        self.dist_info = next(n.split("/")[0] for n in self.zip.namelist() if n.endswith(".dist-info/METADATA"))
        self.metadata = email.parser.BytesParser().parsebytes(self.zip.read(f"{self.dist_info}/METADATA"))
        self.pure = b"Root-Is-Purelib: true" in self.zip.read(f"{self.dist_info}/WHEEL") and path.endswith("-any.whl")

    @property
    def version(self):
        """The version, local part left out."""
        return self.metadata["Version"].split("+")[0]

    def console_scripts(self):
        """["name = module:function"] of the wheel's entry points."""
        try:
            text = self.zip.read(f"{self.dist_info}/entry_points.txt").decode()
        except KeyError:
            return []
        parser = configparser.ConfigParser(delimiters=("=",), interpolation=None)
        parser.optionxform = str
        parser.read_string(text)
        return [f"{name} = {goal}" for name, goal in parser["console_scripts"].items()] \
            if parser.has_section("console_scripts") else []

    def depends(self, pins, extra=""):
        """Conda match specs of Requires-Dist; an extra of another project brings that project's own requirements."""
        specs = set()
        for line in self.metadata.get_all("Requires-Dist") or []:
            requirement, _, marker = line.partition(";")
            if marker and not marker_holds(marker, self.minor, extra):
                continue
            if extra and "extra" not in marker:
                continue
            shape = r"([\w.-]+)\s*(?:\[([^]]*)\])?\s*\(?([^)]*)\)?"
            name, extras, versions = re.match(shape, requirement.strip()).groups()
            # 2.* after == is a prefix for pip; conda writes it 2.*
            versions = re.sub(r"===?\s*([\w.]+\.\*)", r"\1", versions).replace(" ", "")
            specs.add(f"{conda_name(name)} {versions}".strip())
            key = re.sub(r"[-_.]+", "-", name).lower()
            for wanted in filter(None, (extras or "").replace(" ", "").split(",")):
                if key in pins.pins:
                    specs |= pins.wheel(key).depends(pins, wanted)
        return specs

    def requires_python(self):
        """The lower bound of Requires-Python as conda writes it."""
        found = re.search(r">=?\s*([\d.]+)", self.metadata.get("Requires-Python") or "")
        return f"python >={found[1]}" if found else "python"

    def entries(self, site, scripts, placeholder):
        """The wheel's files under `site`, its data folder's under the prefix."""
        made = []
        for item in self.zip.infolist():
            if item.is_dir() or item.filename.endswith(".pyc"):  # a few wheels ship a stray one
                continue
            path, mark, data, opener = item.filename, None, None, lambda item=item: self.zip.open(item)
            mode = 0o755 if (item.external_attr >> 16) & 0o111 else 0o644
            found = re.match(r"[^/]+\.data/(purelib|platlib|scripts|data|headers)/(.*)", path)
            if found and found[1] == "scripts":
                path, mode, data = f"{scripts}/{found[2]}", 0o755, self.zip.read(item)
                if data.startswith(b"#!python"):
                    data, mark = data.replace(b"#!python", f"#!{placeholder}/bin/python".encode(), 1), placeholder
            elif found and found[1] == "data":
                path = found[2]
            elif found and found[1] == "headers":
                path = f"include/{self.name}/{found[2]}"
            else:
                path = f"{site}/{found[2] if found else path}"
            when = int(datetime(*item.date_time, tzinfo=timezone.utc).timestamp())
            made.append(Entry(path, mode, when, data=data, opener=None if data is not None else opener,
                              size=item.file_size, placeholder=mark))
        stamp = max(e.mtime for e in made)
        made.append(Entry(f"{site}/{self.dist_info}/INSTALLER", mtime=stamp, data=b"conda\n"))
        return [e for e in made if not e.path.endswith(".dist-info/INSTALLER") or e.data == b"conda\n"]


def script_entry(line, placeholder, mtime):
    """bin/<name> for an entry point of an arch-specific package, as conda-build writes it."""
    name, goal = (part.strip() for part in line.split("=", 1))
    module, _, function = re.sub(r"\s*\[.*\]", "", goal).partition(":")
    text = (f"#!{placeholder}/bin/python\n# -*- coding: utf-8 -*-\nimport re\nimport sys\n\n"
            f"from {module} import {function.split('.')[0]}\n\nif __name__ == '__main__':\n"
            f"    sys.argv[0] = re.sub(r'(-script\\.pyw?|\\.exe)?$', '', sys.argv[0])\n    sys.exit({function}())\n")
    return Entry(f"bin/{name}", 0o755, mtime, data=text.encode(), placeholder=placeholder)


def recipe(pins, name, interpreter, form=".conda", build=None, more=(), info_last=False, noarch=None):
    """The recipe of one wheel. `more` adds dependencies that only conda knows of."""
    wheel = pins.wheel(name)
    noarch = wheel.pure if noarch is None else noarch
    minor, short = pins.minor, pins.minor.replace(".", "")
    depends = sorted(wheel.depends(pins) | set(more))
    if noarch:
        depends.append(wheel.requires_python())
        build = build or "pyhd8ed1ab_0"
    else:
        upper = f"{minor.split('.')[0]}.{int(minor.split('.')[1]) + 1}.0a0"
        depends += [f"python >={minor},<{upper}", f"python_abi {minor}.* *_cp{short}", "libgcc >=12", "libstdcxx >=12",
                    "__glibc >=2.28,<3.0.a0"]
        build = build or f"py{short}h{wheel.sha256[:7]}_0"

    def make():
        if file_sha256(wheel.path) != wheel.sha256:
            die(f"{wheel.path} is damaged: delete it and run again")
        placeholder = placeholder_for(conda_name(name))
        site = "site-packages" if noarch else f"lib/python{minor}/site-packages"
        entries = wheel.entries(site, "python-scripts" if noarch else "bin", placeholder)
        scripts = wheel.console_scripts()
        if not noarch:
            stamp = max(e.mtime for e in entries)
            entries += [script_entry(line, placeholder, stamp) for line in scripts]
            entries += pyc.compiled(interpreter, entries)
        return Package(conda_name(name), wheel.version, build, entries, subdir="noarch" if noarch else "linux-64",
                       noarch="python" if noarch else None, depends=depends,
                       entry_points=scripts if noarch else [], license=wheel.metadata.get("License-Expression") or
                       "LicenseRef-See-Metadata", summary=wheel.metadata.get("Summary") or "", format=form,
                       home=wheel.metadata.get("Home-page") or "", info_last=info_last)

    inputs = [name, wheel.sha256, form, build, depends, info_last, bool(noarch), interpreter.root.rsplit("/", 1)[-1]]
    return Recipe(conda_name(name), inputs, [__file__, pyc.__file__], make)
