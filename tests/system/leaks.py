"""What a test may not leave behind: mounts, cgroups, processes, state entries, descriptors."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.system.runtime import TOKEN, children, reap

if TYPE_CHECKING:
    from tests.system.runtime import Runtime

CGROUPS = Path("/sys/fs/cgroup")
GRACE_S = 60.0  # a cgroup goes when its last process has been reaped, a moment after its death


class Watch:
    """The world before a test; `check` compares it with the world after."""

    def __init__(self) -> None:
        self.before = world()

    def check(self, runtime: Runtime) -> None:
        """Fails with everything that is new, after a short grace."""
        end = time.monotonic() + GRACE_S
        while left := self.left(runtime):
            if time.monotonic() > end:
                raise AssertionError("left behind:\n" + "\n".join(left))
            time.sleep(0.02)

    def left(self, runtime: Runtime) -> list[str]:
        """One line for each thing that was not there before."""
        reap()
        new = [f"{kind}: {name}" for kind, name in sorted(world() - self.before)]
        return new + [f"state: {name}" for name in runtime.ids()]


def world() -> set[tuple[str, str]]:
    """(kind, name) of everything that is counted. The mount namespace is this process's own."""
    found = {("mount", line.split(" - ")[0]) for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    found |= {("cgroup", path) for path in cgroups()}
    found |= {("process", f"{pid} {_name(pid)}") for pid in children()}
    return found | {("descriptor", _link(fd)) for fd in os.listdir("/proc/self/fd")}


def cgroups() -> list[str]:
    """Every cgroup directory named for a container of this test run."""
    return [f"{top}/{name}" for top, names, _ in os.walk(CGROUPS) for name in names if TOKEN in name]


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _link(fd: str) -> str:
    """What a descriptor refers to; pipes and sockets by kind, for their numbers never repeat."""
    try:
        target = os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:
        return "closed"
    return f"{fd} {target.split(':')[0]}"
