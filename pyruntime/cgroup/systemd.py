"""The systemd driver, its pure half: cgroupsPath to slice and unit, resources and annotations to unit properties.

systemd makes the container's cgroup as a transient scope that is delegated to us (Delegate=yes), with the first process
in it. What systemd knows of the limits it is told as properties, so that it does not undo them when it reads its
configuration again; then all files are written as the cgroupfs driver writes them, which says the rest. A property is
(name, D-Bus signature, value). Sources: contract 4.7, 4.8 and 5; systemd.resource-control(5); systemd's
CGROUP_DELEGATION.md; org.freedesktop.systemd1(5).
"""

from __future__ import annotations

from pyruntime.cgroup.writes import weight_from_shares
from pyruntime.errors import SpecError
from pyruntime.plan.step import CgroupPlan, HostStep
from pyruntime.spec.parse_rare import parse_number_list

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.host.facts import HostFacts
    from pyruntime.plan.step import Options
    from pyruntime.spec.config import Spec
    from pyruntime.spec.linux import Resources

    Property = tuple[str, str, Any]

PATH = "/linux/cgroupsPath"
PREFIX = "pyruntime"
ANNOTATION = "org.systemd.property."
INFINITY = (1 << 64) - 1
PERIOD_US = 100_000  # the kernel's default CFS period
QUOTA_STEP_US = 10_000  # systemd keeps quotas per second in whole hundredths
MAX_CPU = 8191
# unified key -> property, both in bytes or counts; "max" is infinity
UNIFIED = {"memory.min": "MemoryMin", "memory.low": "MemoryLow", "memory.high": "MemoryHigh", "memory.max": "MemoryMax",
           "memory.swap.max": "MemorySwapMax", "pids.max": "TasksMax", "cpu.weight": "CPUWeight"}  # fmt: skip


def place(cgroups_path: str, container_id: str, *, root: bool) -> tuple[str, str]:
    """(slice, unit) of `slice:prefix:name`. Raises SpecError for another form (contract 4.7)."""
    parts = (cgroups_path or f":{PREFIX}:{container_id}").split(":")
    if len(parts) != 3 or "/" in cgroups_path:
        raise SpecError('expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, '
                        f'got "{cgroups_path}" instead', field=PATH, value=cgroups_path,
                        hint="such as system.slice:pyruntime:web, or leave --systemd-cgroup out")
    slice_name, prefix, name = parts
    slice_name = slice_name or ("system.slice" if root else "user.slice")
    slice_path(slice_name)
    if name.endswith(".slice"):
        return slice_name, name
    return slice_name, f"{prefix}-{name}.scope" if prefix else f"{name}.scope"


def slice_path(name: str) -> str:
    """The directory of a slice: every dash nests, `-.slice` is the root (systemd.slice(5)). Raises SpecError."""
    stem = name.removesuffix(".slice")
    if name in ("-", "-.slice"):
        return ""
    words = stem.split("-")
    if not name.endswith(".slice") or not all(words) or "/" in name:
        raise SpecError(f"invalid slice name: {name}", field=PATH, value=name,
                        hint="such as system.slice, or machine-web.slice below machine.slice")
    return "".join(f"/{'-'.join(words[: count + 1])}.slice" for count in range(len(words)))


def unit_properties(spec: Spec, container_id: str, slice_name: str, unit: str, *, version: int) -> tuple[Property, ...]:
    """All properties of the transient unit but PIDs, which is known only when the process is there. Raises SpecError."""
    io_accounting = "IOAccounting" if version == 2 else "BlockIOAccounting"
    scope = unit.endswith(".scope")
    found: list[Property] = [("Description", "s", f"pyruntime container {container_id}")]
    found.append(("Slice", "s", slice_name or "-.slice") if scope else ("Wants", "as", [slice_name]))
    if scope:
        found.append(("Delegate", "b", True))
    found += [(name, "b", True) for name in ("MemoryAccounting", "CPUAccounting", "TasksAccounting", io_accounting)]
    found.append(("DefaultDependencies", "b", False))
    found += annotation_properties(spec.annotations)
    found += resource_properties(spec.linux.resources, version=version)
    return tuple(found)


def resource_properties(resources: Resources, *, version: int) -> list[Property]:
    """What systemd knows of the limits. Values that the files refuse are refused there, with their field."""
    memory, cpu = resources.memory, resources.cpu
    found: list[Property] = []
    if memory.limit:
        found.append(("MemoryMax" if version == 2 else "MemoryLimit", "t", _limit(memory.limit)))
    if version == 2 and memory.reservation:
        found.append(("MemoryLow", "t", _limit(memory.reservation)))
    if version == 2 and memory.swap and memory.limit and memory.limit > 0:
        found.append(("MemorySwapMax", "t", INFINITY if memory.swap < 0 else memory.swap - memory.limit))
    if cpu.idle == 1 and version == 2:
        found.append(("CPUWeight", "t", 0))
    elif cpu.shares:
        found.append(("CPUWeight", "t", weight_from_shares(cpu.shares)) if version == 2 else ("CPUShares", "t", cpu.shares))
    found += _quota(cpu.quota, cpu.period)
    if version == 2:
        numbers = (("AllowedCPUs", cpu.cpus), ("AllowedMemoryNodes", cpu.mems))
        found += [(name, "ay", cpu_mask(text)) for name, text in numbers if text]
    if resources.pids_limit is not None:
        found.append(("TasksMax", "t", INFINITY if resources.pids_limit < 0 else max(resources.pids_limit, 1)))
    for key, value in resources.unified:
        if key in UNIFIED and (value.strip() == "max" or value.strip().isdigit()):
            found.append((UNIFIED[key], "t", INFINITY if value.strip() == "max" else int(value)))
    return found


