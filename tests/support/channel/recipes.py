"""Which packages a channel holds."""

import os

from . import arm64, crafted, native, python_deb, wheels
from .debs import NoSuite, Suite
from .store import Recipe, say

PINS = os.path.join(os.path.dirname(__file__), "pins")
# Wheels whose package is a .tar.bz2; the others become .conda.
TAR_BZ2 = {"click", "idna", "markupsafe", "networkx", "packaging", "requests", "typing-extensions", "wheel"}
TORCH_MORE = ["__cuda", "numpy >=1.23"]


def small(cache, pip):
    """(recipes, interpreter): Python 3.11 and what it needs, a dozen wheels, the crafted packages; some for arm64."""
    suite = Suite(cache, "bookworm")
    python, interpreter = python_deb.recipe(cache, "3.11", suite, ".conda")
    pins = wheels.Pins(cache, os.path.join(PINS, "small.txt"), "3.11", pip)
    certifi = pins.wheel("certifi")
    made = [*native.library_recipes(suite, native.LIBRARIES), native.tzdata_recipe(suite), python,
            python_deb.abi_recipe("3.11"),
            Recipe("ca-certificates", [certifi.sha256], [crafted.__file__], lambda: crafted.ca_certificates(certifi))]
    for name in pins.pins:
        more = ["setuptools", "wheel"] if name == "pip" else []
        made.append(wheels.recipe(pins, name, interpreter, ".tar.bz2" if name in TAR_BZ2 else ".conda", more=more,
                                  info_last=name == "networkx"))
    return made + crafted.recipes() + arm64.recipes(cache, interpreter, pip), interpreter


def torch(cache, pip, interpreter):
    """PyTorch with its CUDA libraries, as separate packages."""
    pins = wheels.Pins(cache, os.path.join(PINS, "torch.txt"), "3.11", pip)
    cuda = ".".join(pins.pins["cuda-toolkit"][0].split(".")[:2])
    major = int(cuda.split(".", maxsplit=1)[0])
    bound = f"cuda-version >={cuda},<{major + 1}"
    made = [Recipe("cuda-version", [cuda], [crafted.__file__], lambda: crafted.cuda_version(cuda))]
    for name in pins.pins:
        build, more, noarch = None, [], None
        if name in ("torch", "torchvision"):
            build, more = f"cuda{cuda.replace('.', '')}_py311_0", [bound, *TORCH_MORE]
        elif name.startswith("nvidia-") or name in ("cuda-bindings", "triton"):
            # Machine code whatever the wheel's tag says, and at a fixed place in one Python's site-packages.
            more, noarch = [bound], False
        elif name == "cuda-toolkit":
            more = [bound]
        made.append(wheels.recipe(pins, name, interpreter, build=build, more=more, noarch=noarch))
    return made


def python39(cache, pip):
    """Python 3.9 from Debian 11, or nothing, said aloud, where the mirror no longer has it."""
    suite = Suite(cache, "bullseye")
    try:
        python, interpreter = python_deb.recipe(cache, "3.9", suite, ".tar.bz2")
    except NoSuite as reason:
        say(f"!!! NO PYTHON 3.9 IN THIS CHANNEL: {reason}")
        return []
    pins = wheels.Pins(cache, os.path.join(PINS, "py39.txt"), "3.9", pip)
    made = [*native.library_recipes(suite, native.LIBRARIES_39), python, python_deb.abi_recipe("3.9")]
    for name in pins.pins:
        more = ["setuptools", "wheel"] if name == "pip" else []
        made.append(wheels.recipe(pins, name, interpreter, more=more))
    return made


def recipes(which, cache, pip):
    """The recipes of a set: small, torch (with small) or all (with Python 3.9 too)."""
    made, interpreter = small(cache, pip)
    if which in ("torch", "all"):
        made += torch(cache, pip, interpreter)
    if which == "all":
        made += python39(cache, pip)
    return made
