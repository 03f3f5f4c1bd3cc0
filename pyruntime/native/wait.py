"""Waiting that SIGHUP, SIGINT, SIGQUIT and SIGTERM cut short, for a program that asked for it.

A call that makes or removes things must not be torn apart between two system calls: it could not tell any more what
it has made. So from the first change on (`guard`) these signals are blocked and read from a signalfd(2), and only a
wait looks there: for container-init, a hook, a lock. What the call did before is known then and is undone (R2).
A signal that comes after the last wait came too late: the call ends as if it had not been sent.

Before the first change they do what they always do, and nothing needs to be undone. A signal that was ignored when the
program began (nohup(1)) stays ignored. The library arms nothing: its caller's signals are the caller's.
"""

from __future__ import annotations

from posix import close, read

from pyruntime.errors import Interrupted
from pyruntime.native import kernel

SIGNALS = (1, 2, 3, 15)  # SIGHUP, SIGINT, SIGQUIT, SIGTERM
SIGINFO_SIZE = 128  # struct signalfd_siginfo, signalfd(2)
POLLIN = 1


class _Signals:
    """`fd` is the signalfd, -1 until `guard`; the first signal counts, what comes after it must not disturb the undoing."""

    armed = False
    fd = -1


def arm() -> None:
    """Let `guard` take the four signals over in this thread. For a program with one thread of Python."""
    _Signals.armed = True


def guard() -> None:
    """Something is about to be made or removed. Does nothing in a program that has not armed."""
    if not _Signals.armed:
        return
    _Signals.armed = False
    _Signals.fd = kernel.signalfd(sum(1 << (number - 1) for number in SIGNALS))


def until(fd: int, timeout_ms: int = -1) -> bool:
    """Wait until `fd` can be read or has hung up; False when the time is over. Raises Interrupted, once.

    Without guarded signals and without a timeout it returns True at once: the read itself will wait.
    """
    return (_Signals.fd < 0 and timeout_ms < 0) or bool(ready((fd,), timeout_ms))


def ready(fds: tuple[int, ...], timeout_ms: int = -1) -> set[int]:
    """Those of `fds` that can be read or have hung up, none when the time is over. Raises Interrupted, once."""
    from select import poll

    watch = poll()
    for fd in fds:
        watch.register(fd, POLLIN)
    if _Signals.fd >= 0:
        watch.register(_Signals.fd, POLLIN)
    found = {fd for fd, _ in watch.poll(timeout_ms)}
    if found == {_Signals.fd}:
        number = int.from_bytes(read(_Signals.fd, SIGINFO_SIZE)[:4], "little")
        hand_over()
        raise Interrupted(number)
    return found - {_Signals.fd}


def pause(seconds: float) -> None:
    """Sleep so long, to the millisecond. Raises Interrupted, once."""
    ready((), max(1, int(seconds * 1000)))


def hand_over() -> None:
    """The four signals stay blocked, and waits no longer look: they have come, or somebody else reads them now."""
    if _Signals.fd >= 0:
        close(_Signals.fd)
        _Signals.fd = -1
    _Signals.armed = False
