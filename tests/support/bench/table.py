"""The bench's rows: printed as they come, kept for the JSON."""

import json


class Table:
    """Rows of part, what, value, target and whether it is met."""

    def __init__(self):
        self.rows = []

    def title(self, text):
        """A heading between rows."""
        print(f"\n{text}\n{'':56} {'value':>10}  {'target':>10}", flush=True)

    def add(self, part, what, value, unit="", at_most=None, at_least=None):
        """A row; without a limit it is only information."""
        met = None
        target = ""
        if at_most is not None:
            met, target = value <= at_most, f"<= {at_most:g}"
        if at_least is not None:
            met, target = value >= at_least, f">= {at_least:g}"
        words = {True: "met", False: "NOT MET", None: ""}[met]
        self.rows.append({"part": part, "what": what, "value": round(value, 4), "unit": unit, "target": target,
                          "met": met})
        print(f"{part + ': ' + what:56} {value:10.3f}{unit:2} {target:>9}  {words}", flush=True)

    def skipped(self, part, why):
        """A part that cannot run here, and the reason."""
        self.rows.append({"part": part, "what": "not run", "why": why, "met": None})
        print(f"{part}: not run: {why}", flush=True)

    def summary(self):
        """The last line."""
        met = [row["met"] for row in self.rows if row["met"] is not None]
        print(f"\n{sum(met)} of {len(met)} targets met", flush=True)

    def write(self, path):
        """All rows as JSON."""
        with open(path, "w", encoding="utf-8") as out:
            json.dump(self.rows, out, indent=1)
