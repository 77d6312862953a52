"""A real multi-process DistributedDataParallel job that says whether an environment can train.

imgbuild copies this file into a container (or runs it on the host) and launches it with

    python -m torch.distributed.run --standalone --nproc_per_node=N ddp_probe.py --backend nccl

next to ddp_lines.py, ddp_report.py, ddp_machine.py, ddp_alone.py, ddp_speed.py and ddp_p2p.py, which
it imports. Beyond these it needs the standard library and torch alone: Python 3.8+, torch 1.12+,
numpy or not.

Each rank writes one line on stdout, `IMGBUILD_PROBE_RANK {json}`, and rank 0 also writes
`IMGBUILD_PROBE_SUMMARY {json}`; progress and tracebacks go to stderr, the latter as `[rank1]: ...`.
A rank that fails names the step and a stable `code`; `secondary` tells that it stopped only because
another rank did.

Exit status: 0 passed, 1 a check failed, 2 bad flags, 3 the job can't start here (no GPU, CPU-only
torch ...), 124 no progress within the limit, 143 stopped by a signal.
"""

import argparse
import ctypes
import datetime
import faulthandler
import functools
import hashlib
import json
import multiprocessing
import os
import socket
import sys
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # PYTHONSAFEPATH leaves it out

from ddp_lines import go_first, mark_lines

if __name__ == "__main__":  # before torch is imported
    mark_lines(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0)))
    go_first()

from ddp_alone import check_device_alone, check_gpu_health
from ddp_machine import CPU_NOTE, check_device, check_torch, shm_size, summary, torch
from ddp_p2p import look_again
from ddp_report import (
    CANNOT_RUN,
    EXIT_CANNOT_RUN,
    EXIT_FAILED,
    SHM,
    ProbeError,
    Run,
    SkippedError,
    attempt,
    classify,
    describe,
    expect_equal,
    finite,
    leave,
)
from ddp_speed import check_bandwidth, check_scaling, nccl_complaints, topology

if torch is not None:  # without it check_torch, the first check, ends the run
    import torch.distributed as dist
    from torch import nn
    from torch.nn.functional import cross_entropy
    from torch.nn.parallel import DistributedDataParallel
    from torch.utils.data import DataLoader
    from torch.utils.data.distributed import DistributedSampler

MIB, SEED, CLASSES = 1 << 20, 20240229, 10


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
    way = "reduce_scatter"
    for dtype, size, label in cases(run, (torch.int64, torch.float32)):
        got = torch.empty(size, dtype=dtype, device=run.device)
        mine = pattern(run, size, dtype, run.rank)
        way = reduce_scatter(run, got, [mine + slot for slot in range(run.world)])
        want = sum(pattern(run, size, dtype, rank) for rank in range(run.world))
        expect_equal(f"sum of {label}", got, want + run.world * run.rank)
    return f"2 dtypes, up to {label} a rank, by {way}"


def reduce_scatter(run, got, slices):
    """torch's own, or a reduce to each rank in turn where gloo has none (before torch 2.8); says which."""
    try:
        dist.reduce_scatter(got, slices)
        return "reduce_scatter"
    except RuntimeError as exc:
        if run.gpu or "does not support reduce_scatter" not in str(exc):
            raise
    for rank, part in enumerate(slices):
        dist.reduce(part, rank)
    got.copy_(slices[run.rank])
    return "reduce to each rank"


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


def check_bus_bandwidth(run):
    """How fast the ranks talk, and over what."""
    if run.gpu and run.rank == 0:
        run.speed["topology"] = attempt(topology) or []
    return check_bandwidth(run, gather_json, barrier)


def check_speedup(run):
    """How fast they train together."""
    return check_scaling(run, gather_json, barrier)


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


