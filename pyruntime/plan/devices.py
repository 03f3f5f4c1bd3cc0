"""Compile nodes and links of /dev: the defaults of runtime-spec config-linux.md and `linux.devices`. Pure."""

from __future__ import annotations

from pyruntime.plan.kernel import EEXIST, ENOENT, S_IFBLK, S_IFCHR, S_IFIFO, makedev
from pyruntime.plan.mounts import clean, split_options
from pyruntime.plan.opcodes import OP_FLAGS
from pyruntime.plan.step import either, init_step, instead

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.host.facts import HostFacts
    from pyruntime.plan.mounts import Mounts
    from pyruntime.plan.step import Step
    from pyruntime.spec.config import Spec

# runtime-spec config-linux.md, Default Devices: (path, major, minor), all of them character devices, 0666, root's.
DEFAULT_DEVICES = (
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
)

LINKS = (
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
)

TYPES = {"c": S_IFCHR, "u": S_IFCHR, "b": S_IFBLK, "p": S_IFIFO}

F_REPLACE = OP_FLAGS["REPLACE"]
F_LIKE_SLOT = OP_FLAGS["LIKE_SLOT"]


def compile_devices(out: Mounts, spec: Spec, host: HostFacts) -> list[Step]:
    """Nodes, links and ptmx, in that order; nothing when /dev itself is the host's (contract 4.6).

    In a user namespace no node can be made (user_namespaces(7)): the host's nodes are bound instead, with host
    steps and slots taken from `out`.
    """
    if dev_is_the_hosts(spec):
        return []
    steps: list[Step] = []
    listed = {clean(device.path) for device in spec.linux.devices}
    for path, major, minor in DEFAULT_DEVICES:
        if path not in listed:
            _node(out, steps, path, S_IFCHR | 0o666, makedev(major, minor), 0, 0, "")
    for index, device in enumerate(spec.linux.devices):
        path = clean(device.path)
        if path == "/dev/ptmx":
            continue  # always the link below: the container's own devpts
        mode = TYPES[device.type] | (0o666 if device.file_mode is None else device.file_mode & 0o7777)
        dev = 0 if device.type == "p" else makedev(device.major, device.minor)
        uid, gid = (0, 0) if out.user_ns else (device.uid or 0, device.gid or 0)
        _node(out, steps, path, mode, dev, uid, gid, f"/linux/devices/{index}")
    links = LINKS + ((("/proc/kcore", "/dev/core"),) if host.has_kcore else ())
    steps += [init_step("symlink", (text, path, 0), "", (EEXIST,)) for text, path in links]
    steps.append(init_step("symlink", ("pts/ptmx", "/dev/ptmx", F_REPLACE), ""))
    return steps


def dev_is_the_hosts(spec: Spec) -> bool:
    """The last mount on /dev is a bind, whose content is the operator's affair, or devtmpfs.

    Of devtmpfs the kernel has one, mounted again (drivers/base/devtmpfs.c): a node or link made there is the host's.
    """
    found = False
    for mount in spec.mounts:
        if clean(mount.destination) == "/dev":
            found = mount.type in ("bind", "devtmpfs") or bool(split_options(mount.options).kind)
    return found


def _node(out: Mounts, steps: list[Step], path: str, mode: int, dev: int, uid: int, gid: int, origin: str) -> None:
    """One node, its missing parents made; a fifo is no device and can be made in a user namespace too."""
    if out.user_ns and dev:
        slot = out.open_device(path, mode, dev, origin)
        made = instead(ENOENT, "make_path", (path, 0o755, F_LIKE_SLOT, slot), origin, retry=True)
        steps.append(either("move_mount", (slot, path, 0), origin, made))
        return
    parent = path.rsplit("/", 1)[0] or "/"
    made = instead(ENOENT, "make_path", (parent, 0o755, 0, -1), origin, retry=True)
    steps.append(either("mknod", (path, mode, dev, uid, gid), origin, made))
