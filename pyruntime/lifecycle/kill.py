"""kill: a signal to init, or to all of the container's processes (contract 1.4)."""

from __future__ import annotations

from posix import close

from pyruntime.errors import HostError, StateError, UsageError
from pyruntime.lifecycle import cleanup, process, state, states, store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.lifecycle.settings import Settings

SIGRTMIN, SIGRTMAX = 34, 64
# Numbers of x86-64 and arm64: see signal(7).
SIGNALS = {
    name: number
    for number, name in enumerate(
        "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU "
        "URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS".split(),
        1,
    )
} | {"IOT": 6, "POLL": 29, "CLD": 17, "RTMIN": SIGRTMIN, "RTMAX": SIGRTMAX}


def parse_signal(text: str) -> int:
    """The number of `9`, `KILL`, `SIGKILL` in any case, `RTMIN+3`, `RTMAX-2`; 0 probes. Raises UsageError."""
    word = text.upper().removeprefix("SIG")
    number = -1
    if text.isascii() and text.isdigit():
        number = int(text) if len(text) < 4 else -1
    elif word in SIGNALS:
        number = SIGNALS[word]
    elif word[:5] in ("RTMIN", "RTMAX") and word[5:6] in ("+", "-") and word[6:].isascii() and word[6:].isdigit():
        offset = int(word[6:]) if len(word) < 9 else 99
        number = SIGNALS[word[:5]] + (offset if word[5] == "+" else -offset)
        number = number if SIGRTMIN <= number <= SIGRTMAX else -1
    if not 0 <= number <= SIGRTMAX:
        raise UsageError(f'unknown signal "{text}"', hint="give a number, a name such as TERM or SIGTERM, or RTMIN+N")
    return number


def kill(settings: Settings, container_id: str, signal: str = "SIGTERM", *, all_: bool = False) -> None:
    """Send `signal` to init; with `all_` to every process of the cgroup, and a dead container is fine.

    SIGKILL to a container that shares its pid namespace kills the whole cgroup. Raises StateError when not running.
    """
    number = parse_signal(signal or "SIGTERM")
    with store.lookup(settings.root, container_id) as entry:
        found = state.load(entry)
        now = state.status(entry, found)
        if all_:
            _kill_all(found, number)
            return
        states.check(now, "kill", container_id)
        _kill_init(found, number)
        if number == process.SIGKILL:
            _finish_kill(entry, found, now)


def _kill_all(found: dict[str, Any], number: int) -> None:
    from pyruntime.cgroup import manager

    try:
        manager.kill_all(tuple(found["cgroup_paths"].items()), number)
    except OSError as error:
        raise HostError(f"unable to kill all processes: {(error.strerror or '').lower()}",
                        errno=error.errno or 0) from error
    if not found["cgroup_paths"]:
        _kill_init(found, number)


def _kill_init(found: dict[str, Any], number: int) -> None:
    pidfd = process.open_process(int(found["init_process_pid"]), int(found["init_process_start"]))
    if pidfd < 0:
        raise StateError("container not running")
    try:
        if not process.send_signal(pidfd, number):
            raise StateError("container not running")
    except PermissionError as error:
        raise HostError(f"unable to signal init: {(error.strerror or '').lower()}", errno=error.errno or 0) from error
    finally:
        close(pidfd)


def _finish_kill(entry: store.Entry, found: dict[str, Any], now: str) -> None:
    """After SIGKILL to init: the rest of a shared pid namespace, and a frozen cgroup is thawed so that it can die."""
    from pyruntime.cgroup import manager

    own = any(item.get("type") == "pid" and not item.get("path")
              for item in found["config"].get("linux", {}).get("namespaces", ()))
    paths = tuple(found["cgroup_paths"].items())
    if not own and (left := cleanup.remains(entry)) is not None:
        cleanup.kill_cgroup(left)
    elif now == "paused":
        manager.thaw(paths)
