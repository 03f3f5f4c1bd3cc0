"""An image's configuration and a caller's options become config.json, confined as Docker confines. Pure.

What an image says is data (S53): its labels become annotations, but none that a runtime would obey; its volumes and
its working directory are paths inside the root file system; its user was looked up there (users.py). Only the options,
which are the caller's own words, open anything.
"""

from __future__ import annotations

import posixpath

from pyruntime.errors import UsageError
from pyruntime.image import confinement
from pyruntime.image.fields import Fields
from pyruntime.image.seccomp_default import default_seccomp
from pyruntime.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.image.config import ImageConfig
    from pyruntime.image.users import User

VERSION = "1.0.2"  # of the runtime-spec: what is written here needs no later one, so that any runtime takes it
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NAMESPACES = ("pid", "network", "ipc", "uts", "mount")
# Annotations that runtimes obey (ours, crun, runc, kata, gVisor, CRI engines): a label of that name stays a label.
OBEYED = ("run.oci.", "org.systemd.property.", "org.criu.", "io.katacontainers.", "dev.gvisor.", "module.wasm.",
          "io.kubernetes.", "io.containerd.", "io.podman.", "io.container.", "com.docker.", "org.opencontainers.runtime.",
          "bundle")  # fmt: skip
_IMAGE = "org.opencontainers.image."


class IdMap(Record):
    """A range of a user namespace: `size` ids from `container` are those from `host` outside."""

    container: int
    host: int
    size: int = 1


