"""The table of `list` (contract 2.1), laid out as Go's tabwriter does for runc."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LIST_HEADER = ("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")
MIN_WIDTH, PADDING = 12, 3


def table(rows: list[tuple[str, ...]]) -> str:
    """Columns at least 12 wide with 3 spaces between; the last one is not padded."""
    if not rows:
        return ""
    last = len(rows[0]) - 1
    widths = [max(MIN_WIDTH, *(len(row[column]) + PADDING for row in rows)) for column in range(last)]
    lines = ["".join([cell.ljust(width) for cell, width in zip(row, widths)]) + row[last] for row in rows]
    return "\n".join(lines) + "\n"


def list_table(states: list[dict[str, Any]]) -> str:
    """The table of `list`, its header included."""
    keys = ("id", "pid", "status", "bundle", "created", "owner")
    return table([LIST_HEADER, *[tuple([str(state.get(key, "")) for key in keys]) for state in states]])
