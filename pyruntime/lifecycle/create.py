"""create: a container in state `created`, or nothing at all.

    claim id -> identity -> plan's host steps beside container-init -> state.json -> release ready -> pid file

`launch` is the part that `run` shares. What it made it undoes when it fails, in the reverse order, and then runs the
poststop hooks, as runtime.md asks for a failed create too.
"""

from __future__ import annotations

from errno import EBADF
from fcntl import F_GETFD, FD_CLOEXEC, fcntl
from posix import (
    O_CLOEXEC,
    O_CREAT,
    O_EXCL,
    O_WRONLY,
    close,
    getcwd,
    open,
    rename,
    strerror,
    unlink,
    write,
)  # fmt: skip
from time import gmtime, time_ns

from pyruntime.errors import HostError, RuntimeFailure, SpecError, UsageError
from pyruntime.host.probe import clean_path, exists
from pyruntime.lifecycle import cleanup, store
from pyruntime.lifecycle.drive import Drive, Job
from pyruntime.lifecycle.prepare import OCI_VERSION, Prepared, bundle_path, hook_state, prepare
from pyruntime.native import kernel
from pyruntime.plan.step import Options
from pyruntime.record import Record
from pyruntime.spec import document
from pyruntime.spec.annotations import PIDFD_RECEIVER
from pyruntime.spec.ids import check_container_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyruntime.lifecycle.settings import Settings
    from pyruntime.plan.rdt import RdtPlan
    from pyruntime.spec.config import Spec

START_FAILED = "unable to start container process"  # the outermost words of the peers' chain (contract 1.6)
NAMESPACE_FILES = {"NEWNS": "mnt", "NEWCGROUP": "cgroup", "NEWUTS": "uts", "NEWIPC": "ipc", "NEWUSER": "user",
                   "NEWPID": "pid", "NEWNET": "net", "NEWTIME": "time"}  # fmt: skip


class Launched(Record):
    """A created container whose init is our child. `pidfd` and `entry` (locked) are the receiver's to close."""

    entry: store.Entry
    state: dict[str, Any]
    prepared: Prepared
    pid: int
    pidfd: int
    start_time: int


def create(settings: Settings, container_id: str, bundle: str = "", *, config: str = "config.json",
           console_socket: str = "", pidfd_socket: str = "", pid_file: str = "", no_pivot: bool = False,
           no_new_keyring: bool = False, preserve_fds: int = 0, listen_fds: int = 0, notify_socket: str = "",
           stdio: tuple[int, int, int] = (0, 1, 2)) -> int:
    """Create a container from the bundle; it waits for `start`. The pid file appears only on success.

    Returns the pidfd of init, which is a child of the caller: the caller closes it and reaps with it.
    """
    options = make_options(settings, container_id, no_pivot=no_pivot, no_new_keyring=no_new_keyring,
                           preserve_fds=preserve_fds, listen_fds=listen_fds, console=bool(console_socket),
                           notify=bool(notify_socket))
    pid_path = clean_path(getcwd(), pid_file) if pid_file else ""
    prepared = prepare(settings, bundle_path(bundle), options, config=config, adjust=terminal_check(console_socket))
    console_fd = connect_console(console_socket)
    try:
        launched = launch(settings, prepared, stdio=stdio, console_fd=console_fd)
    finally:
        if console_fd >= 0:
            close(console_fd)
    with launched.entry:
        try:
            finish(launched, pidfd_socket=pidfd_socket, pid_path=pid_path)
        except BaseException:
            abandon(settings, launched)
            close(launched.pidfd)
            raise
    return launched.pidfd


def make_options(settings: Settings, container_id: str, *, no_pivot: bool, no_new_keyring: bool, preserve_fds: int,
                 listen_fds: int, console: bool, notify: bool = False) -> Options:
    """Options of create and run. Raises UsageError for an id or a descriptor that cannot be."""
    check_container_id(container_id)
    check_preserve_fds(preserve_fds)
    for number in range(3 + listen_fds, 3 + listen_fds + preserve_fds):
        try:
            if fcntl(number, F_GETFD) & FD_CLOEXEC:  # not inherited from the caller, so it is one of ours (S15)
                raise OSError(EBADF, strerror(EBADF))
        except OSError as error:
            raise UsageError(f"unable to stat preserved-fd {number - 3 - listen_fds} (of {preserve_fds}): "
                             f"{(error.strerror or '').lower()}", hint=f"descriptor {number} must be open") from error
    notify_dir = f"{settings.root}/{container_id}/notify" if notify else ""
    return Options(id=container_id, no_pivot=no_pivot, no_new_keyring=no_new_keyring, preserve_fds=preserve_fds,
                   listen_fds=listen_fds, console=console, notify_dir=notify_dir, cgroup_manager=settings.cgroup_manager,
                   keyring_token=store.new_token())


