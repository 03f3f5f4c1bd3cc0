"""One step in words: the `detail` column of `explain`, used by error messages too. Numbers become their names. Pure."""

from __future__ import annotations

from errno import errorcode

from pyruntime.plan.kernel import (
    ATTR_ATIME,
    CAPABILITIES,
    CLONE_FLAGS,
    MEMORY_FLAGS,
    MEMORY_MODES,
    MNT_DETACH,
    MS_BIND,
    MS_DIRSYNC,
    MS_I_VERSION,
    MS_LAZYTIME,
    MS_MANDLOCK,
    MS_NOATIME,
    MS_NODEV,
    MS_NODIRATIME,
    MS_NOEXEC,
    MS_NOSUID,
    MS_NOSYMFOLLOW,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_RELATIME,
    MS_REMOUNT,
    MS_SHARED,
    MS_SILENT,
    MS_SLAVE,
    MS_STRICTATIME,
    MS_SYNCHRONOUS,
    MS_UNBINDABLE,
    POLICIES,
    RLIM_INFINITY,
    RLIMITS,
    S_IFBLK,
    S_IFCHR,
    S_IFIFO,
)
from pyruntime.plan.mounts import ATTRIBUTES
from pyruntime.plan.opcodes import BARRIERS, OP_FLAGS, OPS
from pyruntime.plan.step import HOST_OPS, Deferred

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyruntime.plan.step import HostStep, Step

    AnyStep = Step | HostStep

# In the order of their bits, as the peers print them.
MS_NAMES = (
    (MS_RDONLY, "MS_RDONLY"),
    (MS_NOSUID, "MS_NOSUID"),
    (MS_NODEV, "MS_NODEV"),
    (MS_NOEXEC, "MS_NOEXEC"),
    (MS_SYNCHRONOUS, "MS_SYNCHRONOUS"),
    (MS_REMOUNT, "MS_REMOUNT"),
    (MS_MANDLOCK, "MS_MANDLOCK"),
    (MS_DIRSYNC, "MS_DIRSYNC"),
    (MS_NOSYMFOLLOW, "MS_NOSYMFOLLOW"),
    (MS_NOATIME, "MS_NOATIME"),
    (MS_NODIRATIME, "MS_NODIRATIME"),
    (MS_BIND, "MS_BIND"),
    (MS_REC, "MS_REC"),
    (MS_SILENT, "MS_SILENT"),
    (MS_UNBINDABLE, "MS_UNBINDABLE"),
    (MS_PRIVATE, "MS_PRIVATE"),
    (MS_SLAVE, "MS_SLAVE"),
    (MS_SHARED, "MS_SHARED"),
    (MS_RELATIME, "MS_RELATIME"),
    (MS_I_VERSION, "MS_I_VERSION"),
    (MS_STRICTATIME, "MS_STRICTATIME"),
    (MS_LAZYTIME, "MS_LAZYTIME"),
)
PROPAGATION_NAMES = ((MS_SHARED, "shared"), (MS_PRIVATE, "private"), (MS_SLAVE, "slave"), (MS_UNBINDABLE, "unbindable"))
BARRIER_NAMES = {number: name for name, number in BARRIERS.items()}
NODE_TYPES = {S_IFCHR: "c", S_IFBLK: "b", S_IFIFO: "p"}
FILTER_FLAGS = ((1, "TSYNC"), (2, "LOG"), (4, "SPEC_ALLOW"), (8, "NEW_LISTENER"), (32, "WAIT_KILLABLE_RECV"))
IO_CLASSES = ("none", "RT", "BE", "IDLE")
CLONE_WORDS = ("cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts")


def describe(step: AnyStep, *, show_env: bool = False) -> str:
    """What the step does, without its name. Environment values are left out unless `show_env` (STYLE 1, rule 9)."""
    if step.op in ENV_WORDS:
        return ENV_WORDS[step.op](step.args, show_env)
    special = WORDS.get(step.op)
    if special is not None:
        return special(*step.args)
    return " ".join(_plain(value) for value in step.args)


def arg_names(step: AnyStep) -> tuple[str, ...]:
    """The names of the step's arguments."""
    return HOST_OPS[step.op] if step.lane == "host" else tuple(name for name, _ in OPS[step.op][1])


def errno_name(number: int) -> str:
    """EPERM for 1."""
    return errorcode.get(number, f"errno {number}")


def ms_names(flags: int) -> str:
    """MS_NOSUID|MS_NODEV, in the order of the bits."""
    return "|".join(name for bit, name in MS_NAMES if flags & bit)


