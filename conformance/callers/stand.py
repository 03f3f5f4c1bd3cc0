"""A stand: one room with namespaces of its own, in which a real containerd, dockerd or podman runs as on a machine.

Its first process holds mount, network, pid and ipc namespaces. /run is a tmpfs of the room and /etc a copy, so that
programs find their usual paths and nothing of them reaches the host; the end of the first process ends all the rest.
What a room cannot hold are cgroups: whoever starts containers names them below a folder that has `token` in its name.
"""

from __future__ import annotations

import contextlib
import os
import pty
import select
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CGROUPS = Path("/sys/fs/cgroup")
# How long anything may take on a loaded machine before it counts as not happening.
WAIT_S = float(os.environ.get("CALLERS_WAIT_S", "90"))
SETUP = """
set -eu
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs -o size=1g,mode=755 tmpfs /run
mkdir -p /run/lock /run/room /run/varlib
cp -a /etc /run/room/etc
mount --bind /run/room/etc /etc
mount --make-rshared /
if command -v ip >/dev/null; then ip link set lo up; fi
exec "$0" -I -S -c '
import signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # orphans are reaped by the kernel
print("ready", flush=True)
while True:
    signal.pause()
'
"""


class Missing(Exception):
    """A facility of the machine that a stand needs; the text says which."""


class Ended(NamedTuple):
    """How a program ended. `out` and `err` are text."""

    code: int
    out: str
    err: str

    @property
    def both(self) -> str:
        """stdout, then stderr."""
        return self.out + self.err


def wait_for(look: Callable[[], Any], what: str | Callable[[], str], timeout_s: float = WAIT_S) -> Any:
    """The first true answer of `look`; fails, naming `what`, when there is none in time."""
    end = time.monotonic() + timeout_s
    while not (answer := look()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout_s:g} s: {what() if callable(what) else what}")
        time.sleep(0.05)
    return answer


