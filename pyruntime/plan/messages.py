"""(step, errno, detail, value) from container-init, or a host step's errno, in the words that callers know. Pure.

Line 1 has the peers' shape: `unable to start container process: error during container init: CAUSE` for a container,
without the middle part for an exec (contract 1.6, 1.7), because docker, podman and containerd search it for text. What
more we know goes to field, value and hint. No hint may hold a text that those callers search for, unless line 1 holds
it too: `_clean_hint` sees to it.
"""

from __future__ import annotations

from errno import (
    E2BIG,
    EACCES,
    EBUSY,
    ECHILD,
    EDQUOT,
    EEXIST,
    EINVAL,
    EISDIR,
    ELOOP,
    ENODEV,
    ENOENT,
    ENOEXEC,
    ENOMEM,
    ENOSPC,
    ENOSYS,
    ENOTDIR,
    ENXIO,
    EPERM,
    EROFS,
    ETIMEDOUT,
    ETXTBSY,
    EUSERS,
)
from posix import strerror

from pyruntime.errors import HookError, InitError, ProgramError, RuntimeFailure
from pyruntime.plan.describe import attr_names, describe, errno_name, ms_names, namespace_names
from pyruntime.plan.kernel import CAPABILITIES, MS_BIND
from pyruntime.plan.mounts import to_ms

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyruntime.plan.step import HostStep, Plan, Step
    from pyruntime.spec.config import Spec

    AnyStep = Step | HostStep

START = "unable to start container process"
DURING_INIT = "error during container init"

# What docker, podman and containerd look for, lower case (contract 1.7).
MATCHED = (
    "permission denied",
    "operation not permitted",
    "is a directory",
    "not a directory",
    "no such file or directory",
    "executable file not found",
    "open executable",
    "does not exist",
    "no such process",
    "process already finished",
    "/attr/exec",
    "/current`",
)


def errno_text(number: int) -> str:
    """The kernel's answer as Go prints it: strerror in lower case."""
    return strerror(number).lower()


def init_error(plan: Plan, spec: Spec, step_index: int, errno: int, detail: str, value: int) -> RuntimeFailure:
    """The failure that container-init reported. `step_index` counts its lane, alternatives included.

    `value` is a hook's wait status, `detail` its output; for other steps `detail` is what the step was about.
    """
    found = _find(plan, step_index)
    if found is None:
        text = f"{START}: {DURING_INIT}: container-init: {detail + ': ' if detail else ''}{errno_text(errno)}"
        return InitError(text, errno=errno)
    number, main, step = found
    if step.op == "hook":
        return _hook_error(plan, step, errno, detail, value)
    cause = _cause(main, step, errno, detail, spec)
    hint = _hint(step, errno, detail)
    kind = ProgramError if step.op in ("find_program", "execve") else InitError
    failure = kind(f"{_prefix(plan)}{cause}", errno=errno, field=step.origin, value=_value(step, spec))
    if isinstance(failure, InitError):
        failure.step = number
    failure.hint = _clean_hint(hint, failure.message)
    return failure


def init_warning(plan: Plan, step_index: int, errno: int, value: int) -> str:
    """The text of a WARN message; only `ambient` sends one, with the number of the capability (contract 4.2)."""
    found = _find(plan, step_index)
    if found is None or found[2].op != "ambient":
        return f"container-init: step {step_index}: {errno_text(errno)}"
    name = f"CAP_{CAPABILITIES[value]}" if 0 <= value < len(CAPABILITIES) else str(value)
    return f"can't raise ambient capability {name}: {errno_text(errno)}"


def start_error(op: str, origin: str, subject: str, errno: int, detail: str, value: int, *,
                timeout_ms: int = 0) -> RuntimeFailure:  # fmt: skip
    """A failure after `ready`, for which only (op, origin, subject) of the step were kept: a hook or execve."""
    if op == "hook":
        said = _hook_text(origin, errno, detail, value, timeout_ms=timeout_ms)
        return HookError(said, field=origin, value=subject, hint=_clean_hint(_hook_hint(errno, detail), said))
    text = f"exec {subject}: {errno_text(errno)}"
    return ProgramError(text, errno=errno, field=origin, value=subject,
                        hint=_clean_hint(_execve_hint(errno), text))  # fmt: skip


