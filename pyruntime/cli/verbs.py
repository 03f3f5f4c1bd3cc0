"""The verbs: each takes the words of its call, asks the lifecycle, and prints the answer. Rooms are imported inside."""

from __future__ import annotations

import posix

from pyruntime.cli.paths import absolute
from pyruntime.errors import HostError, ProgramError, UsageError
from pyruntime.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from pyruntime.lifecycle.settings import Settings

CREATE_FLAGS = ("config", "no_pivot", "no_new_keyring", "preserve_fds")
EXEC_FLAGS = ("process", "cwd", "env", "user", "additional_gids", "tty", "process_label", "apparmor", "no_new_privs",
              "cap", "preserve_fds", "cgroup", "ignore_paused", "detach")  # fmt: skip
CRIU_FLAGS = ("tcp_established", "ext_unix_sk", "shell_job", "lazy_pages", "file_locks", "manage_cgroups_mode", "empty_ns",
              "auto_dedup", "network_lock")  # fmt: skip
EXEC_PATHS = ("console_socket", "pidfd_socket", "pid_file")


class Call(Record):
    """One call of a verb: the global settings, its flags by keyword, which were given, and the positionals."""

    settings: Settings
    values: dict[str, Any]
    given: frozenset[str]
    rest: tuple[str, ...]
    root_given: bool = False  # --root was on the command line

    @property
    def container_id(self) -> str:
        """The first positional."""
        return self.rest[0]


class NoReaderError(Exception):
    """Whoever read our answer has gone, as `head` does: nothing to tell, and nobody to tell it."""


def answer(text: str) -> None:
    """All of `text` to standard output. Raises NoReaderError, HostError."""
    try:
        write_all(1, text)
    except BrokenPipeError:
        raise NoReaderError from None
    except OSError as error:
        raise HostError(f"cannot write to standard output: {(error.strerror or '').lower()}",
                        errno=error.errno or 0) from None  # fmt: skip


def write_all(fd: int, text: str) -> None:
    """All of `text` to a descriptor. Raises OSError."""
    data = text.encode("utf-8", "surrogateescape")
    while data:
        data = data[posix.write(fd, data) :]


def create(call: Call) -> int:
    """Creates the container of a bundle."""
    from pyruntime.lifecycle.create import create as lifecycle_create

    bundle = absolute(call.values["bundle"] or ".")
    lifecycle_create(call.settings, call.container_id, bundle, **_create_flags(call, bundle))
    return 0


def run(call: Call) -> int:
    """Creates, starts and, unless detached, stays until the end; the program's exit code."""
    from pyruntime.lifecycle.run import run as lifecycle_run

    container_id, bundle = call.container_id, call.values["bundle"]
    if not bundle and is_bundle(container_id):
        bundle, container_id = container_id, generated_id()
    bundle = absolute(bundle or ".")
    flags = _create_flags(call, bundle)
    for key in ("detach", "keep", "no_subreaper"):
        flags[key] = call.values[key]
    return lifecycle_run(call.settings, container_id, bundle, signals=True, **flags)


def is_bundle(word: str) -> bool:
    """Whether the argument of `run` names a bundle: no id can be `.` or `..` or hold a `/`."""
    return word in (".", "..") or "/" in word


def generated_id() -> str:
    """A fresh id for a container that was given none."""
    return f"run-{posix.urandom(6).hex()}"


def _create_flags(call: Call, bundle: str) -> dict[str, Any]:
    """Keywords of create and run. A pid file is relative to the caller's folder, sockets to the bundle, as in runc."""
    flags = {key: call.values[key] for key in CREATE_FLAGS}
    flags["listen_fds"] = listen_fds()
    flags["notify_socket"] = _environment(b"NOTIFY_SOCKET")
    flags["config"] = flags["config"] or "config.json"
    pid_file = call.values["pid_file"]
    flags["pid_file"] = absolute(pid_file) if pid_file else ""
    for key in ("console_socket", "pidfd_socket"):
        flags[key] = absolute(call.values[key], bundle) if call.values[key] else ""
    return flags


