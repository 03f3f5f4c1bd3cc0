"""The container's cgroups on this host: make, write, join, look, remove; the way to list, freeze and kill.

`paths` everywhere are pairs (controller, or "" for the unified tree; the container's directory), as saved in
`identity` and state.json; nothing else is needed, so a container whose state is damaged can still be ended.

Every loop has a deadline. What lies below the container's directory may be made by a hostile process; it is only
reached through subtree.py. A run that meets nothing unexpected needs this module alone: processes.py and subtree.py are
imported when there are processes to look for, so that a start does not pay for them.
"""

from __future__ import annotations

from errno import EACCES, EBUSY, EINVAL, ENOENT, ENOTEMPTY, EOPNOTSUPP, EPERM, EROFS
from posix import O_CLOEXEC, O_RDONLY, O_WRONLY, chown, close, geteuid, mkdir, open, read, rmdir, strerror
from posix import stat as stat_path
from posix import write as write_fd
from time import monotonic, sleep

from pyruntime.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyruntime.host.facts import CgroupFacts
    from pyruntime.plan.step import HostStep

    Paths = tuple[tuple[str, str], ...]

KILL_TIMEOUT_S = 10.0
FREEZE_TIMEOUT_S = 10.0
JOIN_TRIES, JOIN_PAUSE_S = 5, 0.03

DELEGATED = ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads")

# A file that may be missing, with the values for which nothing is lost then; None: any value.
MAY_LACK: dict[str, tuple[str, ...] | None] = {
    "memory.memsw.limit_in_bytes": ("-1",),  # no swap accounting
    "memory.swap.max": ("max", "0"),
    "cpu.cfs_burst_us": None,  # Linux 5.14
}
# EINVAL because of an older value of another file, in a cgroup that was there before: that one is lifted first.
# What the config says about it is written right after.
LIFT_FIRST = {
    "memory.limit_in_bytes": ("memory.memsw.limit_in_bytes", "-1"),
    "cpu.cfs_period_us": ("cpu.cfs_quota_us", "-1"),
}


# -- making

def missing(paths: Paths, facts: CgroupFacts | None = None) -> tuple[str, ...]:
    """The directories of `paths` and their parents that do not exist: those that making the container will create."""
    mounts = {hierarchy.mount for hierarchy in facts.hierarchies} if facts else ()
    found: list[str] = []
    for _, path in paths:
        while path and path not in mounts and path not in found and not exists(path):
            found.append(path)
            path = path.rpartition("/")[0]  # noqa: PLW2901 - climbs
    return tuple(found)


def make(path: str) -> tuple[str, ...]:
    """Make a cgroup and its missing parents; returns those that were made here, parents first.

    A v1 cpuset without CPUs or memory nodes takes its parent's, since no process may join an empty one.
    Raises HostError.
    """
    made = _make(path)
    _fill_cpuset(path)
    return made


def _make(path: str) -> tuple[str, ...]:
    try:
        mkdir(path, 0o755)
    except FileExistsError as error:
        if exists(f"{path}/cgroup.procs"):
            return ()
        raise HostError(f"{path} is no cgroup: a file has that name", errno=error.errno or 0,
                        hint="take another name for the cgroup") from error
    except FileNotFoundError:
        parent = path.rpartition("/")[0]
        if not parent:
            raise
        return (*_make(parent), *_make(path))
    except OSError as error:
        if error.errno in (EACCES, EPERM):
            raise _forbidden(path, error) from error
        raise refusal(f"mkdir {path}", error) from error
    return (path,)


def _forbidden(path: str, error: OSError) -> HostError:
    """A cgroup that was asked for and that this caller may not make (contract 4.7, rootless)."""
    parent = path.rpartition("/")[0]
    return HostError("unable to apply cgroup configuration: rootless needs no limits + no cgrouppath when no permission "
                     f"is granted for cgroups: mkdir {path}: {strerror(error.errno or 0).lower()}", errno=error.errno or 0,
                     hint=f"{parent} is not delegated to uid {geteuid()}: as root, chown {geteuid()} {parent} "
                     f"{parent}/cgroup.procs, or remove cgroupsPath")


