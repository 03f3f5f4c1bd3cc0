"""The measures: each runs one thing with one runtime and returns figures by name (seconds, or KiB for memory).

A time runs from posix_spawn of the runtime to its end, as the program that calls it sees it. `cpu` is what wait4(2)
says of the runtime and of all that it waited for, so for a foreground `run` the container's program is in it.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from itertools import count
from pathlib import Path

from benchmarks.bundles import SHORT_SLEEP, SLEEP, TRUE, Bundles

ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
AT_ONCE = 50


class MeasureFailed(Exception):
    """A runtime could not do what was measured; the text has its exit code and its error line."""


class Runtime:
    """One program and the folder of its states."""

    def __init__(self, name: str, path: str, folder: Path) -> None:
        self.name = name
        self.path = path
        self.folder = folder
        folder.mkdir()
        self.base = [path, "--root", str(folder / "root")]
        self.errors = folder / "stderr"
        self.numbers = count()

    def version(self) -> str:
        """First line of `--version`."""
        done = subprocess.run([self.path, "--version"], capture_output=True, text=True, check=False)
        return (done.stdout.splitlines() or ["no version"])[0]

    def new_id(self) -> str:
        """An ID that no other container of this session has."""
        return f"{self.name}-{next(self.numbers)}"

    def spawn(self, *words: str) -> int:
        """Starts the verb with /dev/null for stdin and stdout. Returns its pid."""
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0),
            (os.POSIX_SPAWN_DUP2, 0, 1),
            (os.POSIX_SPAWN_OPEN, 2, str(self.errors), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
        ]
        try:
            return os.posix_spawn(self.path, [*self.base, *words], ENV, file_actions=actions)
        except OSError as error:
            raise MeasureFailed(f"cannot start it: {error}") from error

    def check(self, words: tuple[str, ...], status: int) -> None:
        """Raises MeasureFailed unless the wait status is success."""
        if status:
            lines = self.errors.read_text(errors="replace").strip().splitlines()
            told = [line for line in lines if "level=error" in line] or lines or ["no message"]
            code = os.waitstatus_to_exitcode(status)
            raise MeasureFailed(f"{words[0]} ended with {code}: {told[0]}")

    def call(self, *words: str) -> tuple[float, float]:
        """Seconds of wall and CPU time of one call."""
        begin = time.perf_counter()
        pid = self.spawn(*words)
        _, status, usage = os.wait4(pid, 0)
        wall = time.perf_counter() - begin
        self.check(words, status)
        return wall, usage.ru_utime + usage.ru_stime


class Library(Runtime):
    """The library in a warm process of this Python, which stands for the engine; it can only `run`."""

    def __init__(self, folder: Path) -> None:
        super().__init__("library", sys.executable, folder)
        top = Path(__file__).resolve().parent.parent
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.warm", str(folder / "root")],
            cwd=top, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def version(self) -> str:
        """What it is."""
        return f"the library in a warm process, Python {sys.version.split()[0]}"

    def call(self, *words: str) -> tuple[float, float]:
        """`run -b BUNDLE ID`; seconds as the process itself took them, CPU time unknown."""
        stdin, stdout = self.process.stdin, self.process.stdout
        if words[0] != "run" or stdin is None or stdout is None:
            raise MeasureFailed("the library is measured on run alone")
        try:
            stdin.write(f"{words[2]} {words[3]}\n")
            stdin.flush()
        except BrokenPipeError:
            pass  # it has ended; readline says so
        kind, _, text = stdout.readline().strip().partition(" ")
        if kind != "ok":
            raise MeasureFailed(text or "the warm process has ended")
        return float(text), 0.0

    def close(self) -> None:
        """Ends the process."""
        with self.process:
            self.process.kill()


class Measure(ABC):
    """`once` is called in turn for each runtime; `prepare` and `finish` stand outside the time."""

    name = ""
    unit = "ms"

    def __init__(self, bundles: Bundles, profile: str) -> None:
        self.bundles = bundles
        self.profile = profile

    def prepare(self, runtime: Runtime) -> None:  # noqa: B027 - most need nothing
        """Makes what `once` needs."""

    @abstractmethod
    def once(self, runtime: Runtime) -> dict[str, float]:
        """One sample. The key "" is the measure itself; others are details kept in the JSON output."""

    def finish(self, runtime: Runtime) -> None:  # noqa: B027 - most leave nothing
        """Takes away what `prepare` made; also called when `prepare` failed half-way."""


class Run(Measure):
    """`run` of /bin/true in the foreground."""

    name = "run"

    def once(self, runtime: Runtime) -> dict[str, float]:
        wall, cpu = runtime.call("run", "-b", self.bundles.get(self.profile, "true", TRUE), runtime.new_id())
        return {"": wall, "cpu": cpu}


class Cycle(Measure):
    """create, start and delete; the wait for the program's end between the last two is not counted."""

    name = "create+start+delete"

    def once(self, runtime: Runtime) -> dict[str, float]:
        name, pid_file = runtime.new_id(), runtime.folder / "pid"
        bundle = self.bundles.get(self.profile, "true", TRUE)
        create, cpu_1 = runtime.call("create", "-b", bundle, "--pid-file", str(pid_file), name)
        start, cpu_2 = runtime.call("start", name)
        _wait_for(int(pid_file.read_text()))
        delete, cpu_3 = runtime.call("delete", name)
        return {"": create + start + delete, "cpu": cpu_1 + cpu_2 + cpu_3, "create": create, "start": start,
                "delete": delete}  # fmt: skip


