"""Calls of the program under test, and one container's life as a context manager."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import select
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.system.bundle import Bundle

TOKEN = f"pt{os.getpid()}x{int(time.monotonic() * 1000) % 100000}"  # in every id, so that what is ours is known
TIMEOUT_S = WAIT_S = 60  # what a busy machine does not need; a call that hangs takes longer


class Result(NamedTuple):
    """How a call ended. `err` is all of stderr."""

    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """`msg` of the last error record on stderr, "" without one."""
        found = re.findall(r'level=error msg=("(?:[^"\\]|\\.)*"|\S+)', self.err)
        if not found:
            return ""
        return str(ast.literal_eval(found[-1])) if found[-1].startswith('"') else found[-1]

    @property
    def field(self) -> str:
        """The JSON pointer below line 1, "" without one."""
        found = re.search(r"^  field: (.*)$", self.err, re.MULTILINE)
        return found[1] if found else ""


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> Any:
    """The condition's first true value. Fails, named `what`, when there is none in time."""
    end = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        time.sleep(0.005)
    return value


class Runtime:
    """`pyruntime --root ROOT …`. stdio are plain files, so that a call ends when the program does."""

    def __init__(self, program: str, root: Path) -> None:
        self.program, self.root = program, root
        self.made = 0

    def new_id(self) -> str:
        """An id that no other test run uses."""
        self.made += 1
        return f"{TOKEN}-{self.root.parent.parent.name[-12:]}-{self.made}"

    def argv(self, *args: Any) -> list[str]:
        """The command line of a call."""
        return [self.program, "--root", str(self.root), *map(str, args)]

    def popen(self, *args: Any, **more: Any) -> subprocess.Popen[bytes]:
        """A started call; stdin is empty unless given."""
        with STARTING:
            return track(subprocess.Popen(self.argv(*args), **{"stdin": subprocess.DEVNULL, **more}))

    def __call__(
        self, *args: Any, stdin: str | bytes | None = None, timeout_s: float = TIMEOUT_S, **more: Any
    ) -> Result:
        """One finished call; its output up to its own end, whoever still has the files open."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as given:
            if stdin is not None:
                given.write(stdin.encode() if isinstance(stdin, str) else stdin)
                given.seek(0)
                more["stdin"] = given
            call = self.popen(*args, stdout=out, stderr=err, **more)
            code = finish(call, timeout_s)
            return Result(code, text_of(out), text_of(err))

    def run(self, bundle: Bundle, *flags: Any, **more: Any) -> Result:
        """`run` in the foreground with a new id."""
        return self("run", "-b", bundle.path, *flags, self.new_id(), **more)

    def look(self, bundle: Bundle, *flags: Any, **more: Any) -> str:
        """What the program of the bundle printed, without the last line end; it has to succeed."""
        result = self.run(bundle, *flags, **more)
        assert result.code == 0, result
        return result.out.removesuffix("\n")

    @contextlib.contextmanager
    def container(self, bundle: Bundle, *flags: Any, start: bool = True, **more: Any) -> Iterator[Container]:
        """A created (and started) container, gone at the end."""
        container = Container(self, bundle, self.new_id())
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            container.out, container.err = out, err
            try:
                call = self.popen("create", "-b", bundle.path, *flags, container.id, stdout=out, stderr=err, **more)
                code = finish(call, TIMEOUT_S)
                assert code == 0, (code, container.errors())
                if start:
                    container.ok("start")
                yield container
            finally:
                deleted = self("delete", "--force", container.id)
                reap()
        assert deleted.code == 0, deleted

    @contextlib.contextmanager
    def foreground(self, bundle: Bundle, *flags: Any, ready: str = "ready\n", **more: Any) -> Iterator[Foreground]:
        """A foreground `run` whose program has printed `ready`; stdout is a pipe, stderr a file."""
        name = self.new_id()
        with tempfile.TemporaryFile() as err:
            given = {"stdout": subprocess.PIPE, "stderr": err, **more}
            call = self.popen("run", "-b", bundle.path, *flags, name, **given)
            try:
                out = call.stdout
                assert out is not None
                line = out.readline().decode()
                assert line == ready, (line, text_of(err))
                yield Foreground(name, call, out)
            finally:
                deleted = self("delete", "--force", name)
                if call.poll() is None:
                    call.kill()
                    call.wait()
                if call.stdout is not None:
                    call.stdout.close()
        assert deleted.code == 0, deleted

    def ids(self) -> list[str]:
        """What lies in the state root."""
        return sorted(os.listdir(self.root)) if self.root.exists() else []


class Foreground(NamedTuple):
    """A running foreground call, with the pipe that is its stdout."""

    id: str
    call: subprocess.Popen[bytes]
    out: IO[bytes]


def children() -> list[int]:
    """Children of this process, adopted ones included."""
    found: list[int] = []
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended
            found += map(int, path.read_text().split())
    return found


CALLS: dict[int, subprocess.Popen[bytes]] = {}  # children that have somebody to wait for them
STARTING = threading.Lock()  # a child of another thread's that is not among them yet is not taken for an adopted one


def track(call: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
    """Keep `reap` off a child that its test waits for."""
    CALLS[call.pid] = call
    return call


def reap() -> None:
    """Take the exit status of adopted processes that have ended: for them this process is what a shim is.

    Without it the init of a pid namespace waits for them (contract 1.8, stuck init).
    """
    for pid, call in list(CALLS.items()):
        if call.returncode is not None:
            CALLS.pop(pid, None)
    with STARTING:
        for pid in children():
            if pid not in CALLS and _state(pid) == "Z":
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def finish(call: subprocess.Popen[bytes], timeout_s: float = TIMEOUT_S) -> int:
    """The exit code as a shell has it (128 + n for signal n)."""
    track(call)
    end = time.monotonic() + timeout_s
    while True:
        try:
            code = call.wait(0.2)
        except subprocess.TimeoutExpired:
            reap()
        else:
            return code if code >= 0 else 128 - code
        if time.monotonic() > end:
            call.kill()
            call.wait()
            raise AssertionError(f"no end within {timeout_s} s: {call.args}")


def text_of(file: IO[bytes]) -> str:
    """All of it; read by offset, since a container that still writes shares the file's position."""
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode("utf-8", "replace")


