"""Taking a container apart: its processes, its mounts on the host, its cgroups, its directory.

Works from whatever is left of `identity` and state.json, so that a damaged container goes as a whole one does.
"""

from __future__ import annotations

from posix import close, rmdir

from pyruntime.errors import HostError
from pyruntime.lifecycle import process
from pyruntime.native import kernel
from pyruntime.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.lifecycle.store import Entry

KILL_TIMEOUT_MS = 10_000  # contract 1.4, delete --force
MNT_DETACH = 2


class Remains(Record):
    """What is known of a container: enough to kill it and to remove what it owns."""

    pid: int = 0
    start_time: int = 0
    cgroup_paths: tuple[tuple[str, str], ...] = ()
    created: tuple[str, ...] = ()
    own_mounts: tuple[str, ...] = ()
    token: str = ""
    driver: str = "cgroupfs"


def remains(entry: Entry) -> Remains | None:
    """From `identity`, else from state.json; None when neither is valid: the directory is not ours."""
    identity, state = entry.identity(), entry.state()
    if identity is None and state is None:
        return None
    own_mounts = tuple(state.get("own_mounts", ())) if state is not None else ()
    if identity is not None and (identity.pid or state is None):
        return Remains(identity.pid, identity.start_time, identity.cgroup_paths, identity.created, own_mounts,
                       identity.token, identity.driver)
    assert state is not None
    return Remains(int(state["init_process_pid"]), int(state["init_process_start"]),
                   tuple(state["cgroup_paths"].items()), tuple(state.get("created_cgroups", ())), own_mounts,
                   str(state.get("token", "")), str(state.get("cgroup_manager", "cgroupfs")))


def kill(left: Remains) -> None:
    """SIGKILL to init and to everything in its cgroups, then wait for init. Raises HostError after 10 s."""
    pidfd = process.open_process(left.pid, left.start_time)
    try:
        if pidfd >= 0:
            process.send_signal(pidfd, process.SIGKILL)
        kill_cgroup(left)
        if pidfd >= 0 and not process.is_dead(pidfd, KILL_TIMEOUT_MS):
            raise HostError("container init still running", value=str(left.pid),
                            hint="it is stuck in the kernel; try again later")
    finally:
        if pidfd >= 0:
            close(pidfd)


def kill_cgroup(left: Remains) -> None:
    """SIGKILL to every process of the cgroups; a paused one is thawed, or it would never die."""
    if left.cgroup_paths:
        from pyruntime.cgroup import manager

        manager.kill_all(left.cgroup_paths, process.SIGKILL)


def destroy(entry: Entry, left: Remains | None = None, *, dead: bool = False, damaged: bool = False) -> None:
    """Kill what lives, unmount, remove cgroups and directory. Nothing that is not ours is touched.

    `dead` says that init is reaped and was the init of a pid namespace of its own, with which all else has ended
    (pid_namespaces(7)): then the cgroups are only searched for processes when they will not go. `damaged`: its
    state.json is.
    """
    left = left or remains(entry) or Remains()
    if not dead:
        kill(left)
    for path in left.own_mounts:
        _unmount(path)
    if left.driver == "systemd" and left.cgroup_paths:
        stop_unit(left)
    if left.created and not (dead and _remove_empty(left)):
        from pyruntime.cgroup import manager

        kill_cgroup(left)
        manager.remove(left.cgroup_paths, left.created)
    entry.remove(damaged=damaged)


def stop_unit(left: Remains) -> None:
    """End the unit that systemd made for the container; what the driver was stands in the state, not in the call.

    Without systemd and without a cgroup of the unit's there never was one, or it went with the systemd that had made it.
    """
    from pyruntime.cgroup.manager import exists
    from pyruntime.cgroup.systemd import unit_of
    from pyruntime.cgroup.systemd_bus import NoSystemd
    from pyruntime.cgroup.systemd_bus import stop_unit as stop

    kill_cgroup(left)
    try:
        stop(unit_of(left.cgroup_paths))
    except NoSystemd:
        if any(exists(path) for _, path in left.cgroup_paths):
            raise


def _remove_empty(left: Remains) -> bool:
    """Whether every cgroup of the container is gone with one rmdir each; parents of ours stay while others use them."""
    own = {path for _, path in left.cgroup_paths}
    for path in sorted(left.created, key=len, reverse=True):
        try:
            rmdir(path)
        except FileNotFoundError:
            continue
        except OSError:
            if path in own:
                return False
    return True


def _unmount(path: str) -> None:
    """Take away one mount of a container without a mount namespace; not there any more is fine."""
    try:
        kernel.umount(path, MNT_DETACH | 8)  # UMOUNT_NOFOLLOW
    except OSError:
        return