def check_preserve_fds(count: int) -> None:
    """Raises UsageError for a number that is none of descriptors."""
    if count < 0:
        raise UsageError(f"invalid --preserve-fds {count}", hint="the number of descriptors to pass on, 0 or more")


def terminal_check(console_socket: str) -> Callable[[Spec], Spec]:
    """The rule of contract 1.7 between process.terminal and --console-socket, for a detached container."""

    def check(spec: Spec) -> Spec:
        terminal = spec.process is not None and spec.process.terminal
        if terminal and not console_socket:
            raise SpecError("cannot allocate tty if runc will detach without setting console socket",
                            field="/process/terminal", value="true", hint="give --console-socket, or set it to false")
        if console_socket and not terminal:
            raise SpecError("cannot use console socket if runc will not detach or allocate tty",
                            field="/process/terminal", value="false", hint="drop --console-socket, or set it to true")
        return spec

    return check


def connect_console(path: str) -> int:
    """The connected console socket, -1 without one. Raises HostError."""
    if not path:
        return -1
    try:
        return kernel.connect_unix(path)
    except OSError as error:
        raise HostError(f"unable to connect to console socket {path}: {(error.strerror or '').rpartition(': ')[2].lower()}",
                        errno=error.errno or 0, value=path, hint="the caller listens on it before create") from error


def launch(settings: Settings, prepared: Prepared, *, stdio: tuple[int, int, int], console_fd: int = -1) -> Launched:
    """A created container. On failure everything made is undone and the poststop hooks have run."""
    blobs = filter_blobs(settings, prepared)
    entry = store.claim(settings.root, prepared.options.id)
    try:
        return _launch(settings, prepared, entry, blobs, stdio, console_fd)
    except BaseException:
        try:
            undo(settings, prepared, entry)
        finally:
            entry.__exit__()
        raise


def filter_blobs(settings: Settings, prepared: Prepared) -> dict[str, bytes]:
    """The compiled seccomp filter under the name the plan defers to; {} without seccomp."""
    if prepared.spec.linux.seccomp is None:
        return {}
    from pyruntime.lifecycle import filters

    return filters.blobs(settings, prepared.spec.linux.seccomp, prepared.host, prepared.document)


def _launch(settings: Settings, prepared: Prepared, entry: store.Entry, blobs: dict[str, bytes],
            stdio: tuple[int, int, int], console_fd: int) -> Launched:
    check_cgroups(prepared)
    created = missing_cgroups(prepared)
    identity = store.Identity(entry.id, prepared.options.keyring_token, settings.cgroup_manager,
                              prepared.cgroup.paths, created)
    entry.write_identity(identity)
    if "seccomp" in blobs:
        entry.write("seccomp.bpf", blobs["seccomp"])
    if prepared.options.notify_dir:
        from pyruntime.lifecycle import notify

        notify.make_folder(entry)
    for _, text in prepared.plan.warnings:
        settings.warn(text)
    job = Job(spec=prepared.spec, plan=prepared.plan, name=entry.id, stdio=stdio)
    job.entry, job.blobs, job.console_fd, job.warn = entry, blobs, console_fd, settings.warn
    job.fifo_owner = host_root(prepared.spec)
    if prepared.host.in_user_ns or prepared.spec.linux.namespace("user") is not None:
        job.rootfs = prepared.bundle.rootfs
    job.on_pid = entry.append_identity
    job.listener_state = lambda pid: hook_state(entry.id, "creating", pid, prepared.bundle.path, prepared.spec)
    state: dict[str, Any] = {}
    with Drive(job) as drive:
        job.on_hooks = lambda kind: runtime_hooks(prepared, kind, drive.pid)
        job.on_ready = lambda: save(prepared, entry, state, pid=drive.pid, start_time=drive.start_time, created=created)
        try:
            drive.run()
        except RuntimeFailure as failure:
            if not failure.message.startswith(START_FAILED):
                failure.within(START_FAILED)
            raise
        pidfd, drive.pidfd = drive.pidfd, -1
        for number in drive.alternatives:
            settings.warn(f"alternative taken: step {number}") if settings.debug else None
        return Launched(entry, state, prepared, drive.pid, pidfd, drive.start_time)


