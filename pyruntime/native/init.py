"""The host's end of the socket to container-init: the program itself, its start, and the messages.

The conversation is drawn in plan/opcodes.py (the one arrow from this room to plan: numbers of messages). Nothing
here knows what a container is: a Link sends and receives records, and lifecycle decides what they mean.
"""

from __future__ import annotations

from _struct import pack, unpack_from
from posix import close, fstat, open, read

from pyruntime.native import kernel, wait
from pyruntime.plan.opcodes import MAX_MESSAGE, MESSAGES
from pyruntime.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

HEAD = "<Iiii"
HEAD_SIZE = 16
FDS_PER_MESSAGE = 200
PROGRAM = __file__.rpartition("/")[0] + "/container-init"


class Message(Record):
    """One record from container-init; `type` is a name of opcodes.MESSAGES, "EOF" when nobody is there any more."""

    type: str
    step: int = -1
    errno: int = 0
    value: int = 0
    payload: bytes = b""


_NAMES = {number: name for name, number in MESSAGES.items()}


def parse_message(data: bytes) -> Message:
    """The record in `data`; an empty one is EOF. Raises ValueError when it is no message of ours."""
    if not data:
        return Message("EOF")
    if len(data) < HEAD_SIZE:
        raise ValueError("short message from container-init")
    kind, step, errno, value = unpack_from(HEAD, data)
    return Message(_NAMES.get(kind, str(kind)), step, errno, value, data[HEAD_SIZE:])


def program_fd() -> int:
    """A sealed memfd with container-init: what runs inside a container can never reach the installed file (S10)."""
    fd = open(PROGRAM, 0o2000000)  # O_RDONLY | O_CLOEXEC
    try:
        data = read(fd, fstat(fd).st_size)
    finally:
        close(fd)
    try:
        return kernel.sealed_memfd("container-init", data, executable=True)
    except PermissionError:  # vm.memfd_noexec=2, Linux 6.3
        from pyruntime.native import unlinked

        return unlinked.program(data)


class Link:
    """The host's end. Owns its socket until `close`."""

    def __init__(self) -> None:
        self.sock, self.remote = kernel.socketpair()

    def send_plan(self, plan: bytes, slots: Sequence[tuple[int, int]]) -> None:
        """The PLAN message and as many FDS messages as `slots`, pairs of (slot, descriptor), need.

        The descriptors stay the caller's. Sent before the program starts: the socket keeps them.
        """
        memfd = kernel.sealed_memfd("plan", plan, executable=False)
        try:
            first, rest = slots[: FDS_PER_MESSAGE - 1], slots[FDS_PER_MESSAGE - 1 :]
            self._send_fds("PLAN", 1 + len(slots), [memfd, *(fd for _, fd in first)], [slot for slot, _ in first])
            while rest:
                first, rest = rest[:FDS_PER_MESSAGE], rest[FDS_PER_MESSAGE:]
                self._send_fds("FDS", len(first), [fd for _, fd in first], [slot for slot, _ in first])
        finally:
            close(memfd)

    def _send_fds(self, kind: str, value: int, fds: Sequence[int], slots: Sequence[int]) -> None:
        head = pack(HEAD, MESSAGES[kind], -1, 0, value)
        kernel.send(self.sock, head + pack(f"<{len(slots)}I", *slots), fds)

    def start(self, program: int, stdio: Sequence[int], name: str, *, cgroup: int = -1,
              tasks: Sequence[int] = ()) -> tuple[int, int, list[int]]:
        """What kernel.spawn returns for stage 0, run from the memfd `program`; our copy of the remote end is closed."""
        try:
            return kernel.spawn(program, self.remote, stdio, ("container-init", name), cgroup=cgroup, tasks=tasks)
        finally:
            close(self.remote)
            self.remote = -1

    def release(self, barrier: int) -> None:
        """Let init go on from a barrier. BrokenPipeError when it is gone."""
        kernel.send(self.sock, pack(HEAD, MESSAGES["RELEASE"], -1, 0, barrier))

    def receive(self, *, timeout_ms: int = -1) -> Message:
        """The next message, EOF included. Raises TimeoutError; Interrupted while it waits without a timeout."""
        if timeout_ms < 0:
            wait.until(self.sock)
        return parse_message(kernel.receive(self.sock, MAX_MESSAGE + HEAD_SIZE, timeout_ms=timeout_ms)[0])

    def hang_up(self) -> None:
        """Send nothing more: the other end reads EOF, what it has sent can still be read."""
        if self.sock >= 0:
            from _socket import SHUT_WR, socket

            end = socket(fileno=self.sock)
            try:
                end.shutdown(SHUT_WR)
            except OSError:  # ENOTCONN: the other end is gone already
                return
            finally:
                end.detach()

    def close(self) -> None:
        """Close what is still ours; safe to call twice."""
        for fd in (self.sock, self.remote):
            if fd >= 0:
                close(fd)
        self.sock = self.remote = -1
