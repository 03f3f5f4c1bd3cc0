"""The daemon's own log: one line per record on a descriptor, in the form dockerd's readers know."""

from __future__ import annotations

import json
import os
import time
import traceback

LEVELS = {"debug": 0, "info": 1, "warn": 2, "error": 3, "fatal": 4}


class Journal:
    """Writes records of `level` and above. Safe in threads: one write(2) per record."""

    def __init__(self, level: str = "info", fd: int = 2) -> None:
        self._least = LEVELS[level]
        self._fd = fd

    def debug(self, text: str) -> None:
        """What only a developer wants to know."""
        self._record("debug", text)

    def info(self, text: str) -> None:
        """What an administrator may want to know."""
        self._record("info", text)

    def warn(self, text: str) -> None:
        """What should be looked at."""
        self._record("warn", text)

    def error(self, text: str) -> None:
        """What failed."""
        self._record("error", text)

    def fatal(self, text: str) -> None:
        """Why the daemon ends."""
        self._record("fatal", text)

    def failure(self, text: str, error: BaseException) -> None:
        """An exception that no rule expected, with its place at level debug."""
        self._record("error", text)
        self._record("debug", "".join(traceback.format_exception(error)))

    def _record(self, level: str, text: str) -> None:
        if LEVELS[level] < self._least:
            return
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
        line = f'time="{stamp}" level={level} msg={json.dumps(text, ensure_ascii=False)}\n'
        try:
            os.write(self._fd, line.encode("utf-8", "replace"))
        except OSError:
            return  # a full disk must not stop the daemon
