"""exec: one more process in a container that lives (contract 1.4, 3.3; DESIGN, runtime 11).

The configuration is the one saved at create. A process file's key that is present wins, an absent one takes the
container's value; seccomp, label and cgroup are the container's unless a flag names another.
"""

from __future__ import annotations

from posix import close, getcwd, stat

from pyruntime.errors import HostError, RuntimeFailure, SpecError, StateError, UsageError
from pyruntime.host.facts import CgroupFacts
from pyruntime.host.probe import NAMESPACE_FLAGS, clean_path, probe_host
from pyruntime.lifecycle import create, state, states, store
from pyruntime.lifecycle import process as process_
from pyruntime.lifecycle.drive import Drive, Job
from pyruntime.lifecycle.prepare import hook_state
from pyruntime.lifecycle.run import take_terminal, wait, watch
from pyruntime.native import kernel
from pyruntime.plan.exec_plan import ExecOptions, compile_exec
from pyruntime.record import Record
from pyruntime.spec import document
from pyruntime.spec.ids import parse_gid, parse_user
from pyruntime.spec.parse_process import parse_process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from pyruntime.lifecycle.foreground import Foreground, Terminal
    from pyruntime.lifecycle.settings import Settings
    from pyruntime.plan.step import Plan
    from pyruntime.spec.config import Process, Spec

NAMESPACE_FILES = {"mount": "mnt", "cgroup": "cgroup", "uts": "uts", "ipc": "ipc", "user": "user", "pid": "pid",
                   "network": "net", "time": "time"}  # fmt: skip


class Changes(Record):
    """What the command line changes in the container's own process (contract 1.4). `process`: a file that says all."""

    args: tuple[str, ...] = ()
    process: str = ""
    cwd: str = ""
    env: tuple[str, ...] = ()
    user: str = ""
    additional_gids: tuple[str, ...] = ()
    tty: bool = False
    process_label: str = ""
    apparmor: str = ""
    no_new_privs: bool = False
    cap: tuple[str, ...] = ()


NOT_INHERITED = ("terminal", "consoleSize", "args")  # of the container's process: an exec says these itself


def exec_(settings: Settings, container_id: str, *, args: Sequence[str] = (), process: str = "", cwd: str = "",
          env: Sequence[str] = (), user: str = "", additional_gids: Sequence[str] = (), tty: bool = False,
          process_label: str = "", apparmor: str = "", no_new_privs: bool = False, cap: Sequence[str] = (),
          preserve_fds: int = 0, listen_fds: int = 0, cgroup: Sequence[str] = (), ignore_paused: bool = False,
          detach: bool = False,
          console_socket: str = "", pidfd_socket: str = "", pid_file: str = "",
          stdio: tuple[int, int, int] = (0, 1, 2), signals: bool = False) -> int:
    """The process's exit code (128 + n for signal n), 0 when detached, which means that execve has taken place.

    `process` is the path of an OCI process object; the other process words are ignored then. `signals` as in run.
    """
    create.check_preserve_fds(preserve_fds)
    pid_path = clean_path(getcwd(), pid_file) if pid_file else ""
    changes = Changes(tuple(args), process, cwd, tuple(env), user, tuple(additional_gids), tty, process_label, apparmor,
                      no_new_privs, tuple(cap))
    with store.lookup(settings.root, container_id) as entry:
        request = ask(settings, entry, changes, cgroup=cgroup, preserve_fds=preserve_fds, listen_fds=listen_fds,
                      ignore_paused=ignore_paused)
        _check_terminal(request.wanted, detach=detach, console_socket=console_socket)
        return request.carry_out(detach=detach, console_socket=console_socket, pidfd_socket=pidfd_socket,
                                 pid_path=pid_path, stdio=stdio, signals=signals)


def spawn(settings: Settings, container_id: str, *, args: Sequence[str], env: Sequence[str] = (), cwd: str = "",
          user: str = "", stdio: tuple[int, int, int] = (0, 1, 2)) -> tuple[int, int]:
    """(pid, pidfd) of a further process without a terminal, a child of the caller, after its execve."""
    changes = Changes(tuple(args), env=tuple(env), cwd=cwd, user=user)
    with store.lookup(settings.root, container_id) as entry:
        return ask(settings, entry, changes).start(-1, stdio)


def ask(settings: Settings, entry: store.Entry, changes: Changes, *, cgroup: Sequence[str] = (), preserve_fds: int = 0,
        listen_fds: int = 0, ignore_paused: bool = False) -> Request:
    """The request for a process in a container that may be entered. Raises StateError, SpecError, UsageError."""
    given = document.load(_read(changes.process), name=changes.process) if changes.process else flags_document(changes)
    found = state.load(entry)
    now = state.status(entry, found)
    if not (now == "paused" and ignore_paused):
        states.check(now, "exec", entry.id)
    saved = found["config"].get("process") or {}
    if not changes.process:
        add_flags(given, saved, changes)
    wanted = parse_process(merge(saved, given), "" if changes.process else "/process")
    cgroups = sub_cgroups(found["cgroup_paths"], cgroup)
    return Request(settings, entry, found, wanted, cgroups, preserve_fds, listen_fds)


