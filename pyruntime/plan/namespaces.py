"""Compile `linux.namespaces`, the id maps and time offsets into steps of stage 0. Pure; the order is order.py's."""

from __future__ import annotations

from pyruntime.errors import SpecError
from pyruntime.plan.kernel import (
    CAP_SETGID,
    CAP_SETUID,
    CAP_SYS_ADMIN,
    CLONE_FLAGS,
    CLONE_NEWCGROUP,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
    CLONE_PARENT,
)
from pyruntime.plan.opcodes import BARRIERS
from pyruntime.plan.step import HostStep, Step, init_step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.host.facts import BundleFacts, HostFacts
    from pyruntime.plan.step import Slots
    from pyruntime.spec.config import Spec
    from pyruntime.spec.linux import Linux, Namespace


class Namespaces:
    """What the config asks for, by type: `joined` (type, slot, origin) in config order, `fresh` CLONE_NEW* bits."""

    def __init__(self, entries: tuple[Namespace, ...], slots: Slots) -> None:
        self.host: list[HostStep] = []
        self.joined: list[tuple[str, int, str]] = []
        self.fresh = 0
        self.kinds = {entry.type: bool(entry.path) for entry in entries}  # by path: True
        for index, entry in enumerate(entries):
            if entry.path:
                origin = f"/linux/namespaces/{index}"
                slot = slots.take()
                self.host.append(HostStep("open_ns", (entry.path, CLONE_FLAGS[entry.type], slot), origin))
                self.joined.append((entry.type, slot, origin))
            else:
                self.fresh |= CLONE_FLAGS[entry.type]

    def is_fresh(self, kind: str) -> bool:
        """A namespace of that type is made for this container."""
        return self.kinds.get(kind) is False


def join_steps(spaces: Namespaces, host: HostFacts) -> tuple[list[Step], list[Step]]:
    """The setns steps (before, after) the user namespace.

    With CAP_SYS_ADMIN in our own user namespace everything is joined first: it covers namespaces of ours and of any
    descendant, while the container's user namespace has no rights over a network that the host owns. Without it only
    what the joined user namespace owns can be joined at all, so that one comes first.
    """
    privileged = host.capabilities >> CAP_SYS_ADMIN & 1
    before: list[Step] = []
    after: list[Step] = []
    for kind in CLONE_FLAGS:  # a fixed order, mount late: it changes what paths mean
        for joined, slot, origin in spaces.joined:
            if joined != kind:
                continue
            step = init_step("setns", (slot, CLONE_FLAGS[kind]), origin)
            if kind == "user":
                after.insert(0, step)
            else:
                (before if privileged else after).append(step)
    return before, after


def check_joined_maps(linux: Linux, bundle: BundleFacts) -> None:
    """Maps beside the path of a user namespace say what it has, or nothing (contract 4.5). Raises SpecError.

    Where the namespace's own maps cannot be told they are not compared.
    """
    for key, given, real in (("uidMappings", linux.uid_mappings, bundle.joined_uid_map),
                             ("gidMappings", linux.gid_mappings, bundle.joined_gid_map)):  # fmt: skip
        if given and real and sorted((entry.container_id, entry.host_id, entry.size) for entry in given) != sorted(real):
            raise SpecError("user namespaces enabled, but both namespace path and non-matching mapping specified -- you "
                            "may only provide one", field=f"/linux/{key}",
                            hint="leave the mappings out: they are the namespace's")  # fmt: skip


