"""What criu is told of a container, from its configuration: the part that dump and restore have in common. Mostly pure.

Mounts from outside of the container are criu_mounts.py's. Joined network and pid namespaces
are `external` at dump and inherited descriptors at restore. Stdio that come from outside are inherited at restore too:
pipes, which criu knows by their name `pipe:[inode]`, and files, declared `file[mount id:inode]` at dump.
"""

from __future__ import annotations

from posix import O_CLOEXEC, O_DIRECTORY, O_RDONLY, mkdir, open

from pyruntime.criu import wire
from pyruntime.criu.client import find, first_error
from pyruntime.errors import HostError, UsageError
from pyruntime.host.probe import exists, read_file
from pyruntime.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.spec.config import Spec

CLONE_NEWNET = 0x40000000
CONFIG_FILES = ("/etc/criu/pyruntime.conf", "/etc/criu/runc.conf")
DESCRIPTORS = "descriptors.json"  # beside the images, as runc's: the names of stdin, stdout, stderr
EXTERNAL_NAMESPACES = {"network": ("net", "extRootNetNS"), "pid": ("pid", "extRootPidNS")}
MAX_LOG = 1 << 20


class Options(Record):
    """The flags that checkpoint and restore share (contract 1.4); paths as the caller gave them, made absolute."""

    image_path: str
    work_path: str = ""  # "" is the image path
    tcp_established: bool = False
    tcp_skip_in_flight: bool = False
    tcp_close: bool = False
    link_remap: bool = False
    ext_unix_sk: bool = False
    shell_job: bool = False
    lazy_pages: bool = False
    file_locks: bool = False
    auto_dedup: bool = False
    manage_cgroups_mode: str = ""
    empty_ns: tuple[str, ...] = ()
    network_lock: str = ""
    status_fd: int = -1  # dump
    lsm_profile: str = ""  # restore
    lsm_mount_context: str = ""  # restore


def check(options: Options) -> None:
    """Raises UsageError for values that no call may have."""
    if options.manage_cgroups_mode not in ("", *wire.CGROUP_MODES):
        raise UsageError("Invalid manage cgroups mode", value=options.manage_cgroups_mode,
                         hint=f"modes are {', '.join(wire.CGROUP_MODES)}")
    if options.network_lock not in ("", *wire.NETWORK_LOCKS):
        raise UsageError(f"invalid network lock method: {options.network_lock}",
                         hint=f"methods are {', '.join(wire.NETWORK_LOCKS)}")
    for name in options.empty_ns:
        if name != "network":
            raise UsageError(f"namespace {name} is not supported", hint="--empty-ns takes network only")
    if options.lsm_profile and not options.lsm_profile.partition(":")[2]:
        raise UsageError(f"invalid lsm-profile: {options.lsm_profile}", hint="it is TYPE:NAME, as in apparmor:unconfined")


def common(options: Options, spec: Spec, *, images_fd: int, work_fd: int, log_file: str) -> dict[str, Any]:
    """criu's options that dump and restore share."""
    terminal = spec.process is not None and spec.process.terminal
    mode = options.manage_cgroups_mode or "soft"
    lock = options.network_lock or ("iptables" if find("iptables-restore") else "nftables")
    told: dict[str, Any] = {
        "images_dir_fd": images_fd, "work_dir_fd": work_fd, "log_level": 4, "log_file": log_file,
        "notify_scripts": True, "ext_masters": True, "manage_cgroups": True,
        "manage_cgroups_mode": wire.CGROUP_MODES[mode], "network_lock": wire.NETWORK_LOCKS[lock],
        "orphan_pts_master": terminal or None, "config_file": config_file(spec) or None,
        "empty_ns": CLONE_NEWNET if options.empty_ns else None,
    }  # fmt: skip
    for name in ("tcp_established", "tcp_skip_in_flight", "tcp_close", "link_remap", "ext_unix_sk", "shell_job",
                 "lazy_pages", "file_locks", "auto_dedup"):
        told[name] = getattr(options, name) or None
    return told


def config_file(spec: Spec) -> str:
    """criu's configuration file: of the annotation org.criu.config ("" is none), else the first default that is there."""
    named = dict(spec.annotations).get("org.criu.config")
    if named is not None:
        return named
    return next((path for path in CONFIG_FILES if exists(path)), "")


def external_namespaces(spec: Spec) -> list[tuple[str, str, str]]:
    """(type as criu has it, path, key) of each joined namespace that is not dumped but inherited again."""
    found = []
    for kind, (name, key) in EXTERNAL_NAMESPACES.items():
        joined = spec.linux.namespace(kind)
        if joined is not None and joined.path:
            found.append((name, joined.path, key))
    return found


def open_folder(path: str, what: str, *, make: bool) -> int:
    """A descriptor of the image or work folder, made 0700 when asked. Raises HostError."""
    try:
        if make:
            try:
                mkdir(path, 0o700)
            except FileExistsError:
                pass
        return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    except OSError as error:
        hint = "its parent folder must exist" if make else "give the folder that checkpoint wrote"
        raise HostError(f"unable to open {what} {path}: {(error.strerror or '').lower()}", errno=error.errno or 0,
                        value=path, hint=hint) from error


def failed(answer: dict[str, Any], log_path: str, printed: str) -> HostError:
    """The error for an answer of criu that is no success: the peers' words, criu's own reason as the value."""
    try:
        log = read_file(log_path, MAX_LOG).decode("utf-8", "replace")
    except OSError:
        log = ""
    reason = first_error(log) or answer.get("cr_errmsg") or first_error(printed)
    number = int(answer.get("cr_errno", 0))
    kind = wire.TYPE_NAMES.get(int(answer.get("type", 0)), "")
    return HostError(f"criu failed: type {kind} errno {number}: log file: {log_path}", errno=number, value=reason,
                     hint="the log has all details; `criu check` says what this kernel lacks")
