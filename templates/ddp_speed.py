"""How fast the ranks talk and train together: bus bandwidth, transport, scaling. See ddp_probe.py."""

import os
import re
import subprocess
import time

from ddp_machine import OWN_NCCL_LOG, torch
from ddp_report import ProbeError, SkippedError, attempt, finite, shorten

if torch is not None:
    import torch.distributed as dist
    from torch import nn
    from torch.nn.functional import cross_entropy
    from torch.nn.parallel import DistributedDataParallel

MIB = 1 << 20
GPU_SIZES = (MIB >> 4, MIB, 8 * MIB, 64 * MIB, 256 * MIB, 1024 * MIB)
CPU_SIZES = (MIB >> 4, MIB, 4 * MIB)


def synchronize(run):
    """Wait for this rank's GPU."""
    if run.gpu:
        torch.cuda.synchronize()


def check_bandwidth(run, gather, barrier):
    """All-reduce over growing sizes: the slowest rank's time gives algorithm and bus bandwidth.

    Bus bandwidth is algorithm bandwidth x 2 (n - 1) / n (nccl-tests, PERFORMANCE.md): what each
    link carries, comparable between numbers of ranks.
    """
    if run.world == 1:
        raise SkippedError("one rank")
    factor = 2 * (run.world - 1) / run.world
    for size in GPU_SIZES if run.gpu else CPU_SIZES:
        run.beat(f"{size} bytes")
        if run.gpu and min(gather(run, torch.cuda.mem_get_info()[0])) < 4 * size:
            break
        data = torch.ones(size // 4, device=run.device)
        repeat = 20 if run.gpu else 5
        for _ in range(3):
            dist.all_reduce(data)
            data.fill_(1)
        barrier(run)
        begun = time.perf_counter()
        for _ in range(repeat):
            dist.all_reduce(data)
        synchronize(run)
        seconds = max(gather(run, (time.perf_counter() - begun) / repeat))
        row = {"bytes": size, "microseconds": finite(seconds * 1e6, 1)}
        row["algorithm_gb_s"] = finite(size / seconds / 1e9, 3)
        row["bus_gb_s"] = finite(size / seconds / 1e9 * factor, 3)
        run.speed["bandwidth"].append(row)
    counted = {}
    for transports in gather(run, nccl_transports()):
        for name, count in transports.items():
            counted[name] = counted.get(name, 0) + count
    run.speed["transports"] = counted
    best = max(run.speed["bandwidth"], key=lambda row: row["bus_gb_s"])
    via = f" via {', '.join(sorted(counted))}" if counted else ""
    return f"bus {best['bus_gb_s']:g} GB/s at {best['bytes'] // MIB} MiB{via}"


def nccl_transports():
    """How many channels NCCL set up over each transport, as its own log says."""
    text = attempt(read_log) or ""
    counted = {}
    for name in re.findall(r"Channel \d+.* via ([A-Za-z0-9/_]+)", text):
        counted[name] = counted.get(name, 0) + 1
    return counted


def read_log():
    """This process's NCCL log, where the probe had it written."""
    with open(OWN_NCCL_LOG.replace("%p", str(os.getpid())), errors="replace") as log:
        return log.read(4 * MIB)


def nccl_complaints(limit=8):
    """The warnings of this process's NCCL log, else its end: for a report of a failure."""
    lines = (attempt(read_log) or "").splitlines()
    warned = [line for line in lines if "WARN" in line or "error" in line.lower()]
    return [shorten(line) for line in (warned or lines)[-limit:]]


def topology():
    """How the GPUs of this host hang together, as `nvidia-smi topo -m` draws it."""
    command = ["nvidia-smi", "topo", "-m"]
    drawn = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    plain = re.sub(r"\x1b\[[0-9;]*m", "", drawn).split("Legend:")[0]
    return [line.rstrip() for line in plain.splitlines() if line.strip()][:40]


# Scaling


def conv(width_in, width_out, size, stride=1):
    """A convolution with its normalisation."""
    layer = nn.Conv2d(width_in, width_out, size, stride, padding=size // 2, bias=False)
    return [layer, nn.BatchNorm2d(width_out)]


class Bottleneck(nn.Module if torch is not None else object):
    """A residual block of ResNet-50 (He et al. 2015, table 1; stride in the 3x3, as torchvision)."""

    def __init__(self, width_in, width, stride):
        super().__init__()
        first, second = conv(width_in, width, 1), conv(width, width, 3, stride)
        third = conv(width, 4 * width, 1)
        self.body = nn.Sequential(*first, nn.ReLU(True), *second, nn.ReLU(True), *third)
        straight = stride == 1 and width_in == 4 * width
        shape = [] if straight else conv(width_in, 4 * width, 1, stride)
        self.short = nn.Sequential(*shape)

    def forward(self, x):
        return torch.relu(self.body(x) + self.short(x))


def resnet50(width):
    """ResNet-50; with a width of 64 it is the usual one, of 25.6 million parameters."""
    layers = [*conv(3, width, 7, 2), nn.ReLU(True), nn.MaxPool2d(3, 2, 1)]
    width_in = width
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            layers.append(Bottleneck(width_in, width << stage, stride))
            width_in = 4 * (width << stage)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width_in, 1000)]
    return nn.Sequential(*layers, *head)