def attr_names(bits: int) -> list[str]:
    """The mount options that MOUNT_ATTR_* bits stand for."""
    names = []
    for name, (value, mask) in ATTRIBUTES.items():
        if value and bits & (mask & ATTR_ATIME or value) == value and name != "norelatime":
            names.append(name)
    return names


def propagation_name(flags: int) -> str:
    """rslave for MS_SLAVE|MS_REC, "" for none."""
    name = next((word for bit, word in PROPAGATION_NAMES if flags & bit), "")
    return f"r{name}" if name and flags & MS_REC else name


def namespace_names(flags: int) -> str:
    """mount,pid for CLONE_NEWNS|CLONE_NEWPID."""
    return ",".join(name for name in CLONE_WORDS if flags & CLONE_FLAGS[name])


def capability_names(mask: int) -> str:
    """CHOWN,KILL for a mask; "all" when no known one is missing, "none" for an empty one."""
    if mask == 0:
        return "none"
    known = (1 << len(CAPABILITIES)) - 1
    if mask & known == known:
        return "all"
    return ",".join(name for number, name in enumerate(CAPABILITIES) if mask >> number & 1)


def limit_text(value: int) -> str:
    """A limit as a number, or `unlimited`."""
    return "unlimited" if value == RLIM_INFINITY else str(value)


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(_plain(item) for item in value)
    if isinstance(value, bytes):
        return f"({len(value)} bytes)"
    return value.kind if isinstance(value, Deferred) else str(value)


def _brackets(words: list[str]) -> str:
    return f" [{','.join(words)}]" if words else ""


def _flag_words(flags: int) -> list[str]:
    return [name.lower().replace("_", " ") for name, bit in OP_FLAGS.items() if flags & bit]


def _notes(flags: int) -> str:
    words = _flag_words(flags)
    return f" ({', '.join(words)})" if words else ""


def _mount(fstype: str, source: str, target: str, data: tuple[str, ...], attrs: int, flags: int) -> str:
    what = fstype if source == fstype else f"{fstype} {source}"
    text = f"{what} on {target}{_brackets(attr_names(attrs))}"
    return f"{text}{' ' + ','.join(data) if data else ''}{_notes(flags)}"


def _setattr(target: str, attr_set: int, attr_clr: int, propagation: int, flags: int) -> str:
    recursive = bool(flags & OP_FLAGS["RECURSIVE"])
    words = attr_names(attr_set)
    words += [name for name, (value, mask) in ATTRIBUTES.items() if value == 0 and _clears(mask, attr_set, attr_clr)]
    if attr_clr & ATTR_ATIME and not attr_set & ATTR_ATIME:
        words.append("relatime")  # the group's 0, whichever option of the group asked for it
    words = [f"r{word}" for word in words] if recursive else words
    if propagation:
        words.append(propagation_name(propagation | (MS_REC if recursive else 0)))
    return f"{target}{_brackets(words)}{_notes(flags & ~OP_FLAGS['RECURSIVE'])}"


def _clears(mask: int, attr_set: int, attr_clr: int) -> bool:
    """The option that only clears `mask` is what was asked for; the atime group is not made of such options."""
    return mask != ATTR_ATIME and bool(attr_clr & mask and not attr_set & mask)


def _remount(target: str, flags: int, data: str) -> str:
    return f"{target} [{ms_names(flags | MS_REMOUNT)}]{' ' + data if data else ''}"


def _classic_mount(fstype: str, source: str, target: str, flags: int, data: str) -> str:
    words = ms_names(flags)
    text = f"{source} on {target}" if source and source != fstype else f"on {target}"
    return f"{fstype + ' ' if fstype else ''}{text}{f' [{words}]' if words else ''}{' ' + data if data else ''}"


def _scheduler(attr: bytes) -> str:
    """Policy and the numbers that are not 0, from struct sched_attr."""
    number = int.from_bytes(attr[4:8], "little")
    words = [name for name, value in POLICIES.items() if value == number]
    fields = (("nice", 16, 4), ("priority", 20, 4), ("runtime", 24, 8), ("deadline", 32, 8), ("period", 40, 8))
    for key, at, size in fields:
        if value := int.from_bytes(attr[at : at + size], "little", signed=key == "nice"):
            words.append(f"{key} {value}")
    return " ".join(words)


def mode_name(mode: int) -> str:
    """MPOL_BIND|MPOL_F_STATIC_NODES for the number that set_mempolicy(2) takes."""
    names = [name for name, value in MEMORY_MODES.items() if value == mode & 0xFF]
    return "|".join(names + [name for name, value in MEMORY_FLAGS.items() if mode & value])