def user_steps(spaces: Namespaces, spec: Spec, host: HostFacts) -> list[Step | HostStep]:
    """A fresh user namespace: unshare, the `mapped` barrier with its host steps, then id 0 inside.

    The maps are written from outside through /proc/PID, which belongs to the caller only while the process is
    dumpable; it is made so for this barrier alone (DESIGN, runtime 9).
    """
    linux = spec.linux
    origin = namespace_origin(spec, "user")
    steps: list[Step | HostStep] = [init_step("unshare", (CLONE_NEWUSER,), origin)]
    steps.append(init_step("set_dumpable", (1,), origin))
    steps.append(init_step("barrier", (BARRIERS["mapped"],)))
    for kind, mappings, name in (
        ("uid", linux.uid_mappings, "uidMappings"),
        ("gid", linux.gid_mappings, "gidMappings"),
    ):
        if kind == "gid" and _must_deny_setgroups(spec, host):
            # user_namespaces(7): an unprivileged writer of gid_map has to give up setgroups first
            steps.append(HostStep("set_groups", (0,), "/linux/gidMappings"))
        lines = tuple((entry.container_id, entry.host_id, entry.size) for entry in mappings)
        steps.append(HostStep("id_map", (kind, lines, map_method(kind, lines, host)), f"/linux/{name}"))
    steps.append(HostStep("release", ("mapped",)))
    if spaces.joined:
        steps.append(init_step("set_dumpable", (0,), origin))
    steps.append(init_step("set_ids", (0, 0), origin))
    return steps


def _must_deny_setgroups(spec: Spec, host: HostFacts) -> bool:
    """The one map that an unprivileged process may write itself: its own gid, alone."""
    maps = tuple((entry.container_id, entry.host_id, entry.size) for entry in spec.linux.gid_mappings)
    return not host.capabilities >> CAP_SETGID & 1 and _is_own(maps, host.egid)


def _is_own(lines: tuple[tuple[int, int, int], ...], own: int) -> bool:
    return len(lines) == 1 and lines[0][1:] == (own, 1)


def map_method(kind: str, lines: tuple[tuple[int, int, int], ...], host: HostFacts) -> str:
    """"" where the kernel takes the map from us, else the setuid helper that may write it (user_namespaces(7)).

    With CAP_SETUID (CAP_SETGID) in our own user namespace any map of ids that it has; without it our own id alone.
    """
    capability, own = (CAP_SETUID, host.euid) if kind == "uid" else (CAP_SETGID, host.egid)
    if host.capabilities >> capability & 1 or _is_own(lines, own):
        return ""
    return f"new{kind}map"


def groups_denied(spec: Spec, host: HostFacts) -> bool:
    """setgroups(2) is not available to init: contract 3.4, rootless containers keep no supplementary groups."""
    return host.euid != 0 or _must_deny_setgroups(spec, host)


def time_steps(spaces: Namespaces, spec: Spec) -> list[Step]:
    """A fresh time namespace and its offsets, which have to be written before the first process enters it.

    After entering a user namespace the process's /proc files belong to the host's root unless it is dumpable
    (proc(5)); stage 0 is in no pid namespace of the container, so nobody inside can see it meanwhile.
    """
    if not spaces.fresh & CLONE_NEWTIME:
        return []
    steps = [init_step("unshare", (CLONE_NEWTIME,), namespace_origin(spec, "time"))]
    if not spec.linux.time_offsets:
        return steps
    lines = "".join(f"{entry.clock} {entry.secs} {entry.nanosecs}\n" for entry in spec.linux.time_offsets)
    write = init_step("write_proc", ("self/timens_offsets", lines.encode()), "/linux/timeOffsets")
    user = "user" in spaces.kinds
    if user:
        steps.append(init_step("set_dumpable", (1,), "/linux/timeOffsets"))
    steps.append(write)
    if user and spaces.joined:
        steps.append(init_step("set_dumpable", (0,), "/linux/timeOffsets"))
    return steps


def clone_step(spaces: Namespaces, origin: str) -> Step:
    """Stage 0 makes init, as a child of its own parent, in all that is still to be made.

    User and time exist by now; cgroup waits until init is in its final cgroup, whose directory becomes its root.
    """
    rest = spaces.fresh & ~(CLONE_NEWUSER | CLONE_NEWTIME | CLONE_NEWCGROUP)
    return init_step("clone", (CLONE_PARENT | rest,), origin)


def namespace_origin(spec: Spec, kind: str) -> str:
    """The pointer of the entry of that type."""
    for index, entry in enumerate(spec.linux.namespaces):
        if entry.type == kind:
            return f"/linux/namespaces/{index}"
    return "/linux/namespaces"
