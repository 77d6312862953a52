"""Builds into the local store, against the floor: cold, nothing changed, code changed, one package changed."""

import json
import os
import subprocess

from measure import best, cost, folder_mb, say
from project import SMALL

PEAK_LIMIT_MB = 300


def floor(programs, project, codec="zstd:1"):
    """The bytes of the layers, packages and compiled Python files, through the straight loop."""
    out = cost([programs["floor"], codec, *project.archives(), *project.compiled()]).out
    return json.loads(out)


def run(table, setting, name, project, parts):
    """The rows of one environment."""
    say(f"{name}: packages and lock")
    project.lock()
    project.build()
    archives = project.archives()
    least = floor(setting.programs, project)
    table.title(f"{name}: {len(archives)} packages, {least['tar_bytes'] / 1e6:.0f} MB of tar")
    part = f"{name}"
    table.add(part, "floor, CPU s", least["cpu_s"])
    table.add(part, "floor on two threads, wall s", least["wall_two_threads_s"])
    cold = best(setting.runs, lambda _: cold_build(project)) if "cold" in parts else None
    if cold is None:
        return
    table.add(part, "cold build, wall s", cold.wall)
    table.add(part, "cold build, CPU s", cold.cpu)
    table.add(part, "CPU over the floor's", cold.cpu / least["cpu_s"], "x", at_most=1.3)
    table.add(part, "wall over the floor's on two threads", cold.wall / least["wall_two_threads_s"], "x")
    table.add(part, "cores busy", 100 * cold.busy, "%", at_least=90)
    table.add(part, "peak memory, MB", cold.rss_mb, at_most=PEAK_LIMIT_MB)
    table.add(part, "peak temporary disk, MB", cold.disk_mb, at_most=largest_layer_mb(project))
    unchanged(table, setting, part, project)
    changed(table, setting, part, project, cold)


def cold_build(project):
    """A build with an empty layer cache."""
    project.drop_layers()
    return project.build()


def largest_layer_mb(project):
    """The largest blob of the store: a layer as it is kept."""
    folder = os.path.join(project.cache, "blobs", "sha256")
    return max(os.lstat(os.path.join(folder, name)).st_blocks for name in os.listdir(folder)) * 512 / 1e6


def unchanged(table, setting, part, project):
    """The same build again, and the proof that it opens no package: there are none."""
    again = best(setting.runs + 2, lambda _: project.build())
    table.add(part, "nothing changed, ms", 1000 * again.wall, at_most=100)
    packages = os.path.join(project.cache, "packages")
    os.rename(packages, packages + ".away")
    try:
        digest = project.build().out
        opened = os.path.isdir(packages) and folder_mb(packages) > 0
    finally:
        subprocess.run(["rm", "-rf", packages], check=True)
        os.rename(packages + ".away", packages)
    table.add(part, "packages opened or fetched when nothing changed", float(opened or digest != again.out), at_most=0)


def changed(table, setting, part, project, cold):
    """The user's code, then one small package."""

    def code(number):
        project.change_code(number + 1)
        return project.build()

    table.add(part, "code changed, ms", 1000 * best(setting.runs + 2, code).wall, at_most=200)
    keys = []

    def package(number):
        project.bump(SMALL, number + 1)
        before = project.layer_keys()
        found = project.build()
        keys.append(len(project.layer_keys() - before))
        return found

    bumped = best(setting.runs, package)
    table.add(part, f"{SMALL} bumped, s", bumped.wall)
    table.add(part, f"{SMALL} bumped, of a cold build", 100 * bumped.wall / cold.wall, "%", at_most=5)
    table.add(part, "package layers whose key changed", max(keys), at_most=1)
