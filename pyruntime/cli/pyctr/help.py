"""--help of pyctr and its commands, from the table in commands.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyruntime.cli import terminal
from pyruntime.cli.flags import BOOL, TEXT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyruntime.cli.flags import Flag
    from pyruntime.cli.pyctr.commands import Command


def flag_lines(flags: Sequence[Flag]) -> str:
    """One line per flag, names to the left."""
    shown = [flag for flag in sorted(flags, key=lambda flag: flag.name) if not flag.hidden]
    pairs = []
    for flag in shown:
        letter = f"-{flag.short}, " if flag.short else "    "
        pairs.append((f"{letter}--{flag.name} {flag.metavar}".rstrip(), f"{flag.help}{_default(flag)}"))
    return terminal.rows(pairs, margin=2, gap=3, width=terminal.columns())


def _default(flag: Flag) -> str:
    """The default, when it is one worth saying."""
    if flag.kind == BOOL or not flag.default or "default" in flag.help:
        return ""
    return f' (default "{flag.default}")' if flag.kind == TEXT else f" (default {flag.default})"


def usage(command: Command) -> str:
    """The usage line."""
    return f"Usage:  pyctr {command.name} {command.arguments}".rstrip()


def command_help(command: Command, aliases: Sequence[str]) -> str:
    """The help of one command."""
    text = f"{usage(command)}\n\n{command.summary}\n"
    if len(aliases) > 1:
        text += "\nAliases:\n  " + ", ".join(f"pyctr {name}" for name in aliases) + "\n"
    return text + (f"\nOptions:\n{flag_lines(command.flags)}" if command.flags else "")


def group_help(name: str, summary: str, commands: Sequence[tuple[str, str]]) -> str:
    """The help of `pyctr image` and its like."""
    return (f"Usage:  pyctr {name} COMMAND\n\n{summary}\n\nCommands:\n{_rows(commands)}\n"
            f"Run 'pyctr {name} COMMAND --help' for more information on a command.\n")  # fmt: skip


def program_help(groups: Sequence[tuple[str, str]], commands: Sequence[tuple[str, str]], flags: Sequence[Flag]) -> str:
    """The help of the whole program."""
    return ("Usage:  pyctr [OPTIONS] COMMAND\n\nImages and containers, with Docker's commands and flags\n\n"
            f"Management Commands:\n{_rows(groups)}\nCommands:\n{_rows(commands)}\nGlobal Options:\n{flag_lines(flags)}\n"
            "Run 'pyctr COMMAND --help' for more information on a command.\n")  # fmt: skip


def _rows(pairs: Sequence[tuple[str, str]]) -> str:
    return terminal.rows(sorted(pairs), margin=2, gap=3, width=terminal.columns())
