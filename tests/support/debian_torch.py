"""Debian's Python with its CPU build of torch, as a Python for `imgbuild probe --runtime host --python`.

Debian 12's torch 1.13 is older than its Python 3.11, whose iteration over flags leaves out zero: torchrun's
default for --redirects comes out as None there. Only torchrun runs through here; the ranks are plain Python.
"""

import runpy
import sys

from torch.distributed.elastic.multiprocessing import Std

told = Std.from_str
Std.from_str = classmethod(lambda cls, text: told(text) or cls(0))
assert sys.argv[1] == "-m", sys.argv
sys.argv = sys.argv[2:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