def bits(mask: bytes) -> str:
    """The numbers of the bits that are set: 0,3."""
    value = int.from_bytes(mask, "little")
    return ",".join(str(number) for number in range(value.bit_length()) if value >> number & 1)


def _ranges(lines: tuple[tuple[int, int, int], ...]) -> str:
    """1000->7+1 for one id on disk and how it is shown."""
    return ", ".join(f"{disk}->{shown}+{size}" for disk, shown, size in lines)


def _mode(mode: int) -> str:
    return f"{mode & 0o7777:04o}"


def _device(mode: int, dev: int) -> str:
    """c 1:3, p for a fifo."""
    kind = NODE_TYPES.get(mode & 0o170000, "?")
    major, minor = dev >> 8 & 0xFFF | dev >> 32 & ~0xFFF, dev & 0xFF | dev >> 12 & 0xFFFFFF00
    return kind if kind == "p" else f"{kind} {major}:{minor}"


def _open_tree(path: str, slot: int, recursive: int, propagation: int, follow: int) -> str:
    words = ["rbind" if recursive else "bind", propagation_name(propagation)]
    if not follow:
        words.append("nofollow")
    return f"{path} -> slot {slot}{_brackets([word for word in words if word])}"


def _clone_tree(slot: int, path: str, flags: int, propagation: int, mode: int, dev: int) -> str:
    """As the host's open_tree and open_device are told."""
    if mode:
        return f"{path} {_device(mode, dev)} -> slot {slot}"
    recursive, no_follow = flags & OP_FLAGS["RECURSIVE"], flags & OP_FLAGS["TARGET_NO_FOLLOW"]
    return _open_tree(path, slot, recursive, propagation, not no_follow)


def _env(env: tuple[str, ...], show_env: bool) -> str:  # noqa: FBT001 - passed on by describe alone
    """Names, or with `show_env` the values too."""
    if not env:
        return ""
    return f" (env {' '.join(env if show_env else [entry.partition('=')[0] for entry in env])})"


def _words(argv: tuple[str, ...]) -> str:
    """argv as a shell would take it, for the eye."""
    return " ".join(word if word and not set(word) & set(" \t\n'\"\\$") else repr(word) for word in argv)


def _hook(args: tuple[Any, ...], show_env: bool) -> str:  # noqa: FBT001 - passed on by describe alone
    path, argv, env, timeout_ms, _, cwd = args
    text = path if argv == (path,) else f"{path}: {_words(argv)}"
    if cwd:
        text += f" in {'the root' if cwd == '.' else cwd}"
    if timeout_ms:
        text += f" within {timeout_ms} ms"
    return text + _env(env, show_env)


def _ids(blob: bytes) -> str:
    return " ".join(str(int.from_bytes(blob[at : at + 4], "little")) for at in range(0, len(blob), 4)) or "none"


def _filter(_: object, flags: int, slot: int) -> str:
    words = [name for bit, name in FILTER_FLAGS if flags & bit]
    return f"filter{_brackets(words)}{f' -> slot {slot}' if slot >= 0 else ''}"