def _fill_cpuset(path: str) -> None:
    try:
        if read_file(f"{path}/cpuset.cpus").strip() and read_file(f"{path}/cpuset.mems").strip():
            return
    except OSError:
        return
    if not exists(f"{path}/cpuset.memory_migrate"):
        return  # the unified tree: empty means the parent's
    parent = path.rpartition("/")[0]
    _fill_cpuset(parent)
    for file in ("cpuset.cpus", "cpuset.mems"):
        if not read_file(f"{path}/{file}").strip():
            write(f"{path}/{file}", read_file(f"{parent}/{file}").decode().strip())


def join(path: str, pid: int) -> None:
    """Move process `pid` into the cgroup `path`. Raises HostError.

    EINVAL is tried again: a task just born may not be moved yet (TASK_NEW in kernel/sched/core.c).
    """
    file = f"{path}/cgroup.procs"
    for left in range(JOIN_TRIES - 1, -1, -1):
        try:
            put(file, str(pid))
        except OSError as error:
            if error.errno == EINVAL and left:
                sleep(JOIN_PAUSE_S)
                continue
            raise refusal(f"unable to apply cgroup configuration: failed to write {pid}", error, file=file) from error
        return


def open_places(paths: Iterable[str]) -> tuple[int, dict[int, str]]:
    """What kernel.spawn takes to start a process inside of these cgroups: (the one in the unified tree or -1, all).

    Descriptors, the caller's to close: directories of v2, `tasks` files of v1, each with its path in the second.

    Such a start saves the 4 to 10 ms that writing a pid takes (csrc/ext_spawn.c). What cannot be opened is left out:
    `join` is there for the rest, and has the reasons. So is one that is frozen: who waits for a process that freezes as
    it is born cannot be interrupted.
    """
    unified, found = -1, dict[int, str]()
    for path in paths:
        try:
            if exists(f"{path}/tasks"):
                found[open(f"{path}/tasks", O_WRONLY | O_CLOEXEC)] = path
            elif unified < 0 and exists(f"{path}/cgroup.procs") and not frozen((("", path),)):
                unified = open(path, O_RDONLY | O_CLOEXEC)
                found[unified] = path
        except OSError:
            continue
    return unified, found


def place_below(path: str, pid: int) -> str:
    """The cgroup of process `pid` when it lies below `path`, a directory of the unified tree; else ""."""
    try:
        text = read_file(f"/proc/{pid}/cgroup").decode("utf-8", "surrogateescape")
    except OSError:
        return ""
    inside = next((line[3:] for line in text.splitlines() if line.startswith("0::/")), "")
    parts = path.split("/")[1:]
    for first in range(len(parts)):  # without what is the mount point
        own = "".join(f"/{part}" for part in parts[first:])
        if inside.startswith(f"{own}/"):
            return path + inside[len(own) :]
    return ""


def give(path: str, uid: int) -> None:
    """Make `uid` the owner of a v2 cgroup and of the files that its owner may write; no limit is among them.

    The kernel lists those (cgroups(7), /sys/kernel/cgroup/delegate), else they are DELEGATED. Raises OSError.
    """
    try:
        names = read_file("/sys/kernel/cgroup/delegate").decode().split()
    except OSError:
        names = list(DELEGATED)
    chown(path, uid, -1)
    for name in names:
        try:
            chown(f"{path}/{name}", uid, -1)
        except FileNotFoundError:
            continue


# -- writing

def write(file: str, data: str, origin: str = "") -> None:
    """One write(2) of `data` to a cgroup file; `origin` becomes the field of an error. Raises HostError.

    A missing file is passed over only where nothing is lost (MAY_LACK, hugetlb reservations, DEFAULT_RULES).
    """
    try:
        put(file, data)
    except OSError as error:
        _write_refused(file, data, origin, error)


def apply(steps: Iterable[HostStep]) -> None:
    """Carry out cg_make and cg_write steps in order. Raises HostError at the first refusal."""
    for step in steps:
        if step.op == "cg_make":
            make(str(step.args[0]))
        else:
            write(str(step.args[0]), str(step.args[1]), step.origin)


def put(file: str, data: str) -> None:
    """One write(2) of `data`. Raises OSError, with the file's name when it was the open that failed."""
    fd = open(file, O_WRONLY | O_CLOEXEC)
    try:
        write_fd(fd, data.encode("utf-8", "surrogateescape"))
    finally:
        close(fd)