def host_error(step: HostStep, errno: int, text: str) -> RuntimeFailure:
    """A host step that the kernel refused; `text` is the OSError's own, with the call and the path when it has them."""
    answer = errno_text(errno) if errno else text
    make = HOST_TEXTS.get(step.op)
    cause = make(step, answer) if make is not None else _plain_cause(step, answer)
    failure = InitError(f"{DURING_INIT}: {cause}", errno=errno, field=step.origin, value=_value(step, None))
    failure.hint = _clean_hint(_host_hint(step, errno), failure.message)
    return failure


def _find(plan: Plan, step_index: int) -> tuple[int, Step, Step] | None:
    """(number in `explain`, main step, the step itself or the alternative) of an index in the init lane."""
    index = 0
    for number, step in enumerate(plan.steps, 1):
        if step.lane != "init":
            continue
        main: Step = step  # type: ignore[assignment]
        for each in (main, *main.alternatives):
            if index == step_index:
                return number, main, each
            index += 1
    return None


def _prefix(plan: Plan) -> str:
    """An exec, whose plan starts from init's pidfd, has no container init."""
    is_exec = any(step.op == "open_pidfd" for step in plan.steps)
    return f"{START}: " if is_exec else f"{START}: {DURING_INIT}: "


def _clean_hint(hint: str, message: str) -> str:
    """`hint`, or "" when it would bring a text into the output that callers match and line 1 does not hold."""
    lower, line = hint.lower(), message.lower()
    return "" if any(text in lower and text not in line for text in MATCHED) else hint


def _value(step: Any, spec: Spec | None) -> str:
    """What stood in the config, as far as it is known: a mount as mount(8) would print it, else the step's subject."""
    if not step.origin:
        return ""
    if step.origin.startswith("/mounts/") and spec is not None:
        mount = spec.mounts[int(step.origin.split("/")[2])]
        options = f" [{','.join(mount.options)}]" if mount.options else ""
        return f"{mount.source or mount.type} on {mount.destination}{options}"
    if step.op == "execve":
        return str(step.args[0][0])
    return str(step.args[0]) if step.op in SUBJECT_FIRST else describe(step)


# Steps whose first argument is what the config says, and the others are ours.
SUBJECT_FIRST = ("find_program", "open_tree", "open_root", "open_ns", "open_device", "make_path", "chdir")


# --- causes -----------------------------------------------------------------------------------------------------------


def _cause(main: Step, step: Step, errno: int, detail: str, spec: Spec) -> str:
    """CAUSE of the chain, by the step's op."""
    answer = errno_text(errno)
    if step.op == "clone_tree":
        return _clone_tree(step, answer)
    if step.origin.startswith("/mounts/"):
        return _mount_cause(main, step, errno, spec)
    make = INIT_TEXTS.get(step.op)
    if make is not None:
        return make(step, errno, detail, answer)
    return _plain_cause(step, answer)


def _clone_tree(step: Any, answer: str) -> str:
    """What the host's open_root, open_device and open_tree say."""
    if step.origin == "/root/path":
        return f"error preparing rootfs: open {step.args[1]}: {answer}"
    if step.args[4]:
        return f"error creating device nodes: open {step.args[1]}: {answer}"
    return f"failed to fulfil mount request: open {step.args[1]}: {answer}"


def _plain_cause(step: AnyStep, answer: str) -> str:
    about = describe(step)
    return f"{step.op} {about}: {answer}" if about else f"{step.op}: {answer}"


def _mount_cause(main: Step, step: Step, errno: int, spec: Spec) -> str:
    """The entry, then the call (contract 1.7, mounts). The target's descriptor is closed by now and has no number."""
    mount = spec.mounts[int(step.origin.split("/")[2])]
    if step.op == "umount":
        return f'error unmounting "{mount.destination}": {errno_text(errno)}'
    source = mount.source or mount.type
    target = _mount_target(main)
    return f'error mounting "{source}" to rootfs at "{mount.destination}": {_mount_call(step, source, target, errno)}'


