"""The linux-aarch64 packages: Debian's arm64 debs and PyPI's aarch64 wheels, of which nothing is run here."""

import os
from dataclasses import fields

from . import native, python_deb, wheels
from .archive import Package
from .debs import Suite
from .store import Recipe, run, say

PINS = os.path.join(os.path.dirname(__file__), "pins", "arm64.txt")
MINOR = "3.11"
TAGS = [tag.replace("x86_64", "aarch64") for tag in wheels.TAGS if "x86_64" in tag]


class Arm64Package(Package):
    """A package whose machine code is for 64-bit ARM."""

    def index(self):
        """info/index.json, as conda-build writes it."""
        return {**super().index(), "arch": "aarch64"}


class Pins(wheels.Pins):
    """The wheels for aarch64, in a folder of their own: file names of x86_64's differ in the last tag only."""

    def __init__(self, cache, pip):
        cache = os.path.join(cache, "arm64")
        missing = not os.path.isdir(os.path.join(cache, "wheels"))
        if missing:
            say("pip download of wheels (arm64.txt)")
            tags = [word for tag in TAGS for word in ("--platform", tag)]
            run([*pip, "download", "-q", "--no-deps", "--require-hashes", "--only-binary", ":all:", *tags,
                 "--python-version", MINOR, "--implementation", "cp", "--abi", "cp311", "--abi", "abi3", "-d",
                 os.path.join(cache, "wheels.new"), "-r", PINS])
            os.rename(os.path.join(cache, "wheels.new"), os.path.join(cache, "wheels"))
        super().__init__(cache, PINS, MINOR, pip)


def for_arm64(recipe):
    """The same recipe with its package in linux-aarch64; what is noarch stays what it is."""
    def build():
        package = recipe.build()
        given = {field.name: getattr(package, field.name) for field in fields(package)}
        return Arm64Package(**{**given, "subdir": "linux-aarch64"})

    sources = [*recipe.sources, __file__]
    return Recipe(f"{recipe.label} for arm64", [*recipe.inputs, "linux-aarch64"], sources, build)


def recipes(cache, interpreter, pip):
    """Python and what it needs, and a few wheels; `interpreter`, of this machine, compiles their files."""
    suite = Suite(cache, "bookworm", "arm64")
    python, _ = python_deb.recipe(cache, MINOR, suite, ".conda", interpreter)
    pins = Pins(cache, pip)
    made = [*native.library_recipes(suite, native.LIBRARIES), python]
    made += [wheels.recipe(pins, name, interpreter) for name in pins.pins]
    return [for_arm64(recipe) for recipe in made]
