"""What one command costs."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass


@dataclass
class Cost:
    """Seconds of wall and CPU time, peak memory of the largest process, and what folders held at their peak beyond
    what they hold in the end, in MB."""

    wall: float
    cpu: float
    rss_mb: float
    disk_mb: float
    out: str

    @property
    def busy(self):
        """The share of all cores' time that was used."""
        return self.cpu / (self.wall * len(os.sched_getaffinity(0)))


def folder_mb(*folders):
    """What the files of folders take on the disk, each counted once also when it is renamed while we look."""
    blocks = {}
    for path, _, names in (entry for folder in folders for entry in os.walk(folder)):
        for name in names:
            try:
                file = os.lstat(os.path.join(path, name))
                blocks[file.st_ino] = file.st_blocks
            except FileNotFoundError:
                pass  # it was renamed or removed while we looked
    return sum(blocks.values()) * 512 / 1e6


class Watch:
    """Looks at the size of folders every 50 ms; without folders, does nothing."""

    def __init__(self, folders):
        self.folders, self.peak, self.beyond, self.over = folders, 0.0, 0.0, threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)

    def _look(self):
        while not self.over.wait(0.05):
            self.peak = max(self.peak, folder_mb(*self.folders))

    def __enter__(self):
        if self.folders:
            self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        if self.folders:
            self.thread.join()
            # A file that is whole moves to where it is kept: only what is gone in the end was temporary.
            self.beyond = max(0.0, self.peak - folder_mb(*self.folders))


def cost(command, env=None, disk=(), cwd=None):
    """Runs a command to its end; one that fails ends the bench with what it said. What earlier ones left to be written
    is written first, and not on this one's account."""
    command = [str(word) for word in command]
    os.sync()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors, Watch(disk) as watch:
        begun = time.monotonic()
        process = subprocess.Popen(command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            errors.seek(0)
            raise Failed(f"{' '.join(command)} ended with {process.returncode}:\n{errors.read()[-4000:]}")
        out.seek(0)
        text = out.read()
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000, watch.beyond, text)


class Failed(Exception):
    """A command of the bench did not end well."""


def best(runs, measure):
    """The cost with the least wall time; `measure` is given the number of the run."""
    return least([measure(number) for number in range(runs)])


def least(costs):
    """The one with the least wall time."""
    return min(costs, key=lambda cost: cost.wall)


def say(text):
    """One line of progress."""
    print(f"bench: {text}", file=sys.stderr, flush=True)
