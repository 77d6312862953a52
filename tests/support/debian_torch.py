"""Debian's Python with its CPU build of torch, as a Python for `imgbuild probe --runtime host --python`.

Debian 12's torch 1.13 is older than its Python 3.11, whose iteration over flags leaves out zero: torchrun's
default for --redirects comes out as None there. Only torchrun runs through here; the ranks are plain Python.

With TORCHRUN_IS_LATE set, it sees that a rank has ended only when all have: it would look every five seconds, and end
the others then, which may be before they have said themselves that a peer is gone.
"""

import os
import runpy
import sys


def look_late():
    from torch.distributed.elastic.agent.server import api, local_elastic_agent

    agent = local_elastic_agent.LocalElasticAgent
    look = agent._monitor_workers

    def late(self, group):
        ranks = self._pcontext.subprocess_handlers.values()
        if any(rank.proc.poll() is None for rank in ranks):
            return api.RunResult(state=api.WorkerState.HEALTHY)
        return look(self, group)

    agent._monitor_workers = late


def torchrun(arguments):
    from torch.distributed.elastic.multiprocessing import Std

    told = Std.from_str
    Std.from_str = classmethod(lambda cls, text: told(text) or cls(0))
    if os.environ.get("TORCHRUN_IS_LATE"):
        look_late()
    sys.argv = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


if sys.argv[1] == "-m":
    torchrun(sys.argv[2:])
else:  # a script that starts torchrun with its own Python, which is the one that got us here
    sys.executable, sys.argv = os.environ["DEBIAN_TORCH"], sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
