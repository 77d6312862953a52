"""A real multi-process DistributedDataParallel job that says whether an environment can train.

imgbuild copies this file into a container (or runs it on the host) and launches it with

    python -m torch.distributed.run --standalone --nproc_per_node=N ddp_probe.py --backend nccl

It needs the standard library and torch alone: Python 3.8+, torch 1.12+, numpy or not.

Each rank writes one line on stdout, `IMGBUILD_PROBE_RANK {json}`, and rank 0 also writes
`IMGBUILD_PROBE_SUMMARY {json}`; progress and tracebacks go to stderr. A rank that fails names the
step and a stable `code`; `secondary` tells that it stopped only because another rank did.

Exit status: 0 passed, 1 a check failed, 2 bad flags, 3 the job can't start here (no GPU, CPU-only
torch ...), 124 no progress within the limit, 143 stopped by a signal.
"""

import argparse
import contextlib
import ctypes
import datetime
import faulthandler
import fcntl
import functools
import hashlib
import json
import math
import multiprocessing
import os
import platform
import select
import signal
import socket
import sys
import threading
import time
import traceback
import warnings

# Set before torch is imported. NCCL_* is the user's own and is never touched.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
warnings.filterwarnings("ignore", message=".*(Failed to initialize NumPy|pynvml).*")

try:
    import torch
    import torch.distributed as dist
    from torch import nn
    from torch.nn.functional import cross_entropy
    from torch.nn.parallel import DistributedDataParallel
    from torch.utils.data import DataLoader
    from torch.utils.data.distributed import DistributedSampler
except Exception as error:  # a broken torch fails in many ways: reported like any other check
    torch, IMPORT_ERROR = None, f"{type(error).__name__}: {error}"

RANK_MARK, SUMMARY_MARK, SCHEMA = "IMGBUILD_PROBE_RANK", "IMGBUILD_PROBE_SUMMARY", 1
CPU_NOTE = "CPU (gloo): proves the software path, not the GPUs"
SHM, MIB, SEED, CLASSES = "/dev/shm", 1 << 20, 20240229, 10
EXIT_FAILED, EXIT_CANNOT_RUN, EXIT_STALLED, EXIT_STOPPED = 1, 3, 124, 143
CANNOT_RUN = {"no-torch", "no-distributed", "no-gloo", "no-nccl", "cpu-torch", "no-cuda"}
CANNOT_RUN |= {"driver-too-old", "too-few-gpus", "arch", "bad-env"}
SECONDARY = {"peer-lost", "terminated"}
STRAY = ("NCCL_", "TORCH_NCCL_", "GLOO_", "CUDA_", "NVIDIA_", "LD_LIBRARY_PATH", "LD_PRELOAD")
SET_BY_TORCHRUN = {"NCCL_ASYNC_ERROR_HANDLING", "TORCH_NCCL_ASYNC_ERROR_HANDLING"}

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
    return str(exc) if isinstance(exc, ProbeError) else f"{type(exc).__name__}: {exc}"