def listen_fds() -> int:
    """How many descriptors socket activation hands on; 0 unless they are meant for this process (sd_listen_fds(3))."""
    if _environment(b"LISTEN_PID") != str(posix.getpid()):
        return 0
    count = _environment(b"LISTEN_FDS")
    return int(count) if count.isdecimal() and count.isascii() and len(count) < 6 else 0


def _environment(name: bytes) -> str:
    """A variable of our environment, "" when unset."""
    return posix.environ.get(name, b"").decode("utf-8", "surrogateescape")


def start(call: Call) -> int:
    """Runs the program of a created container."""
    from pyruntime.lifecycle.start import start as lifecycle_start

    lifecycle_start(call.settings, call.container_id, notify_socket=_environment(b"NOTIFY_SOCKET"))
    return 0


def state(call: Call) -> int:
    """Prints the state, two spaces deep and without a newline at the end, as runc does."""
    from pyruntime.lifecycle.state import state as lifecycle_state
    from pyruntime.spec.document import dump

    answer(dump(lifecycle_state(call.settings, call.container_id), indent="  "))
    return 0


def kill(call: Call) -> int:
    """Signals the container's init, or all its processes."""
    ids = list(_ids(call))
    from pyruntime.lifecycle.kill import kill as lifecycle_kill

    signal = call.rest[1] if len(call.rest) > 1 else "SIGTERM"
    for container_id in ids:
        lifecycle_kill(call.settings, container_id, signal, all_=call.values["all"])
    return 0


def delete(call: Call) -> int:
    """Removes a container."""
    from pyruntime.lifecycle.delete import delete as lifecycle_delete

    for container_id in _ids(call):
        lifecycle_delete(call.settings, container_id, force=call.values["force"])
    return 0


def _ids(call: Call) -> Iterator[str]:
    """The id named, or with --regex all ids that the expression matches somewhere, as crun does."""
    if not call.values["regex"]:
        yield call.container_id
        return
    import re

    from pyruntime.lifecycle.state import list_

    try:
        pattern = re.compile(call.container_id)
    except re.error as error:
        raise UsageError(f"invalid regular expression {call.container_id!r}: {error}") from None
    yield from [one["id"] for one in list_(call.settings) if pattern.search(one["id"])]


def exec_(call: Call) -> int:
    """Runs a further process; its exit code, or 0 when detached."""
    from pyruntime.lifecycle.exec_ import exec_ as lifecycle_exec

    if not call.values["process"] and len(call.rest) < 2:
        raise UsageError("process args cannot be empty", hint="name a command after the id, or a file with --process")
    flags = {key: call.values[key] for key in EXEC_FLAGS}
    for key in EXEC_PATHS:
        flags[key] = absolute(call.values[key]) if call.values[key] else ""
    try:
        return lifecycle_exec(call.settings, call.container_id, args=call.rest[1:], listen_fds=listen_fds(), signals=True,
                              **flags)  # fmt: skip
    except ProgramError as failure:
        if call.rest[1:2] and call.rest[1].startswith("-"):
            failure.hint = "flags of exec stand before the id: what follows it is the command"
        raise


def list_(call: Call) -> int:
    """Prints all containers below the root."""
    from pyruntime.cli.output import list_table
    from pyruntime.lifecycle.state import list_ as lifecycle_list
    from pyruntime.spec.document import dump

    form = _format(call)
    if call.root_given:
        _must_exist(call.settings.root)
    states = lifecycle_list(call.settings)
    if call.values["quiet"]:
        answer("".join([one["id"] + "\n" for one in states]))
    else:
        answer(dump(states) + "\n" if form == "json" else list_table(states))
    return 0


def _must_exist(root: str) -> None:
    """A root that was named has to be there; the default one need not."""
    try:
        posix.stat(root)
    except FileNotFoundError:
        raise UsageError(f"open {root}: no such file or directory") from None