def _read(path: str) -> bytes:
    """The file of --process. Raises SpecError, UsageError when there is none."""
    from pyruntime.lifecycle.prepare import read_document

    try:
        return read_document(clean_path(getcwd(), path))
    except FileNotFoundError as error:
        raise UsageError(f"open {path}: no such file or directory",
                         hint="--process takes a file with an OCI process object as JSON") from error


def flags_document(changes: Changes) -> dict[str, Any]:
    """The process object that the command line spells. Raises UsageError for a user that is no number (S27)."""
    given: dict[str, Any] = {"args": list(changes.args), "terminal": changes.tty}
    texts = (("cwd", changes.cwd), ("selinuxLabel", changes.process_label), ("apparmorProfile", changes.apparmor))
    given.update({key: text for key, text in texts if text})
    if changes.no_new_privs:
        given["noNewPrivileges"] = True
    if changes.user:
        uid, gid = parse_user(changes.user)
        given["user"] = {"uid": uid} if gid is None else {"uid": uid, "gid": gid}
    return given


def add_flags(given: dict[str, Any], saved: dict[str, Any], changes: Changes) -> None:
    """What the command line adds to the container's own values: environment, groups, capabilities."""
    if changes.env:
        given["env"] = [*(saved.get("env") or ()), *changes.env]
    user = dict(saved.get("user") or {}) | given.get("user", {})
    if changes.additional_gids:
        user["additionalGids"] = [*(user.get("additionalGids") or ()), *map(parse_gid, changes.additional_gids)]
    given["user"] = user
    if not changes.cap:
        return
    sets = {name: list(names or ()) for name, names in (saved.get("capabilities") or {}).items()}
    for name in ["bounding", "effective", "permitted"] + (["ambient"] if sets.get("inheritable") else []):
        sets[name] = sets.get(name, []) + [word if word.startswith("CAP_") else f"CAP_{word}" for word in changes.cap]
    given["capabilities"] = sets


