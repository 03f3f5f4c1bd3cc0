"""What the fault runs did, for the report: one row for each kind of fault. Written down by tests/faults/conftest.py.

With a report asked for, each count is a line in a file beside it at once: a run by several processes has one report, and
one that is cut off has what it did until then.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

REPORT = os.environ.get("PYRUNTIME_FAULTS_REPORT", "")
COUNTS = Path(f"{REPORT}.counts")


class Row(NamedTuple):
    """One kind of fault: how often it was made, and how often something was left or told badly."""

    cases: int
    failed: int


def add(kind: str, *, cases: int, failed: int) -> None:
    """Count."""
    if REPORT:
        with COUNTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps([kind, cases, failed]) + "\n")


def rows() -> dict[str, Row]:
    """The sums by kind, in the order in which they were first counted."""
    found: dict[str, Row] = {}
    for line in COUNTS.read_text(encoding="utf-8").splitlines() if REPORT and COUNTS.exists() else ():
        kind, cases, failed = json.loads(line)
        before = found.get(kind, Row(0, 0))
        found[kind] = Row(before.cases + cases, before.failed + failed)
    return found
