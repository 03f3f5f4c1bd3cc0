"""Waiting for what has to come, with a bound that a busy machine does not reach."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
WAIT_S = 60.0


def until(look: Callable[[], T], *, wait_s: float = WAIT_S) -> T:
    """The first true value of `look`; fails with its last one when none comes."""
    end = time.monotonic() + wait_s
    while not (found := look()):
        assert time.monotonic() < end, f"not within {wait_s:g} s: {found!r}"
        time.sleep(0.01)
    return found


def helpers_of(root: Path) -> list[int]:
    """Helper processes of ours that still run with something below `root` open."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if b"_helper" in (entry / "cmdline").read_bytes() and str(root) in " ".join(
                    os.readlink(fd) for fd in (entry / "fd").iterdir()
                ):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found
