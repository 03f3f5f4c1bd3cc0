"""One `criu swrk` at work: start it, send the request, answer its notifications, read the result, reap it.

    we                                     criu swrk 3
     |-- request (DUMP, PRE_DUMP, RESTORE) -->|
     |<-- NOTIFY script pid [fd] -------------|   criu waits: a barrier
     |-- NOTIFY notify_success -------------->|
     |<-- answer success | cr_errno ----------|   or the end of the file: it died

1. images_dir_fd, work_dir_fd and status_fd are numbers of our descriptors: criu opens /proc/OUR-PID/fd/N. inherit_fd are
   numbers of criu's own, from INHERIT_FIRST on.
2. criu is never killed while it may have a hold of running processes: when our side fails the socket is closed and criu,
   whose next notification then fails, lets them go by itself. SIGKILL comes only after ABANDON_MS.
3. What criu prints before it has opened its log (a kernel it does not understand) is kept in memory for the error.
"""

from __future__ import annotations

from fcntl import F_DUPFD_CLOEXEC, fcntl
from posix import (
    O_CLOEXEC,
    O_RDONLY,
    POSIX_SPAWN_DUP2,
    access,
    close,
    environ,
    lseek,
    memfd_create,
    open,
    pidfd_open,
    posix_spawn,
    read,
)  # fmt: skip

from pyruntime.criu import wire
from pyruntime.errors import HostError, RuntimeFailure
from pyruntime.native import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    # script, pid, descriptors that came with it (the receiver's to close)
    OnNotify = Callable[[str, int, list[int]], None]

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OLDEST = (3, 17)
INHERIT_FIRST = 20
ABANDON_MS = 30_000
MAX_MESSAGE = 1 << 16
CAP_SYS_ADMIN, CAP_CHECKPOINT_RESTORE = 21, 40
X_OK = 1


class Criu:
    """A started `criu swrk`. Use as a context manager: at its end the process is gone and reaped.

    `inherit` are descriptors that criu gets as INHERIT_FIRST, INHERIT_FIRST + 1, …; `stdin` is its descriptor 0 (a
    terminal, for a shell job).
    """

    def __init__(self, program: str, *, stdin: int = -1, inherit: Sequence[int] = ()) -> None:
        try:
            self.printed = memfd_create("criu", 1 | 8)  # MFD_CLOEXEC | MFD_NOEXEC_SEAL: vm.memfd_noexec=2 takes no other
        except OSError:  # before Linux 6.3
            self.printed = memfd_create("criu", 1)
        self.sock, far = kernel.socketpair()
        null = open("/dev/null", O_RDONLY | O_CLOEXEC)
        wanted = {0: stdin if stdin >= 0 else null, 1: self.printed, 2: self.printed, 3: far}
        wanted.update({INHERIT_FIRST + at: fd for at, fd in enumerate(inherit)})
        high = {number: fcntl(fd, F_DUPFD_CLOEXEC, 256) for number, fd in wanted.items()}
        actions = [(POSIX_SPAWN_DUP2, fd, number) for number, fd in high.items()]
        try:
            self.pid = posix_spawn(program, [program, "swrk", "3"], {"PATH": search_path()},
                                   setsigmask=(), setsigdef=range(1, 32), file_actions=actions)
            self.pidfd = pidfd_open(self.pid, 0)
        except BaseException:
            close(self.sock)
            close(self.printed)
            raise
        finally:
            for fd in (*high.values(), far, null):
                close(fd)

    def __enter__(self) -> Criu:
        return self

    def __exit__(self, *_: object) -> None:
        from pyruntime.criu.process import end

        self.hang_up()
        end(self.pidfd, ABANDON_MS)
        close(self.pidfd)
        close(self.printed)

    def hang_up(self) -> None:
        """Close our end of the socket."""
        if self.sock >= 0:
            close(self.sock)
            self.sock = -1

    def request(self, kind: int, on_notify: OnNotify | None = None, **fields: Any) -> dict[str, Any]:
        """The answer to one request, after every notification has been answered.

        Raises what `on_notify` raises, after criu has given up; HostError when criu ends without an answer. An answer
        without success is returned: its caller knows where the log is.
        """
        self._send({"type": kind, **fields})
        failure: BaseException | None = None
        while True:
            data, fds = kernel.receive(self.sock, MAX_MESSAGE, max_fds=1, pidfd=self.pidfd)
            answer = wire.decode(wire.ANSWER, data)
            if answer.get("type") != wire.NOTIFY:
                for fd in fds:
                    close(fd)
                if failure is not None:
                    raise failure
                return answer or {"type": kind, "success": False, "died": True}
            note = answer.get("notify", {})
            try:
                if on_notify is not None:
                    on_notify(note.get("script", ""), note.get("pid", 0), fds)
                fds = []
            except (RuntimeFailure, OSError) as raised:
                failure = failure or raised
            for fd in fds:
                close(fd)
            self._send({"type": wire.NOTIFY, "notify_success": failure is None})

    def _send(self, request: dict[str, Any]) -> None:
        try:
            kernel.send(self.sock, wire.encode(wire.REQUEST, request))
        except (BrokenPipeError, ConnectionResetError):
            return  # its end is what the next receive reports

    def words(self) -> str:
        """What criu has printed itself, at most 4 KiB of it."""
        lseek(self.printed, 0, 0)
        return read(self.printed, 4096).decode("utf-8", "replace")


