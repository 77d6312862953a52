"""The same image by `docker build` with rattler's installer, pushed, loaded, pulled and run: against imgbuild.

Both get the same lock and take the packages over loopback. Docker's own builder installs with nothing left behind:
the installer and the lock come over loopback, too, and the package cache is removed in the same RUN.
"""

import hashlib
import json
import os
import shutil
import subprocess
import urllib.request

from measure import cost, least
from project import LARGER, SMALL

LABEL = "dev.imgbuild.bench"
DOCKERFILE = """FROM {base}
LABEL {label}=1
SHELL ["/bin/bash", "-ec"]
RUN get() {{ exec 3<>/dev/tcp/127.0.0.1/{port}; printf 'GET /%s HTTP/1.0\\r\\n\\r\\n' "$1" >&3; \\
      while IFS= read -r line <&3 && [ "$line" != $'\\r' ]; do :; done; cat <&3 >"/tmp/$1"; }}; \\
    get install; get {lock}; chmod +x /tmp/install; \\
    /tmp/install /tmp/{lock} /opt/conda /tmp/rattler; rm -rf /tmp/install /tmp/{lock} /tmp/rattler
ENV PATH=/opt/conda/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
COPY src /workspace
"""
MANIFESTS = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
# A docker build of fewer seconds than this is repeated, and what is compared with it.
SHORT = 20
TIMED = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


class Images:
    """The names of the bench's images, and how they go away."""

    def __init__(self, registry):
        self.registry, self.loaded = registry, set()

    def name(self, what, tag):
        """A name in the local registry."""
        self.loaded.add(f"{self.registry}/bench/{what}:{tag}")
        return f"{self.registry}/bench/{what}:{tag}"

    def remove(self, *names):
        """Removes images from the daemon, and what of the Dockerfile's steps nothing needs any more."""
        prune = ["docker", "image", "prune", "-f", "--filter", f"label={LABEL}"]
        for command in (["docker", "rmi", "-f", *(names or self.loaded)], prune):
            subprocess.run(command, capture_output=True, check=False)

    def moved(self, name, build):
        """What a build costs that takes over a name; what had it goes away."""
        had = image_id(name)
        made = build()
        if had and had != image_id(name):
            self.remove(had)
        return made

    def layers(self, name):
        """{digest: bytes} of an image in the registry."""
        repository, tag = name.removeprefix(self.registry + "/").rsplit(":", 1)
        request = urllib.request.Request(f"http://{self.registry}/v2/{repository}/manifests/{tag}",
                                         headers={"Accept": MANIFESTS})
        with urllib.request.urlopen(request) as answer:
            return {layer["digest"]: layer["size"] for layer in json.load(answer)["layers"]}


def image_id(name):
    """The ID of an image in the daemon, or nothing."""
    return cost(["docker", "images", "-q", "--no-trunc", name]).out.strip()


class Rival:
    """`docker build` of the project."""

    def __init__(self, project, install, base, port):
        self.project, self.base, self.port = project, base, port
        shutil.copy(install, os.path.join(project.channel, "install"))

    def build(self, tag, *flags):
        """Builds with what the project's lock says now. The lock's name is its state's: RUN is cached by its text."""
        with open(self.project.path("env.lock.yml"), "rb") as lock:
            text = lock.read()
        name = f"env-{hashlib.sha256(text).hexdigest()[:12]}.lock.yml"
        with open(os.path.join(self.project.channel, name), "wb") as served:
            served.write(text)
        with open(self.project.path("Dockerfile"), "w", encoding="utf-8") as out:
            out.write(DOCKERFILE.format(base=self.base, port=self.port, lock=name, label=LABEL))
        with open(self.project.path(".dockerignore"), "w", encoding="utf-8") as out:
            out.write("*\n!src\n")
        env = dict(os.environ, DOCKER_BUILDKIT="0")
        command = ["docker", "build", "-q", "--network", "host", "--force-rm", "-t", tag, *flags, self.project.folder]
        return cost(command, env)


