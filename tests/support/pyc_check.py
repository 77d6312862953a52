"""What the tests ask a Python about .pyc files; run by the Python they are for.

    pyc_check.py marshal LIST  the marshalled code of each file of LIST, in its order: length (4 bytes), bytes
    pyc_check.py kept LIST     the same, but every code object stays alive, and so do the strings that it shares
    pyc_check.py equal LIST    reads as many such frames, and compares each with what its file compiles to
    pyc_check.py tree FOLDER   compares every hash-based .pyc below with its source; prints how many there are
"""

import marshal
import os
import sys

KINDS = (int, float, complex, str, bytes, bool, type(None), type(Ellipsis))


def same(one, other):
    """Whether two constants or code objects are equal in all that a program can see."""
    if type(one) is not type(other):
        return False
    if isinstance(one, type(same.__code__)):
        names = [name for name in dir(one) if name.startswith("co_") and not callable(getattr(one, name))]
        return all(same(getattr(one, name), getattr(other, name)) for name in names)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, frozenset):
        return one == other and sorted(map(repr, one)) == sorted(map(repr, other))
    assert isinstance(one, KINDS), type(one)
    return repr(one) == repr(other)


def code_of(path, shown=None):
    """The code of a file; none where it does not compile."""
    with open(path, "rb") as file:
        source = file.read()
    try:
        return compile(source, shown or path, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError):
        return None


def listed(path):
    """The lines of a file."""
    with open(path, encoding="utf-8") as file:
        return file.read().splitlines()


def write_marshal(files, kept):
    """The first question, and the second where `kept` is a list."""
    for path in files:
        code = code_of(path)
        if kept is not None:
            kept.append(code)
        data = marshal.dumps(code) if code else b""
        sys.stdout.buffer.write(len(data).to_bytes(4, "big") + data)


def check_equal(files):
    """The third question."""
    for path in files:
        data = sys.stdin.buffer.read(int.from_bytes(sys.stdin.buffer.read(4), "big"))
        code = code_of(path)
        if code and not same(marshal.loads(data), code):
            sys.exit("{}: the code is another".format(path))


def check_tree(folder, prefix):
    """The last question; `prefix` is what the files believe `folder` is."""
    from importlib.util import MAGIC_NUMBER, source_from_cache, source_hash

    count = 0
    for root, _, names in os.walk(folder):
        for name in sorted(names):
            path = os.path.join(root, name)
            if not name.endswith(".pyc"):
                continue
            with open(path, "rb") as file:
                head, data = file.read(16), file.read()
            if head[4:8] != b"\1\0\0\0":
                continue  # a package's own, by time or checked
            source = source_from_cache(path)
            with open(source, "rb") as file:
                expected = MAGIC_NUMBER + b"\1\0\0\0" + source_hash(file.read())
            shown = prefix + source[len(folder):]
            if head != expected or not same(marshal.loads(data), code_of(source, shown)):
                sys.exit("{} is not what its source compiles to".format(path))
            count += 1
    print(count)


if __name__ == "__main__":
    {
        "marshal": lambda arg: write_marshal(listed(arg), None),
        "kept": lambda arg: write_marshal(listed(arg), []),
        "equal": lambda arg: check_equal(listed(arg)),
        "tree": check_tree,
    }[sys.argv[1]](*sys.argv[2:])