def search_path() -> str:
    """Our PATH, or a usual one when there is none."""
    return environ.get(b"PATH", b"").decode("utf-8", "surrogateescape") or DEFAULT_PATH


def find(name: str) -> str:
    """The full path of a program in PATH or in the usual folders; "" when there is none."""
    for folder in f"{search_path()}:{DEFAULT_PATH}".split(":"):
        if folder.startswith("/") and access(f"{folder}/{name}", X_OK):
            return f"{folder}/{name}"
    return ""


def usable(verb: str) -> str:
    """The path of a criu that can be used. Raises HostError that says what is missing for `verb`."""
    if not may_use():
        raise HostError(f"cannot {verb}: neither CAP_SYS_ADMIN nor CAP_CHECKPOINT_RESTORE is held",
                        hint="call it as root; criu cannot look into other processes without")
    program = find("criu")
    if not program:
        raise HostError(f"cannot {verb}: criu is not installed", value=search_path(),
                        hint="install criu 3.17 or newer (Debian's package is criu) in a folder of PATH")
    with Criu(program) as criu:
        answer = criu.request(wire.VERSION)
        words = criu.words()
    if not answer.get("success"):
        raise HostError(f"cannot {verb}: {program} does not work on this host", value=first_error(words),
                        hint="`criu check` says what it needs from the kernel; a newer criu may know this kernel")
    version = answer.get("version", {})
    found = (version.get("major", 0), version.get("minor", 0))
    if found < OLDEST:
        raise HostError(f"cannot {verb}: criu {found[0]}.{found[1]} is too old", value=program,
                        hint="install criu 3.17 or newer")
    return program


def may_use() -> bool:
    """Whether this process has what criu asks for."""
    fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC)
    try:
        status = read(fd, 1 << 14)
    finally:
        close(fd)
    held = int(status.partition(b"CapEff:")[2].split(None, 1)[0], 16)
    return bool(held & (1 << CAP_SYS_ADMIN | 1 << CAP_CHECKPOINT_RESTORE))


def require_feature(program: str, name: str, verb: str) -> None:
    """Raises HostError unless kernel and criu have mem_track or lazy_pages."""
    with Criu(program) as criu:
        answer = criu.request(wire.FEATURE_CHECK, features={name: True})
        words = criu.words()
    if not answer.get("features", {}).get(name):
        raise HostError(f"cannot {verb}: criu and this kernel do not support {name}", value=first_error(words),
                        hint=f"see `criu check --feature {name}`")


def first_error(log: str) -> str:
    """The first two error lines of criu's log or output, without its time stamps; "" when it holds none.

    What a helper program's status was comes last: criu tries some that may fail.
    """
    found = []
    for line in log.splitlines():
        at = line.find("Error (")
        if at >= 0:
            found.append(line[at:].partition("): ")[2].strip())
    found = sorted([line for line in found if line], key=lambda line: line.startswith("exited, "))
    return "; ".join(found[:2])