def _format(call: Call) -> str:
    """table or json."""
    form: str = call.values["format"]
    if form not in ("table", "json"):
        raise UsageError("invalid format option", value=form, hint="--format is table or json")
    return form


def ps(call: Call) -> int:
    """Prints the container's processes: their pids as JSON, or the rows of ps(1)."""
    from pyruntime.lifecycle.ps import ps as lifecycle_ps
    from pyruntime.spec.document import dump

    form = _format(call)
    pids = lifecycle_ps(call.settings, call.container_id)
    if form == "json":
        answer(dump(pids) + "\n")
    else:
        from pyruntime.cli.ps_table import ps_table

        answer(ps_table(pids, call.rest[1:] or ("-ef",)))
    return 0


def pause(call: Call) -> int:
    """Freezes a container."""
    from pyruntime.lifecycle.pause import pause as lifecycle_pause

    lifecycle_pause(call.settings, call.container_id)
    return 0


def resume(call: Call) -> int:
    """Thaws a container."""
    from pyruntime.lifecycle.pause import resume as lifecycle_resume

    lifecycle_resume(call.settings, call.container_id)
    return 0


def update(call: Call) -> int:
    """Changes limits, from a document or from single flags."""
    from pyruntime.lifecycle.update import update as lifecycle_update

    obsolete = ("kernel_memory", "kernel_memory_tcp")
    for key in obsolete:
        if key in call.given:
            call.settings.warn(f"--{key.replace('_', '-')} is obsolete and ignored")
    source = call.values["resources"]
    if source:
        lifecycle_update(call.settings, call.container_id, resources=_read(0 if source == "-" else source))
    else:
        flags = {key.replace("_", "-"): call.values[key] for key in call.given if key not in obsolete}
        lifecycle_update(call.settings, call.container_id, flags=flags)
    return 0


def mounts(call: Call) -> int:
    """Adds mounts to a running container, or removes them."""
    from pyruntime.lifecycle import live_mounts

    word, container_id, source = call.rest
    if word not in ("add", "remove"):
        raise UsageError(f"no such command: mounts {word}", hint="mounts add ID FILE, or mounts remove ID FILE")
    change = live_mounts.add if word == "add" else live_mounts.remove
    change(call.settings, container_id, _read(0 if source == "-" else absolute(source)))
    return 0


def _read(source: int | str) -> bytes:
    """All bytes of a file, or of an open descriptor. Raises OSError."""
    fd = source if isinstance(source, int) else posix.open(source, posix.O_RDONLY | posix.O_CLOEXEC)
    parts = []
    try:
        while part := posix.read(fd, 1 << 16):
            parts.append(part)
    finally:
        if fd != source:
            posix.close(fd)
    return b"".join(parts)


def events(call: Call) -> int:
    """Prints one record, or records until the container ends."""
    from pyruntime.lifecycle.events import stats, watch
    from pyruntime.spec.document import dump

    interval_s = call.values["interval"]
    if interval_s <= 0:
        raise UsageError("duration interval must be greater than 0")
    if call.values["stats"]:
        answer(dump(stats(call.settings, call.container_id)) + "\n")
        return 0
    for record in watch(call.settings, call.container_id, interval_s):
        answer(dump(record) + "\n")
    return 0


def features(_call: Call) -> int:
    """Prints what this runtime supports, four spaces deep as runc does."""
    from pyruntime.lifecycle.features import features as lifecycle_features
    from pyruntime.spec.document import dump

    answer(dump(lifecycle_features(), indent="    ") + "\n")
    return 0


def checkpoint(call: Call) -> int:
    """Writes a container to files."""
    from pyruntime.lifecycle.checkpoint import Dump
    from pyruntime.lifecycle.checkpoint import checkpoint as lifecycle_checkpoint

    dump = Dump(**{key: call.values[key] for key in ("parent_path", "leave_running", "pre_dump", "page_server")})
    options = _criu_options(call, "tcp_skip_in_flight", "link_remap", "status_fd")
    lifecycle_checkpoint(call.settings, call.container_id, options, dump)
    return 0


