"""SIGHUP, SIGINT, SIGQUIT and SIGTERM while a verb makes or removes something: they become an exception, so that what
was made is undone (R2). The first one counts; what comes after it must not disturb the undoing.

A foreground `run` or `exec` gives its signals to the program once that is running (lifecycle/foreground.py).
"""

from __future__ import annotations

from _signal import signal

from pyruntime.errors import RuntimeFailure

SIGNALS = {1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 15: "SIGTERM"}


class Interrupted(RuntimeFailure):
    """A signal ended the call; everything it had made is undone."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {SIGNALS[number]}", hint="what was made so far has been undone")
        self.exit_code = 128 + number


_seen: list[int] = []


def arm() -> None:
    """Turn the four signals into Interrupted, once, in this thread."""
    for number in SIGNALS:
        signal(number, _interrupt)


def _interrupt(number: int, _frame: object) -> None:
    if not _seen:
        _seen.append(number)
        raise Interrupted(number)