class RuntimeOptions(Record):
    """What a caller asks for, on top of the image. Defaults are those of `docker run`."""

    args: tuple[str, ...] | None = None  # replaces Cmd
    entrypoint: tuple[str, ...] | None = None  # replaces Entrypoint and drops Cmd; () for none
    env: tuple[str, ...] = ()  # NAME=VALUE; NAME alone removes it
    working_dir: str = ""  # "": the image's, else "/"
    hostname: str = ""
    domainname: str = ""
    terminal: bool = False
    readonly: bool = False
    privileged: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    no_new_privileges: bool = False
    seccomp: str | dict[str, Any] = "default"  # "default", "unconfined", or a linux.seccomp object
    system_paths: bool = False  # True: nothing of /proc and /sys is masked or read-only
    mounts: tuple[dict[str, Any], ...] = ()  # objects of `mounts`; one takes the place of a default at its destination
    devices: tuple[dict[str, Any], ...] = ()  # objects of linux.devices; each is allowed rwm as well
    resources: tuple[tuple[str, Any], ...] = ()  # members of linux.resources
    rlimits: tuple[dict[str, Any], ...] = ()
    sysctl: tuple[tuple[str, str], ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()
    shared: tuple[str, ...] = ()  # namespaces of the host that are kept: network, pid, ipc, uts, cgroup
    shm_bytes: int = confinement.SHM_BYTES
    oom_score_adj: int = 0
    cgroups_path: str = ""
    rootfs: str = "rootfs"
    uid_maps: tuple[IdMap, ...] = ()  # not empty: a user namespace with these
    gid_maps: tuple[IdMap, ...] = ()
    rootless: bool = False  # for a plain user, who may set no rules for devices and no additional groups
    cgroup_v2: bool = False
    architecture: str = "amd64"  # the host's, as images name it
    last_cap: int = 40  # /proc/sys/kernel/cap_last_cap


def compile_config(image: ImageConfig, user: User, options: RuntimeOptions) -> dict[str, Any]:
    """config.json for a container of `image`; `user` has been looked up in the root file system.

    Raises UsageError for options that cannot be met and for an image without a command.
    """
    document: dict[str, Any] = {
        "ociVersion": VERSION,
        "process": _process(image, user, options),
        "root": {"path": options.rootfs, "readonly": options.readonly},
        "hostname": options.hostname,
        "domainname": options.domainname,
        "mounts": _mounts(options),
        "annotations": compile_annotations(image, options),
        "linux": _linux(options),
    }
    for name in ("hostname", "domainname", "annotations"):
        if not document[name] or ("uts" in options.shared and name != "annotations"):
            del document[name]
    return document


def compile_args(image: ImageConfig, options: RuntimeOptions) -> tuple[str, ...]:
    """The command line: Entrypoint and Cmd, each replaced by what the caller gave (contract 6)."""
    entrypoint = _inner(image).strings("Entrypoint")
    command = _inner(image).strings("Cmd")
    if options.entrypoint is not None:
        entrypoint, command = tuple(word for word in options.entrypoint if word or len(options.entrypoint) > 1), ()
    if options.args is not None:
        command = options.args
    if not (args := entrypoint + command):
        raise UsageError("no command specified", field="args", hint="the image names none: give a command")
    return args


def compile_env(image: ImageConfig, options: RuntimeOptions) -> list[str]:
    """The environment: defaults, the image's, the caller's; a later NAME takes the place of an earlier one."""
    merged = {"PATH": PATH}
    if options.hostname:
        merged["HOSTNAME"] = f"HOSTNAME={options.hostname}"
    if options.terminal:
        merged["TERM"] = "TERM=xterm"
    for entry in (*_inner(image).strings("Env"), *options.env):
        name, equals, _ = entry.partition("=")
        if equals:
            merged[name] = entry
        else:
            merged.pop(name, None)
    return list(merged.values())


def working_dir(image: ImageConfig, options: RuntimeOptions) -> str:
    """An absolute, cleaned path."""
    text = options.working_dir or _inner(image).text("WorkingDir") or "/"
    return posixpath.normpath(posixpath.join("/", text)).replace("//", "/")


def volume_paths(image: ImageConfig) -> tuple[str, ...]:
    """The absolute, cleaned paths that the image declares as volumes, without the root itself; in order of name."""
    declared = _inner(image).table("Volumes")
    cleaned = {posixpath.normpath(posixpath.join("/", path)).replace("//", "/") for path in declared}
    return tuple(sorted(cleaned - {"/"}))


def compile_annotations(image: ImageConfig, options: RuntimeOptions) -> dict[str, str]:
    """Facts of the image under their standard names, then its labels, then the caller's own; later ones win.

    Of the labels none that begins as in OBEYED: an image does not configure the runtime.
    """
    inner = _inner(image)
    outer = Fields(image.document, "", "image config")
    facts = {
        "os": image.os,
        "architecture": image.architecture,
        "variant": image.variant,
        "os.version": outer.text("os.version"),
        "os.features": ",".join(outer.strings("os.features")),
        "author": outer.text("author"),
        "created": image.created,
        "stopSignal": inner.text("StopSignal"),
        "exposedPorts": ",".join(sorted(inner.table("ExposedPorts"))),
    }
    found = {_IMAGE + name: value for name, value in facts.items() if value}
    found |= {name: value for name, value in inner.string_table("Labels").items() if name and not name.startswith(OBEYED)}
    return found | dict(options.annotations)


def _process(image: ImageConfig, user: User, options: RuntimeOptions) -> dict[str, Any]:
    held = list(_capabilities(options))
    # A non-root user gets them when it executes a file that has them (capabilities(7)): only the bounding set stays full.
    effective = held if user.uid == 0 else []
    who: dict[str, Any] = {"uid": user.uid, "gid": user.gid}
    if user.additional_gids and not options.rootless:
        who["additionalGids"] = list(user.additional_gids)
    process: dict[str, Any] = {
        "terminal": options.terminal,
        "user": who,
        "args": list(compile_args(image, options)),
        "env": compile_env(image, options),
        "cwd": working_dir(image, options),
        "capabilities": {"bounding": held, "effective": effective, "permitted": effective},
        "noNewPrivileges": options.no_new_privileges,
        "oomScoreAdj": options.oom_score_adj,
    }
    if options.rlimits:
        process["rlimits"] = list(options.rlimits)
    return process


def _mounts(options: RuntimeOptions) -> list[dict[str, Any]]:
    """The defaults, but those whose destination the caller takes, then the caller's."""
    group_tty = not options.gid_maps or any(m.container <= 5 < m.container + m.size for m in options.gid_maps)
    base = confinement.mounts(writable_system=options.privileged, shm_bytes=options.shm_bytes, group_tty=group_tty)
    if options.uid_maps and "network" in options.shared:  # sysfs wants a network namespace of the same user namespace
        sysfs = {"destination": "/sys", "type": "none", "source": "/sys",
                 "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]}
        base = [sysfs if mount["destination"] == "/sys" else mount for mount in base]
    taken = {posixpath.normpath(mount["destination"]) for mount in options.mounts}
    return [mount for mount in base if mount["destination"] not in taken] + list(options.mounts)


def _linux(options: RuntimeOptions) -> dict[str, Any]:
    linux: dict[str, Any] = {"resources": _resources(options), "namespaces": _namespaces(options)}
    if options.uid_maps:
        linux["uidMappings"] = [_mapping(entry) for entry in options.uid_maps]
        linux["gidMappings"] = [_mapping(entry) for entry in options.gid_maps]
    if options.cgroups_path:
        linux["cgroupsPath"] = options.cgroups_path
    if options.devices:
        linux["devices"] = list(options.devices)
    sysctl = {} if "network" in options.shared or options.privileged else dict(confinement.SYSCTL)
    if options.uid_maps:
        sysctl.pop("net.ipv4.ping_group_range", None)  # its gids are not mapped there
    if sysctl | dict(options.sysctl):
        linux["sysctl"] = sysctl | dict(options.sysctl)
    if not (options.privileged or options.system_paths):
        linux["maskedPaths"] = list(confinement.MASKED_PATHS)
        linux["readonlyPaths"] = list(confinement.READONLY_PATHS)
    if (seccomp := _seccomp(options)) is not None:
        linux["seccomp"] = seccomp
    return linux


def _resources(options: RuntimeOptions) -> dict[str, Any]:
    resources: dict[str, Any] = {}
    if not options.rootless:
        rules = confinement.device_rules(everything=options.privileged)
        for device in options.devices:
            rules.append({"allow": True, "type": device["type"], "major": device["major"], "minor": device["minor"],
                          "access": "rwm"})
        resources["devices"] = rules
    return resources | dict(options.resources)


def _namespaces(options: RuntimeOptions) -> list[dict[str, Any]]:
    kinds = [*NAMESPACES, *(["cgroup"] if options.cgroup_v2 else []), *(["user"] if options.uid_maps else [])]
    return [{"type": kind} for kind in kinds if kind not in options.shared]


def _seccomp(options: RuntimeOptions) -> dict[str, Any] | None:
    if isinstance(options.seccomp, dict):
        return options.seccomp
    if options.seccomp == "unconfined" or options.privileged:
        return None
    if options.seccomp != "default":
        raise UsageError(f"unknown seccomp profile {options.seccomp!r}", field="seccomp", value=options.seccomp,
                         hint="default, unconfined, or a linux.seccomp object")
    return default_seccomp(options.architecture, _capabilities(options))


def _capabilities(options: RuntimeOptions) -> tuple[str, ...]:
    return confinement.capabilities(options.cap_add, options.cap_drop, privileged=options.privileged,
                                    last=options.last_cap)


def _mapping(entry: IdMap) -> dict[str, int]:
    return {"containerID": entry.container, "hostID": entry.host, "size": entry.size}


def _inner(image: ImageConfig) -> Fields:
    """The image's `config` object, read field by field."""
    return Fields(image.config, "/config", "image config")