def shorten(text, limit=300):
    """One line of at most `limit` characters, so that a rank's JSON stays small."""
    text = " ".join(str(text).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


def finite(value, digits=4):
    """A float fit for JSON: rounded, and None for NaN and infinities."""
    return round(value, digits) if value is not None and math.isfinite(value) else None


def attempt(function, *args):
    """The function's value, or None where it fails: for facts that are nice to have."""
    try:
        return function(*args)
    except Exception:
        return None


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

    def __init__(self, args, env):
        self.args = args
        self.rank = int(env.get("RANK", env.get("SLURM_PROCID", 0)))
        self.world = int(env.get("WORLD_SIZE", env.get("SLURM_NTASKS", 1)))
        self.local_rank = int(env.get("LOCAL_RANK", env.get("SLURM_LOCALID", 0)))
        # Only torchrun promises that every local rank sees all the GPUs of the host.
        self.local_world = int(env.get("LOCAL_WORLD_SIZE", 0))
        self.started = self.moved = time.monotonic()
        self.step, self.where = "start", ""
        self.checks, self.peers = [], []
        self.device = self.gpu = self.model = self.data = self.history = None
        self.figures = dict.fromkeys(("samples_per_s", "loss_first", "loss_last", "params_sha256"))
        self._report_once = threading.Lock()

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
        begun, self.step = time.monotonic(), name
        self.beat()
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

    def report(self, code=None, error=None):
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
        write_line(RANK_MARK, dict(rank, checks=self.checks))
        if self.rank == 0:
            write_line(SUMMARY_MARK, dict(base, **summary(self)))
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
        threading.Thread(target=self._watch, args=(reader,), daemon=True).start()

    def _watch(self, reader):
        limits = self.args
        while True:
            got = os.read(reader, 512) if select.select([reader], [], [], 0.25)[0] else b""
            now, at = time.monotonic(), f"{self.step} ({self.where})" if self.where else self.step
            if signal.SIGTERM in got or signal.SIGINT in got:
                self.abort("terminated", f"stopped by a signal in {at}", EXIT_STOPPED)
            elif now - self.moved > limits.stall_timeout + 2:  # gloo's own error may come first
                code = "rendezvous" if self.step == "rendezvous" else "stall"
                self.abort(code, f"no progress for {now - self.moved:.0f} s in {at}", EXIT_STALLED)
            elif now - self.started > limits.timeout:
                error = f"not finished after {limits.timeout:g} s, now in {at}"
                self.abort("timeout", error, EXIT_STALLED)

    def abort(self, code, error, status):
        """Report from the watchdog's thread and end the process, whatever the main thread does."""
        if self.report(code, error):
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


# What the machine and torch say about themselves


def driver_version():
    """NVIDIA's kernel driver as NVML tells it."""
    nvml, text = ctypes.CDLL("libnvidia-ml.so.1"), ctypes.create_string_buffer(96)
    bad = nvml.nvmlInit_v2() or nvml.nvmlSystemGetDriverVersion(text, len(text))
    return None if bad else text.value.decode()


def gpu_identity(index):
    """(UUID, PCI bus id) from the CUDA driver: older torch versions tell neither."""
    cuda, device = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
    raw, bus = (ctypes.c_ubyte * 16)(), ctypes.create_string_buffer(32)
    get_uuid = getattr(cuda, "cuDeviceGetUuid_v2", cuda.cuDeviceGetUuid)  # v2: MIG slices too
    bad = cuda.cuDeviceGet(ctypes.byref(device), index) or get_uuid(raw, device)
    bad = bad or cuda.cuDeviceGetPCIBusId(bus, len(bus), device)
    if bad:
        raise ProbeError("error", f"the CUDA driver can't identify GPU {index} (error {bad})")
    text = bytes(raw).hex()
    parts = (text[:8], text[8:12], text[12:16], text[16:20], text[20:])
    return "GPU-" + "-".join(parts), bus.value.decode()


def shm_size():
    """(total, free) bytes of /dev/shm, zeros where there is none."""
    stat = attempt(os.statvfs, SHM)
    return (stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize) if stat else (0, 0)


def stray_variables(env):
    """Variables that change what CUDA, NCCL or the loader do, less those torchrun itself sets."""
    names = [name for name in sorted(env) if name.startswith(STRAY)]
    return {n: shorten(env[n], 200) for n in names if not (n in SET_BY_TORCHRUN and env[n] == "1")}


def nccl_version():
    """NCCL's version as dotted text."""
    version = torch.cuda.nccl.version()
    return ".".join(map(str, version)) if isinstance(version, tuple) else str(version)


def summary(run):
    """What rank 0 adds about the whole job: versions, machine, figures."""
    cuda = torch.version.cuda if torch is not None else None
    peers = run.peers or [{"hostname": socket.gethostname(), "gpu": run.gpu, "speed": None}]
    speeds = [peer["speed"] for peer in peers]
    return {
        "torch": str(torch.__version__) if torch is not None else None,
        "cuda": cuda,
        "cudnn": attempt(torch.backends.cudnn.version) if cuda else None,
        "nccl": attempt(nccl_version) if cuda else None,
        "driver": attempt(driver_version),
        "python": platform.python_version(),
        "gpus": [peer["gpu"]["name"] for peer in peers if peer["gpu"]],
        "hosts": sorted({peer["hostname"] for peer in peers}),
        "epochs": run.args.epochs,
        "samples_per_s": None if None in speeds else finite(sum(speeds), 1),
        "loss_first": run.figures["loss_first"],
        "loss_last": run.figures["loss_last"],
        "shm_total_bytes": shm_size()[0],
        "shm_free_bytes": shm_size()[1],
        "env": stray_variables(os.environ),
        "note": CPU_NOTE if run.args.backend == "gloo" else None,
    }


# Before the process group


def check_torch(run):
    """Whether this torch, with these GPUs, can do the job at all."""
    if torch is None:
        raise ProbeError("no-torch", f"torch can't be imported: {IMPORT_ERROR}")
    name = f"torch {torch.__version__}"
    if not dist.is_available():
        raise ProbeError("no-distributed", f"{name} is built without torch.distributed")
    if run.args.backend == "gloo":
        if not getattr(dist, "is_gloo_available", lambda: True)():
            raise ProbeError("no-gloo", f"{name} is built without gloo")
        return f"{name}, gloo"
    if torch.version.cuda is None:
        raise ProbeError("cpu-torch", f"{name} is a CPU-only build")
    if not dist.is_nccl_available():
        raise ProbeError("no-nccl", f"{name} is built without NCCL")
    if not torch.cuda.is_available():
        try:
            torch.cuda.init()
            reason = "no CUDA device is visible"
        except Exception as exc:  # torch's own words: no driver, driver too old ...
            reason = str(exc)
        code = "driver-too-old" if "too old" in reason else "no-cuda"
        raise ProbeError(code, f"{name} finds no usable GPU: {reason}")
    have, need = torch.cuda.device_count(), run.local_world or 1
    if have < need:
        raise ProbeError("too-few-gpus", f"{need} ranks on this host, {have} GPUs visible")
    return f"{name}, CUDA {torch.version.cuda}, {have} GPUs visible"


def check_device(run):
    """Choose this rank's device and run a kernel on it."""
    if run.args.backend == "gloo":
        run.device = torch.device("cpu")
    else:
        index = run.local_rank % torch.cuda.device_count()
        torch.cuda.set_device(index)
        run.device, props = torch.device("cuda", index), torch.cuda.get_device_properties(index)
        run.gpu = {"name": props.name, "uuid": None, "pci": None}
        run.gpu.update(capability=f"{props.major}.{props.minor}", total_memory=props.total_memory)
        require_arch(props.major, props.minor)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    ones = torch.ones(256, 256, device=run.device)
    expect_equal("matmul of ones", ones @ ones, torch.full_like(ones, 256))
    if run.gpu:
        run.gpu["uuid"], run.gpu["pci"] = gpu_identity(run.device.index)
    return f"{run.device} {run.gpu['name']}" if run.gpu else "cpu"


def require_arch(major, minor):
    """Fail unless torch holds code for this GPU: its sm, an older minor of it, or older PTX."""
    built = torch.cuda.get_arch_list()
    for arch in built:
        kind, digits = arch.split("_")[0], "".join(c for c in arch if c.isdigit())
        have = (int(digits[:-1]), int(digits[-1]))
        if have <= (major, minor) and (kind == "compute" or have[0] == major):
            return
    held = " ".join(built) or "no GPU"
    raise ProbeError("arch", f"GPU is sm_{major}{minor}; torch {torch.__version__} has {held}")


def check_rendezvous(run):
    """Meet the other ranks, with a short limit: waiting longer never helped a wrong address."""
    env = os.environ
    if run.world > 1 and not ("MASTER_ADDR" in env and "MASTER_PORT" in env):
        raise ProbeError("bad-env", f"{run.world} ranks, but no MASTER_ADDR and MASTER_PORT")
    with socket.socket() as free:  # a port for a run of one process without a launcher
        free.bind(("127.0.0.1", 0))
        env.setdefault("MASTER_ADDR", "127.0.0.1")
        env.setdefault("MASTER_PORT", str(free.getsockname()[1]))
    at = f"{env['MASTER_ADDR']}:{env['MASTER_PORT']}"
    run.beat(at)
    # NCCL's own watchdog kills the process without a report: it must come after ours.
    seconds = run.args.stall_timeout + (60 if run.gpu else 0)
    limit, who = datetime.timedelta(seconds=seconds), {"rank": run.rank, "world_size": run.world}
    dist.init_process_group(run.args.backend, init_method="env://", timeout=limit, **who)
    return f"{run.world} ranks at {at}"


# Collectives with exact values


def expect_equal(what, got, want):
    """Fail with the first wrong element unless both tensors are equal to the last bit."""
    if (got.shape, got.dtype) != (want.shape, want.dtype):
        kinds = f"{got.dtype} {tuple(got.shape)}, expected {want.dtype} {tuple(want.shape)}"
        raise ProbeError("mismatch", f"{what}: got {kinds}")
    if not torch.equal(got, want):
        got, want = got.flatten(), want.flatten()
        wrong = (got != want).nonzero().flatten()
        first = int(wrong[0])
        values = f"element {first} is {got[first].item()}, expected {want[first].item()}"
        raise ProbeError("mismatch", f"{what}: {values} ({len(wrong)} of {len(got)} wrong)")


def pattern(run, size, dtype, rank):
    """Small integers that differ by position and by rank: exact in every dtype used here."""
    return (torch.arange(size, device=run.device) % 13 + rank % 3).to(dtype)


def cases(run, dtypes):
    """(dtype, size, label): one element, an odd count, 1 MiB of floats, 64 MiB on a GPU."""
    for dtype in dtypes:
        for size in (1, 1023, 1 << 18) + ((1 << 24,) if run.gpu else ()):
            label = f"{str(dtype).replace('torch.', '')} x {size}"
            run.beat(label)
            yield dtype, size, label


def check_all_reduce(run):
    """SUM and MAX; half types where sums of this many ranks are still exact."""
    dtypes = [torch.int64, torch.int32, torch.float32, torch.float64]
    dtypes += [torch.float16, torch.bfloat16] if run.gpu and run.world * 14 <= 256 else []
    for dtype, size, label in cases(run, dtypes):
        parts = [pattern(run, size, dtype, rank) for rank in range(min(3, run.world))]
        total = sum(part * len(range(r, run.world, 3)) for r, part in enumerate(parts))
        for op, want in ((dist.ReduceOp.SUM, total), (dist.ReduceOp.MAX, parts[-1])):
            got = pattern(run, size, dtype, run.rank)
            dist.all_reduce(got, op=op)
            expect_equal(f"{'sum' if want is total else 'max'} of {label}", got, want)
    return f"sum and max, {len(dtypes)} dtypes, up to {label}"


def check_all_gather(run):
    """Every rank's tensor arrives at its own place."""
    for dtype, size, label in cases(run, (torch.uint8, torch.int64, torch.float32)):
        got = [torch.empty(size, dtype=dtype, device=run.device) for _ in range(run.world)]
        dist.all_gather(got, pattern(run, size, dtype, run.rank) + run.rank)
        for rank, part in enumerate(got):
            want = pattern(run, size, dtype, rank) + rank
            expect_equal(f"part of rank {rank}, {label}", part, want)
    return f"3 dtypes, up to {label}"


def check_broadcast(run):
    """From the first and from the last rank."""
    for source in sorted({0, run.world - 1}):
        for dtype, size, label in cases(run, (torch.int64, torch.float32)):
            want = pattern(run, size, dtype, source) + source
            got = want.clone() if run.rank == source else torch.full_like(want, -1)
            dist.broadcast(got, src=source)
            expect_equal(f"from rank {source}, {label}", got, want)
    return f"from ranks {sorted({0, run.world - 1})}, up to {label}"


def check_reduce_scatter(run):
    """Each rank gets its own slice of the sum."""
    if run.args.backend == "gloo":
        raise SkippedError("not every supported torch has reduce_scatter on gloo")
    for dtype, size, label in cases(run, (torch.int64, torch.float32)):
        got = torch.empty(size, dtype=dtype, device=run.device)
        mine = pattern(run, size, dtype, run.rank)
        dist.reduce_scatter(got, [mine + slot for slot in range(run.world)])
        want = sum(pattern(run, size, dtype, rank) for rank in range(run.world))
        expect_equal(f"sum of {label}", got, want + run.world * run.rank)
    return f"2 dtypes, up to {label} a rank"


def barrier(run):
    """A barrier that blocks the host too."""
    dist.barrier(**({"device_ids": [run.device.index]} if run.gpu else {}))
    if run.gpu:
        torch.cuda.synchronize()


def check_barrier(run):
    """Nobody leaves before the last one, rank 0, came (clocks compare on one host only)."""
    barrier(run)
    time.sleep(0.2 if run.rank == 0 else 0)
    came = time.monotonic()
    barrier(run)
    hosts, came, left = zip(*gather_json(run, [socket.gethostname(), came, time.monotonic()]))
    if len(set(hosts)) > 1:
        return "passed; on several hosts the order is not compared"
    if min(left) < max(came):
        early = max(came) - min(left)
        raise ProbeError("mismatch", f"a rank left {early:.3f} s before the last one came")
    return "nobody left before rank 0 came 0.2 s late"


def gather_json(run, value):
    """Every rank's JSON value in rank order (torch's own object collectives need numpy)."""
    data = bytearray(json.dumps(value).encode())
    length = torch.tensor([len(data)], device=run.device)
    lengths = [torch.empty_like(length) for _ in range(run.world)]
    dist.all_gather(lengths, length)
    lengths = [int(item) for item in lengths]
    data.extend(bytes(max(lengths) - len(data)))
    mine = torch.frombuffer(data, dtype=torch.uint8).to(run.device)
    parts = [torch.empty_like(mine) for _ in lengths]
    dist.all_gather(parts, mine)
    return [json.loads(bytes(part[:n].tolist()).decode()) for part, n in zip(parts, lengths)]


def check_distinct_gpus(run):
    """No two ranks share a GPU (or MIG slice)."""
    uuids = gather_json(run, run.gpu and run.gpu["uuid"])
    if not run.gpu:
        raise SkippedError("CPU ranks")
    for rank, uuid in enumerate(uuids):
        if uuids.index(uuid) != rank:
            raise ProbeError("same-gpu", f"ranks {uuids.index(uuid)} and {rank} share {uuid}")
    return f"{len(uuids)} GPUs"


# Data and model


def make_batch(indices):
    """3x16x16 images of these samples, their classes, and the indices.

    An image is its class's template plus noise that depends on the index alone. Used as the
    DataLoader's collate_fn, so the work happens in its workers.
    """
    seeded = torch.Generator().manual_seed
    templates = torch.randn(CLASSES, 3, 16, 16, generator=seeded(SEED))
    noise = [torch.randn(3, 16, 16, generator=seeded(SEED + 1 + index)) for index in indices]
    labels = torch.tensor(indices) % CLASSES
    return templates[labels] + torch.stack(noise), labels, torch.tensor(indices)


def build_model(seed):
    """A small classifier, without batch statistics so that results can be compared."""
    torch.manual_seed(seed)
    stem = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    body = [nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(*stem, *body, nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, CLASSES))


def worker_options(run):
    """DataLoader options for the chosen number of workers and their start method."""
    if run.args.workers == 0:
        return {}
    context = multiprocessing.get_context(run.args.worker_start)
    return {"num_workers": run.args.workers, "multiprocessing_context": context}


def check_dataloader_shm(run):
    """All ranks at once pull batches of a real job's size through /dev/shm."""
    workers, size = run.args.workers, run.args.shm_batch_mb * MIB
    if not workers or not size:
        raise SkippedError("--workers or --shm-batch-mb is 0")
    total, free = shm_size()
    used = 2 * workers * size * (run.local_world or run.world)  # each worker prefetches two
    facts = f"{SHM} {total // MIB} MiB, {free // MIB} free, up to {used // MIB} needed"
    barrier(run)
    try:
        fill = functools.partial(torch.full, (size,), dtype=torch.uint8)
        options = dict(worker_options(run), batch_size=None, collate_fn=fill)
        loader = DataLoader(range(4 * workers), **options)
        for index, block in enumerate(loader):
            run.beat(f"batch {index}")
            expect_equal(f"batch {index}", block, torch.full_like(block, index))
    except (RuntimeError, OSError) as exc:
        code = classify(exc, run.step)
        # A worker that got SIGBUS is not always named as such.
        code = "shm" if code in ("worker-killed", "error") and free < used else code
        raise ProbeError(code, f"{facts}: {exc}") from exc
    return facts


def same_params(run):
    """SHA-256 over every parameter's bytes, after all ranks showed the same."""
    digest = hashlib.sha256()
    for name, value in run.model.module.state_dict().items():
        value = value.detach().cpu().contiguous()
        digest.update(name.encode())
        digest.update(ctypes.string_at(value.data_ptr(), value.numel() * value.element_size()))
    hashes = gather_json(run, digest.hexdigest())
    odd = [rank for rank, value in enumerate(hashes) if value != hashes[0]]
    if odd:
        raise ProbeError("mismatch", f"parameters of ranks {odd} differ from rank 0's")
    return digest.hexdigest()


def check_ddp_init(run):
    """Models start different on every rank: DDP must carry rank 0's to all."""
    run.data = range(run.args.samples * run.world)  # a multiple: DistributedSampler repeats none
    model, devices = build_model(SEED + run.rank), [run.device.index] if run.gpu else None
    run.model = DistributedDataParallel(model.to(run.device), device_ids=devices, bucket_cap_mb=1)
    return f"rank 0's parameters on all ranks: {same_params(run)[:12]}"


def check_ddp_gradients(run):
    """One DDP step's gradients equal one process's over the same samples, within rounding."""
    alone, worst = build_model(0).to(run.device), 0.0
    alone.load_state_dict(run.model.module.state_dict())
    images, labels = [part.to(run.device) for part in make_batch(range(8 * run.world))[:2]]
    cross_entropy(alone(images), labels).backward()
    mine = slice(8 * run.rank, 8 * run.rank + 8)
    cross_entropy(run.model(images[mine]), labels[mine]).backward()
    for (name, want), got in zip(alone.named_parameters(), run.model.module.parameters()):
        off = float((got.grad - want.grad).norm() / want.grad.norm())
        worst = max(worst, off)
        if not off < 1e-3:
            raise ProbeError("mismatch", f"gradient of {name} is off by {off:.2g} (relative)")
    return f"as one process's, within {worst:.1g}"


def fixed_loss(run):
    """The model's loss on a fixed batch, the same one on every rank."""
    images, labels = [part.to(run.device) for part in make_batch(range(64))[:2]]
    with torch.no_grad():
        return finite(float(cross_entropy(run.model.module(images), labels)))


def check_train(run):
    """The epochs; keeps each one's sample indices in order."""
    sampler = DistributedSampler(run.data, run.world, run.rank, shuffle=True, seed=SEED)
    options = dict(worker_options(run), sampler=sampler, pin_memory=run.gpu is not None)
    options.update(persistent_workers=run.args.workers > 0, collate_fn=make_batch)
    loader = DataLoader(run.data, run.args.batch_size, **options)
    optimizer = torch.optim.SGD(run.model.parameters(), lr=0.05, momentum=0.9)
    run.figures["loss_first"], run.history, times = fixed_loss(run), [], []
    for epoch in range(run.args.epochs):
        sampler.set_epoch(epoch)
        begun, seen = time.monotonic(), []
        for step, (images, labels, indices) in enumerate(loader):
            run.beat(f"epoch {epoch} batch {step}")
            optimizer.zero_grad()
            loss = cross_entropy(run.model(images.to(run.device)), labels.to(run.device))
            loss.backward()
            optimizer.step()
            seen += indices.tolist()
        loss = float(loss.detach())  # waits for the GPU
        times.append(time.monotonic() - begun)
        run.history.append(seen)
        run.say(f"  epoch {epoch + 1} of {run.args.epochs}: loss {loss:.4f}, {times[-1]:.2f} s")
    timed = times[1:] or times  # the first epoch starts the workers
    run.figures["samples_per_s"] = finite(len(seen) * len(timed) / sum(timed), 1)
    run.figures["loss_last"] = fixed_loss(run)
    return f"{len(times)} epochs, {run.figures['samples_per_s']} samples/s on this rank"


def check_samples(run):
    """Each epoch's samples are disjoint and complete over the ranks, in an order of its own."""
    count, orders = len(run.data), set()
    for epoch, seen in enumerate(run.history):
        run.beat(f"epoch {epoch}")
        if len(seen) * run.world != count:
            raise ProbeError("mismatch", f"epoch {epoch}: {len(seen)} samples here of {count}")
        mine = torch.tensor(seen, device=run.device)
        parts = [torch.empty_like(mine) for _ in range(run.world)]
        dist.all_gather(parts, mine)
        order = torch.cat(parts).cpu()
        expect_equal(f"samples of epoch {epoch}, sorted", order.sort()[0], torch.arange(count))
        orders.add(tuple(order.tolist()))
    if len(orders) < len(run.history):
        raise ProbeError("mismatch", "two epochs have the same order: set_epoch had no effect")
    return f"{count} an epoch, each once, shuffled anew"


def check_loss_falls(run):
    """Training made the loss on the fixed batch fall by a tenth at least."""
    first, last = run.figures["loss_first"], run.figures["loss_last"]
    if first is None or last is None or last > 0.9 * first:
        raise ProbeError("loss", f"loss on a fixed batch went from {first} to {last}")
    return f"{first} -> {last}"


def check_params_equal(run):
    """Parameters are bit-equal on all ranks after training."""
    run.figures["params_sha256"] = same_params(run)
    return f"{run.figures['params_sha256'][:12]} on {run.world} ranks"


def check_shutdown(run):
    """Exchange the results, meet once more, close the process group."""
    mine = {"hostname": socket.gethostname(), "gpu": run.gpu}
    run.peers = gather_json(run, dict(mine, speed=run.figures["samples_per_s"]))
    barrier(run)
    dist.destroy_process_group()
    return "all ranks passed"


BEFORE = (check_torch, check_device, check_rendezvous, check_distinct_gpus)
COLLECTIVES = (check_all_reduce, check_all_gather, check_broadcast, check_reduce_scatter)
TRAINING = (check_ddp_init, check_ddp_gradients, check_train, check_samples, check_loss_falls)
AFTER = (check_params_equal, check_shutdown)
CHECKS = BEFORE + COLLECTIVES + (check_barrier, check_dataloader_shm) + TRAINING + AFTER


def parse_args(argv):
    """Flags; the defaults suit a quick run."""
    parser = argparse.ArgumentParser(description="Probe an environment with a small DDP job.")
    add = parser.add_argument
    add("--backend", choices=("nccl", "gloo"), default="nccl")
    add("--epochs", type=int, default=3)
    add("--samples", type=int, default=256, help="samples an epoch on each rank")
    add("--batch-size", type=int, default=16, help="samples a step on each rank")
    add("--workers", type=int, default=2, help="DataLoader workers a rank (0: none)")
    add("--worker-start", choices=("fork", "spawn", "forkserver"), default="fork")
    add("--shm-batch-mb", type=int, default=8, help="MiB a batch in the /dev/shm check (0: skip)")
    add("--timeout", type=float, default=300, help="seconds for the whole run")
    add("--stall-timeout", type=float, default=60, help="seconds without progress")
    args = parser.parse_args(argv)
    for name, value in vars(args).items():
        least = 0 if name in ("workers", "shm_batch_mb") else 1
        if isinstance(value, (int, float)) and value < least:
            parser.error(f"--{name.replace('_', '-')} must be {least} or more")
    return args


def main(argv=None):
    """Run the probe in this process and return its exit status."""
    run = Run(parse_args(argv), os.environ)
    faulthandler.enable()
    run.watch()
    kind = CPU_NOTE if run.args.backend == "gloo" else "GPU (nccl)"
    run.say(f"{run.world} ranks, {kind}")
    try:
        for function in CHECKS:
            run.check(function.__name__.replace("check_", ""), function)
    except BaseException as exc:
        code = classify(exc, run.step)
        if not isinstance(exc, ProbeError):
            traceback.print_exc()
        if not run.report(code, describe(exc)):
            time.sleep(60)  # the watchdog is reporting, and ends this process
        return EXIT_CANNOT_RUN if code in CANNOT_RUN else EXIT_FAILED
    run.report()
    return 0


if __name__ == "__main__":
    leave(main())
