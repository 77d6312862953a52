"""bv-builder of crates.io on the same channel and base.

It takes channels as URLs, and its own base image from any registry; over plain HTTP only from one whose name is
`127.0.0.1` with no port. So port 80 of loopback is passed on to the bench's registry while it runs.
"""

import os
import shutil
import socket
import socketserver
import threading

from docker_build import Images, load_base, serve
from measure import Failed, cost, say

VERSION = "0.1.40"


class Pass(socketserver.BaseRequestHandler):
    """Passes one connection on to the registry, both ways."""

    def handle(self):
        """Until either side ends."""
        with socket.create_connection(self.server.target) as registry:
            back = threading.Thread(target=pump, args=(registry, self.request), daemon=True)
            back.start()
            pump(self.request, registry)
            back.join()


def pump(source, target):
    """Copies until the end."""
    try:
        while block := source.recv(1 << 16):
            target.sendall(block)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the other side went away


class Port80(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Port 80 of loopback."""

    daemon_threads = allow_reuse_address = True

    def __init__(self, registry):
        host, port = registry.rsplit(":", 1)
        self.target = (host, int(port))
        super().__init__(("127.0.0.1", 80), Pass)


def program(cache):
    """The path of bv-builder, built once."""
    root = os.path.join(cache, "bv-builder")
    path = os.environ.get("BV_BUILDER") or os.path.join(root, "bin", "bv-builder")
    if not os.path.exists(path):
        say(f"building bv-builder {VERSION} (minutes, once)")
        cost(["cargo", "install", "--quiet", "--locked", "--root", root, f"bv-builder@{VERSION}"],
             dict(os.environ, CARGO_TARGET_DIR=os.path.join(root, "target")), cwd="/")
        shutil.rmtree(os.path.join(root, "target"), ignore_errors=True)
    return path


def run(table, setting, name, project):
    """Cold, packages and all, to an OCI archive, by both."""
    try:
        path = program(setting.cache)
        forward = Port80(os.environ["REGISTRY"])
    except (Failed, OSError) as error:
        table.skipped("bv-builder", str(error).strip().splitlines()[-1])
        return
    threading.Thread(target=forward.serve_forever, daemon=True).start()
    images = Images(os.environ["REGISTRY"])
    server, port = serve(project.channel, setting.serve)
    try:
        base = images.name("base", "1")
        load_base(setting.base, base)
        cost(["docker", "push", "-q", base])
        rows(table, name, project, path, f"http://127.0.0.1:{port}")
    except Failed as error:
        table.skipped(f"bv-builder, {name}", str(error).strip().splitlines()[-1])
    finally:
        forward.shutdown()
        forward.server_close()
        server.stdin.close()
        server.wait()
        images.remove()


def rows(table, name, project, path, url):
    """Each resolves, downloads and builds; imgbuild's lock is left out of its time, bv-builder has none."""
    spec = project.path("bv.toml")
    # Its resolver knows no conflicts between packages: it is given the exact versions, as `name ==version`.
    project.point_at(url)
    project.lock()
    wanted = versions(project)
    with open(spec, "w", encoding="utf-8") as out:
        packages = ", ".join(f'"{n} =={v}"' for n, v in wanted)
        out.write(f'name = "bench"\nversion = "1"\nchannels = ["{url}"]\npackages = [{packages}]\n'
                  'platform = "linux/amd64"\nbase = "127.0.0.1/bench/base:1"\n'
                  '[entrypoint]\ncommand = "/opt/conda/bin/python"\n')
    archive = project.path("bv.tar")
    env = dict(os.environ, HOME=project.folder)
    theirs = cost([path, "build", spec, "--output", archive], env)
    size = os.path.getsize(archive)
    os.unlink(archive)
    project.drop_cache()
    mine = project.build("-o", f"type=oci-archive,dest={archive}")
    table.title(f"{name}: against bv-builder {VERSION}")
    table.add(name, "bv-builder build, s", theirs.wall)
    table.add(name, "bv-builder's peak memory, MB", theirs.rss_mb)
    table.add(name, "imgbuild build, nothing downloaded, s", mine.wall)
    table.add(name, "cold, faster than bv-builder", theirs.wall / mine.wall, "x", at_least=10)
    table.add(name, "archive over bv-builder's", os.path.getsize(archive) / size, "x")
    os.unlink(archive)


def versions(project):
    """(name, version) of the lock's packages."""
    with open(project.path("env.lock.yml"), encoding="utf-8") as lock:
        names = {line.rsplit("/", 1)[1].strip() for line in lock if line.lstrip(" -").startswith("conda:")}
    return sorted((r["name"], r["version"]) for (_, name), r in project.records.items() if name in names)


