#!/usr/bin/env python3
"""Makes small wheels: good ones of every kind, and evil ones.

    make_wheels.py DIR

writes DIR/good/*.whl and DIR/evil/*.whl; the name of an evil wheel says what is wrong with it.
"""

import base64
import hashlib
import io
import os
import stat
import struct
import sys
import warnings
import zipfile
import zlib

TIME = (2024, 5, 6, 7, 8, 10)
WHEEL = "Wheel-Version: 1.0\nGenerator: make_wheels\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
LOCAL, CENTRAL, END = b"PK\3\4", b"PK\1\2", b"PK\5\6"


def digest(data, algorithm="sha256"):
    """A hash as RECORD has it."""
    return f"{algorithm}={base64.urlsafe_b64encode(hashlib.new(algorithm, data).digest()).decode().rstrip('=')}"


class File:
    """A file of a wheel; `listed` is its line of RECORD, or None to leave it out."""

    def __init__(self, name, data="", mode=stat.S_IFREG | 0o644, time=TIME, **more):
        self.name, self.mode, self.time = name, mode, time
        self.data = data.encode() if isinstance(data, str) else data
        quoted = '"' + name.replace('"', '""') + '"'
        self.listed = more.get("listed", f"{quoted},{digest(self.data)},{len(self.data)}")
        self.method = more.get("method", zipfile.ZIP_DEFLATED)
        self.extra = more.get("extra", b"")
        self.gap = more.get("gap", b"")

    def info(self):
        """What zipfile writes it by."""
        info = zipfile.ZipInfo(self.name, self.time)
        info.external_attr = self.mode << 16
        info.compress_type = self.method
        info.extra = self.extra
        return info


def folder(name):
    """An entry of a folder."""
    return File(name + "/", mode=stat.S_IFDIR | 0o755, method=zipfile.ZIP_STORED, listed=None)


class Unseekable(io.RawIOBase):
    """A stream that zipfile cannot go back in: sizes follow the data."""

    def __init__(self):
        super().__init__()
        self.data = bytearray()

    def writable(self):
        return True

    def write(self, data):
        self.data += data
        return len(data)