class Standing(Measure):
    """Base of measures on a container that is already running."""

    def prepare(self, runtime: Runtime) -> None:
        bundle = self.bundles.get(self.profile, f"sleep-{runtime.name}", SLEEP)
        runtime.call("run", "-d", "-b", bundle, self._id(runtime))

    def finish(self, runtime: Runtime) -> None:
        with contextlib.suppress(MeasureFailed):
            runtime.call("delete", "--force", self._id(runtime))

    def _id(self, runtime: Runtime) -> str:
        return f"{runtime.name}-{self.profile}-{self.name}"


class Exec(Standing):
    """`exec` of /bin/true."""

    name = "exec"

    def once(self, runtime: Runtime) -> dict[str, float]:
        wall, cpu = runtime.call("exec", self._id(runtime), *TRUE)
        return {"": wall, "cpu": cpu}


class State(Standing):
    """`state` of a running container."""

    name = "state"

    def once(self, runtime: Runtime) -> dict[str, float]:
        wall, cpu = runtime.call("state", self._id(runtime))
        return {"": wall, "cpu": cpu}


class Memory(Measure):
    """Peak resident memory of the runtime's process in a foreground `run` (VmHWM, sampled until it ends).

    Not ru_maxrss: that starts at the size of the process that spawned it (exec keeps the old high-water mark).
    """

    name = "peak memory of run"
    unit = "MiB"

    def once(self, runtime: Runtime) -> dict[str, float]:
        words = ("run", "-b", self.bundles.get(self.profile, "short-sleep", SHORT_SLEEP), runtime.new_id())
        begin = time.monotonic()
        pid = runtime.spawn(*words)
        peak, resident, status = 0, 0, None
        while status is None:
            found = _memory(pid)
            peak = max(peak, found.get("VmHWM", 0))
            if 0.2 < time.monotonic() - begin < 0.4:  # the program sleeps: this is what a waiting runtime holds
                resident = found.get("VmRSS", resident)
            time.sleep(0.0005)
            ended, answer = os.waitpid(pid, os.WNOHANG)
            status = answer if ended else None
        runtime.check(words, status)
        return {"": peak / 1024, "resident": resident / 1024}


class AtOnce(Measure):
    """Time until 50 foreground `run` of /bin/true, all started at the same time, have ended."""

    name = f"{AT_ONCE} at once"

    def once(self, runtime: Runtime) -> dict[str, float]:
        calls = [("run", "-b", self.bundles.get(self.profile, f"at-once-{i}", TRUE), runtime.new_id())
                 for i in range(AT_ONCE)]  # fmt: skip
        begin = time.perf_counter()
        pids = [runtime.spawn(*words) for words in calls]
        ends = [os.wait4(pid, 0) for pid in pids]
        wall = time.perf_counter() - begin
        for words, (_, status, _) in zip(calls, ends, strict=True):
            runtime.check(words, status)
        return {"": wall, "cpu": sum(usage.ru_utime + usage.ru_stime for _, _, usage in ends)}


MEASURES = (Run, Cycle, Exec, State, Memory, AtOnce)


def _wait_for(pid: int) -> None:
    """Until that process has ended: as its parent, which a subreaper becomes, or else by its pidfd."""
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            try:
                select.select([descriptor], [], [])
            finally:
                os.close(descriptor)


def _memory(pid: int) -> dict[str, int]:
    """VmHWM and VmRSS in KiB; {} for a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith(("VmHWM", "VmRSS"))}
