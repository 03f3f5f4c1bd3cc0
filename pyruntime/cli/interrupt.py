"""SIGHUP, SIGINT, SIGQUIT and SIGTERM while a verb makes or removes something become an exception.

So what was made is undone (R2). The first one counts; what comes after it must not disturb the undoing.

A foreground `run` or `exec` gives its signals to the program once that is running (lifecycle/foreground.py).
"""

from __future__ import annotations

from _signal import signal

from pyruntime.errors import Interrupted

SIGNALS = (1, 2, 3, 15)

_seen: list[int] = []


def arm() -> None:
    """Turn the four signals into Interrupted, once, in this thread."""
    for number in SIGNALS:
        signal(number, _interrupt)


def _interrupt(number: int, _frame: object) -> None:
    if not _seen:
        _seen.append(number)
        raise Interrupted(number)
