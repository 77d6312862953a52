"""What a rank does first: it marks its lines on stderr, in PyTorch's own form: `[rank1]: ...`. See ddp_probe.py.

A process passes the lines on, so that those of a rank that is killed, or hangs in C, come out too. torchrun's
--tee reads files at intervals and loses what stands in them when it is stopped itself.
"""

import contextlib
import os
import signal

PROGRESS = b"imgbuild probe: "
LIMIT = 3900  # a pipe keeps a write whole up to 4096 bytes (Linux, pipe(7))


def mark_lines(rank):
    """From now on all that this process and its children write to stderr is marked.

    It forks: call it before threads begin, and before torch makes the process large.
    """
    reader, writer = os.pipe()
    try:
        child = os.fork()
    except OSError:  # no process may be added: then unmarked
        return
    if child:
        os.close(reader)
        os.dup2(writer, 2)
        os.close(writer)
        os.write(2, b"begins import\n")  # the first step, which takes the most memory at once
        return
    try:
        os.close(writer)
        pass_on(reader, f"[rank{rank}]:".encode())
    finally:
        os._exit(0)


def go_first():
    """When memory runs out let the kernel take a rank, not torchrun, which then tells the rank (Linux, proc(5))."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("500")


def pass_on(reader, mark):
    """In the process between: lines from the pipe to stderr, until no one can write to the pipe any more."""
    for number in (signal.SIGINT, signal.SIGTERM):  # these are the rank's, whose last words are still to come
        signal.signal(number, signal.SIG_IGN)
    os.closerange(0, 2)
    rest = b""
    while True:
        data = os.read(reader, 1 << 16)
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > LIMIT or not data:
            lines, rest = lines + ([rest] if rest else []), b""
        for line in lines:
            plain = line.startswith((mark, PROGRESS))
            text = line[:LIMIT] if plain else mark + b" " + line[:LIMIT]
            with contextlib.suppress(OSError):  # nobody listens: the rank must not notice
                os.write(2, text + b"\n")
        if not data:
            return