class Wheel:
    """A wheel of version 1.0 with the usual *.dist-info."""

    def __init__(self, name, files=(), **more):
        self.name = name
        self.stem = more.get("stem", f"{name}-1.0")
        info = f"{self.stem}.dist-info/"
        metadata = more.get("metadata", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        init = {"listed": more["init"]} if "init" in more else {}
        self.files = [File(f"{name}/__init__.py", "x = 1\n", **init), *files]
        if metadata is not None:
            self.files.append(File(info + "METADATA", metadata))
        if more.get("wheel", WHEEL) is not None:
            self.files.append(File(info + "WHEEL", more.get("wheel", WHEEL)))
        if "entry_points" in more:
            self.files.append(File(info + "entry_points.txt", more["entry_points"]))
        lines = [file.listed for file in self.files if file.listed is not None] + list(more.get("lines", ()))
        lines.append(info + "RECORD,,")
        self.files.append(File(info + "RECORD", "\n".join(lines) + "\n"))
        self.zip64, self.comment = more.get("zip64", False), more.get("comment", b"")
        self.change = more.get("change", lambda data: data)

    def zip(self, out):
        """Writes the zip."""
        with zipfile.ZipFile(out, "w") as archive:
            archive.comment = self.comment
            for file in self.files:
                info = file.info()
                with archive.open(info, "w", force_zip64=self.zip64) as entry:
                    entry.write(file.data)
                if file.gap:
                    archive.fp.seek(archive.start_dir)
                    archive.fp.write(file.gap)
                    archive.start_dir = archive.fp.tell()

    def bytes(self):
        """The wheel."""
        out = io.BytesIO()
        self.zip(out)
        return bytes(self.change(bytearray(out.getvalue())))


class Streamed(Wheel):
    """A wheel that was written to a pipe."""

    def bytes(self):
        out = Unseekable()
        self.zip(out)
        return bytes(self.change(out.data))


class Zip64End(Wheel):
    """A wheel that ends as a zip of more than 65535 files does."""

    def bytes(self):
        limit, zipfile.ZIP_FILECOUNT_LIMIT = zipfile.ZIP_FILECOUNT_LIMIT, 1
        try:
            return bytes(patch(END, 8, b"\xff\xff\xff\xff")(bytearray(super().bytes())))
        finally:
            zipfile.ZIP_FILECOUNT_LIMIT = limit


def header(data, magic, number=0):
    """Where the local or central header of that number begins."""
    at = -1
    for _ in range(number + 1):
        at = data.index(magic, at + 1)
    return at


def patch(magic, offset, value, number=0):
    """Changes bytes of a header."""
    def change(data):
        at = header(data, magic, number) + offset
        data[at:at + len(value)] = value
        return data
    return change


def both(*changes):
    """One change after the other."""
    def change(data):
        for each in changes:
            data = each(data)
        return data
    return change


def rename(old, new):
    """Another name of the same length, everywhere."""
    return lambda data: bytearray(data.replace(old, new))


def forget_central(data):
    """Takes the first file out of the central directory: it is in the local headers alone."""
    start, end = header(data, CENTRAL), header(data, END)
    size = 46 + sum(struct.unpack_from("<HHH", data, start + 28))
    count, _, directory = struct.unpack_from("<HII", data, end + 10)
    struct.pack_into("<HHI", data, end + 8, count - 1, count - 1, end - start - size)
    assert directory == start
    return data[:start] + data[start + size:]


def slack(data):
    """Bytes in the central directory that no header owns."""
    end = header(data, END)
    (size,) = struct.unpack_from("<I", data, end + 12)
    struct.pack_into("<I", data, end + 12, size + 4)
    return data[:end] + b"\0\0\0\0" + data[end:]


def say_size(size):
    """The first file is said to have that size, wherever it is said."""
    value = struct.pack("<I", size)
    return both(patch(LOCAL, 22, value), patch(CENTRAL, 24, value))


def unicode_path(name, other):
    """An extra field by which some readers see another name."""
    data = b"\1" + struct.pack("<I", zlib.crc32(name.encode())) + other.encode()
    return struct.pack("<HH", 0x7075, len(data)) + data


def scripts(stem, **files):
    """Files of *.data/scripts; no one may execute them yet."""
    return [File(f"{stem}.data/scripts/{name.replace('_', '-')}", data) for name, data in files.items()]


def good():
    """Wheels that are installed."""
    kinds = [
        folder("kinds"), folder("kinds/sub"), File("kinds/sub/data.txt", "ä\n"),
        File("kinds/tool.sh", "#!/bin/sh\n", stat.S_IFREG | 0o700), File("kinds/untyped.sh", "#!/bin/sh\n", 0o755),
        File("kinds/group.txt", "g\n", stat.S_IFREG | 0o666), File('kinds/odd, "name".txt', "odd\n"),
        File("kinds/strong.bin", b"s" * 70000, listed=f"kinds/strong.bin,{digest(b's' * 70000, 'sha512')},70000"),
        File("kinds/sizeless.txt", "no size\n", listed=f"kinds/sizeless.txt,{digest(b'no size' + bytes([10]))},"),
        File("kinds/stored.txt", "stored\n", method=zipfile.ZIP_STORED),
        File("kinds/empty.py", ""),
        File("kinds-1.0.data/purelib/kinds_pure.py", "pure = 1\n"),
        File("kinds-1.0.data/platlib/kinds_plat.py", "plat = 1\n"),
        File("kinds-1.0.data/headers/kinds.h", "#define KINDS 1\n"),
        File("kinds-1.0.data/data/share/man/man1/kinds.1", ".TH kinds\n"),
        *scripts("kinds-1.0", kinds_script="#!python\nimport sys\nprint('script', sys.argv[1:])\n",
                 kinds_gui="#!pythonw -s\r\nprint('gui')\n", kinds_bare="#!python",
                 kinds_shell="#!/bin/sh\necho shell\n",
                 kinds_binary=b"\x7fELF" + bytes(range(256)) * 300, kinds_short="#!py", kinds_empty="",
                 kinds_command="#!python\nraise SystemExit('the file')\n"),
        File("kinds-1.0.data/scripts/kinds-command-script.py", "#!python\nraise SystemExit('the file')\n"),
        File("kinds-1.0.dist-info/INSTALLER", "someone\n"), File("kinds-1.0.dist-info/REQUESTED"),
        File("kinds-1.0.dist-info/direct_url.json", '{"url": "https://user:secret@host/"}'),
        File("kinds-1.0.dist-info/RECORD.jws", "{}", listed=None),
        File("kinds-1.0.dist-info/licenses/LICENSE", "free\n"),
        File("kinds/cli.py", "import sys\n\n\ndef main():\n    print('command', sys.argv[1:])\n\n\nclass Group:\n"
             "    def run():\n        return 'a message'\n"),
    ]
    entry_points = ("[console_scripts]\nkinds-command = kinds.cli:main\nkinds-dotted = kinds.cli:Group.run [extra]\n"
                    "[gui_scripts]\nkinds-window = kinds.cli:main\n[kinds.plugins]\nany: thing = kinds\n")
    times = [File("times/dos.py", time=(1980, 1, 1, 0, 0, 0)), File("times/zoned.py", time=(1980, 1, 1, 23, 59, 58)),
             File("times/first.py", time=(1980, 1, 2, 0, 0, 0)), File("times/late.py", time=(2107, 12, 31, 23, 59, 58)),
             File("times/leap.py", time=(2024, 2, 29, 23, 59, 58))]
    no_month = both(patch(LOCAL, 12, b"\0\0"), patch(CENTRAL, 14, b"\0\0"))
    pip = "[console_scripts]\npip = pipper:main\npip3.7 = pipper:main\npip-audit = pipper:main\n"
    return [
        Wheel("kinds", kinds, entry_points=entry_points),
        Wheel("times", times, change=no_month),
        Wheel("timeless", change=lambda data: data.replace(struct.pack("<HH", *dos(TIME)), b"\0\0\0\0")),
        Wheel("pipper", entry_points=pip),
        Wheel("zip64", zip64=True), Zip64End("zip64_end"), Streamed("streamed"),
    ]


def dos(time):
    """A time as two numbers of MS-DOS."""
    year, month, day, hour, minute, second = time
    return hour << 11 | minute << 5 | second // 2, (year - 1980) << 9 | month << 5 | day


def evil_zips():
    """Zips that can be read in two ways, or not at all."""
    return [
        Wheel("before", change=lambda data: b"#!/bin/sh\n" + data),
        Wheel("behind", change=lambda data: data + b"more"),
        Wheel("two_zips", change=lambda data: Wheel("two_zips", [File("hidden.py")]).bytes() + data),
        Wheel("comment", comment=b"PK"),
        Wheel("cut", change=lambda data: data[:-1]),
        Wheel("no_zip", change=lambda data: b"not a zip"),
        Wheel("empty", change=lambda data: b""),
        Wheel("twice", [File("a.py"), File("a.py", "y = 2\n", listed=None)]),
        Wheel("local_name", change=patch(LOCAL, 30, b"x")),
        Wheel("local_size", change=patch(LOCAL, 22, b"\7\0\0\0")),
        Wheel("local_crc", change=patch(LOCAL, 14, b"\0\0\0\0")),
        Wheel("local_method", change=patch(LOCAL, 8, b"\0\0")),
        Wheel("local_only", [File("a.py")], change=forget_central),
        Wheel("between", [File("a.py", gap=b"bytes of no file")]),
        Wheel("slack", change=slack),
        Wheel("count", change=patch(END, 8, b"\2\0\2\0")),
        Wheel("saturated", change=patch(END, 8, b"\xff\xff\xff\xff")),
        Wheel("encrypted", change=both(patch(LOCAL, 6, b"\1\0"), patch(CENTRAL, 8, b"\1\0"))),
        Wheel("bzip2", [File("a.py", "z" * 99, method=zipfile.ZIP_BZIP2)]),
        Wheel("other_name", [File("a.py", extra=unicode_path("a.py", "b.py"))]),
        Wheel("not_utf8", [File("a-b.py")], change=rename(b"a-b.py", b"a\xffb.py")),
        Wheel("symlink", [File("a.py", "/etc/passwd", stat.S_IFLNK | 0o777)]),
        Wheel("device", [File("a.py", "", stat.S_IFCHR | 0o666)]),
        Wheel("full_folder", [File("a/", "content", stat.S_IFDIR | 0o755, listed=None)]),
        Wheel("file_folder", [File("a"), File("a/b.py")]),
        Wheel("file_and_folder", [File("a"), folder("a")]),
        Streamed("streamed_size", change=patch(b"PK\7\x08", 12, b"\7")),
        Streamed("streamed_crc", change=patch(b"PK\7\x08", 4, b"\0\0\0\0")),
    ]


def evil_content():
    """Wheels whose faults show only when their content is read."""
    return [
        Wheel("longer", init=f"longer/__init__.py,{digest(b'x = 1')},5", change=say_size(5)),
        Wheel("shorter", init=f"shorter/__init__.py,{digest(b'x = 1' + bytes([10]))},7", change=say_size(7)),
        Wheel("wrong_hash", [File("a.py", "b", listed=f"a.py,{digest(b'c')},1")]),
        Wheel("wrong_script", [File("wrong_script-1.0.data/scripts/a", "#!python\nb",
                                    listed=f"wrong_script-1.0.data/scripts/a,{digest(b'c')},10")]),
        Wheel("damaged", [File("a.py", bytes(range(256)))], change=patch(LOCAL, 99, b"\xff\xff\xff", 1)),
        Wheel("long_line", scripts("long_line-1.0", a="#!python" + " " * 5000 + "\n")),
    ]


def evil_names():
    """Names that are no plain relative paths."""
    return [
        Wheel("absolute", [File("/etc/passwd")]), Wheel("upwards", [File("../../../etc/passwd")]),
        Wheel("dotted", [File("a.py"), File("./a.py")]), Wheel("doubled", [File("a//b.py")]),
        Wheel("backslash", [File("a\\b.py")]), Wheel("drive", [File("C:/a.py")]),
        Wheel("nul", [File("a-b.py")], change=rename(b"a-b.py", b"a\0b.py")),
        Wheel("newline", [File("a\nb.py", listed=None)]),
        Wheel("data_upwards", [File("data_upwards-1.0.data/data/../x")]),
    ]


def evil_records():
    """RECORDs that are not of their wheel."""
    weak = ("md5", "sha1", "sha224")
    weak = [Wheel(name, [File("a.py", "b", listed=f"a.py,{digest(b'b', name)},1")]) for name in weak]
    return weak + [
        Wheel("unlisted", [File("a.py", listed=None)]), Wheel("missing", lines=["a.py,,"]),
        Wheel("no_hash", [File("a.py", listed="a.py,,0")]),
        Wheel("wrong_size", [File("a.py", listed=f"a.py,{digest(b'')},1")]),
        Wheel("padded", [File("a.py", listed=f"a.py,{digest(b'')}=,0")]),
        Wheel("cut_hash", [File("a.py", listed=f"a.py,{digest(b'')[:-4]},0")]),
        Wheel("no_number", [File("a.py", listed=f"a.py,{digest(b'')},-0")]),
        Wheel("two_fields", [File("a.py", listed=f"a.py,{digest(b'')}")]),
        Wheel("contradiction", [File("a.py")], lines=[f"a.py,{digest(b'b')},0"]),
    ]


def evil_metadata():
    """Wheels that are not what they are called, or of a format that is not known."""
    return [
        Wheel("version_2", wheel=WHEEL.replace("1.0", "2.0")), Wheel("no_wheel", wheel=None),
        Wheel("no_metadata", metadata=None), Wheel("other_project", metadata="Name: torch\nVersion: 1.0\n"),
        Wheel("other_version", metadata="Name: other_version\nVersion: 1.1\n"),
        Wheel("other_folder", stem="torch-1.0"), Wheel("two_folders", [File("torch-1.0.dist-info/METADATA")]),
        Wheel("command_upwards", entry_points="[console_scripts]\n../../a = a:b\n"),
        Wheel("command_code", entry_points="[console_scripts]\na = os:system('id')\n"),
        Wheel("command_list", entry_points="[console_scripts\n"),
    ]


def evil_places():
    """Files whose places are wrong or taken."""
    data = "{}-1.0.data/"
    return [
        Wheel("other_data", [File("torch-1.0.data/data/a")]),
        Wheel("no_scheme", [File(data.format("no_scheme") + "stdlib/os.py")]),
        Wheel("only_scheme", [File(data.format("only_scheme") + "scripts")]),
        Wheel("same_place", [File("a.py"), File(data.format("same_place") + "purelib/a.py")]),
        Wheel("installers", [File(data.format("installers") + "purelib/installers-1.0.dist-info/RECORD")]),
        Wheel("place_folder", [File("a"), File(data.format("place_folder") + "platlib/a/b.py")]),
        Wheel("conda_meta", [File(data.format("conda_meta") + "data/conda-meta/history")]),
    ]


def main():
    """Reads the command line."""
    (out,) = sys.argv[1:]
    warnings.simplefilter("ignore", UserWarning)
    evil = [*evil_zips(), *evil_content(), *evil_names(), *evil_records(), *evil_metadata(), *evil_places()]
    for kind, wheels in (("good", good()), ("evil", evil)):
        os.makedirs(os.path.join(out, kind), exist_ok=True)
        for wheel in wheels:
            with open(os.path.join(out, kind, f"{wheel.name}-1.0-py3-none-any.whl"), "wb") as file:
                file.write(wheel.bytes())


if __name__ == "__main__":
    main()
