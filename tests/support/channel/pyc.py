"""Compiles .pyc files with a channel's own Python, stamped with the mtime and size that the archive gives the source.

Run as a program inside that Python it is the worker: one JSON line and the source in, one JSON line and the code out.
"""

import json
import sys


def worker():
    """Reads requests from standard input until it ends."""
    import importlib._bootstrap_external as external

    while header := sys.stdin.buffer.readline():
        request = json.loads(header)
        source = sys.stdin.buffer.read(request["size"])
        try:
            code = compile(source, request["path"], "exec", dont_inherit=True, optimize=0)
            out = bytes(external._code_to_timestamp_pyc(code, request["mtime"], request["size"]))
        except (SyntaxError, ValueError):  # shipped test data and templates need not compile
            out = b""
        sys.stdout.buffer.write(json.dumps(len(out)).encode() + b"\n" + out)
        sys.stdout.buffer.flush()


def compiled(interpreter, entries):
    """The __pycache__ entries of the .py entries that compile; `interpreter` has popen and a tag."""
    from .archive import Entry

    made = []
    process = interpreter.popen([__file__])
    with process:
        for entry in entries:
            # A placeholder changes the size of the source, and so would make its .pyc stale.
            if not entry.path.endswith(".py") or not entry.is_file or entry.placeholder:
                continue
            with entry.open() as source:
                text = source.read()
            # Relative, as conda-build compiles: nothing of the building machine gets into the code.
            request = {"path": entry.path, "mtime": entry.mtime, "size": len(text)}
            process.stdin.write(json.dumps(request).encode() + b"\n" + text)
            process.stdin.flush()
            size = json.loads(process.stdout.readline())
            if size:
                data = process.stdout.read(size)
                folder, _, name = entry.path.rpartition("/")
                target = f"{folder}/__pycache__/{name.removesuffix('.py')}.{interpreter.tag}.pyc"
                made.append(Entry(target, 0o644, entry.mtime, data=data))
        process.stdin.close()
    return made


if __name__ == "__main__":
    worker()