def _limit(value: int) -> int:
    return INFINITY if value < 0 else value


def _quota(quota: int | None, period: int | None) -> list[Property]:
    if not quota:
        return []
    found: list[Property] = [("CPUQuotaPeriodUSec", "t", period)] if period else []
    if quota < 0:
        return [*found, ("CPUQuotaPerSecUSec", "t", INFINITY)]
    per_second = quota * 1_000_000 // (period or PERIOD_US)
    per_second += -per_second % QUOTA_STEP_US
    return [*found, ("CPUQuotaPerSecUSec", "t", per_second)]


def cpu_mask(text: str) -> bytes:
    """A list such as 0-2,8 as the bit mask of AllowedCPUs: bit n of byte n / 8, no trailing zero bytes."""
    mask = sum(1 << number for number in parse_number_list(text, MAX_CPU))
    return mask.to_bytes((mask.bit_length() + 7) // 8, "little")


def annotation_properties(annotations: tuple[tuple[str, str], ...]) -> list[Property]:
    """`org.systemd.property.NAME`, the value as GVariant text; `…Sec` becomes `…USec`. Raises SpecError."""
    found: list[Property] = []
    for key, text in annotations:
        if not key.startswith(ANNOTATION):
            continue
        name = key.removeprefix(ANNOTATION)
        field = f"/annotations/{key}"
        if len(name) < 3 or not (name.isascii() and name.isalpha()):
            raise SpecError(f"annotation {key} name incorrect: {name}", field=field, value=text,
                            hint="a property's name has letters alone, three or more")
        signature, value = parse_variant(text, field)
        if name.endswith("Sec") and name[-4:-3].islower():
            if signature not in ("i", "u", "x", "t", "d", "n", "q"):
                raise SpecError(f"annotation {key}={text} value parse error: not a number of seconds", field=field,
                                value=text, hint="such as `uint64 5`")
            name, signature, value = f"{name.removesuffix('Sec')}USec", "t", int(value * 1_000_000)
        found.append((name, signature, value))
    return found


NUMBERS = {"byte": "y", "int16": "n", "uint16": "q", "int32": "i", "uint32": "u", "int64": "x", "uint64": "t", "double": "d"}


def parse_variant(text: str, field: str) -> tuple[str, Any]:
    """(signature, value) of GVariant text: true, 'text', 5, 0.5, uint64 5, ['a', 'b']. Raises SpecError."""
    body = text.strip()
    word, _, rest = body.partition(" ")
    try:
        if body in ("true", "false"):
            return "b", body == "true"
        if body[:1] in "'\"" and len(body) > 1 and body[-1] == body[0] and body[0] not in body[1:-1]:
            return "s", body[1:-1]
        if body.startswith("[") and body.endswith("]"):
            items = [parse_variant(item, field) for item in body[1:-1].split(",") if item.strip()]
            kinds = {kind for kind, _ in items}
            if len(kinds) == 1:
                return f"a{kinds.pop()}", [value for _, value in items]
        elif word in NUMBERS:
            return NUMBERS[word], float(rest) if word == "double" else int(rest, 0)
        elif "." in body:
            return "d", float(body)
        else:
            return "i", int(body, 0)
    except ValueError:
        pass
    raise SpecError(f"annotation value parse error: {text}", field=field, value=text,
                    hint="GVariant text: true, 'text', 5, uint64 5, ['a', 'b']")


def unit_of(cgroup_paths: tuple[tuple[str, str], ...]) -> str:
    """The unit that holds these directories: the last name of any of them that is a unit's."""
    names = cgroup_paths[0][1].split("/") if cgroup_paths else []
    return next((name for name in reversed(names) if name.endswith((".scope", ".slice"))), "")


def compile_scope(spec: Spec, host: HostFacts, options: Options, parts: CgroupPlan, version: int) -> CgroupPlan:
    """The cgroupfs plan `parts`, made for the unit's directories, with the unit's start before everything it does.

    In a cgroup below the unit's, controllers are switched on when stage 0 is there: not while the unit's own cgroup has
    processes (cgroup-v2.rst, No Internal Process Constraint).
    """
    slice_name, unit = place(spec.linux.cgroups_path, options.id, root=host.euid == 0)
    properties = unit_properties(spec, options.id, slice_name, unit, version=version)
    scope = HostStep("sd_scope", (unit, properties, int(host.euid != 0)), PATH if spec.linux.cgroups_path else "")
    made = tuple(step for step in parts.make if step.op == "cg_make")
    enabled = tuple(step for step in parts.make if step.op != "cg_make")
    below = parts.paths and not parts.paths[0][1].endswith(f"/{unit}")
    order = (made, parts.join, enabled, parts.early) if below else (made, enabled, parts.early, parts.join)
    steps = (scope, *(step for group in order for step in group))
    return CgroupPlan(parts.paths, (), (), steps, parts.limits, parts.delegate)