def _write_refused(file: str, data: str, origin: str, error: OSError) -> None:
    """Do what can be done about a refused write; else raise HostError in the peers' words."""
    directory, _, name = file.rpartition("/")
    number = error.errno
    if _may_pass(name, data, number):
        return
    try:
        if number == EINVAL and name in LIFT_FIRST:
            other, lifted = LIFT_FIRST[name]
            put(f"{directory}/{other}", lifted)
            put(file, data)
            return
        if number == ENOENT and name == "io.bfq.weight":
            from pyruntime.cgroup.writes import io_weight

            device, _, weight = data.rpartition(" ")
            put(f"{directory}/io.weight", f"{device or 'default'} {io_weight(int(weight))}")
            return
        if name == "cgroup.subtree_control" and " " in data:
            for word in data.split(" "):
                _enable(file, word)
            return
    except OSError as second:
        error = second
    raise _write_error(file, data, origin, error) from error


def _may_pass(name: str, data: str, number: int | None) -> bool:
    if number == ENOENT:
        if name.startswith("hugetlb.") and ".rsvd." in name:  # Linux 5.7
            return True
        return name in MAY_LACK and (MAY_LACK[name] is None or data in (MAY_LACK[name] or ()))
    if number == EPERM and name == "devices.allow":
        # The parent lacks a device of the list that no config asked for: not given, nothing is weakened.
        from pyruntime.cgroup.devices import DEFAULT_TEXTS

        return data in DEFAULT_TEXTS
    return False


def _enable(file: str, word: str) -> None:
    """One controller of many: a failure shows when a limit needs it."""
    try:
        put(file, word)
    except OSError as error:
        if error.errno == EOPNOTSUPP:
            raise


def _write_error(file: str, data: str, origin: str, error: OSError) -> HostError:
    directory, _, name = file.rpartition("/")
    if name == "memory.limit_in_bytes" and error.errno == EBUSY:
        usage, peak = (number_text(f"{directory}/memory.{word}usage_in_bytes") for word in ("", "max_"))
        return HostError(f"unable to set memory limit to {data} (current usage: {usage}, peak usage: {peak})",
                         errno=EBUSY, field=origin, value=data, hint="the container already uses more than that")
    if name == "cgroup.subtree_control" and error.errno == EOPNOTSUPP:
        return HostError(f'cannot enable controllers in cgroup "{directory}": it is in threaded mode', errno=EOPNOTSUPP,
                         field=origin, value=data, hint="choose a cgroupsPath outside of threaded cgroups")
    failure = refusal(f'failed to write "{data}"', error, file=file, field=origin, value=data)
    failure.hint = _cpuset_hint(directory, name)
    return failure


def _cpuset_hint(directory: str, name: str) -> str:
    """What a list of CPUs or memory nodes may hold there, "" for other files."""
    if name not in ("cpuset.cpus", "cpuset.mems"):
        return ""
    parent = directory.rpartition("/")[0]
    file = name if exists(f"{parent}/{name}") and not exists(f"{parent}/{name}.effective") else f"{name}.effective"
    try:
        there = read_file(f"{parent}/{file}").decode().strip()
    except OSError:
        return "numbers and ranges, as in 0-2,4, of those that the parent cgroup has"
    return f"numbers and ranges, as in 0-2,4, of those that {parent} has: {there}"


def refusal(what: str, error: OSError, *, file: str = "", field: str = "", value: str = "") -> HostError:
    """`what`, the call and file that failed and the kernel's answer, in the shape of the peers."""
    text = strerror(error.errno or 0).lower()
    if error.filename is not None and file:
        return HostError(f"open {file}: {text}", errno=error.errno or 0, field=field, value=value)
    where = f"write {file}: " if file else ""
    return HostError(f"{what}: {where}{text}", errno=error.errno or 0, field=field, value=value)


# -- looking

def check_empty(paths: Paths) -> None:
    """Refuse, as HostError, cgroups that others live in or that are frozen; ones that do not exist are fine."""
    there = tuple((name, path) for name, path in paths if exists(path))
    if not there:
        return
    from pyruntime.cgroup.processes import all_processes

    found = all_processes(there, monotonic() + KILL_TIMEOUT_S)
    if found:
        raise HostError(f"container's cgroup is not empty: {len(found)} process(es) found", field="/linux/cgroupsPath",
                        hint="another container or service uses this cgroup: choose another cgroupsPath or id")
    if any(frozen((one,)) for one in there):  # by either freezer of a hybrid host
        raise HostError("container's cgroup unexpectedly frozen", field="/linux/cgroupsPath",
                        hint="thaw or remove the cgroup first")