def host_root(spec: Spec) -> tuple[int, int]:
    """Host uid and gid of the container's root, for the FIFOs."""
    return (_host_id(spec.linux.uid_mappings), _host_id(spec.linux.gid_mappings))


def _host_id(mappings: tuple[Any, ...]) -> int:
    for entry in mappings:
        if entry.container_id <= 0 < entry.container_id + entry.size:
            return int(entry.host_id)
    return 0


def check_cgroups(prepared: Prepared) -> None:
    """Refuse a cgroup in which others live or that is frozen (contract 4.7)."""
    if prepared.cgroup.paths:
        from pyruntime.cgroup import manager

        manager.check_empty(prepared.cgroup.paths)


def missing_cgroups(prepared: Prepared) -> tuple[str, ...]:
    """The directories of cgroups and resctrl, parents included, that do not exist yet and so will be ours."""
    groups = tuple(path for path in _rdt(prepared).ours if not exists(path)) if prepared.spec.linux.intel_rdt else ()
    if not prepared.cgroup.paths:
        return groups
    from pyruntime.cgroup import manager

    return (*manager.missing(prepared.cgroup.paths, prepared.host.cgroup), *groups)


def _rdt(prepared: Prepared) -> RdtPlan:
    from pyruntime.plan.rdt import compile_rdt

    return compile_rdt(prepared.spec, prepared.host, prepared.options.id)


def runtime_hooks(prepared: Prepared, kind: str, pid: int) -> None:
    """The prestart or createRuntime hooks."""
    from pyruntime.lifecycle import hooks

    listed = prepared.spec.hooks.prestart if kind == "prestart" else prepared.spec.hooks.create_runtime
    state = hook_state(prepared.options.id, "creating", pid, prepared.bundle.path, prepared.spec)
    hooks.run_all(listed, kind, state, prepared.bundle.path)


