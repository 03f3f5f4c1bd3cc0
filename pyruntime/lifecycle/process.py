"""Processes by identity: a pid and its start time, then a pidfd; never a pid alone (R7)."""

from __future__ import annotations

from _signal import pidfd_send_signal
from errno import EINVAL, ESRCH
from posix import O_CLOEXEC, O_RDONLY, P_PIDFD, WEXITED, close, open, pidfd_open, read, waitid

SIGKILL = 9


def start_time(pid: int) -> int:
    """Field 22 of /proc/PID/stat in clock ticks; 0 when the process is gone, a zombie or dead (proc_pid_stat(5))."""
    if pid <= 0:
        return 0
    try:
        fd = open(f"/proc/{pid}/stat", O_RDONLY | O_CLOEXEC)
    except OSError:
        return 0
    try:
        fields = read(fd, 4096).rpartition(b")")[2].split()
    except OSError:
        return 0
    finally:
        close(fd)
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def open_process(pid: int, started: int) -> int:
    """A pidfd of exactly that process, -1 when it is gone. The caller closes it."""
    if pid <= 0:
        return -1
    try:
        fd = pidfd_open(pid, 0)
    except OSError as error:
        if error.errno in (ESRCH, EINVAL):
            return -1
        raise
    if start_time(pid) == started:
        return fd
    close(fd)
    return -1


def send_signal(pidfd: int, signal: int) -> bool:
    """Whether the signal was sent; False when the process is gone. Raises OSError for anything else."""
    try:
        pidfd_send_signal(pidfd, signal)
    except ProcessLookupError:
        return False
    return True


def reap(pidfd: int) -> int:
    """Wait for a child of ours: its exit code, or 128 + n for signal n."""
    result = waitid(P_PIDFD, pidfd, WEXITED)
    if result is None:
        return 0
    return result.si_status if result.si_code == 1 else 128 + result.si_status  # CLD_EXITED is 1


def is_dead(pidfd: int, timeout_ms: int = 0) -> bool:
    """Whether the process has ended (a zombie counts), waiting at most `timeout_ms`."""
    from select import poll

    watch = poll()
    watch.register(pidfd, 1)
    return bool(watch.poll(timeout_ms))
