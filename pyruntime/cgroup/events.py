"""Out-of-memory events of a container, and the end of them when its cgroup is empty.

v1: an eventfd registered in cgroup.event_control for memory.oom_control; its counter rises with each out-of-memory
event, and the kernel signals it once more when the cgroup is removed (cgroup-v1/memory.rst, 10). v2: memory.events,
whose oom_kill counter says how often; a change shows as POLLPRI (cgroup-v2.rst, 2.4). That the cgroup is empty shows
as POLLPRI on cgroup.events of the unified tree, which a hybrid host has as well; on pure v1 nothing tells, so
`wait` looks there from time to time.
"""

from __future__ import annotations

from posix import (
    EFD_CLOEXEC,
    EFD_NONBLOCK,
    O_CLOEXEC,
    O_RDONLY,
    O_WRONLY,
    close,
    eventfd,
    eventfd_read,
    lseek,
    read,
    strerror,
    write,
)
from posix import open as open_file
from select import POLLIN, POLLPRI, poll
from time import monotonic

from pyruntime.cgroup import manager
from pyruntime.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    Paths = tuple[tuple[str, str], ...]

LOOK_S = 1.0  # pure v1: how often to look whether the cgroup is empty


class OomWatch:
    """Counts out-of-memory events and knows when the container's cgroup is empty. A context manager: it owns its fds.

    `fds`: (descriptor, poll mask) pairs for a caller's own poll; when one is ready, `take` tells what happened.
    Raises HostError when the host cannot tell of such events.
    """

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._event = self._memory = self._populated = -1
        self._counted = 0
        names = dict(paths)
        try:
            if "memory" in names:
                self._event = _register(names["memory"])
            elif "" in names:
                self._memory = open_file(f"{names['']}/memory.events", O_RDONLY | O_CLOEXEC)
                self._counted = self._count()
            else:
                raise HostError("cannot watch for out-of-memory events: the container has no memory cgroup")
            if "" in names:
                self._populated = open_file(f"{names['']}/cgroup.events", O_RDONLY | O_CLOEXEC)
                _content(self._populated)
        except OSError as error:
            self.close()
            raise HostError(f"cannot watch for out-of-memory events: {strerror(error.errno or 0).lower()}",
                            errno=error.errno or 0) from error
        self.fds = tuple(pair for pair in ((self._event, POLLIN), (self._memory, POLLPRI), (self._populated, POLLPRI))
                         if pair[0] >= 0)

    def __enter__(self) -> OomWatch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every descriptor; the kernel drops the registration with the eventfd."""
        for fd in (self._event, self._memory, self._populated):
            if fd >= 0:
                close(fd)
        self._event = self._memory = self._populated = -1

    def take(self) -> int:
        """How many out-of-memory events there were since the last call, 0 or more. Never waits."""
        if self._event >= 0:
            return self._take_v1()
        before, self._counted = self._counted, self._count()
        return max(self._counted - before, 0)

    def emptied(self) -> bool:
        """No process is left in the container's cgroup or below it."""
        if self._populated < 0:
            return not manager.processes(self._paths)
        return b"populated 1" not in _content(self._populated)

    def wait(self, timeout_s: float) -> int:
        """Wait until something happens or the cgroup is empty, at most `timeout_s`; returns what `take` does."""
        poller = poll()
        for fd, mask in self.fds:
            poller.register(fd, mask)
        deadline = monotonic() + timeout_s
        while True:
            events = self.take()
            left = deadline - monotonic()
            if events or left <= 0 or self.emptied():
                return events
            poller.poll((left if self._populated >= 0 else min(left, LOOK_S)) * 1000)

    def _take_v1(self) -> int:
        """The eventfd also rises when the cgroup is removed, which is no event."""
        try:
            count = eventfd_read(self._event)
        except BlockingIOError:
            return 0
        return count if manager.exists(dict(self._paths)["memory"]) else 0

    def _count(self) -> int:
        for line in _content(self._memory).split(b"\n"):
            if line.startswith(b"oom_kill "):
                return int(line[9:])
        return self._counted


def _register(path: str) -> int:
    """An eventfd for the out-of-memory events of a v1 memory cgroup. Raises OSError."""
    event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
    control = watched = -1
    try:
        watched = open_file(f"{path}/memory.oom_control", O_RDONLY | O_CLOEXEC)
        control = open_file(f"{path}/cgroup.event_control", O_WRONLY | O_CLOEXEC)
        write(control, b"%d %d" % (event, watched))
    except OSError:
        close(event)
        raise
    finally:
        for fd in (control, watched):
            if fd >= 0:
                close(fd)
    return event


def _content(fd: int) -> bytes:
    """The whole file from its start, which also arms POLLPRI again; b"" when its cgroup has been removed."""
    try:
        lseek(fd, 0, 0)
        return read(fd, 4096)
    except OSError:
        return b""
