"""Each rank's device by itself, in a process that can be killed when a call into CUDA hangs. See ddp_probe.py."""

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import subprocess
import time
import xml.etree.ElementTree as ElementTree

from ddp_machine import gpu_identity, require_arch, require_gpus, torch
from ddp_report import ProbeError, SkippedError, attempt, classify, describe, expect_equal, finite

SMI_SECONDS = 20


def check_device_alone(run):
    """Let a child use this rank's device; no CUDA call was made in this process before.

    The child is forked: it has torch already. What it says of its progress counts as the rank's own.
    """
    reader, writer = multiprocessing.Pipe(duplex=False)
    job = (writer, run.gpu_wanted, run.local_rank, run.local_world or 1)
    child = multiprocessing.get_context("fork").Process(target=examine, args=job, daemon=True)
    child.start()
    writer.close()
    try:
        return follow(run, child, reader)
    finally:
        child.join(1)
        if child.is_alive():
            # Python's handler writes where it hangs to stderr even from within a call.
            with contextlib.suppress(OSError):
                os.kill(child.pid, signal.SIGUSR1)
                time.sleep(0.5)
            child.kill()
        child.join(2)  # a process that the kernel itself holds up cannot even be killed: go on


def follow(run, child, reader):
    """The child's last word; an error when it gives none within --device-timeout of its last step."""
    step, device = "start", f"device {run.local_rank}"
    moved = time.monotonic()
    while True:
        run.beat(step)
        if reader.poll(0.5):
            try:
                kind, value = reader.recv()
            except EOFError:
                child.join(2)
                raise ProbeError("gpu-hang", f"{device} ended in {step} with status {child.exitcode}") from None
            moved = time.monotonic()
            if kind == "step":
                step = value
            elif kind == "device":
                device = value
            elif kind == "error":
                raise ProbeError(*value)
            else:
                run.figures["gemm_tflops"] = value
                return f"{device}, GEMM {value:g} TFLOP/s"
        elif time.monotonic() - moved > run.args.device_timeout:
            seconds = run.args.device_timeout
            raise ProbeError("gpu-hang", f"{device} did not finish {step} within {seconds:g} s")


def examine(writer, gpu, local_rank, need):
    """In the child: allocate, run a kernel, wait for it, multiply matrices; tell each step."""
    faulthandler.register(signal.SIGUSR1, all_threads=False)
    now = ["start"]

    def begin(step):
        now[0] = step
        writer.send(("step", step))

    try:
        begin("CUDA's start" if gpu else "start")
        device = choose(writer, gpu, local_rank, need)
        begin("an allocation")
        ones = torch.ones(1024, 1024, device=device)
        begin("a kernel")
        product = ones @ ones
        begin("synchronize")
        if gpu:
            torch.cuda.synchronize()
        expect_equal("matmul of ones", product, torch.full_like(ones, 1024))
        begin("GEMM")
        writer.send(("done", gemm(device)))
    except BaseException as exc:
        writer.send(("error", (classify(exc, now[0]), f"{now[0]}: {describe(exc)}")))


def choose(writer, gpu, local_rank, need):
    """The child's device, after it has been looked at."""
    if not gpu:
        writer.send(("device", "cpu"))
        return torch.device("cpu")
    have = require_gpus(need)
    index = local_rank % have
    torch.cuda.set_device(index)
    props = torch.cuda.get_device_properties(index)
    uuid = gpu_identity(index)[0]
    writer.send(("device", f"cuda:{index} {props.name} {uuid}"))
    require_arch(props.major, props.minor)
    torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device("cuda", index)


def gemm(device):
    """TFLOP/s of square matrix products, bfloat16 on GPUs that have it; the result must be finite."""
    gpu = device.type == "cuda"
    size, repeat, dtype = (8192, 20, torch.bfloat16) if gpu else (256, 4, torch.float32)
    if gpu and torch.cuda.get_device_capability()[0] < 8:
        dtype = torch.float16
    if gpu and torch.cuda.mem_get_info()[0] < 8 * size * size:
        size = 2048
    left = torch.rand(size, size, device=device).to(dtype)
    right = (torch.rand(size, size, device=device) / size).to(dtype)
    for _ in range(3):
        product = left @ right
    if gpu:
        torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(repeat):
        product = left @ right
    if gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begun
    if not bool(torch.isfinite(product).all()):
        raise ProbeError("mismatch", f"the product of two {size} x {size} matrices is not finite")
    return finite(2 * size**3 * repeat / seconds / 1e12, 4)


# What nvidia-smi tells


def check_gpu_health(run):
    """Memory errors and states that ask for a reset, where nvidia-smi tells; facts, no verdict."""
    if not run.gpu:
        raise SkippedError("CPU ranks")
    command = ["nvidia-smi", "-q", "-x", "-i", run.gpu["uuid"] or str(run.local_rank)]
    told = attempt(subprocess.run, command, stdout=subprocess.PIPE, text=True, timeout=SMI_SECONDS, check=True)
    if told is None:
        raise SkippedError("nvidia-smi is not there or does not tell")
    run.gpu["health"] = attempt(complaints, told.stdout) or []
    return "; ".join(run.gpu["health"]) or "nothing to complain of"


def complaints(xml):
    """What is wrong with the GPUs in an answer of `nvidia-smi -q -x`, in nvidia-smi's own names."""
    found, root = [], ElementTree.fromstring(xml)
    for errors in root.iter("volatile"):
        for entry in errors.iter():
            if "uncorrect" in entry.tag and (entry.text or "").strip().isdigit() and int(entry.text):
                found.append(f"ECC {entry.tag} {int(entry.text)}")
    for tag in ("remapped_row_pending", "remapped_row_failure", "pending_retirement", "pending_blacklist"):
        found += [tag for entry in root.iter(tag) if (entry.text or "").strip() == "Yes"]
    for entry in root.iter("gpu_recovery_action"):
        if (entry.text or "").strip() not in ("None", "N/A", ""):
            found.append(f"recovery action {entry.text.strip()}")
    return found
