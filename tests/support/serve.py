#!/usr/bin/env python3
"""Serves a folder over HTTP on the loopback address, with ranges, ETags and an optional request log.

    serve.py DIR [--port N] [--log FILE] [--auth USER:PASSWORD] [--token TOKEN] [--packages-at URL] [--while-stdin]

The first line printed is the address. Port 0, the default, lets the system choose.
"""

import argparse
import base64
import email.utils
import os
import re
import socketserver
import sys
import threading
import urllib.parse
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler

CHUNK = 1 << 20


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """A threaded server of one folder."""

    daemon_threads, allow_reuse_address, request_queue_size = True, True, 128

    def __init__(self, port, options):
        self.root, self.log, self.lock = os.path.realpath(options.folder), options.log, threading.Lock()
        self.credentials = options.auth and base64.b64encode(options.auth.encode()).decode()
        self.token, self.packages_at = options.token, options.packages_at
        super().__init__(("127.0.0.1", port), Handler)


class Handler(BaseHTTPRequestHandler):
    """GET and HEAD of files."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        """Sends a file or a part of it."""
        self._answer(True)

    def do_HEAD(self):
        """Sends the headers that GET would."""
        self._answer(False)

    def _local(self):
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).lstrip("/")
        local = os.path.realpath(os.path.join(self.server.root, path))
        if os.path.isdir(local):
            local = os.path.join(local, "index.html")
        inside = local.startswith(self.server.root + os.sep)
        return local if inside and os.path.isfile(local) else None

    def _plain(self, status, extra=()):
        self.send_response(status)
        for name, value in extra:
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _range(self, size):
        """(first, last) of a satisfiable single range, None for the whole file, False for one outside it."""
        found = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not found or found.groups() == ("", ""):
            return None
        first, last = found.groups()
        if first == "":
            first, last = max(0, size - int(last)), size - 1
        else:
            first, last = int(first), min(int(last or size - 1), size - 1)
        return (first, last) if first <= last and first < size else False

    def _answer(self, with_body):
        if self.server.credentials and self.headers.get("Authorization") != f"Basic {self.server.credentials}":
            return self._plain(HTTPStatus.UNAUTHORIZED, [("WWW-Authenticate", 'Basic realm="channel"')])
        if self.server.token:
            start = f"/t/{self.server.token}/"
            if not self.path.startswith(start):
                return self._plain(HTTPStatus.FORBIDDEN)
            self.path = self.path.removeprefix(start.removesuffix("/"))
        if self.server.packages_at and self.path.endswith((".conda", ".tar.bz2")):
            return self._plain(HTTPStatus.FOUND, [("Location", self.server.packages_at + self.path)])
        local = self._local()
        if local is None:
            return self._plain(HTTPStatus.NOT_FOUND)
        with open(local, "rb") as source:
            status = os.fstat(source.fileno())
            etag = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
            known = [("ETag", etag), ("Last-Modified", email.utils.formatdate(status.st_mtime, usegmt=True))]
            if etag in self.headers.get("If-None-Match", ""):
                return self._plain(HTTPStatus.NOT_MODIFIED, known)
            part = self._range(status.st_size)
            if part is False:
                return self._plain(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
                                   [("Content-Range", f"bytes */{status.st_size}")])
            first, last = part or (0, status.st_size - 1)
            self.send_response(HTTPStatus.PARTIAL_CONTENT if part else HTTPStatus.OK)
            if part:
                self.send_header("Content-Range", f"bytes {first}-{last}/{status.st_size}")
            for name, value in known:
                self.send_header(name, value)
            self.send_header("Accept-Ranges", "bytes")
            kinds = {".json": "application/json", ".html": "text/html"}
            kind = kinds.get(os.path.splitext(local)[1], "application/octet-stream")
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(last - first + 1))
            self.end_headers()
            if with_body:
                self._send(source, first, last - first + 1)
        return None

    def _send(self, source, first, left):
        source.seek(first)
        while left > 0 and (block := source.read(min(CHUNK, left))):
            self.wfile.write(block)
            left -= len(block)

    def handle(self):
        """A client that goes away is no error."""
        try:
            super().handle()
        except (ConnectionResetError, BrokenPipeError):
            pass

    def log_message(self, format, *args):  # noqa: A002 - the name is the base class's
        """One line a request, if a log was asked for: method, path, status, range, credentials, referrer."""

    def log_request(self, code="-", size="-"):
        """Writes the line, with what the client says of itself."""
        if self.server.log:
            secrets = [self.headers.get(name, "-") for name in ("Authorization", "Referer")]
            line = f"{self.command} {self.path} {int(code)} {self.headers.get('Range', '-')} {' '.join(secrets)}\n"
            with self.server.lock, open(self.server.log, "a", encoding="utf-8") as out:
                out.write(line)


def main():
    """Reads the command line and serves until it is stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", help="append one line a request to this file")
    parser.add_argument("--auth", help="ask for these credentials (USER:PASSWORD)")
    parser.add_argument("--token", help="serve the folder below /t/TOKEN only")
    parser.add_argument("--packages-at", metavar="URL", help="send whoever asks for a package to this server")
    parser.add_argument("--while-stdin", action="store_true", help="stop when stdin ends, and so with whoever holds it")
    options = parser.parse_args()
    if options.while_stdin:
        threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(0)), daemon=True).start()
    with Server(options.port, options) as server:
        print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            sys.exit(130)


if __name__ == "__main__":
    main()
