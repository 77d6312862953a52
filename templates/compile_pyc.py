"""Compiles Python sources to unchecked hash-based .pyc (PEP 552). It never runs what it compiles.

Run as `python -S -s -W ignore -c SCRIPT`, with PYTHONHASHSEED=0 and no other PYTHON* variable.

Its first frame says what it is: implementation, version, cache tag, ABI flags, one a line. Then, until its input ends:
request: length of the path (4 bytes, big-endian), length of the source (4 bytes), path, source
answer:  0 for a .pyc or 1 for the reason why there is none (1 byte), length (4 bytes), content
"""

import sys

# The standard library alone: not the current folder, whatever is in it.
sys.path[:] = [path for path in sys.path if path]

import _frozen_importlib_external as external  # noqa: E402
import _imp  # noqa: E402
import _thread  # noqa: E402

# Deep sources recurse on the C stack. Its size must not be the caller's `ulimit -s`: what compiles here, compiles
# everywhere.
STACK = 256 << 20
UNCHECKED = False


def compiled(path, source):
    code = compile(source, path.decode("utf-8", "surrogateescape"), "exec", dont_inherit=True, optimize=0)
    return external._code_to_hash_pyc(code, _imp.source_hash(external._RAW_MAGIC_NUMBER, source), UNCHECKED)


def reason(error):
    text = "{}: {}".format(type(error).__name__, getattr(error, "msg", None) or error)
    line = getattr(error, "lineno", None)
    return "{} (line {})".format(text, line) if line else text


def answer(stream, status, content):
    stream.write(bytes([status]) + len(content).to_bytes(4, "big"))
    stream.write(content)
    stream.flush()


def about():
    tag = sys.implementation.cache_tag or ""
    version = "{}.{}.{}".format(*sys.version_info)
    if sys.version_info.releaselevel != "final":
        level = {"alpha": "a", "beta": "b", "candidate": "rc"}[sys.version_info.releaselevel]
        version += level + str(sys.version_info.serial)
    return "\n".join([sys.implementation.name, version, tag, sys.abiflags])


def serve(requests, answers):
    answer(answers, 0, about().encode())
    while True:
        head = requests.read(8)
        if len(head) < 8:
            return
        path = requests.read(int.from_bytes(head[:4], "big"))
        source = requests.read(int.from_bytes(head[4:], "big"))
        try:
            status, content = 0, compiled(path, source)
        except Exception as error:  # whatever a source can raise: its reason is the answer
            status, content = 1, reason(error).encode("utf-8", "backslashreplace")
        answer(answers, status, content)


def main():
    done = _thread.allocate_lock()
    done.acquire()

    def run():
        try:
            serve(sys.stdin.buffer, sys.stdout.buffer)
        finally:
            done.release()

    _thread.stack_size(STACK)
    _thread.start_new_thread(run, ())
    done.acquire()


main()
