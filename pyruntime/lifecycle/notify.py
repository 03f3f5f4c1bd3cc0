"""NOTIFY_SOCKET: readiness from inside the container to whoever started us (sd_notify(3), contract 1.10).

The container sees a directory of ours at /run/notify with one datagram socket in it. The first datagram with a line
`READY=` is told to the host's socket, followed by init's pid as MAINPID, which is the only fact that crosses; then a
BARRIER makes sure that it has been read before we go on.
"""

from __future__ import annotations

from _socket import AF_UNIX, SCM_RIGHTS, SOCK_CLOEXEC, SOCK_DGRAM, SOL_SOCKET, socket
from _thread import start_new_thread
from array import array
from posix import O_CLOEXEC, O_DIRECTORY, O_NOFOLLOW, O_RDONLY, chmod, close, mkdir, open, pipe2
from select import poll

from pyruntime.errors import HostError
from pyruntime.native import wait

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyruntime.lifecycle.store import Entry

FOLDER, NAME = "notify", "notify.sock"
BARRIER_TIMEOUT_MS = 30_000
MAX_DATAGRAM = 4096


def make_folder(entry: Entry) -> None:
    """The directory that will be mounted at /run/notify; made before the plan runs."""
    mkdir(FOLDER, 0o755, dir_fd=entry.fd)


class Proxy:
    """The container's socket, bound, and where its word goes. A context manager."""

    def __init__(self, entry: Entry, host_socket: str) -> None:
        self.host_socket = "\0" + host_socket[1:] if host_socket.startswith("@") else host_socket
        self.socket = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC)
        folder = open(FOLDER, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, dir_fd=entry.fd)
        try:
            path = f"/proc/self/fd/{folder}/{NAME}"  # a state root may be longer than a socket address
            self.socket.bind(path)
            chmod(path, 0o777)
        except OSError as error:
            self.socket.close()
            raise HostError(f"unable to bind {entry.path}/{FOLDER}/{NAME}: {(error.strerror or '').lower()}",
                            errno=error.errno or 0) from error
        finally:
            close(folder)

    def close(self) -> None:
        """Stop listening; the name goes with the container."""
        self.socket.close()

    def wait(self, pid: int, pidfd: int) -> bool:
        """Wait for READY or the end of init; whether it became ready. HostError when the host does not listen."""
        while True:
            ready = wait.ready((self.socket.fileno(), pidfd))
            if self.socket.fileno() in ready:
                data = self.socket.recv(MAX_DATAGRAM)
                if any(line.startswith(b"READY=") for line in data.split(b"\n")):
                    self._tell(pid)
                    return True
            elif pidfd in ready:
                return False

    def _tell(self, pid: int) -> None:
        """READY and MAINPID, then a BARRIER, whose pipe closes when the host has read it all (sd_notify_barrier(3))."""
        out = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC)
        read_end, write_end = pipe2(O_CLOEXEC)
        try:
            out.connect(self.host_socket)
            out.send(f"READY=1\nMAINPID={pid}".encode())
            out.sendmsg([b"BARRIER=1"], [(SOL_SOCKET, SCM_RIGHTS, array("i", [write_end]).tobytes())])
            close(write_end)
            write_end = -1
            watch = poll()
            watch.register(read_end, 0)
            watch.poll(BARRIER_TIMEOUT_MS)
        except OSError as error:
            raise HostError(f"unable to notify {self.host_socket}: {(error.strerror or '').lower()}",
                            errno=error.errno or 0, hint="NOTIFY_SOCKET names a socket that nobody reads") from error
        finally:
            out.close()
            for fd in (read_end, write_end):
                if fd >= 0:
                    close(fd)


class Pending:
    """A started container whose word is awaited. Owns the proxy and `pidfd` (-1: it has ended already)."""

    def __init__(self, proxy: Proxy, pid: int, pidfd: int) -> None:
        self.proxy, self.pid, self.pidfd = proxy, pid, pidfd

    def wait(self) -> None:
        """Wait for READY or the end, then close. Raises HostError when the host's socket does not take it."""
        try:
            if self.pidfd >= 0:
                self.proxy.wait(self.pid, self.pidfd)
        finally:
            self.close()

    def wait_beside(self, warn: Callable[[str], None]) -> None:
        """The same in a helper thread, for a foreground run: a failure is a warning, the container goes on."""

        def work() -> None:
            try:
                self.wait()
            except HostError as failure:
                warn(str(failure))

        start_new_thread(work, ())

    def close(self) -> None:
        """Stop waiting."""
        self.proxy.close()
        if self.pidfd >= 0:
            close(self.pidfd)
            self.pidfd = -1
