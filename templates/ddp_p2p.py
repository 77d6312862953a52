"""Whether a collective that hangs over P2P ends without it. See ddp_probe.py.

Behind PCIe's access control services (ACS), or an IOMMU that translates, what one GPU writes to another goes astray
and NCCL waits for ever (NCCL user guide, Troubleshooting, PCI Access Control Services). The ranks that hang start a
second process each, which meet through the store of the first and talk without P2P: when those end, P2P is the cause.
All of them are needed, so a rank that is merely stopped is never taken for this.

As a program: ddp_p2p.py RANK WORLD DEVICE BACKEND SECONDS, with MASTER_ADDR and MASTER_PORT in the environment.
"""

import datetime
import os
import re
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # PYTHONSAFEPATH leaves it out

from ddp_machine import torch
from ddp_report import attempt, shorten
from ddp_speed import read_log

if torch is not None:
    import torch.distributed as dist

WITHOUT = {"NCCL_P2P_DISABLE": "1"}
LONGEST, SHORTEST = 40, 10  # seconds; the process group's own limit comes later, the job's may come earlier


def p2p_channels(log, limit=4):
    """The lines of an NCCL log that tell of channels over P2P."""
    return [shorten(line) for line in log.splitlines() if re.search(r"Channel \d+.* via P2P", line)][:limit]


def look_again(run):
    """A stall's code, `stall` or `p2p`, and what speaks for it; called while the main thread hangs."""
    channels = p2p_channels(attempt(read_log) or "") if run.gpu else []
    left = run.args.timeout - (time.monotonic() - run.started) - 5
    if run.world == 1 or not channels or left < SHORTEST:
        return "stall", channels
    begun = time.monotonic()
    if ends_without_p2p(run, min(LONGEST, left)):
        seconds = time.monotonic() - begun
        return "p2p", [f"with NCCL_P2P_DISABLE=1 the same ranks' collectives ended within {seconds:.0f} s", *channels]
    return "stall", ["with NCCL_P2P_DISABLE=1 the collectives did not end either, or not every rank came", *channels]


def ends_without_p2p(run, seconds):
    """Whether this rank's second process, and so every rank's, comes through its collectives in time."""
    device = run.device.index if run.device.type == "cuda" else -1
    words = [run.rank, run.world, device, run.args.backend, seconds]
    command = [sys.executable, os.path.abspath(__file__), *map(str, words)]
    child = subprocess.Popen(command, env={**os.environ, **WITHOUT}, stdout=subprocess.DEVNULL)
    limit = time.monotonic() + seconds
    while child.poll() is None and time.monotonic() < limit and not run.signalled(0.25):
        pass
    child.kill()
    return child.wait() == 0


def collectives(rank, world, device, backend, seconds):
    """The collectives that the probe begins with; raises or hangs where they fail."""
    limit = datetime.timedelta(seconds=seconds)
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, world, False, limit, wait_for_workers=False)
    store = dist.PrefixStore("imgbuild-without-p2p", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=limit)
    if device >= 0:
        torch.cuda.set_device(device)
    mine = torch.full((1 << 20,), rank, dtype=torch.int64, device="cpu" if device < 0 else f"cuda:{device}")
    parts = [torch.empty_like(mine) for _ in range(world)]
    dist.all_gather(parts, mine)
    dist.all_reduce(mine)
    if not bool((mine == sum(range(world))).all()) or any(int(part[-1]) != at for at, part in enumerate(parts)):
        raise SystemExit("wrong values")
    store.add("done", 1)
    while store.add("done", 0) < world:  # a rank that leaves takes along what the others still read
        time.sleep(0.1)


if __name__ == "__main__":
    collectives(*map(int, sys.argv[1:4]), sys.argv[4], float(sys.argv[5]))
    os._exit(0)  # closing a communicator can hang, and nothing is to be said
