"""What a rank of the probe says and how it ends: errors, JSON lines, stall watchdog, exit codes.

Without torch, so that a rank can report when torch itself is broken. See ddp_probe.py.
"""

import contextlib
import faulthandler
import fcntl
import json
import math
import multiprocessing
import os
import select
import signal
import socket
import sys
import threading
import time

RANK_MARK, SUMMARY_MARK, SCHEMA = "IMGBUILD_PROBE_RANK", "IMGBUILD_PROBE_SUMMARY", 1
SHM = "/dev/shm"
EXIT_FAILED, EXIT_CANNOT_RUN, EXIT_STALLED, EXIT_STOPPED = 1, 3, 124, 143
CANNOT_RUN = {"no-torch", "no-distributed", "no-gloo", "no-nccl", "cpu-torch", "no-cuda"}
CANNOT_RUN |= {"driver-too-old", "too-few-gpus", "arch", "bad-env", "gpu-hang"}
SECONDARY = {"peer-lost", "terminated"}

# An error torch raised gets the code of the first row that has one of its words.
CODE_BY_TEXT = (
    ("shm", ("bus error", "shared memory", SHM, "no space left on device", "torch_shm")),
    ("oom", ("out of memory", "allocate memory")),
    ("worker-killed", ("dataloader worker",)),
    ("arch", ("no kernel image", "not compatible with the current pytorch")),
    ("stall", ("timed out", "timeout")),
    ("peer-lost", ("connection closed", "connection reset", "connection refused", "broken pipe")),
    ("peer-lost", ("remote process", "connection was likely closed", "socket closed")),
    ("nccl", ("nccl",)),
)


class ProbeError(Exception):
    """A failure with a stable code that imgbuild maps to a cause and a fix."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class SkippedError(Exception):
    """A check that does not apply here; the message says why."""


def classify(exc, step):
    """The stable code of an exception raised in `step`."""
    if isinstance(exc, ProbeError):
        return exc.code
    if step == "rendezvous":
        return "rendezvous"
    text = str(exc).lower()
    return next((code for code, words in CODE_BY_TEXT if any(w in text for w in words)), "error")


def describe(exc):
    """The error in words: "Type: message", or the message alone where the probe wrote it."""
    text = str(exc).strip()
    if text.startswith("Caught "):  # a DataLoader worker's whole traceback: its last line tells
        return text.splitlines()[-1]
    return text if isinstance(exc, ProbeError) else f"{type(exc).__name__}: {text}"


def shorten(text, limit=300):
    """One line of at most `limit` characters, so that a rank's JSON stays small."""
    text = " ".join(str(text).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


def finite(value, digits=4):
    """A float fit for JSON: rounded, and None for NaN and infinities."""
    return round(value, digits) if value is not None and math.isfinite(value) else None


def attempt(function, *args, **options):
    """The function's value, or None where it fails: for facts that are nice to have."""
    try:
        return function(*args, **options)
    except Exception:
        return None


def expect_equal(what, got, want):
    """Fail with the first wrong element unless both tensors are equal to the last bit."""
    if (got.shape, got.dtype) != (want.shape, want.dtype):
        kinds = f"{got.dtype} {tuple(got.shape)}, expected {want.dtype} {tuple(want.shape)}"
        raise ProbeError("mismatch", f"{what}: got {kinds}")
    if not got.equal(want):
        got, want = got.flatten(), want.flatten()
        wrong = (got != want).nonzero().flatten()
        first = int(wrong[0])
        values = f"element {first} is {got[first].item()}, expected {want[first].item()}"
        raise ProbeError("mismatch", f"{what}: {values} ({len(wrong)} of {len(got)} wrong)")


def write_line(mark, payload):
    """Write one marked JSON line to stdout; ranks take turns, so that lines never mix.

    A pipe keeps a write whole only up to 4 KiB, hence the lock (on this file, which all ranks of a
    host share). Where it can't be had within two seconds the line is written anyway.
    """
    data = f"{mark} {json.dumps(payload, separators=(',', ':'), allow_nan=False)}\n".encode()
    with contextlib.suppress(OSError), open(__file__, "rb") as lock:
        for _ in range(200):
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.01)
        while data:
            select.select([], [1], [])
            with contextlib.suppress(BlockingIOError):
                data = data[os.write(1, data) :]


