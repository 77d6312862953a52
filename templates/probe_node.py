"""One node's part of a probe on several machines: torchrun over the probe's files, between a first and a last line.

`imgbuild probe --emit` puts it into what it writes. The engine says which node this is (its own variable) and where
the first one is (MASTER_ADDR, MASTER_PORT); `imgbuild probe --read` judges what all nodes printed. Standard library
alone, Python 3.8+; the arguments are Python's own: -m torch.distributed.run ...
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

BEGIN_MARK, END_MARK = "IMGBUILD_PROBE_NODE", "IMGBUILD_PROBE_END"
INDEX = {"slurm": "SLURM_NODEID", "pytorchjob": "RANK"}
NAMES = ("IMGBUILD_PROBE_NODE_NAME", "SLURMD_NODENAME")
EXIT_TIMED_OUT, EXIT_STOPPED = 124, 143
GRACE = 15  # seconds for ranks to say where they are


class StoppedError(Exception):
    """The engine ends the job."""


def stopped(*_):
    raise StoppedError


def resolve(host, seconds):
    """Wait until the first node's name resolves: a pod's does some time after it began, and torch asks only once."""
    limit = time.monotonic() + seconds
    while True:
        try:
            return socket.getaddrinfo(host, None)
        except OSError as error:
            if time.monotonic() > limit:
                raise SystemExit(f"the first node's name does not resolve: {host}: {error}") from error
        time.sleep(1)


def launch(command, folder, limit):
    """The exit status of torchrun, which ends itself long before the limit unless it is wedged."""
    child = subprocess.Popen(command, cwd=folder, env=dict(os.environ, TMPDIR=folder))  # torchrun leaves folders
    try:
        return child.wait(limit)
    except subprocess.TimeoutExpired:
        status = EXIT_TIMED_OUT
    except StoppedError:
        status = EXIT_STOPPED
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child.terminate()
    try:
        child.wait(GRACE)
    except subprocess.TimeoutExpired:
        child.kill()
    return status


def probe(job, index, words):
    """Run the job in a folder of this node's own: ranks lock their script, and NCCL's logs go beside it."""
    address, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    resolve(address, min(job["timeout_s"], 120))
    where = [f"--node_rank={index}", f"--master_addr={address}", f"--master_port={port}"]
    source = os.path.dirname(os.path.abspath(__file__))
    with tempfile.TemporaryDirectory(prefix="imgbuild-probe-") as folder:
        for name in os.listdir(source):
            if name.endswith(".py"):
                shutil.copyfile(os.path.join(source, name), os.path.join(folder, name))
        # The nodes have the job's time to meet, and the ranks have it again.
        return launch([sys.executable, *words[:2], *where, *words[2:]], folder, 2 * job["timeout_s"] + 60)


def main(words):
    job = json.loads(os.environ["IMGBUILD_PROBE_JOB"])
    index = int(os.environ[INDEX.get(job["engine"], "JOB_COMPLETION_INDEX")])
    name = next((os.environ[name] for name in NAMES if os.environ.get(name)), socket.gethostname())
    node, began, status = {"index": index, "node": name}, time.monotonic(), 1
    signal.signal(signal.SIGTERM, stopped)
    print(BEGIN_MARK, json.dumps(dict(node, job=job)), flush=True)
    try:
        status = probe(job, index, words)
    except SystemExit as error:
        print(error, file=sys.stderr, flush=True)
    except StoppedError:
        status = EXIT_STOPPED
    finally:
        seconds = round(time.monotonic() - began, 1)
        print(END_MARK, json.dumps(dict(node, status=status, seconds=seconds)), flush=True)
    return status if status in range(256) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