def _mount_target(step: Step) -> str:
    index = {"mount": 2, "classic_mount": 2, "move_mount": 1, "symlink": 1}.get(step.op, 0)
    return str(step.args[index])


def _mount_call(step: Any, source: str, target: str, errno: int) -> str:
    answer = errno_text(errno)
    if step.op == "mount" and step.args[0] in ("proc", "sysfs") and errno in (ELOOP, ENOTDIR):
        return f'filesystem "{step.args[0]}" must be mounted on ordinary directory'
    if step.op == "mount":
        text = f"mount src={step.args[1]}, dst={target}, dstFd=(closed)"
        if flags := ms_names(to_ms(step.args[4], step.args[4])):
            text += f", flags={flags}"
        return f"{text}{', data=' + ','.join(step.args[3]) if step.args[3] else ''}: {answer}"
    if step.op == "classic_mount":
        return f"mount src={source}, dst={target}, dstFd=(closed), data={step.args[4]}: {answer}"
    if step.op == "move_mount":
        return f"mount src={source}, dst={target}, dstFd=(closed), flags={ms_names(MS_BIND)}: {answer}"
    if step.op == "mount_setattr" and errno == EPERM and step.args[2]:
        return f"cannot clear locked flags {','.join(attr_names(step.args[2])) or 'atime'}: {answer}"
    if step.op == "make_path":
        return f'create mountpoint for {target} mount: make mountpoint "{target}": {answer}'
    return f"{step.op} {describe(step)}: {answer}"


def _chdir(step: Any, _errno: int, detail: str, answer: str) -> str:
    if detail == "outside of the root":
        return (
            "current working directory is outside of container mount namespace root"
            " -- possible container breakout detected"
        )
    return f'chdir to cwd ("{step.args[0]}") set in config.json failed: {answer}'


def _find_program(step: Any, errno: int, _detail: str, answer: str) -> str:
    name = str(step.args[0])
    if errno in (ENOENT, EACCES) and "/" not in name:
        return f'exec: "{name}": executable file not found in $PATH'
    if errno in (ENOENT, ENOTDIR, ELOOP):
        return f'exec: "{name}": stat {name}: {answer}'
    return f'exec: "{name}": {answer}'


def _write_proc(step: Step, _errno: int, _detail: str, answer: str) -> str:
    path = str(step.args[0])
    if path.startswith("sys/"):
        key = step.origin.rpartition("/linux/sysctl/")[2].replace("~1", "/").replace("~0", "~")
        return f"write sysctl key {key}: open /proc/{path}: {answer}"
    return f"write /proc/{path}: {answer}"


def _id(step: Any, errno: int, _detail: str, answer: str) -> str:
    kind = step.op.removeprefix("set")
    if errno == EINVAL:  # setresuid(2): not mapped in the user namespace of the caller
        return f"cannot {step.op} to unmapped {kind} {step.args[0]} in user namespace"
    return f"{step.op} {step.args[0]}: {answer}"


def _hook_error(plan: Plan, step: Step, errno: int, detail: str, value: int) -> RuntimeFailure:
    """A hook in a plan; those of the host's side have a plan of their own, and their kind decides the chain."""
    text = _hook_text(step.origin, errno, detail, value, timeout_ms=step.args[3])  # type: ignore[arg-type]
    kind = step.origin.split("/")[2]
    if kind in ("prestart", "createRuntime"):
        text = f"{DURING_INIT}: {text}"
    elif kind in ("createContainer", "startContainer"):
        text = f"{_prefix(plan)}{text}"
    return HookError(
        text, field=step.origin, value=str(step.args[0]), hint=_clean_hint(_hook_hint(errno, detail), text)
    )