class Run:
    """One rank: who it is, the checks done so far, the step now running, the final report."""

    def __init__(self, args, env, summary):
        self.args = args
        self.summary = summary  # a function of this run: what rank 0 adds about the whole job
        self.rank = int(env.get("RANK", env.get("SLURM_PROCID", 0)))
        self.world = int(env.get("WORLD_SIZE", env.get("SLURM_NTASKS", 1)))
        self.local_rank = int(env.get("LOCAL_RANK", env.get("SLURM_LOCALID", 0)))
        # Only torchrun promises that every local rank sees all the GPUs of the host.
        self.local_world = int(env.get("LOCAL_WORLD_SIZE", 0))
        self.started = self.moved = self.begun = time.monotonic()
        self.step, self.where, self.parent = "start", "", os.getppid()
        self.checks, self.peers = [], []
        self.gpu_wanted = args.backend == "nccl"
        self.device = self.gpu = self.model = self.data = self.history = None
        self.figures = dict.fromkeys(("samples_per_s", "loss_first", "loss_last", "params_sha256"))
        self.figures.update(step_ms=[], gemm_tflops=None)
        self.speed = {"bandwidth": [], "transports": {}, "topology": [], "scaling": [], "model": None}
        self.evidence = list  # a function: lines that help to explain a failure
        self.look_again = None  # a function of this run: a stall's code, and the lines that speak for it
        self._report_once = threading.Lock()
        self._signals = None

    def beat(self, where=""):
        """Note progress: the watchdog fires when none is noted for --stall-timeout seconds."""
        self.where, self.moved = where, time.monotonic()

    def say(self, text):
        """A progress line for a person: stderr, rank 0 only."""
        if self.rank == 0:
            with contextlib.suppress(OSError):
                os.write(2, f"imgbuild probe: {text}\n".encode())

    def check(self, name, function):
        """Run one named check, which returns its detail or raises; record it either way."""
        begun = self.begun = time.monotonic()
        self.step = name
        self.beat()
        with contextlib.suppress(OSError):  # the last line of a rank that is killed tells where it was
            os.write(2, f"[rank{self.rank}]: begins {name}\n".encode())
        try:
            word, detail = "ok", function(self)
        except SkippedError as skip:
            word, detail = "skipped", f"not run: {skip}"
        except BaseException as exc:
            word, detail = "FAILED", describe(exc)
            raise
        finally:
            seconds, detail = finite(time.monotonic() - begun, 3), shorten(detail)
            entry = {"name": name, "ok": word != "FAILED", "skipped": word == "skipped"}
            self.checks.append(dict(entry, seconds=seconds, detail=detail))
            self.say(f"{name:<14} {word:<7} {seconds:6.2f} s  {detail}")

    def report(self, code=None, error=None, evidence=()):
        """Write this rank's line (and rank 0's summary) once; False when that was done already."""
        if not self._report_once.acquire(blocking=False):
            return False
        ok = code is None
        base = {"schema": SCHEMA, "ok": ok, "code": code, "failed_step": None if ok else self.step}
        base.update(error=None if ok else shorten(error, 500), backend=self.args.backend)
        base.update(world_size=self.world, seconds=finite(time.monotonic() - self.started, 3))
        rank = dict(base, rank=self.rank, local_rank=self.local_rank, pid=os.getpid())
        rank.update(where=None if ok else self.where, secondary=code in SECONDARY)
        rank.update(hostname=socket.gethostname(), ended_at=finite(time.time(), 3))
        rank.update(device=self.device and str(self.device), gpu=self.gpu, **self.figures)
        rank.update(evidence=[] if ok else [*evidence] or attempt(self.evidence) or [])
        checks = self.checks
        if not ok and all(check["ok"] for check in checks):  # the watchdog's words: the check itself did not end
            seconds, entry = finite(time.monotonic() - self.begun, 3), {"name": self.step, "ok": False}
            checks = [*checks, dict(entry, skipped=False, seconds=seconds, detail=shorten(error))]
        write_line(RANK_MARK, dict(rank, checks=checks))
        if self.rank == 0:
            write_line(SUMMARY_MARK, dict(base, **self.summary(self)))
        return True

    def watch(self):
        """Start the thread that ends this rank on a stall, on the limit, or on a signal.

        The main thread may sit in a collective where Python's signal handlers never run, so signals
        arrive through a pipe, and this thread reports and exits in its place.
        """
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        os.register_at_fork(after_in_child=forget_signals)
        self._signals = reader
        threading.Thread(target=self._watch, daemon=True).start()

    def signalled(self, seconds):
        """Wait so long for a signal that is to end this rank; whether one came."""
        got = os.read(self._signals, 512) if select.select([self._signals], [], [], seconds)[0] else b""
        return signal.SIGTERM in got or signal.SIGINT in got

    def _watch(self):
        limits = self.args
        while True:
            ended = self.signalled(0.25)
            if os.getppid() != self.parent:  # torchrun was killed: nobody else ends this rank
                self.abort("terminated", f"the launcher is gone, in {self.step}", EXIT_STOPPED)
            now, at = time.monotonic(), f"{self.step} ({self.where})" if self.where else self.step
            if ended:
                self.abort("terminated", f"stopped by a signal in {at}", EXIT_STOPPED)
            elif now - self.moved > limits.stall_timeout + 2:  # gloo's own error may come first
                code = "rendezvous" if self.step == "rendezvous" else "stall"
                self.abort(code, f"no progress for {now - self.moved:.0f} s in {at}", EXIT_STALLED)
            elif now - self.started > limits.timeout:
                error = f"not finished after {limits.timeout:g} s, now in {at}"
                self.abort("timeout", error, EXIT_STALLED)

    def abort(self, code, error, status):
        """Report from the watchdog's thread and end the process, whatever the main thread does."""
        evidence = []
        if code == "stall" and self.look_again:
            code, evidence = attempt(self.look_again, self) or (code, evidence)
        if self.report(code, error, evidence):
            if status == EXIT_STALLED:
                faulthandler.dump_traceback(all_threads=True)
            leave(status)


def forget_signals():
    """In a forked DataLoader worker: signals are the worker's own again."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def leave(status):
    """End at once, DataLoader workers first; a wedged communicator can't hold up the exit."""
    for child in multiprocessing.active_children():
        child.kill()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)