def frozen(paths: Paths) -> bool:
    """Whether the cgroup is frozen or about to be; one read. False without a freezer or without the cgroup."""
    names = dict(paths)
    if "freezer" in names:
        file, value = f"{names['freezer']}/freezer.state", b"THAWED"
    elif "" in names:
        file, value = f"{names['']}/cgroup.freeze", b"0"
    else:
        return False
    try:
        return not read_file(file).startswith(value)
    except OSError:
        return False


# -- what needs the processes

def processes(paths: Paths, *, timeout_s: float = KILL_TIMEOUT_S) -> list[int]:
    """processes.processes: host pids in the container's cgroup and below, sorted."""
    from pyruntime.cgroup import processes as room

    return room.processes(paths, timeout_s=timeout_s)


def freeze(paths: Paths, *, timeout_s: float = FREEZE_TIMEOUT_S) -> None:
    """processes.freeze: stop every process of the container."""
    from pyruntime.cgroup import processes as room

    room.freeze(paths, timeout_s=timeout_s)


def thaw(paths: Paths) -> None:
    """processes.thaw: let them run again."""
    from pyruntime.cgroup import processes as room

    room.thaw(paths)


def kill_all(paths: Paths, signal: int, *, timeout_s: float = KILL_TIMEOUT_S) -> None:
    """processes.kill_all: send `signal` to every process of the container."""
    from pyruntime.cgroup import processes as room

    room.kill_all(paths, signal, timeout_s=timeout_s)


# -- removing

def remove(paths: Paths, created: Iterable[str], *, timeout_s: float = KILL_TIMEOUT_S) -> None:
    """Remove the container's cgroups among `created` with all below them, then created parents that are empty.

    What is not in `created` existed before the container and stays. A dying process keeps a cgroup busy for a moment,
    so EBUSY is tried again. Raises HostError after the time, naming what is left.
    """
    ours = set(created)
    tops = {path for _, path in paths if path in ours}
    deadline = monotonic() + timeout_s
    busy = [path for path in tops if not _rmdir(path)]
    pause = 0.0005
    while busy:
        from pyruntime.cgroup.subtree import remove_below

        for path in busy:
            remove_below(path, deadline)
        busy = [path for path in busy if not _rmdir(path)]
        if busy and monotonic() > deadline:
            raise HostError(f"unable to remove cgroup {busy[0]}: {strerror(EBUSY).lower()}", errno=EBUSY,
                            hint="a process still lives in it or below it")
        if busy:
            sleep(pause)
            pause = min(pause * 2, 0.05)
    for path in sorted(ours - tops, key=len, reverse=True):
        _rmdir(path)


def _rmdir(path: str) -> bool:
    """Whether the directory is gone; False when it is in use. Raises HostError for anything else."""
    try:
        rmdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError as error:
        if error.errno in (EBUSY, ENOTEMPTY):
            return False
        if error.errno == EROFS and not _exists(path):  # said before the name is looked up
            return True
        raise refusal(f"unable to remove cgroup {path}", error) from error
    return True


def _exists(path: str) -> bool:
    try:
        stat_path(path)
    except FileNotFoundError:
        return False
    return True


# -- files

def read_file(path: str, dir_fd: int | None = None) -> bytes:
    """The whole file, below the folder `dir_fd` (borrowed) when there is one. Raises OSError."""
    fd = open(path, O_RDONLY | O_CLOEXEC, dir_fd=dir_fd)
    try:
        chunks = [read(fd, 65536)]
        while chunks[-1]:
            chunks.append(read(fd, 65536))
        return b"".join(chunks)
    finally:
        close(fd)


def number_text(path: str) -> str:
    """The file's content as one line, for messages; "unknown" when it cannot be read."""
    try:
        return read_file(path).decode().strip()
    except OSError:
        return "unknown"


def exists(path: str) -> bool:
    """Whether the cgroup or file is there."""
    try:
        stat_path(path)
    except OSError:
        return False
    return True