def shape(run, gather):
    """(width, image side, batch a rank, warm-up steps, timed steps): a real job's, or a token one."""
    if not run.gpu:
        return 8, 32, 4, 1, 2
    # A batch that keeps a large GPU busy, and fits into the smallest one here.
    smallest = min(gather(run, run.gpu["total_memory"]))
    return 64, 224, 192 if smallest > 30 << 30 else 48, 8, 30


def time_steps(run, group, shape):
    """Each timed step's seconds, of ResNet-50 under DDP in this group of ranks."""
    width, side, batch, warm, steps = shape
    torch.manual_seed(0)
    model = resnet50(width).to(run.device, memory_format=torch.channels_last)
    devices = [run.device.index] if run.gpu else None
    model = DistributedDataParallel(model, device_ids=devices, process_group=group)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(batch, 3, side, side, device=run.device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=run.device)
    clock, marks = Clock(run), []
    for step in range(warm + steps):
        if step == warm:
            synchronize(run)
            marks.append(clock.mark())
        run.beat(f"step {step}")
        optimizer.zero_grad()
        if run.gpu:
            with torch.autocast("cuda", dtype=half_type()):
                loss = cross_entropy(model(images), labels)
        else:
            loss = cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        if step >= warm:
            marks.append(clock.mark())
    synchronize(run)
    if finite(float(loss.detach())) is None:
        raise ProbeError("loss", "the loss of ResNet-50 is not finite")
    return [clock.between(*pair) for pair in zip(marks, marks[1:])]


class Clock:
    """Marks in time on the GPU, so that no step waits for the host; on the CPU the host's own."""

    def __init__(self, run):
        self.gpu = run.gpu is not None

    def mark(self):
        """A moment in the order of the work."""
        if not self.gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, begin, end):
        """Seconds from one mark to another."""
        return begin.elapsed_time(end) / 1000 if self.gpu else end - begin


def half_type():
    """bfloat16 where this GPU computes in it (sm_80 and later), else float16."""
    return torch.bfloat16 if torch.cuda.get_device_capability()[0] >= 8 else torch.float16


def check_scaling(run, gather, barrier):
    """Samples/s of the same job on 1, 2, 4 ... ranks, the work a rank staying the same."""
    if run.world == 1:
        counts = [1]
    else:
        counts = [1 << n for n in range(run.world.bit_length()) if 1 << n < run.world] + [run.world]
    benchmark = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    job = width, side, batch, _, steps = shape(run, gather)
    try:
        for count in counts:
            run.beat(f"{count} ranks")
            group = dist.new_group(list(range(count)))
            times = time_steps(run, group, job) if run.rank < count else []
            barrier(run)
            slowest = max(gather(run, sum(times)))
            speed = count * batch * steps / slowest
            first = run.speed["scaling"][0]["samples_per_s"] if run.speed["scaling"] else speed
            row = {"ranks": count, "samples_per_s": finite(speed, 1)}
            row.update(speedup=finite(speed / first, 3), efficiency=finite(speed / first / count, 3))
            run.speed["scaling"].append(row)
        run.figures["step_ms"] = [finite(seconds * 1000, 2) for seconds in times]
    finally:
        torch.backends.cudnn.benchmark = benchmark
        if run.gpu:
            torch.cuda.empty_cache()
    kind = str(half_type()).replace("torch.", "") if run.gpu else "float32"
    model = "ResNet-50" if width == 64 else f"ResNet-50 of width {width}"
    run.speed["model"] = f"{model}, {batch} images of {side}x{side} a rank, {kind}"
    last = run.speed["scaling"][-1]
    least = run.args.min_efficiency
    if least and last["efficiency"] < least:
        words = f"{last['speedup']:g}x on {run.world} ranks is {last['efficiency']:.0%} of ideal"
        raise ProbeError("slow-scaling", f"{words}, asked for was {least:.0%}")
    shown = ", ".join(f"{row['samples_per_s']:g}/s on {row['ranks']}" for row in run.speed["scaling"])
    return f"{shown}: {last['speedup']:g}x of {run.world}x"
