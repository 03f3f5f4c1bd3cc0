"""Children of ours: a host command run to its end, the end of a process that may not come by itself."""

from __future__ import annotations

from _signal import pidfd_send_signal
from posix import P_PIDFD, WEXITED, close, pidfd_open, posix_spawn, waitid
from select import poll

SIGKILL = 9


def call(argv: list[str]) -> int:
    """The exit status of a host command (argv[0] is its path), with our stdio and no environment; 128 + n for signal n."""
    pidfd = pidfd_open(posix_spawn(argv[0], argv, {}, setsigmask=(), setsigdef=range(1, 32)), 0)
    try:
        result = waitid(P_PIDFD, pidfd, WEXITED)
    finally:
        close(pidfd)
    if result is None:
        return 0
    return result.si_status if result.si_code == 1 else 128 + result.si_status  # CLD_EXITED is 1


def end(pidfd: int, timeout_ms: int) -> None:
    """Wait for the child, at most so long, then kill it; it is reaped in any case."""
    watch = poll()
    watch.register(pidfd, 1)
    if not watch.poll(timeout_ms):
        try:
            pidfd_send_signal(pidfd, SIGKILL)
        except ProcessLookupError:
            pass
    try:
        waitid(P_PIDFD, pidfd, WEXITED)
    except ChildProcessError:
        return
