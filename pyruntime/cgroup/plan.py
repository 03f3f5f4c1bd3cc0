"""Where a container's cgroups are and which host steps make them: Spec and HostFacts to CgroupPlan. Pure.

A container has one directory in every mounted hierarchy, named ones and the unified tree of a hybrid host included.
A controller is used where it is mounted. Those found in the unified tree only are switched on in subtree_control
from the root of the mount down to the container's parent, then written in v2 form.
"""

from __future__ import annotations

from pyruntime.cgroup.devices import device_writes_v1
from pyruntime.cgroup.writes import CONTROLLERS, V2_NAMES, R, controller_writes, unified_writes
from pyruntime.errors import HostError, SpecError
from pyruntime.plan.step import CgroupPlan, HostStep
from pyruntime.spec.annotations import DELEGATE, SUBGROUP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyruntime.cgroup.writes import Write
    from pyruntime.host.facts import CgroupFacts, Hierarchy, HostFacts
    from pyruntime.plan.step import Options
    from pyruntime.spec.config import Spec
    from pyruntime.spec.linux import Resources

PATH = "/linux/cgroupsPath"
SECTIONS = {"cpuset": "cpu", "blkio": "blockIO", "hugetlb": "hugepageLimits", "net_cls": "network",
            "net_prio": "network"}


def compile_cgroup(spec: Spec, host: HostFacts, options: Options) -> CgroupPlan:
    """The container's directories and the host steps that make, fill and limit them.

    An empty plan when the manager is "disabled" or the host has no cgroups and no limit is asked for. Raises
    SpecError for values that cannot be, HostError for limits whose controller is missing (contract 1.7, 4.7, 4.8).
    """
    if options.cgroup_manager == "disabled":
        return CgroupPlan()
    cgroups_path = spec.linux.cgroups_path
    if options.cgroup_manager == "systemd":
        cgroups_path = unit_directory(spec, host, options)
    resources, facts = spec.linux.resources, host.cgroup
    if options.rootless_cgroups and not cgroups_path:
        facts = _within_reach(facts)
    places = container_places(cgroups_path, options.id, facts)
    paths = tuple((name, path) for hierarchy, path in places for name in hierarchy.controllers or ("",))
    try:
        writes = compile_writes(resources, facts, device_rules=_may_set_devices(host))
    except HostError as failure:
        if facts is not host.cgroup:
            _not_delegated(failure, host)
        raise
    where = dict(paths)
    limits: list[HostStep] = []
    early: list[HostStep] = []
    for write in writes:
        step = write_step(write, where)
        (early if write.early else limits).append(step)
    origin = PATH if spec.linux.cgroups_path else ""  # the id names the cgroup when nothing in the config does
    make = [HostStep("cg_make", (path,), origin) for _, path in places]
    make += enable_steps(places, writes, layout=facts.layout, from_own=options.rootless_cgroups)
    join = tuple(HostStep("cg_join", (path,), origin) for _, path in places)
    if facts.layout == "v2" and _may_set_devices(host):
        early += filter_steps(resources, where)  # before anyone is in it
    plan = CgroupPlan(paths, tuple(make), tuple(early), join, tuple(limits), delegated(spec, where, facts))
    if options.cgroup_manager != "systemd":
        return plan
    from pyruntime.cgroup.systemd import compile_scope

    return compile_scope(spec, host, options, plan, 2 if facts.layout == "v2" else 1)


def unit_directory(spec: Spec, host: HostFacts, options: Options) -> str:
    """Where systemd makes the container's unit, from the mount of every hierarchy. Raises SpecError."""
    from pyruntime.cgroup.systemd import place, slice_path

    slice_name, unit = place(spec.linux.cgroups_path, options.id, root=host.euid == 0)
    below = annotation(spec, SUBGROUP)
    return f"{host.systemd_base}{slice_path(slice_name)}/{unit}{'/' if below else ''}{below}"


