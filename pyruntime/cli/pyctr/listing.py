"""Lists with --format: tables with Docker's columns, templates, JSON lines; and the same for one object or several."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from pyruntime.cli.pyctr.functions import HEAD_FUNCTIONS, to_json
from pyruntime.cli.pyctr.template import Template

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Row = Mapping[str, Any]

LEAST_WIDTH, GAP = 10, 3  # of a column, and between two


def render(rows: Sequence[Row], heads: Mapping[str, str], layout: str, default: str) -> str:
    """`rows` as `layout` wants them: "" and `table` are the default table, `table T`, `json`, or a template per row.

    `default` is the default table's template, cells apart by tabs; `heads` the head of each column.
    """
    rows = [dict(sorted(row.items())) for row in rows]
    layout = layout.strip().replace(r"\t", "\t").replace(r"\n", "\n")
    if layout == "json":
        layout = "{{json .}}"
    if not layout or layout == "table":
        layout = f"table {default}"
    missing = "can't evaluate field {} in type *formatter.row"
    if not layout.startswith("table"):
        template = Template(layout, missing=missing)
        return "".join(f"{template.render(row)}\n" for row in rows)
    layout = layout.removeprefix("table").strip(" ")
    head = Template(layout, HEAD_FUNCTIONS, missing=missing).render(dict(heads))
    template = Template(layout, missing=missing)
    return columns([head, *(template.render(row) for row in rows)])


def columns(lines: Sequence[str]) -> str:
    """Lines whose cells are apart by tabs, as columns with blanks between them."""
    table = [line.split("\t") for text in lines for line in text.split("\n")]
    widths = [max([LEAST_WIDTH, *(len(row[at]) + GAP for row in table if at < len(row) - 1)])
              for at in range(max(map(len, table), default=0))]  # fmt: skip
    return "".join("".join([*(cell.ljust(width) for cell, width in zip(row[:-1], widths)), row[-1]]) + "\n" for row in table)


def show_objects(values: Sequence[Any], layout: str) -> str:
    """Objects as `inspect` prints them: an indented JSON list, `json` a line each, or a template for each."""
    if not layout:
        return json.dumps(values, indent=4, ensure_ascii=False) + "\n"
    if layout == "json":
        return "".join(f"{to_json(value)}\n" for value in values)
    template = Template(layout)
    return "".join(f"{template.render(value)}\n" for value in values)


def show_object(value: Any, layout: str, text: Callable[[], str]) -> str:
    """One object by --format, or its `text` without."""
    return show_objects([value], layout) if layout else text()


def configured(key: str) -> str:
    """A format of the user's own from config.json (`imagesFormat`), "" without one."""
    folder = os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    try:
        with open(f"{folder}/config.json", encoding="utf-8") as file:
            value = json.load(file)
    except (OSError, ValueError):
        return ""
    found = value.get(key, "") if isinstance(value, dict) else ""
    return found if isinstance(found, str) else ""


def parse_filters(words: Sequence[str]) -> dict[str, dict[str, bool]]:
    """--filter words, key=value each, as the API takes them."""
    filters: dict[str, dict[str, bool]] = {}
    for word in filter(None, words):
        key, _, value = word.partition("=")
        filters.setdefault(key.strip().lower(), {})[value.strip()] = True
    return filters