class Stand:
    """One room. `run` and `spawn` start programs in it; `path` gives a file of it as seen from outside."""

    def __init__(self, token: str, *, share_net: bool = False) -> None:
        self.token = token
        self.daemons: list[Daemon] = []
        self.forgiven: set[str] = set()  # leftovers that a test has failed for
        if os.geteuid() != 0:
            raise Missing("root")
        kinds = ["-m", "-p", "-i", *([] if share_net else ["-n"])]
        # A process of this one: when it goes, the room goes.
        self._log = tempfile.TemporaryFile("w+")
        self._call = subprocess.Popen(
            ["unshare", *kinds, "--fork", "--kill-child", "sh", "-c", SETUP, shutil.which("python3", path="/usr/bin") or "python3"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._log, text=True,
        )  # fmt: skip
        assert self._call.stdout is not None
        if self._call.stdout.readline() != "ready\n":
            self._call.wait()
            self._log.seek(0)
            said = self._log.read().strip().splitlines()
            self.end()
            raise Missing(f"namespaces and mounts of its own: {said[-1] if said else 'unshare failed'}")
        self.pid = _children(self._call.pid)[0]
        self._enter = ["nsenter", "-t", str(self.pid), "-m", "-p", "-i", *([] if share_net else ["-n"]), "--"]
        self.root = Path(f"/proc/{self.pid}/root")
        self.mounts = self._mounts()

    # ---- programs ----
    def argv(self, *args: Any) -> list[str]:
        """The command line that runs `args` in the room."""
        return [*self._enter, *map(str, args)]

    def run(self, *args: Any, stdin: str | bytes | None = None, timeout_s: float = WAIT_S, **more: Any) -> Ended:
        """One finished program. Its output goes to files: what it leaves running does not hold the call."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as given:
            given.write(stdin.encode() if isinstance(stdin, str) else stdin or b"")
            given.seek(0)
            call = subprocess.Popen(self.argv(*args), stdin=given, stdout=out, stderr=err, **more)
            try:
                code = call.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._stop(call)
                raise AssertionError(f"{args} did not end within {timeout_s:g} s: {_text(out)} {_text(err)}") from None
            return Ended(code, _text(out), _text(err))

    def ok(self, *args: Any, **more: Any) -> str:
        """stdout, without the last line end, of a program that has to succeed."""
        ended = self.run(*args, **more)
        assert ended.code == 0, (args, ended)
        return ended.out.removesuffix("\n")

    @contextlib.contextmanager
    def spawn(self, *args: Any, **more: Any) -> Iterator[subprocess.Popen[Any]]:
        """A program that runs meanwhile; killed at the end."""
        call = subprocess.Popen(self.argv(*args), **{"stdin": subprocess.DEVNULL, **more})
        try:
            yield call
        finally:
            self._stop(call)
            for file in (call.stdin, call.stdout, call.stderr):
                if file is not None:
                    with contextlib.suppress(BrokenPipeError):
                        file.close()

    def talk(self, *args: Any, typed: str, wanted: str) -> int:
        """A program on a terminal of its own: types at the shell's prompt, waits for the text; the exit code."""
        outer, inner = pty.openpty()
        with self.spawn("setsid", "-c", *args, stdin=inner, stdout=inner, stderr=inner) as call:
            os.close(inner)
            seen = ""

            def read() -> str:
                nonlocal seen
                with contextlib.suppress(OSError):  # the other side is closed
                    while select.select([outer], [], [], 0)[0] and (more := os.read(outer, 4096)):
                        seen += more.decode(errors="replace")
                return seen

            try:
                wait_for(lambda: "# " in read(), lambda: f"a prompt: {seen!r}")
                os.write(outer, typed.encode())
                wait_for(lambda: wanted in read(), lambda: f"{wanted!r} in {seen!r}")
                wait_for(lambda: (read(), call.poll())[1] is not None, lambda: f"the end of the shell: {seen!r}")
            finally:
                os.close(outer)
            return call.returncode

    def daemon(self, *args: Any) -> Daemon:
        """A started daemon; its output is in `log`. Stopped at the latest when the room ends."""
        made = Daemon(self, args)
        self.daemons.append(made)
        return made

    @staticmethod
    def _stop(call: subprocess.Popen[Any]) -> None:
        for pid in [*_children(call.pid), call.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        call.wait()

    # ---- files ----
    def path(self, name: str) -> Path:
        """A file of the room, from outside. Not for symlinks that are absolute."""
        return self.root / name.lstrip("/")

    def write(self, name: str, content: str | bytes, mode: int = 0o644) -> str:
        """A file in the room, its folders made; gives its name in there."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)
        return name

    def cgroup_file(self, name: str, v1: str, v2: str) -> str:
        """Content of a file of the cgroup whose folder is named `name`; v1 is `controller/file`."""
        controller, _, file = v1.partition("/")
        for path in self.cgroups():
            if path.name == name and (path / file).exists() and path.relative_to(CGROUPS).parts[0] == controller:
                return (path / file).read_text().strip()
            if path.name == name and (path / v2).exists():
                return (path / v2).read_text().strip()
        raise AssertionError(f"no cgroup {name} has {v1} or {v2}: {self.cgroups()}")

    # ---- what is left ----
    def processes(self) -> dict[int, str]:
        """Command lines of everything in the room but its first process and its daemons, by pid in the room."""
        known = {1} | {pid for daemon in self.daemons for pid in daemon.pids()}
        found = {}
        for entry in (self.root / "proc").iterdir():
            if entry.name.isdigit() and int(entry.name) not in known:
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip() or "?"
        return found

    def cgroups(self) -> list[Path]:
        """Every cgroup that has the token in its name or below such a one, deepest first."""
        found = []
        for top, names, _ in os.walk(CGROUPS):
            found += [Path(top) / name for name in names if self.token in f"{top}/{name}"]
        return sorted(found, key=lambda path: -len(path.parts))

    def left(self, folders: tuple[str, ...] = ()) -> list[str]:
        """A line for each process, mount, cgroup and entry of `folders` that should have gone."""
        said = [f"process {pid}: {line}" for pid, line in self.processes().items()]
        said += [f"mount {line}" for line in sorted(self._mounts() - self.mounts)]
        # What an engine groups its containers or monitors in stays while the engine lives, as with any runtime.
        said += [f"cgroup {path}" for path in self.cgroups() if self.token not in path.name and path.name != "conmon"]
        for folder in folders:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                said += [f"entry {folder}/{name}" for name in os.listdir(self.path(folder))]
        return [line for line in said if line not in self.forgiven]

    def check(self, folders: tuple[str, ...] = ()) -> None:
        """Fails with what is left, which is held against this test and not the next as well."""
        try:
            wait_for(lambda: not self.left(folders), lambda: "left behind:\n" + "\n".join(self.left(folders)))
        finally:
            self.forgiven |= set(self.left(folders))

    def _mounts(self) -> set[str]:
        lines = (self.root / "proc/1/mountinfo").read_text().splitlines()
        return {line.split(" ")[4] for line in lines}

    def keep_mounts(self) -> None:
        """What is mounted now belongs to the daemons."""
        self.mounts = self._mounts()

    def end(self) -> None:
        """Ends the first process and so all others; removes the cgroups that were made for them."""
        for daemon in self.daemons:
            daemon.close()
        for pid in [*_children(self._call.pid), self._call.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._call.wait()
        if self._call.stdout is not None:
            self._call.stdout.close()
        self._log.close()
        end = time.monotonic() + WAIT_S
        while left := self.cgroups():
            for path in left:
                with contextlib.suppress(OSError):
                    path.rmdir()
            if time.monotonic() > end:
                raise AssertionError(f"cgroups that cannot be removed: {left}")


class Daemon:
    """A long-running program of a stand, known by its pid."""

    def __init__(self, stand: Stand, args: tuple[Any, ...]) -> None:
        self.stand, self.args = stand, args
        self._log: IO[bytes] = tempfile.TemporaryFile()
        self._call = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.stand.argv(*self.args), stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, cwd="/"
        )

    @property
    def log(self) -> str:
        """All it has written."""
        return _text(self._log)

    def tail(self) -> str:
        """Its last lines, for a failure's text."""
        return "\n".join(self.log.splitlines()[-12:])

    def pid(self) -> int:
        """Its pid on the host, 0 when it has ended."""
        return next(iter(_children(self._call.pid)), 0) if self._call.poll() is None else 0

    def pids(self) -> set[int]:
        """Its pids in the room, with those of its helpers that are of the same program."""
        pid = self.pid()
        return {_pid_inside(pid)} if pid else set()

    def alive(self) -> bool:
        """Whether it runs."""
        return self._call.poll() is None

    def wait_ready(self, look: Callable[[], Any], what: str) -> None:
        """Until `look` is true; fails at once when the daemon ends before."""
        wait_for(lambda: look() or not self.alive(), lambda: f"{what}\n{self.tail()}")
        assert self.alive(), f"{self.args[0]} ended:\n{self.tail()}"

    def kill(self, number: int = signal.SIGKILL) -> None:
        """A signal, and until it is gone."""
        if pid := self.pid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        self._call.wait(WAIT_S)

    def restart(self) -> None:
        """Started again after `kill`, with the same command line."""
        self._call = self._start()

    def close(self) -> None:
        """SIGKILL when it still runs."""
        if self.alive():
            self.kill()
        self._log.close()


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for task in Path(f"/proc/{pid}/task").iterdir() for word in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _pid_inside(pid: int) -> int:
    """The pid of a process in its own pid namespace, 0 when it has gone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    return 0


def has_ended(process: Path) -> bool:
    """Whether the process of this folder of /proc is gone, or nobody has waited for it yet."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def _text(file: IO[bytes]) -> str:
    """All of a file that others are writing to, whose position stays theirs."""
    return os.pread(file.fileno(), 1 << 24, 0).decode(errors="replace")
