"""What a benchmark changes on the machine, and how it takes all of it back: one folder, one cgroup name, mounts."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

PR_SET_CHILD_SUBREAPER = 36
UNIFIED = Path("/sys/fs/cgroup/unified")


class Session:
    """A temporary folder, `name` for cgroups, and the mounts made for crun; leaving removes everything.

    The process becomes a subreaper, so that containers left by `create` are its children and can be waited for.
    SIGTERM, SIGHUP and SIGINT end it by exception, so that they clean up too.
    """

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="pyruntime-bench-"))
        self.name = self.folder.name
        self.mounted: list[Path] = []
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # a second one must not stop the cleaning
        self._end_processes()
        self._remove_cgroups()
        for path in reversed(self.mounted):
            subprocess.run(["umount", path], check=False)
        for point in reversed(_mounts_below(self.folder)):
            subprocess.run(["umount", "-l", point], check=False)
        if not _mounts_below(self.folder):  # never remove files through a mount that stayed
            shutil.rmtree(self.folder, ignore_errors=True)

    def move_controllers_to_v1(self) -> str:
        """Mounts a v1 hierarchy for each controller of a hybrid host's v2 tree, which crun refuses to see there.

        A controller whose v1 hierarchy is mounted in another mount namespace alone is mounted here as well: it would
        go back to the v2 tree when that one ends. Returns what was done, "" when there was nothing to do. It holds
        for every runtime of the session alike.
        """
        if not UNIFIED.is_dir():
            return ""
        here = {word for line in _mountinfo() if " - cgroup " in line for word in line.split()[-1].split(",")}
        rows = [line.split() for line in Path("/proc/cgroups").read_text().splitlines()[1:]]
        elsewhere = [name for name, hierarchy, _, _ in rows if hierarchy != "0" and name not in here]
        names = dict.fromkeys([*(UNIFIED / "cgroup.controllers").read_text().split(), *elsewhere])
        for name in names:
            path = self.folder / "v1" / name  # runc takes the folder's name for the controller's
            path.mkdir(parents=True)
            done = subprocess.run(["mount", "-t", "cgroup", "-o", name, name, path], check=False, capture_output=True)
            if done.returncode == 0:
                self.mounted.append(path)
        moved = ", ".join(path.name for path in self.mounted)
        return f"mounted as v1 for the session, for crun: {moved}" if moved else ""

    def _cgroups(self) -> list[Path]:
        """Our cgroups in all hierarchies, deepest first."""
        found: list[Path] = []
        for line in _mountinfo():
            head, _, tail = line.partition(" - ")
            if tail.split()[0] in ("cgroup", "cgroup2"):
                top = Path(head.split()[4]) / self.name
                found += [Path(path) for path, _, _ in os.walk(top, topdown=False)]
        return found

    def _end_processes(self) -> None:
        """Kills what is left in our cgroups, and reaps."""
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            pids = set()
            for cgroup in self._cgroups():
                with contextlib.suppress(OSError):
                    pids |= set((cgroup / "cgroup.procs").read_text().split())
            for pid in pids:
                with contextlib.suppress(OSError):
                    os.kill(int(pid), signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            if not pids:
                return
            time.sleep(0.02)

    def _remove_cgroups(self) -> None:
        for cgroup in self._cgroups():
            with contextlib.suppress(OSError):
                cgroup.rmdir()


def _interrupt(number: int, _: object) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def _mountinfo() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()


def _mounts_below(folder: Path) -> list[str]:
    """Mount points in the folder, in the order they were made."""
    return [point for point in (line.split()[4] for line in _mountinfo()) if point.startswith(f"{folder}/")]
