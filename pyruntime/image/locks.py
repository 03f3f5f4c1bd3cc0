"""Who may write: locks that end with their process, and how to tell whether a process that left its name still lives."""

from __future__ import annotations

import fcntl
import os
import time
from typing import TYPE_CHECKING

from pyruntime.errors import Cancelled

if TYPE_CHECKING:
    import threading

_POLL_FIRST_S, _POLL_LAST_S = 0.002, 0.1


def boot_id() -> str:
    """Names this start of the kernel."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def start_time(pid: int) -> int:
    """Clock ticks from boot to the start of `pid` (proc(5), stat field 22); -1 when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return -1
    return -1 if fields[0] in {b"Z", b"X"} else int(fields[19])


def lock_file(path: str, *, wait: bool = True, cancel: threading.Event | None = None) -> int | None:
    """A descriptor of `path`, made when it is not there, that has its exclusive lock; None when not `wait` and it is busy.

    Whoever has the lock may rename or unlink the file; the name is looked at again after the lock came. Closing the
    descriptor gives the lock back, so does the end of the process. Raises Cancelled when `cancel` is set meanwhile.
    """
    pause_s = _POLL_FIRST_S
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_named(fd, path):
                taken, fd = fd, -1
                return taken
            continue
        except BlockingIOError:
            pass
        finally:
            if fd >= 0:
                os.close(fd)
        if not wait:
            return None
        if cancel is None:
            time.sleep(pause_s)
        elif cancel.wait(pause_s):
            raise Cancelled("the transfer was cancelled while another one of the same content ran")
        pause_s = min(pause_s * 1.5, _POLL_LAST_S)


def _is_named(fd: int, path: str) -> bool:
    try:
        named = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    mine = os.fstat(fd)
    return (named.st_dev, named.st_ino) == (mine.st_dev, mine.st_ino)
