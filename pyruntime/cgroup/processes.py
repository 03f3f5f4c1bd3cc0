"""The container's processes: list, freeze, thaw, signal. `paths` as in manager.py.

Every loop has a deadline; our own pid is never signalled, nor 0, which stands for a process of another pid namespace.
"""

from __future__ import annotations

from errno import ESRCH
from posix import getpid, kill
from time import monotonic, sleep

from pyruntime.cgroup.manager import FREEZE_TIMEOUT_S, KILL_TIMEOUT_S, frozen, put, read_file, refusal, write
from pyruntime.cgroup.subtree import GONE, processes_below, write_below
from pyruntime.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Paths = tuple[tuple[str, str], ...]

SIGKILL = 9
SWEEP_FREEZE_S = 0.3  # how long one round of freeze, kill, thaw waits for the freeze


def processes(paths: Paths, *, timeout_s: float = KILL_TIMEOUT_S) -> list[int]:
    """Host pids in the container's cgroup and all below it, sorted; [] when it is gone.

    Raises HostError after the time.
    """
    path = _main_path(paths)
    return sorted(processes_below(path, monotonic() + timeout_s)) if path else []


def _main_path(paths: Paths) -> str:
    """The directory to look for processes in; every hierarchy holds all of them."""
    names = dict(paths)
    for name in ("freezer", "", "devices"):
        if name in names:
            return names[name]
    return paths[0][1] if paths else ""


def freeze(paths: Paths, *, timeout_s: float = FREEZE_TIMEOUT_S) -> None:
    """Stop every process of the container and return when all are stopped.

    A v1 cgroup can stay FREEZING when a process forks or waits in the kernel; writing again, with a short thaw now
    and then, helps (cgroup-v1/freezer-subsystem.rst). On failure the cgroup is left thawed. Raises HostError.
    """
    names = dict(paths)
    deadline = monotonic() + timeout_s
    if "freezer" in names:
        done = _freeze_v1(f"{names['freezer']}/freezer.state", deadline)
    elif "" in names:
        write(f"{names['']}/cgroup.freeze", "1")
        done = _wait_for(f"{names['']}/cgroup.events", b"frozen 1", deadline)
    else:
        raise HostError("cannot toggle freezer: cgroups not configured for container")
    if not done:
        thaw(paths)
        raise HostError("unable to freeze", hint=f"some process did not stop within {timeout_s:g} s")


def _freeze_v1(file: str, deadline: float) -> bool:
    tries = 0
    while True:
        write(file, "FROZEN")
        if read_file(file).startswith(b"FROZEN"):
            return True
        if monotonic() > deadline:
            return False
        tries += 1
        if tries % 50 == 0:
            write(file, "THAWED")
            sleep(0.001)
        elif tries > 10:
            sleep(0.0005)


def thaw(paths: Paths) -> None:
    """Let the processes run again. Nothing happens without a freezer or when the cgroup is gone. Raises HostError."""
    names = dict(paths)
    if "freezer" in names:
        file, data = f"{names['freezer']}/freezer.state", "THAWED"
    elif "" in names:
        file, data = f"{names['']}/cgroup.freeze", "0"
    else:
        return
    try:
        put(file, data)
    except OSError as error:
        if error.errno in GONE:
            return
        raise refusal("unable to thaw", error, file=file) from error


def _wait_for(file: str, line: bytes, deadline: float) -> bool:
    pause = 0.0002
    while line not in read_file(file):
        if monotonic() > deadline:
            return False
        sleep(pause)
        pause = min(pause * 2, 0.01)
    return True


def kill_all(paths: Paths, signal: int, *, timeout_s: float = KILL_TIMEOUT_S) -> None:
    """Send `signal` to every process of the container; SIGKILL returns when none is left.

    SIGKILL thaws what is frozen, sub-cgroups included, and works against processes that fork all the time:
    cgroup.kill (Linux 5.14) where there is a unified tree, else rounds of freeze, kill, thaw. Raises HostError when
    some live on after `timeout_s`, OSError when a signal is refused.
    """
    if signal == SIGKILL:
        _kill(paths, monotonic() + timeout_s)
        return
    was_frozen = frozen(paths)
    if not was_frozen:
        _try_freeze(paths)
    try:
        _signal(processes(paths, timeout_s=timeout_s), signal)
    finally:
        if not was_frozen:
            thaw(paths)


def _kill(paths: Paths, deadline: float) -> None:
    names = dict(paths)
    swept = "" in names and _kill_file(f"{names['']}/cgroup.kill")
    _thaw_below(paths, deadline)
    pause = 0.0005
    while True:
        left = all_processes(paths, deadline) - {getpid()}
        if not left:
            return
        if monotonic() > deadline:
            raise HostError(f"unable to kill all processes: {len(left)} left")
        if not swept:
            _try_freeze(paths)
            _signal(all_processes(paths, deadline), SIGKILL)
            _thaw_below(paths, deadline)
        sleep(pause)
        pause = min(pause * 2, 0.02)
        swept = swept and pause < 0.02


def _kill_file(file: str) -> bool:
    try:
        put(file, "1")
    except OSError:
        return False
    return True


def all_processes(paths: Paths, deadline: float) -> set[int]:
    """Host pids in any of the container's hierarchies, sub-cgroups included."""
    found: set[int] = set()
    for path in {path for _, path in paths}:
        found |= processes_below(path, deadline)
    return found


def _try_freeze(paths: Paths) -> None:
    """Freeze for a moment if that works; without, signals still reach most."""
    try:
        freeze(paths, timeout_s=SWEEP_FREEZE_S)
    except (HostError, OSError):
        return


def _thaw_below(paths: Paths, deadline: float) -> None:
    """Thaw the container and each sub-cgroup: one that it froze itself would keep its processes from dying."""
    names = dict(paths)
    if "freezer" in names:
        write_below(names["freezer"], "freezer.state", b"THAWED", deadline)
    elif "" in names:
        write_below(names[""], "cgroup.freeze", b"0", deadline)


def _signal(pids: Iterable[int], signal: int) -> None:
    own = getpid()
    for pid in pids:
        if pid == own:
            continue
        try:
            kill(pid, signal)
        except OSError as error:
            if error.errno != ESRCH:
                raise
