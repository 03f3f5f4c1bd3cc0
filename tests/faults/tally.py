"""What the fault runs did, for the report: one row for each kind of fault. Printed by tests/faults/conftest.py."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One kind of fault: how often it was made, and how often something was left or told badly."""

    cases: int
    failed: int


ROWS: dict[str, Row] = {}


def add(kind: str, *, cases: int, failed: int) -> None:
    """Count."""
    before = ROWS.get(kind, Row(0, 0))
    ROWS[kind] = Row(before.cases + cases, before.failed + failed)
