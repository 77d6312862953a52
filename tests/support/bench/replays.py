"""Re-downloaded bytes over a series of lock updates."""

import json
import os

from measure import cost

TARGET = 1.25


def run(table, setting, work):
    """A series made from the lock that REPLAY_LOCK names, or the locks of the folder that REPLAY_LOCKS names."""
    folder = os.environ.get("REPLAY_LOCKS")
    flags = []
    if not folder:
        start = os.environ.get("REPLAY_LOCK")
        if not start:
            table.skipped("replay", "give REPLAY_LOCKS=FOLDER, or REPLAY_LOCK=FILE to make a series of")
            return
        folder = os.path.join(work, "replay")
        flags = ["--make", start]
    rows = json.loads(cost([setting.programs["replay"], folder, "--json", *flags]).out)
    table.title(f"replay of {folder}: MB an update {rows[0]['downloaded_mb']:.0f} against {rows[0]['floor_mb']:.0f}")
    for number, row in enumerate(rows):
        limit = {"at_most": TARGET} if number == 0 else {}
        table.add("replay", f"{row['layers']} layers, over one a package", row["ratio"], "x", **limit)