def merge(saved: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The container's process with the given keys over it (null is absent); the umask stays, even below a new `user`."""
    base = {key: value for key, value in saved.items() if key not in NOT_INHERITED}
    merged = base | {key: value for key, value in given.items() if value is not None}
    umask = (saved.get("user") or {}).get("umask")
    if umask is not None and isinstance(merged.get("user"), dict):
        merged["user"] = {"umask": umask} | merged["user"]
    return merged


def _check_terminal(wanted: Process, *, detach: bool, console_socket: str) -> None:
    if detach and wanted.terminal and not console_socket:
        raise SpecError("cannot allocate tty if runc will detach without setting console socket", field="/terminal",
                        hint="give --console-socket")
    if console_socket and not (detach and wanted.terminal):
        raise SpecError("cannot use console socket if runc will not detach or allocate tty", field="/terminal",
                        hint="drop --console-socket, or detach with a terminal")


def sub_cgroups(paths: dict[str, str], wanted: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The directories to join: the container's, or below them what `--cgroup [CTRL[,CTRL]:]PATH` says."""
    joined = dict(paths)
    for text in wanted:
        names, colon, path = text.rpartition(":")
        chosen = names.split(",") if colon else list(paths)
        if ".." in path.split("/"):
            raise UsageError(f"bad sub cgroup path: {path}", hint="the path is below the container's own cgroup")
        for name in chosen:
            if name not in paths:
                raise UsageError(f"unknown controller {name} in --cgroup", hint=f"it has {', '.join(sorted(paths))}")
            joined[name] = clean_path(paths[name], path.lstrip("/"))
    for path in joined.values():
        try:
            stat(path)
        except OSError as error:
            raise HostError(f"cgroup {path}: {(error.strerror or '').lower()}", errno=error.errno or 0, value=path,
                            hint="a sub-cgroup must exist before exec") from error
    return tuple(joined.items())


class Request:
    """One exec in one container, from what is wanted to the exit code."""

    def __init__(self, settings: Settings, entry: store.Entry, found: dict[str, Any], wanted: Process,
                 cgroups: tuple[tuple[str, str], ...], preserve_fds: int, listen_fds: int) -> None:
        self.settings, self.entry, self.found, self.wanted = settings, entry, found, wanted
        self.cgroups, self.preserve_fds, self.listen_fds = cgroups, preserve_fds, listen_fds
        self.saved: Spec = state.spec(found)

    def carry_out(self, *, detach: bool, console_socket: str, pidfd_socket: str, pid_path: str,
                  stdio: tuple[int, int, int], signals: bool) -> int:
        """Start the process; stay with it unless detached."""
        own_tty = self.wanted.terminal and not console_socket
        console, far = kernel.streampair() if own_tty else (-1, create.connect_console(console_socket))
        terminals: list[Terminal] = []
        watchers: list[Foreground | None] = []
        try:
            def at_ready() -> None:
                """Before the program runs: its terminal is as it will be, and signals find their way."""
                if own_tty:
                    terminals.append(take_terminal(console))
                watchers.append(watch(terminals[0] if own_tty else None, signals=signals and not detach))

            pid, pidfd = self.start(far, stdio, at_ready)
            try:
                tell(pid, pidfd, pidfd_socket, pid_path)
                if detach:
                    return 0
                return wait(pidfd, terminals[0] if terminals else None, watchers[0])
            finally:
                close(pidfd)
        finally:
            for terminal in terminals:
                terminal.leave()
            for fd in (console, far):
                if fd >= 0:
                    close(fd)

    def start(self, console_fd: int, stdio: tuple[int, int, int],
              at_ready: Callable[[], None] | None = None) -> tuple[int, int]:  # fmt: skip
        """(pid, pidfd) of the process after its execve. Raises what kept it from getting there."""
        init_pid = int(self.found["init_process_pid"])
        host_pidfd = process_.open_process(init_pid, int(self.found["init_process_start"]))
        if host_pidfd < 0:
            raise StateError("cannot exec in a stopped container")
        try:
            plan = self.plan(init_pid)
            for _, text in plan.warnings:
                self.settings.warn(text)
            job = Job(spec=self.saved, plan=plan, name=self.entry.id, stdio=stdio)
            job.blobs, job.console_fd, job.warn = self.blobs(), console_fd, self.settings.warn
            job.init_pidfd, job.init_pid = host_pidfd, init_pid
            job.at_ready = at_ready
            job.listener_state = lambda _: hook_state(
                self.entry.id, "running", init_pid, self.found["bundle"], self.saved
            )
            with Drive(job) as drive:
                return _drive(drive)
        finally:
            close(host_pidfd)

    def plan(self, init_pid: int) -> Plan:
        """The plan of this exec, for the namespaces that differ from ours."""
        host = probe_host(self.saved, cgroup=CgroupFacts(), process=self.wanted)
        options = ExecOptions(
            id=self.entry.id, nstypes=differing_namespaces(init_pid), cgroups=tuple(path for _, path in self.cgroups),
            rdt=rdt_paths(self.found), console=self.wanted.terminal,
            preserve_fds=self.preserve_fds, listen_fds=self.listen_fds,
            no_new_keyring=bool(self.found.get("no_new_keyring")), keyring_token=str(self.found.get("token", "")),
        )  # fmt: skip
        return compile_exec(self.wanted, self.saved, host, options)

    def blobs(self) -> dict[str, bytes]:
        """The container's own filter, as create compiled it."""
        if self.saved.linux.seccomp is None:
            return {}
        data = self.entry.read("seccomp.bpf")
        if not data:
            raise HostError("the container's seccomp filter is missing", value=f"{self.entry.path}/seccomp.bpf",
                            hint="its state is damaged; nothing is run without the filter")
        return {"seccomp": data}


def rdt_paths(found: dict[str, Any]) -> tuple[str, ...]:
    """The container's directories of resctrl, which an exec joins too."""
    group = str(found.get("intel_rdt_path", ""))
    if not group:
        return ()
    monitored = found["config"]["linux"]["intelRdt"].get("enableMonitoring")
    return (group, f"{group}/mon_groups/{found['id']}") if monitored else (group,)


def _drive(drive: Drive) -> tuple[int, int]:
    """Run the plan, then wait for the socket's EOF: execve has taken place."""
    try:
        drive.run()
        message = drive.link.receive()
        if message.type == "ERROR":
            raise drive.failure(message)
    except RuntimeFailure as failure:
        drive.kill()
        if not failure.message.startswith(create.START_FAILED):
            failure.within(create.START_FAILED)
        raise
    pidfd, drive.pidfd = drive.pidfd, -1
    return drive.pid, pidfd


def differing_namespaces(pid: int) -> int:
    """CLONE_NEW* of the namespaces in which that process and we differ, by inode."""
    flags = 0
    for kind, file in NAMESPACE_FILES.items():
        try:
            there, here = stat(f"/proc/{pid}/ns/{file}"), stat(f"/proc/self/ns/{file}")
        except FileNotFoundError:
            continue
        if (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino):
            flags |= NAMESPACE_FLAGS[kind]
    return flags


def tell(pid: int, pidfd: int, pidfd_socket: str, pid_path: str) -> None:
    """The pidfd and the pid file; the process is killed when its caller cannot be told."""
    try:
        if pidfd_socket:
            create.send_pidfd(pidfd_socket, pidfd, b"setns")
        if pid_path:
            create.write_pid_file(pid_path, pid)
    except RuntimeFailure:
        process_.send_signal(pidfd, process_.SIGKILL)
        process_.reap(pidfd)
        raise