def annotation(spec: Spec, name: str) -> str:
    """Its value, "" without one."""
    return next((text for key, text in spec.annotations if key == name), "")


def delegated(spec: Spec, where: dict[str, str], facts: CgroupFacts) -> str:
    """The cgroup that run.oci.delegate-cgroup asks for, "" for none. Raises SpecError where there is no cgroup v2."""
    name = annotation(spec, DELEGATE)
    if not name:
        return ""
    if facts.layout != "v2":
        raise SpecError(f"annotation {DELEGATE} is for cgroup v2 only", field=f"/annotations/{DELEGATE}", value=name,
                        hint="a cgroup of v1 cannot be given away safely: remove the annotation on this host")
    return f"{where['']}/{name}"


def filter_steps(resources: Resources, where: dict[str, str]) -> tuple[HostStep, ...]:
    """The device filter of a v2 cgroup; none when the rules allow everything."""
    from pyruntime.cgroup.device_filter import allows_all, rule_texts

    if allows_all(resources.devices):
        return ()
    return (HostStep("cg_devices", (where[""], rule_texts(resources.devices)), f"{R}/devices"),)


def write_step(write: Write, paths: dict[str, str]) -> HostStep:
    """The write as a host step: its controller's v1 directory, else the unified one (key "" of `paths`)."""
    directory = paths.get(write.controller) or paths[""]
    return HostStep("cg_write", (f"{directory}/{write.file}", write.data), write.origin)


def compile_writes(resources: Resources, facts: CgroupFacts, *, device_rules: bool) -> tuple[Write, ...]:
    """Every write for `resources` on a host like this one. Raises HostError naming the first controller it lacks."""
    v1 = {name for hierarchy in facts.hierarchies for name in hierarchy.controllers if not name.startswith("name=")}
    v2 = unified_controllers(facts)
    writes: list[Write] = []
    for name in CONTROLLERS:
        if name == "devices":
            if facts.layout == "v2":
                continue  # a filter instead of files: filter_steps
            writes += _device_writes(resources, present=name in v1) if device_rules else ()
            continue
        wanted = controller_writes(name, resources, 1)
        if wanted and name not in v1:
            if V2_NAMES.get(name, name) not in v2:
                raise missing(name, wanted[0])
            wanted = controller_writes(name, resources, 2)
        writes += wanted
    if resources.unified:
        if v1:
            raise SpecError("invalid configuration: cannot use unified on cgroup v1", field=f"{R}/unified")
        writes += unified_writes(resources.unified, v2)
    return tuple(writes)


def missing(controller: str, write: Write) -> HostError:
    """The peers' error for a limit without its controller; `write` says which field asked."""
    return HostError(f"cannot set {controller} limit: container could not join or create cgroup", field=write.origin,
                     value=write.data, hint=f"this host has no {controller} cgroup controller mounted: "
                     f"mount it, or remove {R}/{SECTIONS.get(controller, controller)}")


def unified_controllers(facts: CgroupFacts) -> tuple[str, ...]:
    """The controllers of the unified tree, () without one."""
    for hierarchy in facts.hierarchies:
        if hierarchy.version != 1:
            return hierarchy.v2_controllers
    return ()


def container_places(cgroups_path: str, container_id: str, facts: CgroupFacts) -> tuple[tuple[Hierarchy, str], ...]:
    """(hierarchy, absolute directory of the container in it) for every mounted hierarchy.

    An absolute path counts from the mount; a relative one, cleaned so that `..` never leaves it, from the caller's
    own cgroup, in the unified tree from that cgroup's parent (a v2 cgroup with processes can have no limited
    children). An empty one is the container's id. Raises SpecError when nothing is left of the path.
    """
    text = cgroups_path or container_id
    parts = clean(text)
    if not parts:
        raise SpecError(f'cgroups path "{text}" does not name a cgroup of its own', field=PATH, value=text,
                        hint="the container's cgroup must lie below the root of the hierarchy or the caller's own")
    tail = "/".join(parts)
    places = []
    for hierarchy in facts.hierarchies:
        base = ""
        if not text.startswith("/"):
            own = clean(hierarchy.own)
            own = own if hierarchy.version == 1 else own[:-1]
            base = "".join(f"/{part}" for part in own)
        places.append((hierarchy, f"{hierarchy.mount}{base}/{tail}"))
    return tuple(places)