def restore(call: Call) -> int:
    """Makes a container from files; in the foreground the program's exit code."""
    from pyruntime.lifecycle.restore import restore as lifecycle_restore

    bundle = absolute(call.values["bundle"] or ".")
    flags = {key: call.values[key] for key in ("detach", "keep", "no_pivot")}
    flags["config"] = call.values["config"] or "config.json"
    flags["pid_file"] = absolute(call.values["pid_file"]) if call.values["pid_file"] else ""
    console = call.values["console_socket"]
    flags["console_socket"] = absolute(console, bundle) if console else ""
    options = _criu_options(call, "tcp_close", "lsm_profile", "lsm_mount_context")
    return lifecycle_restore(call.settings, call.container_id, bundle, options, signals=True, **flags)


def _criu_options(call: Call, *more: str) -> Any:
    """The flags that checkpoint and restore share, and `more`. Paths are relative to the caller's folder."""
    from pyruntime.lifecycle.criu_options import Options

    work = call.values["work_path"]
    return Options(image_path=absolute(call.values["image_path"] or "checkpoint"), work_path=absolute(work) if work else "",
                   **{key: call.values[key] for key in (*CRIU_FLAGS, *more)})


def spec(call: Call) -> int:
    """Writes an example config.json, readable as the umask says."""
    from pyruntime.host.cgroup_probe import probe_cgroup
    from pyruntime.spec.template import default_config, render

    text = render(default_config(rootless=call.values["rootless"], cgroup_v2=probe_cgroup().layout == "v2",
                                 euid=posix.geteuid(), egid=posix.getegid()))  # fmt: skip
    name = call.values["file"] or "config.json"
    if name == "-":
        answer(text)
        return 0
    path = absolute(name, absolute(call.values["bundle"] or "."))
    try:
        fd = posix.open(path, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, 0o666)
    except FileExistsError:
        raise UsageError(f"File {name} exists. Remove it first") from None
    try:
        write_all(fd, text)
    finally:
        posix.close(fd)
    return 0


def explain(call: Call) -> int:
    """Prints the plan of a bundle."""
    from pyruntime.cli.inspect import bundle_plan
    from pyruntime.cli.terminal import columns
    from pyruntime.plan.explain import explain_json, explain_text

    made = bundle_plan(call.settings, _bundle(call), call.values["config"] or "config.json")
    show_env = call.values["show_env"]
    answer(explain_json(made, show_env=show_env) if call.values["json"]
           else explain_text(made, show_env=show_env, columns=columns()))  # fmt: skip
    return 0


def _bundle(call: Call) -> str:
    """The bundle that explain and validate look at: the argument, --bundle, or the current directory."""
    if call.rest and call.values["bundle"]:
        raise UsageError("the bundle is named twice", value=f"{call.values['bundle']}, {call.rest[0]}",
                         hint="as an argument or with --bundle")  # fmt: skip
    return absolute(call.rest[0] if call.rest else call.values["bundle"] or ".")


def validate(call: Call) -> int:
    """Prints every violation and warning; 1 when there is a violation."""
    from pyruntime.cli.inspect import check_bundle, report_json, report_text

    report = check_bundle(call.settings, _bundle(call), call.values["config"] or "config.json")
    answer(report_json(report) if call.values["json"] else report_text(report))
    return 0 if report.ok else 1


FUNCTIONS: dict[str, Callable[[Call], int]] = {
    "create": create, "start": start, "run": run, "state": state, "kill": kill, "delete": delete, "exec": exec_,
    "list": list_, "ps": ps, "pause": pause, "resume": resume, "update": update, "mounts": mounts, "events": events,
    "checkpoint": checkpoint, "restore": restore, "spec": spec, "features": features,
    "explain": explain, "validate": validate,
}  # fmt: skip