def _hook_text(origin: str, errno: int, detail: str, value: int, *, timeout_ms: int = 0) -> str:
    """As contract 1.7 has it, hooks. `detail` is stdout, NUL, stderr of a hook that ran, else its path."""
    _, _, kind, index = origin.split("/")
    where = f"error running {kind} hook #{index}"
    if errno == ETIMEDOUT:
        return f"{where}: hook ran past specified timeout{f' of {timeout_ms / 1000:.1f}s' if timeout_ms else ''}"
    if errno != ECHILD:
        return f"{where}: fork/exec {detail}: {errno_text(errno)}"
    signal = value & 0x7F
    status = f"signal: {signal_text(signal)}" if signal else f"exit status {value >> 8 & 0xFF}"
    stdout, _, stderr = detail.partition("\0")
    return f"{where}: {status}, stdout: {_one_line(stdout)}, stderr: {_one_line(stderr)}"


def _one_line(output: str) -> str:
    """`output` without its outer blanks, on one line and harmless to a terminal: the message is one line."""
    output = output.strip()
    if output.isprintable():
        return output
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in output)


SIGNALS = {
    1: "hangup",
    2: "interrupt",
    3: "quit",
    4: "illegal instruction",
    6: "aborted",
    8: "floating point exception",
    9: "killed",
    11: "segmentation fault",
    13: "broken pipe",
    14: "alarm clock",
    15: "terminated",
    31: "bad system call",
}


def signal_text(number: int) -> str:
    """A signal as Go prints it."""
    return SIGNALS.get(number, f"signal {number}")


# op: (step, errno, detail, the errno's text) -> CAUSE
INIT_TEXTS: dict[str, Callable[[Any, int, str, str], str]] = {
    "setns": lambda s, _e, _d, a: f"failed to setns into {namespace_names(s.args[1])} namespace: {a}",
    "unshare": lambda s, _e, _d, a: f"failed to unshare {namespace_names(s.args[0])} namespace: {a}",
    "clone": lambda s, _e, _d, a: f"failed to create new namespaces {namespace_names(s.args[0])}: {a}",
    "set_ids": lambda _s, _e, _d, a: f"failed to become root in the user namespace: {a}",
    "oom_score_adj": lambda _s, _e, _d, a: f"failed to set oom score: write /proc/self/oom_score_adj: {a}",
    "write_proc": _write_proc,
    "keyring": lambda _s, _e, _d, a: f"unable to join session keyring: {a}",
    "net_device": lambda s, _e, d, a: f"unable to set up network device {d or s.args[0]}: {a}",
    "link_up": lambda s, _e, _d, a: f"unable to set {s.args[0]} up: {a}",
    "propagation": lambda s, _e, _d, a: f"error preparing rootfs: mount propagation {describe(s)}: {a}",
    "attach_root": lambda s, _e, _d, a: f"error preparing rootfs: mount {s.args[1]}: {a}",
    "use_root": lambda s, _e, _d, a: f"error preparing rootfs: open {s.args[0]}: {a}",
    "make_path": lambda s, _e, _d, a: f"mkdir {s.args[0]}: {a}",
    "mknod": lambda s, _e, _d, a: f"error creating device nodes: mknod {s.args[0]}: {a}",
    "symlink": lambda s, _e, _d, a: f"error creating device nodes: symlink {s.args[0]} {s.args[1]}: {a}",
    "move_mount": lambda s, _e, _d, a: f"error creating device nodes: bind {s.args[1]}: {a}",
    "mask": lambda s, _e, _d, a: f'can\'t mask path "{s.args[0]}": {a}',
    "readonly": lambda s, _e, _d, a: f'can\'t make "{s.args[0]}" read-only: {a}',
    "mount_setattr": lambda s, _e, _d, a: f"error setting rootfs as readonly: mount_setattr {describe(s)}: {a}",
    "remount": lambda s, _e, _d, a: f"error setting rootfs as readonly: remount {describe(s)}: {a}",
    "pivot_root": lambda _s, _e, _d, a: f"error jailing process inside rootfs: pivot_root .: {a}",
    "move_root": lambda _s, _e, _d, a: f"error jailing process inside rootfs: move mount: {a}",
    "chroot": lambda _s, _e, _d, a: f"error jailing process inside rootfs: chroot .: {a}",
    "cover": lambda s, _e, _d, a: f"error jailing process inside rootfs: cover {s.args[0]}: {a}",
    "umount": lambda s, _e, _d, a: f"error jailing process inside rootfs: umount {s.args[0]}: {a}",
    "sethostname": lambda s, _e, _d, a: f"sethostname {s.args[0]}: {a}",
    "setdomainname": lambda s, _e, _d, a: f"setdomainname {s.args[0]}: {a}",
    "console": lambda _s, _e, d, a: f"error setting up console: {d + ': ' if d else ''}{a}",
    "scheduler": lambda s, _e, _d, a: f"error setting scheduler: {describe(s)}: {a}",
    "io_priority": lambda s, _e, _d, a: f"failed to set io priority: {describe(s)}: {a}",
    "memory_policy": lambda s, _e, _d, a: f"unable to set memory policy: set_mempolicy {describe(s)}: {a}",
    "affinity": lambda s, _e, _d, a: f"error setting CPU affinity: {describe(s)}: {a}",
    "reopen_null": lambda _s, _e, _d, a: f"error reopening /dev/null inside container: open /dev/null: {a}",
    "rlimit": lambda s, _e, _d, a: f"error setting rlimits: {describe(s)}: {a}",
    "bounding": lambda _s, _e, _d, a: f"unable to apply bounding set: {a}",
    "capset": lambda _s, _e, _d, a: f"unable to apply caps: {a}",
    "ambient": lambda _s, _e, _d, a: f"unable to clear ambient capabilities: {a}",
    "setgroups": lambda _s, _e, _d, a: f"unable to set supplementary groups: {a}",
    "setgid": _id,
    "setuid": _id,
    "seccomp": lambda _s, _e, _d, a: f"unable to init seccomp: error loading seccomp filter: {a}",
    "chdir": _chdir,
    "find_program": _find_program,
    "execve": lambda s, _e, _d, a: f"exec {s.args[0][0]}: {a}",
}