def serve(folder, serve_py):
    """A server of a folder on loopback: its process and its port."""
    server = subprocess.Popen([serve_py, folder, "--while-stdin"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True)
    return server, int(server.stdout.readline().rsplit(":", 1)[1])


def run(table, setting, name, project):
    """All rows of one environment. What it makes in the daemon goes away again; the registry is the bench's own."""
    registry = os.environ["REGISTRY"]
    images = Images(registry)
    server, port = serve(project.channel, setting.serve)
    try:
        project.point_at(f"http://127.0.0.1:{port}")
        project.lock()
        base = images.name("base", "1")
        load_base(setting.base, base)
        table.title(f"{name}: against docker build and docker push")
        rows(table, setting, name, project, images, Rival(project, setting.programs["install"], base, port))
    finally:
        server.stdin.close()
        server.wait()
        images.remove()


def load_base(layout, name):
    """The base image, under the bench's name alone unless its own was there before."""
    there = cost(["docker", "images", "--format", "{{.Repository}}:{{.Tag}}"]).out.split()
    own = cost(["docker", "load", "-q", "-i", layout + ".docker.tar"]).out.split("image:")[1].strip()
    cost(["docker", "tag", own, name])
    if own not in there:
        cost(["docker", "rmi", own])


def rows(table, setting, part, project, images, rival):
    """In the order that needs the least disk."""
    theirs, ours = images.name("theirs", "1"), images.name("ours", "1")
    built = rival.build(theirs, "--no-cache")
    pushed = cost(["docker", "push", "-q", theirs])
    table.add(part, "docker build, s", built.wall)
    table.add(part, "docker push, s", pushed.wall)
    project.drop_cache()
    mine = project.build("-t", ours, "--push")
    table.add(part, "imgbuild build --push, nothing downloaded, s", mine.wall)
    table.add(part, "that, faster", (built.wall + pushed.wall) / mine.wall, "x")
    # Another prefix makes every layer another one, which the registry lacks as well.
    again = images.name("again", "1")
    downloaded = project.build("-t", again, "--push", "--prefix", "/opt/again")
    table.add(part, "imgbuild build --push, packages downloaded, s", downloaded.wall)
    faster = (built.wall + pushed.wall) / downloaded.wall
    table.add(part, "cold to a pushed image, faster", faster, "x", at_least=10)
    size = [sum(images.layers(image).values()) / 1e6 for image in (theirs, ours)]
    table.add(part, "image of docker push, MB", size[0])
    table.add(part, "image of imgbuild over docker's", size[1] / size[0], "x", at_most=1)
    plain = images.name("no-pyc", "1")
    project.build("-t", plain, "--push", "--no-compile")
    table.add(part, "the same without compiled Python files", sum(images.layers(plain).values()) / 1e6 / size[0], "x")
    into_daemon(table, setting, part, project, images, rival, built)
    code_change(table, setting, part, project, images, rival, theirs)
    imports(table, setting, part, images, theirs)
    pulls(table, setting, part, project, images, theirs, built)
    package_change(table, part, project, images, rival, built.wall + pushed.wall)


def rounds(setting, built):
    """How often what takes about as long as a docker build is done, in turns with what it is compared with."""
    return setting.runs if built.wall < SHORT else 1


def into_daemon(table, setting, part, project, images, rival, built):
    """Cold into the daemon, against docker build and against the daemon's import of a ready archive."""
    name, archive = images.name("loaded", "1"), project.path("ready.tar")
    theirs, ours, ready = [built], [], []

    def build():
        project.drop_layers()
        ours.append(project.build("-t", name, "--load"))
        images.remove(name)

    def load():
        project.build("-t", name, "-o", f"type=docker-archive,dest={archive}", "--compression", "none")
        ready.append(cost(["docker", "load", "-q", "-i", archive]))
        os.unlink(archive)
        images.remove(name)

    again = rounds(setting, built)
    for number in range(max(again, 2)):
        if 0 < number < again:
            theirs.append(rival.build(images.name("theirs", "1"), "--no-cache"))
        # The first load after a docker build takes seconds more, whoever loads.
        for step in (build, load) if number % 2 == 0 else (load, build):
            step()
    theirs, ours, ready = (least(costs).wall for costs in (theirs, ours, ready))
    table.add(part, "docker build, the best of as many, s", theirs)
    table.add(part, "imgbuild build --load, cold layers, s", ours)
    table.add(part, "docker load of a ready plain archive, s", ready)
    table.add(part, "--load over docker build", ours / theirs, "x", at_most=1)
    table.add(part, "--load over docker load", ours / ready, "x", at_most=1.15)


def code_change(table, setting, part, project, images, rival, theirs):
    """A line of code into the daemon, in turns, with everything else there."""
    name = images.name("code", "1")
    project.build("-t", name, "--load")
    docker, ours = [], []
    for number in range(2 * setting.runs):
        project.change_code(f"{number}, 'docker'")
        docker.append(rival.build(theirs))
        project.change_code(f"{number}, 'imgbuild'")
        ours.append(images.moved(name, lambda: project.build("-t", name, "--load")))
    docker, ours = least(docker).wall, least(ours).wall
    table.add(part, "code changed: docker build, cached, s", docker)
    table.add(part, "code changed: build --load over docker build", ours / docker, "x", at_most=1)


def imports(table, setting, part, images, theirs):
    """The first import in a fresh container; the image's files are in the page cache in both."""
    module = "torch" if "torch" in part else "numpy, sympy, requests, jinja2"
    times = []
    for image in (theirs, images.name("code", "1")):
        command = ["docker", "run", "--rm", "--network", "none", image, "python", "-c", TIMED.format(module)]
        times.append(min(float(cost(command).out) for _ in range(setting.runs + 1)))
    table.add(part, f"import {module}, docker build's image, s"[:54], times[0])
    table.add(part, "import in a fresh container, faster", times[0] / times[1], "x", at_least=2)
    images.remove(images.name("code", "1"))


def pulls(table, setting, part, project, images, theirs, built):
    """docker pull of both from the local registry, the base being there: of ours in gzip, which every Docker reads, and
    in zstd, the default."""
    ours = {codec: images.name(codec, "1") for codec in ("gzip", "zstd")}
    for codec, name in ours.items():
        project.build("-t", name, "--push", "--compression", codec)
    # theirs now has another top layer than the one in the registry, and the classic builder's cache holds on to it.
    images.remove(theirs, images.name("loaded", "1"), *ours.values())
    names = [theirs, *(name for codec, name in ours.items() if codec == "gzip" or reads_zstd())]
    pulled = {name: [] for name in names}
    for _ in range(rounds(setting, built)):
        for name, costs in pulled.items():
            costs.append(cost(["docker", "pull", "-q", name]))
            images.remove(name)
    docker = least(pulled[theirs]).wall
    table.add(part, "docker pull of docker build's image, s", docker)
    for codec, name in ours.items():
        if name in pulled:
            ratio = least(pulled[name]).wall / docker
            table.add(part, f"pull of imgbuild's ({codec}) over docker's", ratio, "x", at_most=1)
        else:
            table.skipped(f"{part}: pull of imgbuild's ({codec})", "this Docker does not read it")


def reads_zstd():
    """Whether the daemon pulls zstd layers: those that may have containerd's store do (API 1.42, Docker 23)."""
    version = cost(["docker", "version", "--format", "{{.Server.Version}}"]).out
    return int(version.split(".")[0]) >= 23


def package_change(table, part, project, images, rival, cold):
    """One package bumped, to a pushed image; and what an engine that keeps blobs by digest pulls of it."""
    for number, package in enumerate((SMALL, LARGER)):
        before = images.layers(images.name("ours", f"{number + 1}"))
        size = project.bump(package, 90 + number)
        ours = images.name("ours", f"{number + 2}")
        mine = project.build("-t", ours, "--push")
        new = {digest: size for digest, size in images.layers(ours).items() if digest not in before}
        table.add(part, f"{package} bumped: bytes pulled over the package's", sum(new.values()) / size, "x",
                  at_most=1.5)
        if number == 0:
            theirs = images.name("theirs", "2")
            again = rival.build(theirs).wall + cost(["docker", "push", "-q", theirs]).wall
            images.remove(theirs)
            table.add(part, f"{package} bumped: docker build and push, s", again)
            table.add(part, f"{package} bumped: build --push, s", mine.wall)
            table.add(part, f"{package} bumped: to a pushed image, faster", again / mine.wall, "x", at_least=50)


