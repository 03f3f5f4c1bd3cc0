"""New limits for a living container: what is asked for, merged with what was saved, as writes in a safe order. Pure.

Rules (contract 1.4): 0 and absent keep the old value; memory -1 without swap lifts swap too; of CPU quota and period
the one that is not given keeps its value, and both given as 0 are forgotten; device rules are never touched; entries
for block devices, page sizes, RDMA devices and interfaces replace the one for the same key or are added. Only what is
asked for is written, in an order that passes through valid states only, so the reverse order leads back.
"""

from __future__ import annotations

from pyruntime.cgroup.plan import compile_writes, enable_steps, write_step
from pyruntime.cgroup.writes import DEFAULT_PERIOD_US, UNLIMITED
from pyruntime.errors import HostError, UsageError
from pyruntime.spec.linux import CPU, BlockIO, Memory, NetworkResources, Resources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.cgroup.writes import Write
    from pyruntime.host.facts import CgroupFacts
    from pyruntime.plan.step import HostStep

UINT64 = (0, (1 << 64) - 1)
INT64 = (-(1 << 63), (1 << 63) - 1)
UINT16 = (0, (1 << 16) - 1)
UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}

SIZES = {"memory": "limit", "memory-reservation": "reservation", "memory-swap": "swap", "kernel-memory": "kernel",
         "kernel-memory-tcp": "kernel_tcp"}
CPU_NUMBERS = {"cpu-period": ("period", UINT64), "cpu-quota": ("quota", INT64), "cpu-burst": ("burst", UINT64),
               "cpu-share": ("shares", UINT64), "cpu-rt-period": ("realtime_period", UINT64),
               "cpu-rt-runtime": ("realtime_runtime", INT64), "cpu-idle": ("idle", INT64)}
SIZE_HINT = "bytes, or with one of k m g t p behind the number, as in 64m; -1 for no limit"
CPU_TEXTS = {"cpuset-cpus": "cpus", "cpuset-mems": "mems"}
DEVICE_LISTS = ("weight_device", "throttle_read_bps_device", "throttle_write_bps_device", "throttle_read_iops_device",
                "throttle_write_iops_device")


# -- flags

def resources_from_flags(flags: dict[str, str]) -> Resources:
    """The change that the flags of `update` ask for; a flag that is absent or empty asks for nothing.

    Raises UsageError with the flag's name for a value that is no number or out of range.
    """
    given = {name: text for name, text in flags.items() if text != ""}
    memory: dict[str, Any] = {field: _size(name, given[name]) for name, field in SIZES.items() if name in given}
    cpu: dict[str, Any] = {field: _number(name, given[name], limits)
                           for name, (field, limits) in CPU_NUMBERS.items() if name in given}
    cpu |= {field: given[name] for name, field in CPU_TEXTS.items() if name in given}
    weight = _number("blkio-weight", given["blkio-weight"], UINT16) if "blkio-weight" in given else None
    pids = _number("pids-limit", given["pids-limit"], INT64) if "pids-limit" in given else None
    return Resources(memory=Memory(**memory), cpu=CPU(**cpu), block_io=BlockIO(weight=weight), pids_limit=pids)


def _size(name: str, text: str) -> int:
    """Bytes: a number with at most one of k m g t p (1024 each), then b or ib, any case; -1 for no limit."""
    if text == "-1":
        return UNLIMITED
    lowered = text.lower()
    unit = ""
    for ending in ("ib", "b"):
        if lowered.endswith(ending):
            lowered = lowered[: -len(ending)]
            break
    lowered = lowered.rstrip(" ")
    if lowered[-1:] in UNITS and lowered:
        lowered, unit = lowered[:-1].rstrip(" "), lowered[-1]
    whole, dot, part = lowered.partition(".")
    if not _digits(whole) or (dot and not _digits(part)):
        raise _bad(name, text, f"invalid size: '{text}'", SIZE_HINT)
    value = int(whole) * UNITS[unit]
    if part:
        value += int(part) * UNITS[unit] // 10 ** len(part)
    if value > INT64[1]:
        raise _bad(name, text, f"invalid size: '{text}'", SIZE_HINT)
    return value