HOST_TEXTS: dict[str, Callable[[Any, str], str]] = {
    "open_tree": lambda s, a: f"failed to fulfil mount request: open {s.args[0]}: {a}",
    "tree_attributes": lambda s, a: f"failed to fulfil mount request: mount_setattr {describe(s)}: {a}",
    "idmap": lambda s, a: f"failed to fulfil mount request: failed to set MOUNT_ATTR_IDMAP on {s.args[0]}: {a}",
    "open_root": lambda s, a: f"error preparing rootfs: open {s.args[0]}: {a}",
    "open_ns": lambda s, a: f"failed to open namespace {s.args[0]}: {a}",
    "open_device": lambda s, a: f"error creating device nodes: open {s.args[0]}: {a}",
    "keep_fd": lambda s, a: f"unable to stat preserved-fd {s.args[0]}: {a}",
    "cg_make": lambda s, a: f"unable to apply cgroup configuration: mkdir {s.args[0]}: {a}",
    "cg_devices": lambda s, a: f"error setting cgroup config: device filter of {s.args[0]}: {a}",
    "sd_scope": lambda s, a: f"unable to apply cgroup configuration: unable to start unit {s.args[0]}: {a}",
    "cg_join": lambda s, a: f"unable to apply cgroup configuration: write {s.args[0]}/cgroup.procs: {a}",
    "cg_write": lambda s, a: f'error setting cgroup config: failed to write "{s.args[1]}": write {s.args[0]}: {a}',
    "rdt_make": lambda s, a: f"unable to create Intel RDT group: mkdir {s.args[0]}: {a}",
    "rdt_compare": lambda s, a: f"unable to compare Intel RDT schemata: {s.args[0]}: {a}",
    "rdt_write": lambda s, a: f"unable to set Intel RDT schemata: write {s.args[1].strip()} to {s.args[0]}: {a}",
    "rdt_join": lambda s, a: f"unable to apply Intel RDT configuration: write {s.args[0]}/tasks: {a}",
    "move_device": lambda s, a: f"move netDevice {s.args[0]} to namespace: {a}",
    "id_map": lambda s, a: f"failed to write {s.args[0]}_map: {a}",
    "set_groups": lambda _s, a: f"failed to write setgroups: {a}",
    "rlimit": lambda s, a: f"error setting rlimits: {describe(s)}: {a}",
    "spawn": lambda _s, a: f"unable to start container-init: {a}",
    "open_pidfd": lambda _s, a: f"unable to open the container's init: {a}",
    "send_listener": lambda s, a: f"unable to send seccomp listener to {s.args[0]}: {a}",
}


