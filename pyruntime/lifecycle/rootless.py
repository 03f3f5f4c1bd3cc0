"""What a caller without privileges needs beside the plan: the setuid mappers, and reasons for what was refused.

Host commands: newuidmap, newgidmap (Debian: uidmap), found in the caller's PATH. Nothing here is loaded before a map
has to be written by one of them or a container in a user namespace has failed.
"""

from __future__ import annotations

from errno import EACCES, EPERM
from posix import (
    O_CLOEXEC,
    O_RDONLY,
    O_RDWR,
    POSIX_SPAWN_DUP2,
    X_OK,
    access,
    close,
    environ,
    getegid,
    geteuid,
    getgroups,
    open,
    pipe2,
    posix_spawn,
    read,
    stat,
    waitpid,
)

from pyruntime.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.errors import InitError
    from pyruntime.plan.step import Plan
    from pyruntime.spec.config import Spec
    from pyruntime.spec.linux import IDMapping

    Lines = tuple[tuple[int, int, int], ...]

DEFAULT_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
KINDS = {"newuidmap": "uid", "newgidmap": "gid"}
ALL_SIGNALS = tuple(number for number in range(1, 32) if number not in (9, 19))  # but SIGKILL, SIGSTOP


def run_mapper(method: str, pid: int, lines: Lines) -> None:
    """Have `newuidmap PID INSIDE OUTSIDE SIZE ...` write the map. Raises HostError with what is missing."""
    kind = KINDS[method]
    program = find_program(method)
    if not program:
        raise HostError(f"failed to write {kind}_map: {method} is not in PATH",
                        hint="install it (Debian: uidmap), or map your own id alone")  # fmt: skip
    argv = [method, str(pid), *(str(number) for line in lines for number in line)]
    said = _run(program, argv)
    if not _read(f"/proc/{pid}/{kind}_map").strip():
        raise HostError(f"failed to write {kind}_map: {said or method}", value=" ".join(argv),
                        hint=missing_range(kind, lines) or f"{method} needs its setuid bit or file capabilities, and "
                        "is refused where no_new_privs is set")  # fmt: skip


def find_program(name: str) -> str:
    """The first executable of that name in PATH, "" without one."""
    for folder in environ.get(b"PATH", DEFAULT_PATH).split(b":"):
        path = folder + b"/" + name.encode()
        if folder.startswith(b"/") and access(path, X_OK):
            return path.decode("utf-8", "surrogateescape")
    return ""


def _run(program: str, argv: list[str]) -> str:
    """The last line of the program's stderr. It gets no environment, no signal mask of ours and no descriptor."""
    ours, its = pipe2(O_CLOEXEC)
    null = open("/dev/null", O_RDWR | O_CLOEXEC)
    actions = [(POSIX_SPAWN_DUP2, null, 0), (POSIX_SPAWN_DUP2, null, 1), (POSIX_SPAWN_DUP2, its, 2)]
    try:
        pid = posix_spawn(program, argv, {}, file_actions=actions, setsigmask=(), setsigdef=ALL_SIGNALS)
    except OSError as error:
        close(ours)
        return f"{argv[0]}: {(error.strerror or '').lower()}"
    finally:
        close(its)
        close(null)
    said = b""
    while chunk := read(ours, 4096):
        said = (said + chunk)[-4096:]
    close(ours)
    try:
        waitpid(pid, 0)
    except ChildProcessError:  # the caller ignores SIGCHLD; whether the map is there is looked up anyway
        pass
    return said.decode("utf-8", "replace").strip().rpartition("\n")[2]


def missing_range(kind: str, lines: Lines) -> str:
    """The one-line fix for the first range that /etc/subuid (subgid) does not give this user; "" when all are given."""
    user = _user_name()
    own = geteuid() if kind == "uid" else getegid()
    given = granted(kind)
    for _, first, size in lines:
        if (first, size) == (own, 1) or any(a <= first and first + size <= a + n for a, n in given):
            continue
        return (f"no line of /etc/sub{kind} gives {user} the ids {first}-{first + size - 1}: as root, "
                f"usermod --add-sub{kind}s {first}-{first + size - 1} {user}")  # fmt: skip
    return ""


def granted(kind: str) -> list[tuple[int, int]]:
    """(first, count) of the ranges that /etc/subuid (subgid) gives this user."""
    return subordinate(_read(f"/etc/sub{kind}"), _user_name(), geteuid())


