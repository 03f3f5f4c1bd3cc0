"""checkpoint: a running container's processes and memory as files, and then the container goes (contract 1.4).

criu does the work and lets the processes go again when it fails; then the container is what it was. What is written
beside criu's images is runc's `descriptors.json` alone, so either runtime can restore what the other one has written.
"""

from __future__ import annotations

from posix import O_CLOEXEC, O_CREAT, O_TRUNC, O_WRONLY, close, open, readlink, stat, write

from pyruntime.cgroup import manager
from pyruntime.criu import wire
from pyruntime.criu.client import Criu, require_feature, usable
from pyruntime.errors import HostError, UsageError
from pyruntime.host.probe import read_file
from pyruntime.lifecycle import cleanup, criu_mounts, criu_options, delete, state, states, store
from pyruntime.record import Record
from pyruntime.spec import document

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.lifecycle.settings import Settings
    from pyruntime.spec.config import Spec

LOG = "dump.log"
S_IFREG = 0o100000


class Dump(Record):
    """What checkpoint alone is asked for. `page_server` is ADDRESS:PORT, `parent_path` relative to the image path."""

    parent_path: str = ""
    leave_running: bool = False
    pre_dump: bool = False
    page_server: str = ""


def checkpoint(settings: Settings, container_id: str, options: criu_options.Options, dump: Dump) -> None:
    """Write the images; the container is deleted then, unless `leave_running` or `pre_dump`.

    Raises StateError unless it runs or is paused; HostError when criu is missing, too old or fails: the container then
    goes on as before.
    """
    criu_options.check(options)
    page_server = parse_page_server(dump.page_server)
    if dump.parent_path.startswith("/"):
        raise UsageError("--parent-path must be relative to --image-path", value=dump.parent_path)
    with store.lookup(settings.root, container_id) as entry:
        entry.lock()
        found = state.load(entry)
        states.check(state.status(entry, found), "checkpoint", container_id)
        program = usable("checkpoint")
        for wanted, name in ((dump.pre_dump, "mem_track"), (options.lazy_pages, "lazy_pages")):
            if wanted:
                require_feature(program, name, "checkpoint")
        _dump(program, found, options, dump, page_server)
        if not dump.leave_running and not dump.pre_dump:
            cleanup.destroy(entry)
            delete.run_poststop(settings, entry, found)


def parse_page_server(text: str) -> dict[str, Any] | None:
    """ADDRESS:PORT as criu's message, None for "". Raises UsageError."""
    if not text:
        return None
    address, _, port = text.rpartition(":")
    if not address or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError("Use --page-server ADDRESS:PORT to specify page server", value=text)
    return {"address": address, "port": int(port)}


def _dump(program: str, found: dict[str, Any], options: criu_options.Options, dump: Dump,
          page_server: dict[str, Any] | None) -> None:
    spec = state.spec(found)
    work_path = options.work_path or options.image_path
    images_fd = criu_options.open_folder(options.image_path, "image path", make=True)
    work_fd = -1
    try:
        work_fd = criu_options.open_folder(work_path, "work path", make=True)
        if dump.parent_path:
            _check_parent(images_fd, dump.parent_path)
        told = criu_options.common(options, spec, images_fd=images_fd, work_fd=work_fd, log_file=LOG)
        names = stdio_names(int(found["init_process_pid"]))
        told |= request(spec, found, options, dump) | {"ps": page_server}
        told["external"] += [name for name in names if name.startswith("file[")]

        def notified(script: str, _pid: int, _fds: list[int]) -> None:
            if script == "post-dump":  # the processes still exist: what fails here lets them go on
                _write_descriptors(images_fd, names)

        kind = wire.PRE_DUMP if dump.pre_dump else wire.DUMP
        with Criu(program) as criu:
            answer = criu.request(kind, notified, opts=told)
            printed = criu.words()
        if not answer.get("success"):
            raise criu_options.failed(answer, f"{work_path}/{LOG}", printed)
    finally:
        for fd in (images_fd, work_fd):
            if fd >= 0:
                close(fd)


def request(spec: Spec, found: dict[str, Any], options: criu_options.Options, dump: Dump) -> dict[str, Any]:
    """criu's options for this container that a restore does not have."""
    pid = int(found["init_process_pid"])
    inside, host = (criu_mounts.mount_points(manager.read_file(f"/proc/{each}/mountinfo")) for each in (pid, "self"))
    mounts = criu_mounts.external_mounts(spec, found["bundle"], inside, host, f"/proc/{pid}/root")
    spaces = [f"{name}[{stat(path).st_ino}]:{key}" for name, path, key in criu_options.external_namespaces(spec)]
    return {
        "pid": pid, "root": found["rootfs"], "ext_mnt": mounts, "external": spaces,
        "leave_running": dump.leave_running or dump.pre_dump or None,
        "freeze_cgroup": freezer(found["cgroup_paths"]) or None,
        "track_mem": dump.pre_dump or bool(dump.parent_path) or None, "parent_img": dump.parent_path or None,
        "status_fd": options.status_fd if options.status_fd >= 0 else None,
    }  # fmt: skip


def freezer(paths: dict[str, str]) -> str:
    """The cgroup by which criu stops the container's processes; "" without one."""
    return paths.get("freezer") or paths.get("", "")


def _check_parent(images_fd: int, path: str) -> None:
    """The folder of the pre-dump, seen from the image folder."""
    try:
        stat(path, dir_fd=images_fd)
    except OSError as error:
        raise HostError(f"invalid --parent-path {path}: {(error.strerror or '').lower()}", errno=error.errno or 0,
                        value=path, hint="it is relative to --image-path, as in ../pre-dump") from error


def stdio_names(pid: int) -> list[str]:
    """What init's stdin, stdout and stderr are: `pipe:[4026]`, `file[1c:2f01]` for a file of the host, a path, or ""."""
    inside = {line.split(b" ", 1)[0] for line in manager.read_file(f"/proc/{pid}/mountinfo").splitlines()}
    return [_stdio_name(f"/proc/{pid}", number, inside) for number in range(3)]


def _stdio_name(process: str, number: int, inside: set[bytes]) -> str:
    """`inside` are the ids of the mounts that the container has (proc_pid_mountinfo(5))."""
    try:
        name = readlink(f"{process}/fd/{number}")
        there = stat(f"{process}/fd/{number}")
        fields = read_file(f"{process}/fdinfo/{number}", 1 << 16)
    except OSError:
        return ""
    mount = fields.partition(b"mnt_id:")[2].split(None, 1)[0]
    if there.st_mode & 0o170000 == S_IFREG and mount not in inside:
        return f"file[{int(mount):x}:{there.st_ino:x}]"
    return name


def _write_descriptors(images_fd: int, names: list[str]) -> None:
    """For restore, which gives its own stdio in place of those that are pipes."""
    fd = open(criu_options.DESCRIPTORS, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600, dir_fd=images_fd)
    try:
        write(fd, document.dump(names).encode("utf-8", "surrogateescape"))
    finally:
        close(fd)