# --- hints ------------------------------------------------------------------------------------------------------------


def _hint(step: Step, errno: int, detail: str) -> str:
    if step.op == "mount" and not detail.startswith("/") and detail:
        return f"the file system says: {detail.partition(' ')[2] or detail}"  # "e tmpfs: Bad value for 'size'"
    if step.op in ("mount", "classic_mount"):
        return MOUNT_HINTS.get((str(step.args[0]), errno), MOUNT_HINTS.get(("", errno), ""))
    if step.op == "execve":
        return _execve_hint(errno)
    return HINTS.get((step.op, errno), HINTS.get((step.op, 0), ""))


LED_ASIDE = "a symlink in the image leads to the root or into /proc, where nothing is mounted that the image asks for"
LED_OUT = "a symlink in the image leads into a folder of the host that is mounted: mount a tmpfs on /dev after it"
MOUNT_HINTS = {
    ("proc", EPERM): 'proc needs a new pid namespace, and in a user namespace an uncovered /proc outside; add {"type": '
    '"pid"} to linux.namespaces, or bind /proc',
    ("sysfs", EPERM): 'sysfs needs a network namespace of the container\'s own; add {"type": "network"} or bind /sys',
    ("mqueue", EPERM): 'mqueue needs an ipc namespace of the container\'s own; add {"type": "ipc"}',
    ("cgroup", EPERM): 'a user namespace needs a cgroup namespace too; add {"type": "cgroup"}',
    ("devpts", EINVAL): "gid= and uid= must be ids that the user namespace maps",
    ("overlay", EINVAL): "upperdir and workdir must be on one file system, which cannot itself be an overlay",
    ("", ELOOP): LED_ASIDE,
    ("", ENODEV): "the kernel has no file system of that type: see /proc/filesystems",
    ("", EPERM): "this file system cannot be mounted from a user namespace",
    ("", EINVAL): "an option has a value that the file system refuses",
    ("", EROFS): "the mount point is missing and the rootfs is read-only: create it in the image",
    ("", ENOENT): "the source of the mount is missing",
}

