"""Chapters of config.json that few configs have; imported only when one of their keys is there.

process: scheduler, ioPriority, execCPUAffinity. linux: timeOffsets, personality, intelRdt, memoryPolicy, netDevices.
"""

from __future__ import annotations

from pyruntime.spec.config import ExecCPUAffinity, IOPriority, Scheduler
from pyruntime.spec.document import escape, quote
from pyruntime.spec.linux import IntelRdt, MemoryPolicy, NetDevice, Personality, TimeOffset
from pyruntime.spec.reader import (
    AFFINITY,
    EXTRA,
    INT32,
    INT64,
    IO_PRIORITY,
    NAMESPACE_USE,
    NETDEV,
    RDT,
    SCHEDULER,
    UINT32,
    UINT64,
    Reader,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.spec.linux import Linux

POLICIES = frozenset("SCHED_" + name for name in ("OTHER", "FIFO", "RR", "BATCH", "ISO", "IDLE", "DEADLINE"))
SCHEDULER_FLAGS = frozenset("SCHED_FLAG_" + name for name in (
    "RESET_ON_FORK", "RECLAIM", "DL_OVERRUN", "KEEP_POLICY", "KEEP_PARAMS", "UTIL_CLAMP_MIN", "UTIL_CLAMP_MAX"))
IO_CLASSES = frozenset({"IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE"})
DOMAINS = frozenset({"LINUX", "LINUX32"})
CLOCKS = ("monotonic", "boottime")
MEMORY_MODES = frozenset("MPOL_" + name for name in (
    "DEFAULT", "PREFERRED", "BIND", "INTERLEAVE", "LOCAL", "PREFERRED_MANY", "WEIGHTED_INTERLEAVE"))
MEMORY_FLAGS = frozenset({"MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES", "MPOL_F_NUMA_BALANCING"})
MAX_CPU = 8191  # CONFIG_NR_CPUS at most
MAX_LIST = 1 << 14  # characters; bounds the time for ranges that are listed again and again
MAX_NODE = 1023  # CONFIG_NODES_SHIFT is at most 10
MAX_INTERFACE = 15  # IFNAMSIZ with its NUL is 16: netdevice(7)


def read_scheduler(reader: Reader, process: dict[str, Any], at: str) -> Scheduler | None:
    """`scheduler` of a process object (sched_setattr(2))."""
    obj = reader.table(process, "scheduler", at)
    if obj is None:
        return None
    at += "/scheduler"
    policy = reader.text(obj, "policy", at)
    reader.one_of(policy, POLICIES, SCHEDULER, f"{at}/policy", f"invalid scheduler policy {quote(policy)}")
    flags = reader.texts(obj, "flags", at)
    for index, flag in enumerate(flags):
        reader.one_of(flag, SCHEDULER_FLAGS, SCHEDULER, f"{at}/flags/{index}", f"invalid scheduler flag {quote(flag)}")
    scheduler = Scheduler(policy, reader.count(obj, "nice", at, INT32), reader.count(obj, "priority", at, INT32), flags,
                          reader.count(obj, "runtime", at, UINT64), reader.count(obj, "deadline", at, UINT64),
                          reader.count(obj, "period", at, UINT64))
    _check_scheduler(reader, scheduler, at)
    return scheduler


def _check_scheduler(reader: Reader, scheduler: Scheduler, at: str) -> None:
    """Which policy takes which number: contract 4.2."""
    policy = scheduler.policy
    real_time = policy in ("SCHED_FIFO", "SCHED_RR")
    if not -20 <= scheduler.nice <= 19:
        reader.error(SCHEDULER, f"{at}/nice", f"invalid scheduler nice {scheduler.nice}", scheduler.nice,
                     "from -20 to 19")
    elif scheduler.nice and policy not in ("SCHED_OTHER", "SCHED_BATCH"):
        reader.error(SCHEDULER, f"{at}/nice", f"scheduler nice does not apply to {quote(policy)}", scheduler.nice,
                     "only SCHED_OTHER and SCHED_BATCH have a nice value")
    if scheduler.priority and not real_time:
        reader.error(SCHEDULER, f"{at}/priority", f"scheduler priority does not apply to {quote(policy)}",
                     scheduler.priority, "only SCHED_FIFO and SCHED_RR have a priority")
    elif real_time and not 0 <= scheduler.priority <= 99:
        reader.error(SCHEDULER, f"{at}/priority", f"invalid scheduler priority {scheduler.priority}",
                     scheduler.priority, "from 1 to 99: sched(7)")
    for key in ("runtime", "deadline", "period"):
        value = getattr(scheduler, key)
        if value and policy != "SCHED_DEADLINE":
            reader.error(SCHEDULER, f"{at}/{key}", f"scheduler {key} does not apply to {quote(policy)}", value,
                         "only SCHED_DEADLINE has one")


def read_io_priority(reader: Reader, process: dict[str, Any], at: str) -> IOPriority | None:
    """`ioPriority` of a process object (ioprio_set(2))."""
    obj = reader.table(process, "ioPriority", at)
    if obj is None:
        return None
    at += "/ioPriority"
    name, priority = reader.text(obj, "class", at), reader.count(obj, "priority", at, INT64)
    if not 0 <= priority <= 7:
        reader.error(IO_PRIORITY, f"{at}/priority", f"invalid ioPriority.Priority: {priority}", priority, "from 0 to 7")
    reader.one_of(name, IO_CLASSES, IO_PRIORITY, f"{at}/class", f"invalid ioPriority.Class: {quote(name)}")
    return IOPriority(name, priority)


def read_affinity(reader: Reader, process: dict[str, Any], at: str) -> ExecCPUAffinity | None:
    """`execCPUAffinity` of a process object; the lists are kept as text, see `parse_number_list`."""
    obj = reader.table(process, "execCPUAffinity", at)
    if obj is None:
        return None
    at += "/execCPUAffinity"
    lists = []
    for key, word in (("initial", "Initial"), ("final", "Final")):
        text = reader.text(obj, key, at)
        try:
            parse_number_list(text, MAX_CPU)
        except ValueError as error:
            reader.error(AFFINITY, f"{at}/{key}", f"bad CPUAffinity.{word}: {error}", text, 'CPUs and ranges: "0-3,7"')
        lists.append(text)
    return ExecCPUAffinity(*lists)


def parse_number_list(text: str, highest: int) -> tuple[int, ...]:
    """The numbers of a list such as `0-3,7`, ascending. Spaces and empty items are allowed, "" is ().

    Raises ValueError, with a sentence, for anything else and for numbers above `highest`.
    """
    if len(text) > MAX_LIST:
        raise ValueError(f"list of {len(text)} characters is too long")
    numbers: set[int] = set()
    for item in text.split(","):
        first, dash, last = (part.strip(" ") for part in item.partition("-"))
        if not first and not dash:
            continue
        ends = (first, last) if dash else (first, first)
        if not all(end.isascii() and end.isdigit() and len(end) <= 9 for end in ends):
            raise ValueError(f"{quote(item)} is no number and no range")
        low, high = int(ends[0]), int(ends[1])
        if low > high:
            raise ValueError(f"range {quote(item)} is backwards")
        if high > highest:
            raise ValueError(f"{high} is above {highest}")
        numbers.update(range(low, high + 1))
    return tuple(sorted(numbers))


def read_rare(reader: Reader, obj: dict[str, Any], at: str, linux: Linux) -> Linux:
    """`linux` with the rare members of the linux object `obj` added."""
    return linux.replace(
        time_offsets=_read_time_offsets(reader, obj, at), personality=_read_personality(reader, obj, at),
        intel_rdt=_read_intel_rdt(reader, obj, at), memory_policy=_read_memory_policy(reader, obj, at),
        net_devices=_read_net_devices(reader, obj, at))


def _read_time_offsets(reader: Reader, obj: dict[str, Any], at: str) -> tuple[TimeOffset, ...]:
    table = reader.table(obj, "timeOffsets", at) or {}
    at += "/timeOffsets"
    offsets = []
    for clock in table:
        if clock not in CLOCKS:
            reader.error(NAMESPACE_USE, f"{at}/{escape(clock)}", f"unknown clock {quote(clock)}", clock,
                         "monotonic or boottime")
            continue
        entry = reader.table(table, clock, at)
        if entry is None:
            continue
        nanosecs = reader.count(entry, "nanosecs", f"{at}/{clock}", UINT32)
        if nanosecs > 999_999_999:
            reader.error(NAMESPACE_USE, f"{at}/{clock}/nanosecs", f"invalid nanosecs {nanosecs}", nanosecs,
                         "less than one second: from 0 to 999999999")
        offsets.append(TimeOffset(clock, reader.count(entry, "secs", f"{at}/{clock}", INT64), nanosecs))
    return tuple(offsets)


def _read_personality(reader: Reader, obj: dict[str, Any], at: str) -> Personality | None:
    table = reader.table(obj, "personality", at)
    if table is None:
        return None
    at += "/personality"
    domain = reader.text(table, "domain", at)
    reader.one_of(domain, DOMAINS, EXTRA, f"{at}/domain", f"invalid personality domain {quote(domain)}")
    flags = reader.texts(table, "flags", at)
    if flags:
        reader.warn(f"{at}/flags", "personality flags are not supported", list(flags), "they are ignored")
    return Personality(domain, flags)


def _read_intel_rdt(reader: Reader, obj: dict[str, Any], at: str) -> IntelRdt | None:
    table = reader.table(obj, "intelRdt", at)
    if table is None:
        return None
    at += "/intelRdt"
    clos_id = reader.text(table, "closID", at)
    if clos_id in (".", "..") or ("/" in clos_id and clos_id != "/") or "\n" in clos_id:
        reader.error(RDT, f"{at}/closID", f"invalid intelRdt.ClosID {quote(clos_id)}", clos_id,
                     "the name of one directory below /sys/fs/resctrl, or / for the default group")
    bandwidth = reader.text(table, "memBwSchema", at)
    if bandwidth and (not bandwidth.startswith("MB:") or "\n" in bandwidth):
        reader.error(RDT, f"{at}/memBwSchema", f"invalid memBwSchema {quote(bandwidth)}", bandwidth,
                     'one line, such as "MB:0=50;1=50"')
    cache = reader.text(table, "l3CacheSchema", at)
    if any(line.startswith("MB:") for line in cache.split("\n")):
        reader.error(RDT, f"{at}/l3CacheSchema", "l3CacheSchema has a line for memory bandwidth", cache,
                     "lines that begin with MB: belong in memBwSchema")
    return IntelRdt(clos_id, reader.texts(table, "schemata", at), cache, bandwidth,
                    reader.flag(table, "enableMonitoring", at))


def _read_memory_policy(reader: Reader, obj: dict[str, Any], at: str) -> MemoryPolicy | None:
    """set_mempolicy(2): which mode wants nodes."""
    table = reader.table(obj, "memoryPolicy", at)
    if table is None:
        return None
    at += "/memoryPolicy"
    mode, nodes = reader.text(table, "mode", at), reader.text(table, "nodes", at)
    reader.one_of(mode, MEMORY_MODES, EXTRA, f"{at}/mode", f"invalid memory policy mode {quote(mode)}")
    flags = reader.texts(table, "flags", at)
    for index, flag in enumerate(flags):
        reader.one_of(flag, MEMORY_FLAGS, EXTRA, f"{at}/flags/{index}", f"invalid memory policy flag {quote(flag)}")
    try:
        count = len(parse_number_list(nodes, MAX_NODE))
    except ValueError as error:
        reader.error(EXTRA, f"{at}/nodes", f"invalid memory policy nodes: {error}", nodes, 'nodes and ranges: "0-3,7"')
        count = -1
    if mode in ("MPOL_DEFAULT", "MPOL_LOCAL") and count > 0:
        reader.error(EXTRA, f"{at}/nodes", f"memory policy {mode} takes no nodes", nodes, "leave nodes out")
    elif mode in MEMORY_MODES - {"MPOL_DEFAULT", "MPOL_LOCAL", "MPOL_PREFERRED"} and count == 0:
        reader.error(EXTRA, f"{at}/nodes", f"memory policy {mode} needs at least one node", nodes, 'such as "0"')
    return MemoryPolicy(mode, nodes, flags)


def _read_net_devices(reader: Reader, obj: dict[str, Any], at: str) -> tuple[NetDevice, ...]:
    table = reader.table(obj, "netDevices", at) or {}
    at += "/netDevices"
    devices = []
    used: set[str] = set()
    for host_name in table:
        here = f"{at}/{escape(host_name)}"
        entry = reader.table(table, host_name, at) or {}
        name = reader.text(entry, "name", here)
        _check_interface(reader, host_name, here)
        if name:
            _check_interface(reader, name, f"{here}/name")
        if (name or host_name) in used and "%" not in name:
            reader.error(NETDEV, here, f"two network devices get the name {quote(name or host_name)}", name,
                         "names inside the container are unique")
        used.add(name or host_name)
        devices.append(NetDevice(host_name, name))
    return tuple(devices)


def _check_interface(reader: Reader, name: str, pointer: str) -> None:
    """dev_valid_name of the kernel: no empty name, no dots alone, no slash, colon or space, at most 15 bytes."""
    if not name or name in (".", "..") or len(name.encode("utf-8", "surrogateescape")) > MAX_INTERFACE or any(
            character in "/:" or character.isspace() for character in name):
        reader.error(NETDEV, pointer, f"invalid network device name {quote(name)}", name,
                     f"at most {MAX_INTERFACE} bytes, without slash, colon and space")