def timestamp(nanoseconds: int) -> str:
    """RFC 3339 in UTC with nanoseconds, as Go's RFC3339Nano."""
    when = gmtime(nanoseconds // 1_000_000_000)
    fraction = f"{nanoseconds % 1_000_000_000:09d}".rstrip("0")
    day = f"{when.tm_year:04d}-{when.tm_mon:02d}-{when.tm_mday:02d}T{when.tm_hour:02d}:{when.tm_min:02d}:{when.tm_sec:02d}"
    return f"{day}.{fraction}Z" if fraction else f"{day}Z"


def save(prepared: Prepared, entry: store.Entry, state: dict[str, Any], *, pid: int, start_time: int,
         created: tuple[str, ...]) -> None:
    """state.json: the peers' keys, then ours, then config.json as it was read."""
    spec = prepared.spec
    state.update(
        id=entry.id, init_process_pid=pid, init_process_start=start_time, created=timestamp(time_ns()),
        cgroup_paths=dict(prepared.cgroup.paths), namespace_paths=_namespace_paths(spec, pid),
        external_descriptors=[],
        intel_rdt_path=_rdt(prepared).group if spec.linux.intel_rdt else "", rootless=prepared.host.euid != 0,
        bundle=prepared.bundle.path, rootfs=prepared.bundle.rootfs, oci_version=OCI_VERSION,
        token=prepared.options.keyring_token, cgroup_manager=prepared.options.cgroup_manager,
        created_cgroups=list(created), no_new_keyring=prepared.options.no_new_keyring, start_steps=_start_steps(prepared),
        own_mounts=_own_mounts(prepared),
    )  # fmt: skip
    text = document.dump(state).encode("utf-8", "surrogateescape")
    entry.write("state.json", text[:-1] + b',"config":' + prepared.config.strip() + b"}")


def _namespace_paths(spec: Spec, pid: int) -> dict[str, str]:
    return {name: f"/proc/{pid}/ns/{file}" for name, file in NAMESPACE_FILES.items()}


def _start_steps(prepared: Prepared) -> dict[str, list[str]]:
    """What init still does after `ready`, by step number: (op, origin, subject), for the words of `start`."""
    found: dict[str, list[str]] = {}
    number = 0
    waiting = False
    for step in prepared.plan.init_steps():
        if waiting:
            found[str(number)] = [step.op, step.origin, _subject(step)]
        waiting = waiting or step.op == "wait_start"
        number += 1 + len(step.alternatives)
    return found


def _subject(step: Any) -> str:
    if step.op == "execve":
        return str(step.args[0][0])
    return str(step.args[0]) if step.op == "hook" else ""


def _own_mounts(prepared: Prepared) -> list[str]:
    """Mount points that stay on the host because the container has no mount namespace; last made first."""
    if prepared.spec.linux.namespace("mount") is not None:
        return []
    made = [mount.destination for mount in prepared.spec.mounts]
    return [clean_path(prepared.bundle.rootfs, path.lstrip("/")) for path in reversed(made)]


def left(prepared: Prepared, entry: store.Entry, *, pid: int = 0, start_time: int = 0) -> cleanup.Remains | None:
    """What a container made here leaves to clean up; None when not even its identity was written."""
    identity = entry.identity()
    if identity is None:
        return None
    return cleanup.Remains(pid or identity.pid, start_time or identity.start_time, identity.cgroup_paths,
                           identity.created, tuple(_own_mounts(prepared)), identity.token,
                           identity.driver)


def undo(settings: Settings, prepared: Prepared, entry: store.Entry) -> None:
    """After a failed create: no process, mount, cgroup or state is left; then the poststop hooks."""
    from pyruntime.lifecycle import hooks

    cleanup.destroy(entry, left(prepared, entry))
    if prepared.spec.hooks.poststop:
        state = hook_state(entry.id, "stopped", 0, prepared.bundle.path, prepared.spec)
        hooks.run_poststop(prepared.spec.hooks.poststop, state, settings.warn)


def abandon(settings: Settings, launched: Launched) -> None:
    """Undo a launch that succeeded, because what came after it failed."""
    from pyruntime.lifecycle import process

    process.send_signal(launched.pidfd, process.SIGKILL)
    process.reap(launched.pidfd)
    undo(settings, launched.prepared, launched.entry)


def finish(launched: Launched, *, pidfd_socket: str, pid_path: str) -> None:
    """What tells the caller: the pidfd, then the pid file."""
    annotated = dict(launched.prepared.spec.annotations).get(PIDFD_RECEIVER, "")
    for path in dict.fromkeys((pidfd_socket, annotated)):
        if path:
            send_pidfd(path, launched.pidfd, b"standard")
    if pid_path:
        write_pid_file(pid_path, launched.pid)


def send_pidfd(path: str, pidfd: int, payload: bytes) -> None:
    """One message with the pidfd (contract 1.4, --pidfd-socket)."""
    try:
        sock = kernel.connect_unix(path)
        try:
            kernel.send(sock, payload, [pidfd])
        finally:
            close(sock)
    except OSError as error:
        raise HostError(f"unable to send pidfd to {path}: {(error.strerror or '').rpartition(': ')[2].lower()}",
                        errno=error.errno or 0, value=path) from error


def write_pid_file(path: str, pid: int) -> None:
    """Decimal, no newline; appears whole, by rename of a hidden file beside it."""
    folder, _, name = path.rpartition("/")
    temporary = f"{folder}/.{name}"
    try:
        fd = _open_new(temporary)
        try:
            write(fd, str(pid).encode())
        finally:
            close(fd)
        rename(temporary, path)
    except OSError as error:
        _discard(temporary, error)
        raise HostError(f"unable to write pid file {path}: {(error.strerror or '').lower()}", errno=error.errno or 0,
                        value=path, hint="its folder must exist and be writable") from error


def _open_new(path: str) -> int:
    """A descriptor of a new file; what a killed runtime left under the name, or anybody else, makes way."""
    try:
        return open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o666)
    except FileExistsError:
        unlink(path)
        return open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o666)


def _discard(path: str, error: OSError) -> None:
    if isinstance(error, FileExistsError):
        return
    try:
        unlink(path)
    except OSError:
        return


