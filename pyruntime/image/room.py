"""A disk that is full: parts of broken transfers are not kept there, and a reserve lets the database be written.

Whoever removes something writes rows first, and SQLite's log wants room for them. `root/reserve` is that room: it goes
when the disk is full, and is there again when there is space.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

LOW_BYTES = 8 << 20  # free: less is a full disk
RESERVE_BYTES, LEAST_BYTES = 1 << 20, 64 << 10


def is_low(root: str) -> bool:
    """Whether the file system of `root` is full, or nearly."""
    return _free(root) < LOW_BYTES


@contextmanager
def spare_room(root: str) -> Iterator[None]:
    """Inside, on a full disk, the reserve's room may be used: for what frees more."""
    if _free(root) < RESERVE_BYTES:
        with suppress(OSError):
            os.unlink(_reserve(root))
    try:
        yield
    finally:
        keep_reserve(root)


def keep_reserve(root: str) -> None:
    """Makes the reserve, or a smaller one on a disk that is nearly full; one that has its size is left alone."""
    wanted = min(RESERVE_BYTES, _free(root) // 4)
    with suppress(OSError):  # somebody else was quicker to use the room
        if wanted < LEAST_BYTES or _size(root) >= wanted:
            return
        fd = os.open(_reserve(root), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.posix_fallocate(fd, 0, wanted)
        finally:
            os.close(fd)


def _free(root: str) -> int:
    """Bytes that this user may still write."""
    found = os.statvfs(root)
    return (found.f_bfree if os.geteuid() == 0 else found.f_bavail) * found.f_frsize


def _size(root: str) -> int:
    """Of the reserve, 0 when there is none."""
    try:
        return os.stat(_reserve(root)).st_size
    except FileNotFoundError:
        return 0


def _reserve(root: str) -> str:
    return f"{root}/reserve"