def make_block(size, index):
    """A large sample filled with its index, moved to shared memory here, in the worker's own loop.

    Left to the queue's thread, a full /dev/shm would lose the sample and hang the job instead.
    """
    return torch.full((size,), index, dtype=torch.uint8).share_memory_()


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
    """All ranks at once hold what their workers prefetch, in /dev/shm, at a real job's size."""
    workers, size = run.args.workers, run.args.shm_batch_mb * MIB
    if not workers or not size:
        raise SkippedError("--workers or --shm-batch-mb is 0")
    total, free = shm_size()
    count = 2 * workers  # a worker prefetches two batches
    used = count * size * (run.local_world or run.world)
    facts = f"{SHM} {total // MIB} MiB, {free // MIB} free, up to {used // MIB} needed"
    blocks = []
    try:
        options = dict(worker_options(run), collate_fn=functools.partial(make_block, size))
        loader = DataLoader(range(count), batch_size=None, **options)
        for index, block in enumerate(loader):
            run.beat(f"batch {index}")
            expect_equal(f"batch {index}", block, torch.full_like(block, index))
            blocks.append(block)
    except (RuntimeError, OSError) as exc:
        code = classify(exc, run.step)
        # A worker that got SIGBUS is not always named as such.
        code = "shm" if code in ("worker-killed", "error") and free < used else code
        raise ProbeError(code, f"{facts}: {describe(exc)}") from exc
    barrier(run)  # only now may the blocks go
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


def check_one_process(run):
    """Some steps of DDP over a DistributedSampler end where one process does that takes all the samples."""
    steps, each = 4, 8
    start = {name: value.clone() for name, value in run.model.module.state_dict().items()}
    alone = build_model(0).to(run.device)
    alone.load_state_dict(start)
    together = [torch.optim.SGD(model.parameters(), lr=0.05) for model in (alone, run.model)]
    samplers = [DistributedSampler(range(steps * each * run.world), run.world, rank, seed=SEED)
                for rank in range(run.world)]
    for sampler in samplers:
        sampler.set_epoch(1)
    orders = [list(sampler) for sampler in samplers]
    for step in range(steps):
        run.beat(f"step {step}")
        batches = [order[step * each : (step + 1) * each] for order in orders]
        everything = [index for batch in batches for index in batch]
        pairs = zip((alone, run.model), together, (everything, batches[run.rank]))
        for model, optimizer, indices in pairs:
            images, labels = [part.to(run.device) for part in make_batch(indices)[:2]]
            optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()
            optimizer.step()
    worst = 0.0
    for (name, want), got in zip(alone.named_parameters(), run.model.module.parameters()):
        off = float((got - want).detach().norm() / want.detach().norm())
        worst = max(worst, off)
        if not off < 1e-3:
            raise ProbeError("mismatch", f"after {steps} steps {name} is off by {off:.2g} (relative)")
    run.model.module.load_state_dict(start)
    return f"{steps} steps as one process's, within {worst:.1g}"


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
    """Training made the loss on the fixed batch fall."""
    first, last = run.figures["loss_first"], run.figures["loss_last"]
    if first is None or last is None or last >= first:
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


BEFORE = (check_torch, check_device_alone, check_device, check_gpu_health, check_rendezvous, check_distinct_gpus)
COLLECTIVES = (check_all_reduce, check_all_gather, check_broadcast, check_reduce_scatter)
TRAINING = (check_ddp_init, check_ddp_gradients, check_one_process, check_train, check_samples, check_loss_falls)
AFTER = (check_params_equal, check_shutdown)
SPEED = (check_bus_bandwidth, check_speedup)
CHECKS = BEFORE + COLLECTIVES + (check_barrier, check_dataloader_shm) + TRAINING + SPEED + AFTER


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
    add("--min-efficiency", type=float, default=0, help="of scaling, 0 to 1 (0: any)")
    add("--device-timeout", type=float, default=60, help="seconds for a step of a device by itself")
    add("--timeout", type=float, default=300, help="seconds for the whole run")
    add("--stall-timeout", type=float, default=60, help="seconds without progress")
    args = parser.parse_args(argv)
    for name, value in vars(args).items():
        least = 0 if name in ("workers", "shm_batch_mb", "min_efficiency") else 1
        if isinstance(value, (int, float)) and value < least:
            parser.error(f"--{name.replace('_', '-')} must be {least} or more")
    return args


def main(argv=None):
    """Run the probe in this process and return its exit status."""
    run = Run(parse_args(argv), os.environ, summary)
    run.evidence, run.look_again = nccl_complaints, look_again
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