def _number(name: str, text: str, limits: tuple[int, int]) -> int:
    kind = "ParseInt" if limits[0] < 0 else "ParseUint"
    hint = f"a number from {limits[0]} to {limits[1]}"
    unsigned = text[1:] if limits[0] < 0 and text[:1] in ("-", "+") else text
    if not _digits(unsigned):
        raise _bad(name, text, f'strconv.{kind}: parsing "{text}": invalid syntax', hint)
    value = -int(unsigned) if text.startswith("-") else int(unsigned)
    if not limits[0] <= value <= limits[1]:
        raise _bad(name, text, f'strconv.{kind}: parsing "{text}": value out of range', hint)
    return value


def _digits(text: str) -> bool:
    """1 to 32 ASCII digits: int() takes other digits too, and unbounded ones slowly."""
    return 0 < len(text) <= 32 and text.isascii() and text.isdecimal()


def _bad(name: str, text: str, cause: str, hint: str) -> UsageError:
    return UsageError(f"invalid value for {name}: {cause}", value=text, hint=hint)


# -- merging

def merge(saved: Resources, change: Resources) -> Resources:
    """`saved` with `change` on top, by the rules above. The device rules are those of `saved`."""
    return Resources(
        devices=saved.devices,
        memory=_merge_memory(saved.memory, change.memory),
        cpu=_merge_cpu(saved.cpu, change.cpu),
        pids_limit=saved.pids_limit if change.pids_limit is None else change.pids_limit,
        block_io=_merge_block_io(saved.block_io, change.block_io),
        hugepage_limits=_upsert(saved.hugepage_limits, change.hugepage_limits, ("page_size",)),
        network=NetworkResources(
            change.network.class_id or saved.network.class_id,
            _upsert(saved.network.priorities, change.network.priorities, ("name",))),
        rdma=_upsert(saved.rdma, change.rdma, ("device",)),
        unified=tuple((dict(saved.unified) | dict(change.unified)).items()),
    )


def _merge_memory(saved: Memory, change: Memory) -> Memory:
    given: dict[str, Any] = {name: value for name, value in zip(change._fields, change, strict=True) if value}
    if change.swappiness == 0:
        given["swappiness"] = 0  # a value of its own
    for name in ("disable_oom_killer", "use_hierarchy", "check_before_update"):
        if getattr(change, name) is not None:
            given[name] = getattr(change, name)
    if change.limit == UNLIMITED and not change.swap:
        given["swap"] = UNLIMITED
    return saved.replace(**given)


def _merge_cpu(saved: CPU, change: CPU) -> CPU:
    given: dict[str, Any] = {name: value for name, value in zip(change._fields, change, strict=True) if value}
    for name in ("idle", "burst"):
        if getattr(change, name) is not None:
            given[name] = getattr(change, name)
    if change.quota == 0 and change.period == 0:
        given["quota"] = given["period"] = None
    return saved.replace(**given)


def _merge_block_io(saved: BlockIO, change: BlockIO) -> BlockIO:
    lists = {name: _upsert(getattr(saved, name), getattr(change, name), ("major", "minor")) for name in DEVICE_LISTS}
    return BlockIO(weight=change.weight or saved.weight, leaf_weight=change.leaf_weight or saved.leaf_weight, **lists)


def _upsert(saved: tuple[Any, ...], change: tuple[Any, ...], keys: tuple[str, ...]) -> tuple[Any, ...]:
    """`saved` with the entries of `change` in place of those with the same keys, new ones at the end."""
    merged = {tuple(getattr(entry, key) for key in keys): entry for entry in saved}
    merged |= {tuple(getattr(entry, key) for key in keys): entry for entry in change}
    return tuple(merged.values())


# -- writes