def clean(path: str) -> list[str]:
    """The components of `path` with `.` and empty ones left out and `..` undone, never above the start."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return parts


def _not_delegated(failure: HostError, host: HostFacts) -> None:
    """Say in one line how root gives this caller the controller that `failure` misses (contract 7, row 17)."""
    name = failure.message.split()[2]  # "cannot set NAME limit: ..."
    for entry in host.cgroup.hierarchies:
        if name in entry.controllers:
            place = f"{entry.mount}/user-{host.euid}"
            failure.hint = (f"the {name} controller is not delegated to uid {host.euid}: as root, mkdir {place} && "
                            f"chown -R {host.euid} {place} && echo PID > {place}/cgroup.procs, PID being your shell's")
            return
    if any(entry.version != 1 for entry in host.cgroup.hierarchies):
        folder = "/etc/systemd/system/user@.service.d"
        failure.hint = (f"the {name} controller is not delegated to uid {host.euid}: as root, mkdir -p {folder} && "
                        "printf '[Service]\\nDelegate=cpu cpuset io memory pids\\n' > "
                        f"{folder}/delegate.conf && systemctl daemon-reload, then log in again")


def _within_reach(facts: CgroupFacts) -> CgroupFacts:
    """The hierarchies in which a rootless container without a path of its own can be placed; the others are skipped.

    A limit that needs a skipped one is then refused as one without its controller (contract 4.7, rootless).
    """
    return facts.replace(hierarchies=tuple(entry for entry in facts.hierarchies if entry.writable))


def _may_set_devices(host: HostFacts) -> bool:
    """Device rules need the rights of the initial user namespace; elsewhere they are left out (security S5)."""
    return host.euid == 0 and not host.in_user_ns


def _device_writes(resources: Resources, *, present: bool) -> Iterable[Write]:
    if present:
        return device_writes_v1(resources.devices)
    if not resources.devices:
        return ()
    raise HostError("cannot set devices limit: container could not join or create cgroup", field=f"{R}/devices",
                    hint="this host has no devices cgroup controller mounted: mount it, or remove the device rules")


def enable_steps(places: tuple[tuple[Hierarchy, str], ...], writes: tuple[Write, ...], *,
                 layout: str, from_own: bool = False) -> list[HostStep]:
    """subtree_control from the mount down to the container's parent.

    With `from_own` from where the caller's own cgroup lies: what is above is another's (Delegation in cgroup-v2.rst).

    On v2 all controllers, so that a later update finds them; on a hybrid host only those that this container uses.
    """
    v1 = {name for hierarchy, _ in places for name in hierarchy.controllers}
    for hierarchy, path in places:
        if hierarchy.version == 1:
            continue
        used = {write.controller: write.origin for write in writes if write.controller not in v1}
        names = hierarchy.v2_controllers if layout == "v2" else tuple(n for n in hierarchy.v2_controllers if n in used)
        if not names:
            continue
        data = " ".join(f"+{name}" for name in names)
        directory, steps = hierarchy.mount, []
        base = "".join(f"/{part}" for part in clean(hierarchy.own)[:-1])
        if from_own and path.startswith(f"{directory}{base}/"):
            directory += base
        for part in path[len(directory) + 1 :].split("/"):
            steps.append(HostStep("cg_write", (f"{directory}/cgroup.subtree_control", data), used.get(names[0], PATH)))
            directory = f"{directory}/{part}"
        return steps
    return []
