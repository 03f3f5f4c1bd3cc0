"""Every command of pyctr as data: parser, help, completion and manual are made from here. Source: contract engine-api 10.

A row: name, arguments, least and most positionals (-1: no bound), summary, flags, `module.function` in this package.
"""

from __future__ import annotations

from typing import Any

from pyruntime.cli.flags import BOOL, LIST, TEXT, Flag, records
from pyruntime.record import Record

FORMAT = ("format", "f", TEXT, "", "", "Go template, `table TEMPLATE` or `json`")
LIST_FORMAT = ("format", "", TEXT, "", "", "Go template, `table TEMPLATE` or `json`")
FILTER = ("filter", "f", LIST, (), "filter", "only what fits, as in `key=value`")

GLOBAL = records((
    ("host", "H", LIST, (), "list", "the engine's socket (default: the user's own pyctrd, started when needed)"),
    ("debug", "D", BOOL, False, "", "show where an error comes from"),
    ("config", "", TEXT, "", "", "folder of config.json (default: $DOCKER_CONFIG or ~/.docker)"),
    ("version", "v", BOOL, False, "", "print the version"),
))  # fmt: skip


class Command(Record):
    """One command."""

    name: str
    arguments: str
    least: int
    most: int
    summary: str
    flags: tuple[Flag, ...]
    function: str


ROWS: dict[str, tuple[Any, ...]] = {
    "version": ("[OPTIONS]", 0, 0, "Show the versions of pyctr and the engine", (FORMAT,), "system.version"),
    "system info": ("[OPTIONS]", 0, 0, "Show the engine and its machine", (FORMAT,), "system.info"),
    "system events": ("[OPTIONS]", 0, 0, "Print what happens in the engine", (
        FILTER, LIST_FORMAT, ("since", "", TEXT, "", "", "from this time on: RFC 3339, seconds, or 10m for so long ago"),
        ("until", "", TEXT, "", "", "until this time")), "system.events"),
}  # fmt: skip
# short name -> the row it is
ALIASES = {"info": "system info", "events": "system events"}
GROUPS = {"image": "Manage images", "system": "Manage the engine"}
SHOWN = ("version", "info", "events")  # in the program's help


def command(name: str) -> Command | None:
    """The command of a name or alias, None when there is none."""
    row = ROWS.get(ALIASES.get(name, name))
    if row is None:
        return None
    arguments, least, most, summary, flags, function = row
    return Command(name, arguments, least, most, summary, records(flags), function)


def names_of(name: str) -> list[str]:
    """All names of a command, the main one first."""
    main = ALIASES.get(name, name)
    return [main, *(alias for alias, target in ALIASES.items() if target == main)]


def find(words: list[str]) -> tuple[Command | None, list[str]]:
    """(the command that the first one or two words name, the words after it)."""
    if len(words) > 1 and words[0] in GROUPS:
        return command(f"{words[0]} {words[1]}"), words[2:]
    return command(words[0]), words[1:]
