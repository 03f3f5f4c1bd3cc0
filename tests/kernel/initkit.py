"""Drives container-init without the rest of pyruntime: packs plans, speaks the socket's protocol, collects the end.

Only the numbers come from the product (plan/opcodes.py); packing and messages are written again here, so that the
tests hold the C side against the drawing in opcodes.py and not against the Python side.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import os
import select
import signal
import socket
import struct
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pyruntime.plan.layout import LAYOUT_HASH
from pyruntime.plan.opcodes import BARRIERS, HEADER_SIZE, MAGIC, MAX_ARGS, MESSAGES, OP_FLAGS, OPS, RETRY

if TYPE_CHECKING:
    from collections.abc import Callable

TREE = Path(__file__).resolve().parents[2]
PROGRAM = TREE / "pyruntime" / "native" / "container-init"
SANITIZED = TREE / "csrc" / "container-init-sanitize"
NAMES = {number: name for name, number in MESSAGES.items()}
TIMEOUT_S = 60

CLONE_NEWTIME, CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS = 0x80, 0x20000, 0x02000000, 0x04000000
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x08000000, 0x10000000, 0x20000000, 0x40000000
MS_REC, MS_PRIVATE, MS_SLAVE = 0x4000, 1 << 18, 1 << 19
AT_FDCWD, AT_RECURSIVE, OPEN_TREE_CLONE = -100, 0x8000, 1

NO_SYMLINK, INHERIT_MODE, RECURSIVE, REPLACE, MAKE_FILE, LIKE_SLOT, NEW_ONLY, MOUNT_CONSOLE, NO_FOLLOW = (
    OP_FLAGS[name] for name in
    ("TARGET_NO_SYMLINK", "INHERIT_MODE", "RECURSIVE", "REPLACE", "MAKE_FILE", "LIKE_SLOT", "NEW_ONLY",
     "MOUNT_CONSOLE", "TARGET_NO_FOLLOW"))
RDONLY, NOSUID, NODEV, NOEXEC = 1, 2, 4, 8
NULL_DEVICE = os.makedev(1, 3)

libc = ctypes.CDLL(None, use_errno=True)


def syscall(*args: object) -> int:
    """A raw system call; OSError on failure."""
    result = libc.syscall(*[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(result)


def open_tree(path: str | Path, *, recursive: bool = True) -> int:
    """A detached copy of the mount at `path`."""
    flags = OPEN_TREE_CLONE | os.O_CLOEXEC | (AT_RECURSIVE if recursive else 0)
    return syscall(428, AT_FDCWD, os.fsencode(path), flags)


class Step:
    """One step for `pack`: positional arguments as in OPS, missing ones 0 (-1 for a slot)."""

    def __init__(self, op: str, *args: object, tolerate: tuple[int, ...] = (), on_errno: int = 0, retry: bool = False,
                 instead: tuple[Step, ...] = ()) -> None:
        self.op, self.args, self.tolerate = op, args, tolerate
        self.on_errno, self.retry, self.instead = on_errno, retry, instead


READY = Step("barrier", BARRIERS["ready"])
PROC = [Step("make_path", "/proc", 0o755, NO_SYMLINK), Step("mount", "proc", "proc", "/proc", (), 14, NO_SYMLINK)]


class Pool:
    """The pool of a plan under construction, at `base`."""

    def __init__(self, base: int) -> None:
        self.base, self.data = base, bytearray(b"\0\0\0\0")

    def add(self, data: bytes) -> int:
        offset = self.base + len(self.data)
        self.data += data
        self.data += b"\0" * (-len(self.data) % 4)
        return offset

    def put(self, kind: str, value: object) -> int:
        if kind in ("int", "slot"):
            return int(value)  # type: ignore[call-overload]
        if value is None:
            return 0
        if kind == "str":
            return self.add(os.fsencode(value) + b"\0")  # type: ignore[arg-type]
        if kind == "blob":
            return self.add(struct.pack("<I", len(value)) + value)  # type: ignore[arg-type,operator]
        offsets = [self.put("str", one) for one in value]  # type: ignore[attr-defined]
        return self.add(struct.pack(f"<I{len(offsets)}I", len(offsets), *offsets))


def pack(steps: list[Step], *, slots: int = 16, fd_base: int = 3) -> bytes:
    """The bytes of a plan."""
    flat: list[tuple[Step, int]] = []
    for step in steps:
        flat.append((step, len(step.instead)))
        flat += [(other, RETRY if other.retry else 0) for other in step.instead]
    pool = Pool(HEADER_SIZE + 56 * len(flat))
    table = b""
    for step, alternatives in flat:
        number, kinds = OPS[step.op]
        given = [*step.args, *([None] * (len(kinds) - len(step.args)))]
        values = [pool.put(kind, (-1 if kind == "slot" else 0) if value is None and kind in ("int", "slot") else value)
                  for (_, kind), value in zip(kinds, given, strict=True)]
        values += [0] * (MAX_ARGS - len(values))
        tolerate = bytes(step.tolerate).ljust(4, b"\0")
        table += struct.pack("<HBB4s6q", number, alternatives, step.on_errno, tolerate, *values)
    header = struct.pack("<IIQIIIIIIII", MAGIC, HEADER_SIZE, LAYOUT_HASH, len(flat), HEADER_SIZE, pool.base,
                         len(pool.data), slots, fd_base, 0, 0)
    return header + table + bytes(pool.data)


class Message:
    """One message from container-init."""

    def __init__(self, data: bytes) -> None:
        kind, self.step, self.errno, self.value = struct.unpack_from("<Iiii", data)
        self.type, self.payload = NAMES[kind], data[16:]

    def __repr__(self) -> str:
        return f"{self.type}(step={self.step} errno={self.errno} value={self.value} {self.payload!r})"


OPEN: list[Run] = []  # every run of the test that is under way; the fixture `init_program` closes them


class Run:
    """A running container-init. `messages` are all that came; `pid` is init's, or stage 0's before clone."""

    def __init__(self, plan: bytes, fds: dict[int, int] | None = None, *, program: Path = PROGRAM,
                 stdin: int | None = None, raw_first: bytes | None = None) -> None:
        self.host, remote = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.host.settimeout(TIMEOUT_S)
        self.messages: list[Message] = []
        self.output = tempfile.TemporaryFile()
        self._send_plan(plan, fds or {}, raw_first)
        with open(os.devnull, "rb") as null:
            actions = [(os.POSIX_SPAWN_DUP2, remote.fileno(), 3)]
            actions += [(os.POSIX_SPAWN_DUP2, null.fileno() if stdin is None else stdin, 0)]
            actions += [(os.POSIX_SPAWN_DUP2, self.output.fileno(), number) for number in (1, 2)]
            self.stage0 = self.pid = os.posix_spawn(program, ["container-init"], {}, file_actions=actions)
        remote.close()
        self.status: int | None = None
        OPEN.append(self)

    def _send_plan(self, plan: bytes, fds: dict[int, int], raw_first: bytes | None) -> None:
        memfd = os.memfd_create("plan")  # closed below, the socket keeps a copy
        os.write(memfd, plan)
        slots = list(fds)
        head = raw_first or struct.pack("<Iiii", MESSAGES["PLAN"], -1, 0, 1 + len(fds))
        head += struct.pack(f"<{len(slots[:200])}I", *slots[:200])
        rights = array.array("i", [memfd, *(fds[slot] for slot in slots[:200])])
        self.host.sendmsg([head], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        if slots[200:]:
            self.send_fds({slot: fds[slot] for slot in slots[200:]})
        os.close(memfd)

    def send_fds(self, fds: dict[int, int]) -> None:
        """An FDS message."""
        head = struct.pack("<Iiii", MESSAGES["FDS"], -1, 0, len(fds)) + struct.pack(f"<{len(fds)}I", *fds)
        rights = array.array("i", fds.values())
        self.host.sendmsg([head], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])

    def receive(self) -> Message | None:
        """The next message; None at the end. Reaps stage 0 when it has cloned."""
        try:
            data = self.host.recv(8192 + 16)
        except ConnectionResetError:  # it ended with something of ours unread; what it had said comes after that
            data = self.host.recv(8192 + 16)
        if not data:
            return None
        message = Message(data)
        self.messages.append(message)
        if message.type == "PID":
            os.waitpid(self.stage0, 0)
            self.pid = message.value
        return message

    def until(self, barrier: str) -> Run:
        """Read on to that barrier; a failure on the way fails the test with what was said."""
        while True:
            message = self.receive()
            assert message is not None, f"the end came before {barrier}: {self.messages} {self.text()}"
            assert message.type != "ERROR", f"before {barrier}: {message}"
            if message.type == "BARRIER":
                assert message.value == BARRIERS[barrier], message
                return self

    def release(self, barrier: str) -> Run:
        """Let it go on from the barrier."""
        self.host.send(struct.pack("<Iiii", MESSAGES["RELEASE"], -1, 0, BARRIERS[barrier]))
        return self

    def passes(self, *barriers: str) -> Run:
        """Through these barriers in order."""
        for barrier in barriers:
            self.until(barrier).release(barrier)
        return self

    def finish(self) -> Run:
        """Read to the end, reap."""
        while self.receive() is not None:
            pass
        return self.wait()

    def wait(self) -> Run:
        """Reap init; its exit code, or minus the signal, in `status`."""
        end = time.monotonic() + TIMEOUT_S
        while self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                raise TimeoutError(f"still running: {self.messages}")
            else:
                time.sleep(0.002)
        return self

    @property
    def error(self) -> Message | None:
        """The ERROR message, if there was one."""
        return next((m for m in self.messages if m.type == "ERROR"), None)

    def kinds(self) -> list[str]:
        """Types of all messages so far."""
        return [m.type for m in self.messages]

    def text(self) -> str:
        """What was written to stdout and stderr so far; the container shares the file's position, so that stays."""
        fd = self.output.fileno()
        return os.pread(fd, os.fstat(fd).st_size, 0).decode(errors="replace")

    def inside(self, path: str) -> Path:
        """A path as init sees it."""
        return Path(f"/proc/{self.pid}/root{path}")

    def mounts(self) -> list[list[str]]:
        """Fields of init's mountinfo."""
        return [line.split() for line in Path(f"/proc/{self.pid}/mountinfo").read_text().splitlines()]

    def close(self) -> None:
        """End what still runs; again is fine."""
        self.host.close()
        if self.status is None:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
            self.status = -signal.SIGKILL
        self.output.close()