HINTS = {
    ("umount", EINVAL): "nothing is mounted there, or what is belongs to the container's own set-up",
    ("setns", 0): "the namespace must belong to the user namespace that the container joins, or to the host's",
    ("setns", EINVAL): "the path names a namespace of another type, or one that is gone",
    ("unshare", EPERM): "is creating user namespaces allowed? see sysctl kernel.unprivileged_userns_clone",
    ("unshare", ENOSPC): "the limit of namespaces is reached: see /proc/sys/user",
    ("unshare", EUSERS): "user namespaces are nested too deeply",
    ("unshare", EINVAL): "this kernel lacks that kind of namespace",
    ("clone", EPERM): "new namespaces need CAP_SYS_ADMIN: run as root, or add a user namespace with mappings",
    ("clone", ENOSPC): "the limit of namespaces is reached: see /proc/sys/user",
    ("clone", EINVAL): "this kernel lacks one of these kinds of namespace",
    ("clone", ENOMEM): "the pid namespace that was joined has no living init any more",
    ("set_ids", EINVAL): "map container id 0 in linux.uidMappings and linux.gidMappings",
    ("oom_score_adj", EACCES): "lowering it below the caller's value needs CAP_SYS_RESOURCE",
    ("write_proc", ENOENT): "this kernel has no such key",
    ("write_proc", EINVAL): "the kernel refuses the value",
    ("keyring", EDQUOT): "too many keys: see /proc/sys/kernel/keys/maxkeys, or use --no-new-keyring",
    ("attach_root", EACCES): "the container's root cannot search the path of the rootfs: chmod o+x its parents",
    ("attach_root", EINVAL): "the rootfs cannot be mounted there: is its mount shared or locked?",
    ("rlimit", EPERM): "raising a hard limit needs CAP_SYS_RESOURCE",
    ("rlimit", EINVAL): "the soft limit is above the hard one",
    ("clone_tree", ENOENT): "the source of a bind is a path on the host; relative ones start at the bundle",
    ("clone_tree", EINVAL): "mounts below the source may not be left out by an unprivileged caller: use rbind",
    ("clone_tree", ENODEV): "the host's own node is bound in a user namespace, and it is another device",
    ("clone_tree", ELOOP): "root.path must be a folder, not a symlink",
    ("clone_tree", EPERM): 'without privileges it takes own namespaces: add {"type": "user"} and {"type": "mount"}',
    ("mknod", EEXIST): "the rootfs has another file of that name: remove it from the image or from linux.devices",
    ("mknod", EPERM): "making device nodes needs CAP_MKNOD in the host's user namespace",
    ("mknod", EROFS): "mount a tmpfs on /dev, or create the node in the image",
    ("symlink", EROFS): "mount a tmpfs on /dev, or create the links in the image",
    ("make_path", EROFS): "create the directory in the image, or make the rootfs writable",
    ("make_path", ENOTDIR): "a parent of it in the rootfs is a plain file",
    ("make_path", EISDIR): "the source is a file, the destination in the rootfs is not",
    (
        "make_path",
        EACCES,
    ): "the container's root may not write there: make the mount point in the image, or give the rootfs "
    "to the host id that it is mapped to",
    ("make_path", EPERM): "the container's root may not write there: make the mount point in the image",
    ("move_mount", ELOOP): LED_ASIDE,
    ("mknod", ELOOP): LED_OUT,
    ("symlink", ELOOP): LED_OUT,
    ("mask", EBUSY): "the root itself cannot be masked: name what is to be hidden below it",
    ("mask", ENODEV): "/dev/null of the host is not the null device",
    ("mount_setattr", ENOSYS): "recursive mount attributes need Linux 5.12",
    ("mount_setattr", EPERM): "the source has flags that a user namespace cannot clear: add them to the options",
    ("mount_setattr", EINVAL): "the destination is not a mount",
    ("pivot_root", EINVAL): "the rootfs is on the initial ramdisk or on a shared mount: try --no-pivot",
    ("sethostname", EPERM): 'add {"type": "uts"} to linux.namespaces',
    ("console", ENOENT): "a terminal needs a devpts mount at /dev/pts",
    ("console", ENODEV): "a terminal needs a devpts mount at /dev/pts",
    ("console", ELOOP): "/dev/console and /dev/pts must not be symlinks",
    ("reopen_null", 0): "the container's /dev has no proper null device: mount a tmpfs on /dev",
    ("capset", EPERM): "a capability is asked for that the caller does not have; bounding must hold permitted",
    ("seccomp", EACCES): "loading a filter needs CAP_SYS_ADMIN or process.noNewPrivileges",
    ("seccomp", EINVAL): "this kernel does not know a flag or action of the filter",
    ("chdir", ENOENT): "the directory must be in the rootfs or in a mount",
    ("chdir", EACCES): "the user of the process may not enter it",
    ("find_program", ENOENT): "is the program in the image? its PATH is that of process.env",
    ("find_program", EACCES): "it is no program, its x bit is off for this user, or its mount is noexec",
    ("find_program", EISDIR): "name the program, not its folder",
    ("setgroups", EPERM): "setgroups is denied in this user namespace: remove additionalGids",
    ("setuid", EINVAL): "map it in linux.uidMappings, or use an id that is mapped",
    ("setgid", EINVAL): "map it in linux.gidMappings, or use an id that is mapped",
    ("scheduler", EPERM): "real-time policies, deadlines and a lower nice value need CAP_SYS_NICE in the host's user "
    "namespace; on cgroup v1 SCHED_FIFO and SCHED_RR need resources.cpu.realtimeRuntime, SCHED_DEADLINE a cgroup "
    "that allows every CPU (resources.cpu.cpus)",
    ("scheduler", EBUSY): "the deadlines of all tasks together leave no room for this one",
    ("scheduler", EINVAL): "the kernel refuses these numbers: see sched_setattr(2)",
    ("io_priority", EPERM): "IOPRIO_CLASS_RT needs CAP_SYS_NICE or CAP_SYS_ADMIN",
    ("memory_policy", EINVAL): "a node is missing here or not in the cgroup's cpuset.mems, or a flag does not fit",
    ("memory_policy", ENOSYS): "this kernel is built without NUMA",
    ("affinity", EINVAL): "none of these CPUs may be used: see resources.cpu.cpus",
}


