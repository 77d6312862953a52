"""Debian's Python with its CPU build of torch, as a Python for `imgbuild probe --runtime host --python`.

Debian 12's torch 1.13 is older than its Python 3.11, whose iteration over flags leaves out zero: torchrun's
default for --redirects comes out as None there. Only torchrun runs through here; the ranks are plain Python.
"""

import os
import runpy
import sys


def torchrun(arguments):
    from torch.distributed.elastic.multiprocessing import Std

    told = Std.from_str
    Std.from_str = classmethod(lambda cls, text: told(text) or cls(0))
    sys.argv = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


if sys.argv[1] == "-m":
    torchrun(sys.argv[2:])
else:  # a script that starts torchrun with its own Python, which is the one that got us here
    sys.executable, sys.argv = os.environ["DEBIAN_TORCH"], sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