def runs(pid: int) -> bool:
    """Whether that process is there and no zombie."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Until it holds; fails, named `what`, when it does not in time."""
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def readable(fd: int, seconds: float) -> bool:
    """Whether `fd` has something to read within that time."""
    return bool(select.select([fd], [], [], seconds)[0])


def build(target: str) -> None:
    """A target of csrc/Makefile; the make error is the test's."""
    subprocess.run(["make", "-s", "-C", TREE / "csrc", target], check=True, capture_output=True)


def start(program: Path, *steps: Step, fds: dict[int, int] | None = None, **options: int) -> Run:
    """A run of exactly these steps."""
    return Run(pack(list(steps), **options), fds, program=program)


def snapshot(tree: Path) -> list[tuple[str, int, int]]:
    """Name, mode and inode of everything in a directory."""
    return sorted((str(p.relative_to(tree)), p.lstat().st_mode, p.lstat().st_ino) for p in tree.rglob("*"))


class Enter:
    """Starts init in its own mount and pid namespace with `root` as slot 0, runs steps, stops at `ready`."""

    FIRST = 5  # index of the first step of the caller

    def __init__(self, program: Path, root: Path) -> None:
        self.program, self.root = program, root

    def __call__(self, *steps: Step, fds: dict[int, int] | None = None, fails: bool = False, new: int = 0,
                 at: str = "/", then: list[Step] | None = None) -> Run:
        """With fails=True it is left to end by itself.

        `new`: more namespaces. `at`: where the root is attached. `then`: steps behind `ready`.
        """
        tree = open_tree(self.root)
        base = [Step("unshare", CLONE_NEWNS | new), Step("clone", CLONE_NEWPID),
                Step("propagation", "/", MS_REC | MS_SLAVE), Step("open_proc", 1), Step("attach_root", 2, at)]
        run = Run(pack([*base, *steps, READY, *(then or [])]), {2: tree, **(fds or {})}, program=self.program)
        os.close(tree)
        return run.finish() if fails else run.until("ready")