def subordinate(text: bytes, user: str, uid: int) -> list[tuple[int, int]]:
    """(first, count) of the lines `user:first:count` or `uid:first:count` (subuid(5)); other lines are skipped."""
    found = []
    for line in text.splitlines():
        parts = line.split(b":")
        if len(parts) == 3 and parts[0] in (user.encode(), b"%d" % uid) and parts[1].isdigit() and parts[2].isdigit():
            found.append((int(parts[1]), int(parts[2])))
    return found


def _read(path: str) -> bytes:
    """The file, at most 1 MiB of it; b"" when it cannot be read."""
    try:
        fd = open(path, O_RDONLY | O_CLOEXEC)
    except OSError:
        return b""
    try:
        chunks = [read(fd, 65536)]
        while chunks[-1] and len(chunks) < 16:
            chunks.append(read(fd, 65536))
        return b"".join(chunks)
    except OSError:
        return b""
    finally:
        close(fd)


def _user_name() -> str:
    """The caller's name, or its uid as text."""
    from pwd import getpwuid

    try:
        return getpwuid(geteuid()).pw_name
    except KeyError:
        return str(geteuid())


def explain(failure: InitError, plan: Plan, spec: Spec, rootfs: str) -> None:
    """Put into `failure.hint` what can be seen from here of a refusal inside a user namespace."""
    if failure.errno not in (EACCES, EPERM) or not 0 < failure.step <= len(plan.steps):
        return
    step = plan.steps[failure.step - 1]
    if step.op == "mount" and step.args[0] == "proc" and failure.errno == EPERM:
        covers = covered(_read("/proc/self/mountinfo"))
        if covers:
            failure.hint = (f"a new proc is refused while mounts hide parts of /proc here ({' '.join(covers)}): unmask "
                            "them in the outer container, or bind /proc")  # fmt: skip
        return
    if failure.errno != EACCES:
        return
    walked = step.op in ("clone_tree", "attach_root")
    told = blocked(str(step.args[1]), spec) if walked else blocked(rootfs, spec, last_only=True)
    failure.hint = told or failure.hint


def covered(mountinfo: bytes) -> list[str]:
    """Mount points below /proc, at most eight."""
    points = (line.split()[4] for line in mountinfo.splitlines())
    return [point.decode("utf-8", "replace") for point in points if point.startswith(b"/proc/")][:8]


def blocked(path: str, spec: Spec, *, last_only: bool = False) -> str:
    """The first folder on the way to `path` that the container's root may not pass, in words; "" when none is found.

    Inside its user namespace root passes what it owns by a mapped id (capabilities(7), CAP_DAC_READ_SEARCH), else the
    mode decides; access control lists are not looked at.
    """
    parts = path.strip("/").split("/")
    names = ["/" + "/".join(parts[: index + 1]) for index in range(len(parts))]
    uid = outside(0, spec.linux.uid_mappings)
    gids = (outside(0, spec.linux.gid_mappings), *getgroups())
    for name in names[-1:] if last_only else names:
        try:
            there = stat(name)
        except OSError:
            return ""
        if there.st_mode & 0o170000 != 0o040000:
            return ""
        if has_outside(there.st_uid, spec.linux.uid_mappings) and has_outside(there.st_gid, spec.linux.gid_mappings):
            continue
        letter, shift = ("u", 6) if there.st_uid == uid else ("g", 3) if there.st_gid in gids else ("o", 0)
        if not there.st_mode >> shift & 1:
            mode = f"{there.st_mode & 0o7777:04o}"
            return (f"{name} (owner {there.st_uid}, mode {mode}) is closed to the container's root, which is uid {uid} "
                    f"here: chmod {letter}+x {name}")  # fmt: skip
    return ""


def outside(inside: int, maps: tuple[IDMapping, ...]) -> int:
    """The host's number of a container id, -1 when it has none."""
    for entry in maps:
        if entry.container_id <= inside < entry.container_id + entry.size:
            return entry.host_id + inside - entry.container_id
    return -1


def has_outside(number: int, maps: tuple[IDMapping, ...]) -> bool:
    """Whether a host id is mapped into the container."""
    return any(entry.host_id <= number < entry.host_id + entry.size for entry in maps)