WORDS: dict[str, Callable[..., str]] = {
    "barrier": lambda number: BARRIER_NAMES[number],
    "setns": lambda slot, nstype: f"slot {slot}, {namespace_names(nstype)}",
    "unshare": namespace_names,
    "clone": lambda flags: f"new {namespace_names(flags)}" if namespace_names(flags) else "",
    "set_ids": lambda uid, gid: f"uid {uid} gid {gid}",
    "write_proc": lambda path, data: f"/proc/{path} {data.decode('utf-8', 'replace').rstrip()}",
    "open_proc": lambda private: "a private one" if private else "the host's, verified",
    "keyring": lambda name, _and, _or: name,
    "propagation": lambda path, flags: f"{path} [{propagation_name(flags)}]",
    "attach_root": lambda slot, path: f"slot {slot} on {path}",
    "make_path": lambda path, mode, flags, slot: (
        f"{path} {_mode(mode)}{_notes(flags)}" + (f" slot {slot}" if slot >= 0 else "")
    ),
    "mount": _mount,
    "move_mount": lambda slot, target, flags: f"slot {slot} on {target}{_notes(flags)}",
    "mount_setattr": _setattr,
    "remount": _remount,
    "classic_mount": _classic_mount,
    "scheduler": _scheduler,
    "io_priority": lambda value: f"{IO_CLASSES[value >> 13]} {value & 0x1FFF}",
    "memory_policy": lambda mode, nodes: f"{mode_name(mode)}{' nodes ' + bits(nodes) if nodes else ''}",
    "copy_up": lambda target, _slot: f"what {target} covers",
    "mknod": lambda path, mode, dev, uid, gid: f"{path} {_device(mode, dev)} {_mode(mode)} {uid}:{gid}",
    "symlink": lambda text, path, flags: f"{path} -> {text}{_notes(flags)}",
    "umount": lambda path, flags: f"{path}{' [detach]' if flags & MNT_DETACH else ''}",
    "console": lambda slot, height, width, flags: (
        f"to slot {slot}"
        + (f", {width}x{height}" if height and width else "")
        + (", on /dev/console" if flags & OP_FLAGS["MOUNT_CONSOLE"] else "")
    ),
    "umask": lambda mask: f"{mask:04o}",
    "personality": lambda persona: {0: "LINUX", 8: "LINUX32"}.get(persona, str(persona)),
    "bounding": lambda mask, _last: capability_names(mask),
    "setgroups": _ids,
    "capset": lambda effective, permitted, inheritable: (
        f"effective {capability_names(effective)}; "
        f"permitted {capability_names(permitted)}; inheritable {capability_names(inheritable)}"
    ),
    "ambient": capability_names,
    "seccomp": _filter,
    "chdir": lambda path, flags: f"{path}{_notes(flags)}",
    "wait_start": lambda fifo, err: f"slot {fifo}, errors to slot {err}",
    "close_slot": lambda slot: f"slot {slot}",
    "place_fd": lambda slot, number: f"slot {slot} -> {number}",
    "close_from": lambda first: f"{first} and above",
    "affinity": lambda mask: f"{int.from_bytes(mask, 'little').bit_count()} CPUs",
    "cg_write": lambda file, data: f"{file} {data}",
    "cg_own": lambda path, uid: f"{path} to uid {uid}",
    "open_output": lambda path, slot: f"{path} -> slot {slot} [append]",
    "hook_output": lambda out, err: ", ".join(
        f"{name} to slot {slot}" for name, slot in (("stdout", out), ("stderr", err)) if slot >= 0
    ),
    "cg_devices": lambda path, rules: f"{path} {', '.join(rules)}",
    "open_tree": _open_tree,
    "clone_tree": _clone_tree,
    "tree_attributes": lambda slot, wanted, cleared, recursive: (
        f"slot {slot}{_brackets([*attr_names(wanted), *(['recursive'] if recursive else [])])}"
        f"{' clears ' if cleared else ''}{','.join(attr_names(cleared))}"
    ),
    "idmap": lambda source, slot, recursive, uids, gids: (
        f"{source} in slot {slot}{' [recursive]' if recursive else ''} uids {_ranges(uids)} gids {_ranges(gids)}"
    ),
    "open_root": lambda path, slot, recursive: f"{path} -> slot {slot}{' [rbind]' if recursive else ' [bind]'}",
    "open_ns": lambda path, nstype, slot: f"{path} -> slot {slot} [{namespace_names(nstype)}]",
    "open_device": lambda path, mode, dev, slot: f"{path} {_device(mode, dev)} -> slot {slot}",
    "keep_fd": lambda number, slot: f"{number} -> slot {slot}",
    "connect": lambda kind, slot: f"{kind} -> slot {slot}",
    "fifos": lambda fifo, err: f"exec.fifo -> slot {fifo}, exec.err -> slot {err}",
    "id_map": lambda kind, lines, method: (
        f"{kind} " + ", ".join(" ".join(map(str, line)) for line in lines) + (f" [{method}]" if method else "")
    ),
    "set_groups": lambda allow: "allow" if allow else "deny",
    "sd_scope": lambda unit, properties, user: (
        f"{unit} [{'user' if user else 'system'}] " + " ".join(f"{name}={value}" for name, _, value in properties[1:])
    ),
    "rdt_compare": lambda file, lines: f"{file} {', '.join(lines)}",
    "rdt_write": lambda file, line: f"{file} {line.strip()}",
    "move_device": lambda device, index, name, new_index: (
        f"{device} (index {index}) -> {name}" + (f" (index {new_index})" if new_index != index else "")
    ),
    "net_device": lambda index, addresses: f"index {index}, {len(addresses)} bytes of addresses",
    "rlimit": lambda kind, soft, hard: f"RLIMIT_{RLIMITS[kind]} {limit_text(soft)} {limit_text(hard)}",
    "send_listener": lambda path, _metadata: path,
    "open_pidfd": lambda slot: f"init -> slot {slot}",
}

ENV_WORDS: dict[str, Callable[[tuple[Any, ...], bool], str]] = {
    "hook": _hook,
    "find_program": lambda args, _show: args[0],
    "home": lambda args, _show: f"of uid {args[0]}",
    "execve": lambda args, show: _words(args[0]) + _env(args[1], show),
}
