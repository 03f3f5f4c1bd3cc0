"""What the engine tells while it works: lines that change in place on a terminal, plain ones elsewhere, none when quiet."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from pyruntime.cli.pyctr.units import human_size
from pyruntime.errors import RuntimeFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rich.console import Console, RenderableType

BAR, LEAST_BAR = 40, 10  # columns of a bar, where the terminal has them; with less room than the least there is none
REFRESH_HZ = 10


class WorkFailed(RuntimeFailure):
    """The engine told of an error after it had begun to answer."""


def follow(lines: Iterable[dict[str, Any]], *, quiet: bool = False) -> list[Any]:
    """Shows every line; the `aux` values that came along. Raises WorkFailed for a line that is an error."""
    aux: list[Any] = []
    if quiet:
        _each(lines, aux, lambda _line: None)
    elif sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        with Screen() as screen:
            _each(lines, aux, screen.show)
    else:
        _each(lines, aux, show_plain)
    return aux


def _each(lines: Iterable[dict[str, Any]], aux: list[Any], show: Callable[[dict[str, Any]], None]) -> None:
    for line in lines:
        if "error" in line or "errorDetail" in line:
            detail = line.get("errorDetail") or {}
            raise WorkFailed(detail.get("message") or line.get("error") or "the engine failed")
        if "aux" in line:
            aux.append(line["aux"])
        else:
            show(line)


def show_plain(line: dict[str, Any]) -> None:
    """A line without cursor movements; figures on their way are left out."""
    if "stream" in line:
        print(line["stream"], end="", flush=True)
    elif not (line.get("progressDetail") or {}).get("current"):
        print(text_of(line), flush=True)


def text_of(line: dict[str, Any]) -> str:
    """The words of a line, its ID before them."""
    status = line.get("stream", line.get("status", "")).rstrip("\n")
    return f"{line['id']}: {status}" if line.get("id") else status


def figures(line: dict[str, Any]) -> tuple[int, int]:
    """(done, of how many) bytes; (0, 0) when the line has no end to count towards."""
    detail = line.get("progressDetail") or {}
    total = detail.get("total") or 0
    return (min(detail.get("current") or 0, total), total) if total > 0 else (0, 0)


class Screen:
    """The lines as they stand, in the order in which they came; one with an ID takes the place of its last one.

    They are drawn over each other while the work goes on, and printed once, whole, when it has ended.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._lines: dict[object, dict[str, Any]] = {}
        self._console: Console = Console(highlight=False, markup=False, emoji=False)
        self._live = Live(get_renderable=self._drawn, console=self._console, refresh_per_second=REFRESH_HZ, transient=True)

    def __enter__(self) -> Screen:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        for line in self._lines.values():
            print(text_of(line))

    def show(self, line: dict[str, Any]) -> None:
        """Takes the line; the next refresh draws it."""
        header = not line.get("id") or line.get("status", "").startswith("Pulling from")  # whose ID is the tag
        self._lines[(len(self._lines), "") if header else line["id"]] = line

    def _drawn(self) -> RenderableType:
        """As many of the last lines as the terminal is high."""
        from rich.text import Text

        lines = list(self._lines.values())[-max(self._console.height - 1, 1) :]
        texts = {id(line): text_of(line) for line in lines}
        column = max((len(texts[id(line)]) for line in lines if figures(line)[1]), default=0)
        drawn = Text("\n", no_wrap=True, overflow="ellipsis")
        return drawn.join([self._row(texts[id(line)], *figures(line), column) for line in lines])

    def _row(self, text: str, done: int, total: int, column: int) -> Any:
        """One line: its words, and where there is room for them a bar and figures."""
        from rich.text import Text

        if not total:
            return Text(text)
        size = f"{human_size(done, 3)}/{human_size(total, 3)}"
        room = min(BAR, self._console.width - column - len(size) - 3)
        if room < LEAST_BAR:
            return Text(f"{text} {size}")
        full = room * done // total
        whole, rest = ("━", "━") if "utf" in self._console.encoding.lower() else ("=", "-")
        if self._console.color_system is None or self._console.no_color:
            rest = " "
        return Text.assemble(text.ljust(column + 1), (whole * full, "bar.complete"), (rest * (room - full), "bar.back"),
                             " ", size)  # fmt: skip
