"""What the verbs print: JSON in the layout of Go's encoder, and the tables of `list` and `ps` (contract 2.1, 2.2)."""

from __future__ import annotations

try:
    from _json import encode_basestring_ascii as quote
except ImportError:  # an interpreter without the C accelerator
    from json.encoder import encode_basestring_ascii as quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["json_text", "list_table", "quote", "table"]

LIST_HEADER = ("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")
MIN_WIDTH, PADDING = 12, 3


def json_text(value: Any, indent: str = "", *, _inner: str = "\n") -> str:
    """`value` as JSON. With `indent` one member a line, as Go's MarshalIndent; else without any space."""
    if value is None or value is True or value is False:
        return "null" if value is None else "true" if value else "false"
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    deeper = _inner + indent
    if isinstance(value, dict):
        colon = ": " if indent else ":"
        parts = [quote(str(key)) + colon + json_text(item, indent, _inner=deeper) for key, item in value.items()]
        left, right = "{", "}"
    else:
        parts = [json_text(item, indent, _inner=deeper) for item in value]
        left, right = "[", "]"
    if not parts:
        return left + right
    if not indent:
        return left + ",".join(parts) + right
    return left + deeper + ("," + deeper).join(parts) + _inner + right


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