def _execve_hint(errno: int) -> str:
    return {
        ENOENT: "the program is there, but its interpreter (#! line or ELF loader) is not in the image",
        ENOEXEC: "it is built for another architecture, or a script without a #! line",
        EACCES: "its mount is noexec, its interpreter cannot be executed, or a label of the process forbids it",
        E2BIG: "args and env are too long together",
        ETXTBSY: "somebody has the program open for writing",
    }.get(errno, "")


def _hook_hint(errno: int, detail: str) -> str:
    said = " ".join(detail.split("\0")).strip()
    if errno == ETIMEDOUT and said:
        return f"raise the hook's timeout, or see why it hangs; the last it said: {_one_line(said)[-500:]}"
    return {
        ETIMEDOUT: "raise the hook's timeout, or see why it hangs",
        ECHILD: "run the hook by hand with the container's state on its stdin",
        ENOENT: "the path is looked up on the host; in the container for startContainer",
        ENOEXEC: "it is built for another architecture, or a script without a #! line",
    }.get(errno, "")


def _host_hint(step: HostStep, errno: int) -> str:
    return HOST_HINTS.get((step.op, errno), HOST_HINTS.get((step.op, 0), ""))


HOST_HINTS = {
    ("open_tree", ENOENT): "the source of a bind is a path on the host; relative ones start at the bundle",
    ("open_tree", EPERM): "bind mounts need CAP_SYS_ADMIN: run as root, or in a user namespace",
    ("idmap", EINVAL): "the source's file system cannot be id-mapped on this kernel, is id-mapped already, or the "
    "mappings overlap",
    ("idmap", EPERM): "mapping ids needs CAP_SYS_ADMIN in the user namespace that mounted the source's file system",
    ("open_root", ELOOP): "root.path must be a folder, not a symlink",
    ("open_root", EPERM): "mounting the rootfs needs CAP_SYS_ADMIN: run as root, or in a user namespace",
    ("open_ns", 0): "the path must name a namespace of that type, as /proc/PID/ns/net does",
    ("open_device", 0): "in a user namespace the host's own node is bound, which must be there and the same device",
    ("cg_make", EACCES): "this user may not make cgroups there: delegate one, or use --cgroup-manager disabled",
    ("cg_make", EROFS): "the cgroup file system is mounted read-only",
    ("cg_make", ENOENT): "is the controller mounted?",
    ("cg_write", EINVAL): "the kernel refuses the value",
    ("cg_write", ENOENT): "this kernel has no such file: the controller or the setting is missing",
    ("cg_write", EACCES): "this user may not write there: the controller is not delegated",
    ("cg_join", EACCES): "this user may not move processes there: both cgroups must be delegated",
    ("cg_join", ENOSPC): "a cpuset without cpus or mems holds no process",
    ("id_map", EPERM): "an unprivileged user maps only its own id; newuidmap and newgidmap are needed for more",
    ("id_map", EINVAL): "mappings overlap, or a size is 0",
    ("rlimit", EPERM): "raising a hard limit needs CAP_SYS_RESOURCE",
    ("rlimit", EINVAL): "the soft limit is above the hard one",
    ("spawn", EACCES): "does vm.memfd_noexec or a security module refuse to execute files without a name?",
    ("connect", ENXIO): "nobody listens on the console socket",
}

__all__ = ["errno_name", "errno_text", "host_error", "init_error", "init_warning", "signal_text", "start_error"]