class Container:
    """A container between create and delete."""

    out: IO[bytes]
    err: IO[bytes]

    def __init__(self, runtime: Runtime, bundle: Bundle, container_id: str) -> None:
        self.runtime, self.bundle, self.id = runtime, bundle, container_id

    def __call__(self, verb: str, *args: Any, **more: Any) -> Result:
        """`VERB ID ARGS`; flags of ours come after the id where the verb allows that."""
        return self.runtime(verb, self.id, *args, **more)

    def ok(self, verb: str, *args: Any, **more: Any) -> str:
        """stdout of a call that has to succeed."""
        result = self(verb, *args, **more)
        assert result.code == 0, result
        return result.out

    def exec(self, *args: Any, flags: tuple[Any, ...] = (), **more: Any) -> Result:
        """`exec FLAGS ID ARGS`."""
        return self.runtime("exec", *flags, self.id, *args, **more)

    def look(self, script: str, *flags: Any) -> str:
        """What a shell inside prints, without the last line end; it has to succeed."""
        result = self.exec("sh", "-c", script, flags=flags)
        assert result.code == 0, result
        return result.out.removesuffix("\n")

    def state(self) -> dict[str, Any]:
        """The answer of `state`."""
        return dict(json.loads(self.ok("state")))

    @property
    def status(self) -> str:
        """created, running, paused or stopped."""
        return str(self.state()["status"])

    @property
    def pid(self) -> int:
        """Init's pid on the host."""
        return int(self.state()["pid"])

    def saved(self) -> dict[str, Any]:
        """state.json."""
        return dict(json.loads((self.runtime.root / self.id / "state.json").read_text()))

    def output(self) -> str:
        """What init has written to its stdout so far."""
        return text_of(self.out)

    def errors(self) -> str:
        """What create and init have written to stderr so far."""
        return text_of(self.err)

    def wait_status(self, status: str) -> None:
        """Until the status is that one."""
        wait_until(lambda: self.status == status, f"status {status}")

    def wait_output(self, text: str) -> str:
        """Until stdout holds `text`; all of stdout."""
        wait_until(lambda: text in self.output(), f"output {text!r}")
        return self.output()

    def stop(self) -> None:
        """SIGKILL to init, and until it is dead."""
        with open_pid(self.pid) as pidfd:
            self.ok("kill", "KILL")
            assert select.select([pidfd], [], [], WAIT_S)[0], "init did not die"


@contextlib.contextmanager
def open_pid(pid: int) -> Iterator[int]:
    """A pidfd."""
    fd = os.pidfd_open(pid)
    try:
        yield fd
    finally:
        os.close(fd)


def kill_pid(pid: int, number: int = signal.SIGKILL) -> None:
    """A signal to one process of ours."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
