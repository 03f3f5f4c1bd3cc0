"""What the engine tells while it works: bars on a terminal, plain lines elsewhere, nothing but errors when quiet."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from pyruntime.errors import RuntimeFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rich.progress import Progress, TaskID


class WorkFailed(RuntimeFailure):
    """The engine told of an error after it had begun to answer."""


def follow(lines: Iterable[dict[str, Any]], *, quiet: bool = False) -> list[Any]:
    """Shows every line; the `aux` values that came along. Raises WorkFailed for a line that is an error."""
    aux: list[Any] = []
    if quiet:
        _each(lines, aux, lambda _line: None)
    elif sys.stdout.isatty():
        with Bars() as bars:
            _each(lines, aux, bars.show)
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
        print(f"{line['id']}: {line.get('status', '')}" if line.get("id") else line.get("status", ""), flush=True)


class Bars:
    """One row for each ID, which changes in place; lines without an ID go above."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

        self._progress: Progress = Progress(TextColumn("{task.fields[name]}: {task.description}"), BarColumn(40),
                                            DownloadColumn(), transient=False)  # fmt: skip
        self._rows: dict[str, TaskID] = {}

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, line: dict[str, Any]) -> None:
        """Moves the line's bar."""
        name, status = line.get("id"), line.get("status", "")
        if "stream" in line or not name:
            self._progress.console.print(line.get("stream", status).rstrip("\n"), markup=False, highlight=False)
            return
        detail = line.get("progressDetail") or {}
        if name not in self._rows:
            self._rows[name] = self._progress.add_task(status, total=None, name=name)
        row = self._rows[name]
        if detail.get("total"):
            self._progress.update(row, description=status, completed=detail.get("current", 0), total=detail["total"])
        elif "complete" in status.lower() or "exist" in status or status == "Pushed":
            self._progress.update(row, description=status, completed=1, total=1)
        else:
            self._progress.update(row, description=status)