def compile_update(saved: Resources, change: Resources, paths: tuple[tuple[str, str], ...],
                   facts: CgroupFacts) -> tuple[Resources, tuple[HostStep, ...]]:
    """(merged resources, steps to be carried out by change.change). Raises SpecError or HostError as create does.

    A step cg_check (file, limit) comes before the writes: the number in `file` must not exceed the limit.
    """
    merged = merge(saved, change)
    where = dict(paths)
    facts = _of_container(facts, where)
    try:
        writes = _ordered(compile_writes(_asked(saved, change, merged), facts, device_rules=False), saved)
    except HostError as failure:
        failure.hint = ("the container was made without a cgroup of that controller: cgroups were disabled, or it was not "
                        "mounted, or not delegated to the user")
        raise
    steps = tuple(write_step(write, where) for write in writes)
    checks = tuple(write_step(write.replace(file=write.at_least), where).replace(op="cg_check")
                   for write in writes if write.at_least)
    return merged, (*checks, *_enable(writes, facts, where), *steps)


def _of_container(facts: CgroupFacts, where: dict[str, str]) -> CgroupFacts:
    """The hierarchies in which the container has a directory; others may have been mounted since it was made."""
    return facts.replace(hierarchies=tuple(
        entry for entry in facts.hierarchies if any(name in where for name in entry.controllers or ("",))))


def _enable(writes: tuple[Write, ...], facts: CgroupFacts, where: dict[str, str]) -> list[HostStep]:
    """On a hybrid host create switched on only the controllers that it needed; on v2 all are on."""
    if facts.layout != "hybrid":
        return []
    return enable_steps(tuple((entry, where[(entry.controllers or ("",))[0]]) for entry in facts.hierarchies), writes,
                        layout=facts.layout)


def _asked(saved: Resources, change: Resources, merged: Resources) -> Resources:
    """What to write: the change, with the partner of each value that is only valid together with another."""
    memory, cpu = change.memory, change.cpu
    if memory.limit or memory.swap:
        memory = memory.replace(limit=merged.memory.limit, swap=merged.memory.swap,
                                check_before_update=merged.memory.check_before_update)
    if cpu.quota or cpu.period:
        cpu = cpu.replace(quota=merged.cpu.quota, period=merged.cpu.period)
    if merged.cpu.idle == 1:
        cpu = cpu.replace(shares=None)  # EINVAL for an idle group
    elif saved.cpu.idle == 1:
        cpu = cpu.replace(shares=merged.cpu.shares)  # idle had replaced the weight
    return change.replace(devices=(), memory=memory, cpu=cpu)


def _ordered(writes: tuple[Write, ...], saved: Resources) -> tuple[Write, ...]:
    """The writes of one update in an order in which the kernel takes each of them."""
    data = {write.file: write.data for write in writes}
    ordered = list(writes)
    if _swap_first(data, saved.memory):
        _move_before(ordered, "memory.memsw.limit_in_bytes", "memory.limit_in_bytes")
    if _quota_first(data, saved.cpu):
        _move_before(ordered, "cpu.cfs_quota_us", "cpu.cfs_period_us")
    for burst, first in (("cpu.cfs_burst_us", "cpu.cfs_period_us"), ("cpu.max.burst", "cpu.max")):
        if burst in data and int(data[burst]) < (saved.cpu.burst or 0):
            _move_before(ordered, burst, first)
            _move_before(ordered, burst, "cpu.cfs_quota_us")
    return tuple(ordered)


def _swap_first(data: dict[str, str], memory: Memory) -> bool:
    """v1 wants limit <= memory+swap at every moment: a limit above the old memory+swap comes second."""
    old = memory.swap or UNLIMITED
    limit = int(data.get("memory.limit_in_bytes", "0"))
    return old != UNLIMITED and (limit == UNLIMITED or limit > old)


def _quota_first(data: dict[str, str], cpu: CPU) -> bool:
    """The share quota/period must fit the parent's at every moment, so it may not rise above both old and new."""
    old_quota, old_period = cpu.quota or UNLIMITED, cpu.period or DEFAULT_PERIOD_US
    quota, period = int(data.get("cpu.cfs_quota_us", "0")), int(data.get("cpu.cfs_period_us", "0"))
    if quota < 0:
        return True
    return old_quota > 0 and 0 < period < old_period


def _move_before(writes: list[Write], file: str, other: str) -> None:
    names = [write.file for write in writes]
    if file in names and other in names and names.index(file) > names.index(other):
        writes.insert(names.index(other), writes.pop(names.index(file)))
