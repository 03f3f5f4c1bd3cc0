"""What a transfer tells while it runs, in Docker's words (engine-api 2.3)."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from pyruntime.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable

EVERY_S = 0.1  # between two counts of the same layer


class Progress(Record):
    """One line. `id` is a tag, 12 digits of a layer or ""; `current` and `total` are bytes, total 0 without a count."""

    id: str
    status: str
    current: int = 0
    total: int = 0


class Reporter:
    """Calls `tell` from one thread at a time, with counts not more often than they can be read."""

    def __init__(self, tell: Callable[[Progress], None] | None) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._last: dict[str, float] = {}

    def say(self, name: str, status: str) -> None:
        """A line without a count."""
        self._send(Progress(name, status))

    def count(self, name: str, status: str, current: int, total: int) -> None:
        """A count; left out when the last one of the same id is younger than EVERY_S, but for the last of all."""
        now = time.monotonic()
        if current < total and now - self._last.get(name, 0.0) < EVERY_S:
            return
        self._last[name] = now
        self._send(Progress(name, status, current, total))

    def _send(self, progress: Progress) -> None:
        if self._tell is not None:
            with self._lock:
                self._tell(progress)
