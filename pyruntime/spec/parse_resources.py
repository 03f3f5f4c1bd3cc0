"""`linux.resources` of config.json (runtime-spec config-linux.md, Control groups), also the document of `update`."""

from __future__ import annotations

from pyruntime.spec.document import escape, quote
from pyruntime.spec.linux import (
    CPU,
    BlockIO,
    DeviceRule,
    HugepageLimit,
    InterfacePriority,
    Memory,
    NetworkResources,
    RdmaLimit,
    Resources,
    ThrottleDevice,
    WeightDevice,
)
from pyruntime.spec.reader import CGROUP, INT64, SWAP, UINT16, UINT32, UINT64, Reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NO_MEMORY = Memory()
_NO_CPU = CPU()
_NO_BLOCK_IO = BlockIO()
_NO_NETWORK = NetworkResources()


def parse_resources(document: dict[str, Any], pointer: str = "") -> Resources:
    """The resources object in `document`; pointers of violations begin with `pointer`.

    Raises SpecError for wrong types and single values that no kernel takes. How memory and swap fit together is not
    judged: an update may give one of them; see `resource_rules`.
    """
    reader = Reader()
    resources = read_resources(reader, document, pointer)
    reader.finish()
    return resources


def resource_rules(reader: Reader, resources: Resources, at: str) -> None:
    """Rules between values: no swap limit without a memory limit, none below it (0 is unset, -1 no limit)."""
    limit, swap = resources.memory.limit or 0, resources.memory.swap or 0
    if swap > 0 and limit <= 0:
        reader.error(SWAP, f"{at}/memory/swap", "unable to set swap limit without memory limit", swap,
                     "swap is memory plus swap; set memory.limit as well")
    elif 0 < swap < limit:
        reader.error(SWAP, f"{at}/memory/swap", "memory+swap limit should be >= memory limit", swap,
                     f"swap is memory plus swap: at least {limit}")


def read_resources(reader: Reader, obj: dict[str, Any], at: str) -> Resources:
    """The resources object; what is wrong goes to `reader`."""
    memory, cpu, pids = reader.table(obj, "memory", at), reader.table(obj, "cpu", at), reader.table(obj, "pids", at)
    block_io, network = reader.table(obj, "blockIO", at), reader.table(obj, "network", at)
    return Resources(
        _read_device_rules(reader, obj, at),
        _read_memory(reader, memory, at + "/memory") if memory else _NO_MEMORY,
        _read_cpu(reader, cpu, at + "/cpu") if cpu else _NO_CPU,
        _read_pids(reader, pids, at + "/pids") if pids is not None else None,
        _read_block_io(reader, block_io, at + "/blockIO") if block_io else _NO_BLOCK_IO,
        _read_hugepages(reader, obj, at) if "hugepageLimits" in obj else (),
        _read_network(reader, network, at + "/network") if network else _NO_NETWORK,
        _read_rdma(reader, obj, at) if "rdma" in obj else (),
        _read_unified(reader, obj, at) if "unified" in obj else ())


def _read_device_rules(reader: Reader, obj: dict[str, Any], at: str) -> tuple[DeviceRule, ...]:
    rules = []
    for index, row in reader.rows(obj, "devices", at):
        here = f"{at}/devices/{index}"
        kind = reader.text(row, "type", here, "a") or "a"
        if kind not in ("a", "b", "c"):
            reader.error(CGROUP, f"{here}/type", f"invalid device rule type {quote(kind)}", kind,
                         "a (all), b (block) or c (character)")
        access = reader.text(row, "access", here)
        if not access:
            reader.error(CGROUP, f"{here}/access", f"device access at {index} field cannot be empty", access,
                         "one or more of r, w and m")
        elif access.strip("rwm"):
            reader.error(CGROUP, f"{here}/access", f"invalid device access {quote(access)}", access,
                         "only r (read), w (write) and m (mknod)")
        rules.append(DeviceRule(reader.flag(row, "allow", here), kind, _device_number(reader, row, "major", here),
                                _device_number(reader, row, "minor", here), access))
    return tuple(rules)


def _device_number(reader: Reader, row: dict[str, Any], key: str, at: str) -> int | None:
    """A major or minor number; absent and -1 mean any, which is None."""
    value = reader.number(row, key, at, INT64)
    if value is not None and not -1 <= value <= UINT32[2]:
        reader.error(CGROUP, f"{at}/{key}", f"invalid device number {value}", value, "leave it out to mean any")
    return None if value == -1 else value


def _read_memory(reader: Reader, obj: dict[str, Any], at: str) -> Memory:
    swappiness = reader.number(obj, "swappiness", at, UINT64)
    if swappiness is not None and swappiness > 100:
        reader.error(CGROUP, f"{at}/swappiness", f"invalid memory swappiness {swappiness}", swappiness, "from 0 to 100")
    return Memory(
        _bytes(reader, obj, "limit", at), _bytes(reader, obj, "reservation", at), _bytes(reader, obj, "swap", at),
        _bytes(reader, obj, "kernel", at), _bytes(reader, obj, "kernelTCP", at), swappiness,
        _flag(reader, obj, "disableOOMKiller", at), _flag(reader, obj, "useHierarchy", at),
        _flag(reader, obj, "checkBeforeUpdate", at))


def _bytes(reader: Reader, obj: dict[str, Any], key: str, at: str) -> int | None:
    value = reader.number(obj, key, at, INT64)
    if value is not None and value < -1:
        reader.error(CGROUP, f"{at}/{key}", f"invalid memory {key} {value}", value, "bytes, or -1 for no limit")
    return value


def _flag(reader: Reader, obj: dict[str, Any], key: str, at: str) -> bool | None:
    return None if obj.get(key) is None else reader.flag(obj, key, at)


def _read_cpu(reader: Reader, obj: dict[str, Any], at: str) -> CPU:
    idle = reader.number(obj, "idle", at, INT64)
    if idle not in (None, 0, 1):
        reader.error(CGROUP, f"{at}/idle", f"invalid cpu idle {idle}", idle, "0 (normal) or 1 (idle)")
    return CPU(
        reader.number(obj, "shares", at, UINT64), reader.number(obj, "quota", at, INT64),
        reader.number(obj, "burst", at, UINT64), reader.number(obj, "period", at, UINT64),
        reader.number(obj, "realtimeRuntime", at, INT64), reader.number(obj, "realtimePeriod", at, UINT64),
        _cpu_list(reader, obj, "cpus", at), _cpu_list(reader, obj, "mems", at), idle)


def _cpu_list(reader: Reader, obj: dict[str, Any], key: str, at: str) -> str:
    """The list as configured; only letters and signs that no cpuset list has are refused (cpuset(7), Formats)."""
    text = reader.text(obj, key, at)
    if text.strip("0123456789,-:/ "):
        reader.error(CGROUP, f"{at}/{key}", f"invalid cpuset {key} {quote(text)}", text, "numbers and ranges: 0-3,7")
    return text


def _read_pids(reader: Reader, obj: dict[str, Any], at: str) -> int | None:
    limit = reader.number(obj, "limit", at, INT64)
    if limit is not None and limit < -1:
        reader.error(CGROUP, f"{at}/limit", f"invalid pids limit {limit}", limit, "-1 means no limit")
    return limit


def _read_block_io(reader: Reader, obj: dict[str, Any], at: str) -> BlockIO:
    return BlockIO(
        _weight(reader, obj, "weight", at), _weight(reader, obj, "leafWeight", at),
        tuple(WeightDevice(*_device(reader, row, f"{at}/weightDevice/{i}"),
                           _weight(reader, row, "weight", f"{at}/weightDevice/{i}"),
                           _weight(reader, row, "leafWeight", f"{at}/weightDevice/{i}"))
              for i, row in reader.rows(obj, "weightDevice", at)),
        *(_throttle(reader, obj, f"throttle{way}Device", at)
          for way in ("ReadBps", "WriteBps", "ReadIOPS", "WriteIOPS")))


def _weight(reader: Reader, obj: dict[str, Any], key: str, at: str) -> int | None:
    """A weight of 10 to 1000; 0 is unset (runtime-spec, blockIO)."""
    weight = reader.number(obj, key, at, UINT16)
    if weight and not 10 <= weight <= 1000:
        reader.error(CGROUP, f"{at}/{key}", f"invalid block IO {key} {weight}", weight, "from 10 to 1000")
    return weight


def _device(reader: Reader, row: dict[str, Any], at: str) -> tuple[int, int]:
    numbers = []
    for key in ("major", "minor"):
        value = reader.number(row, key, at, INT64)
        if (value is None and row.get(key) is None) or (value is not None and not 0 <= value <= UINT32[2]):
            reader.error(CGROUP, f"{at}/{key}", f"block device needs a {key} number", value, "see ls -l of the device")
        numbers.append(value or 0)
    return numbers[0], numbers[1]


def _throttle(reader: Reader, obj: dict[str, Any], key: str, at: str) -> tuple[ThrottleDevice, ...]:
    return tuple(ThrottleDevice(*_device(reader, row, f"{at}/{key}/{i}"),
                                reader.count(row, "rate", f"{at}/{key}/{i}", UINT64))
                 for i, row in reader.rows(obj, key, at))


def _read_hugepages(reader: Reader, obj: dict[str, Any], at: str) -> tuple[HugepageLimit, ...]:
    limits = []
    for index, row in reader.rows(obj, "hugepageLimits", at):
        here = f"{at}/hugepageLimits/{index}"
        size = reader.text(row, "pageSize", here)
        digits, unit = size[:-2], size[-2:]
        if unit not in ("KB", "MB", "GB") or not (digits.isascii() and digits.isdigit()) or digits[0] == "0":
            reader.error(CGROUP, f"{here}/pageSize", f"invalid page size {quote(size)}", size,
                         "a number and KB, MB or GB, such as 2MB")
        limit = reader.number(row, "limit", here, UINT64)
        if limit is None and row.get("limit") is None:
            reader.error(CGROUP, f"{here}/limit", f"hugepage limit of {quote(size)} is missing", hint="bytes")
        limits.append(HugepageLimit(size, limit or 0))
    return tuple(limits)


def _read_network(reader: Reader, obj: dict[str, Any], at: str) -> NetworkResources:
    priorities = []
    for index, row in reader.rows(obj, "priorities", at):
        here = f"{at}/priorities/{index}"
        name = reader.text(row, "name", here)
        if not name and not row.get("name"):
            reader.error(CGROUP, f"{here}/name", "network priority needs an interface name", hint='such as "eth0"')
        elif "/" in name or " " in name or "\n" in name:
            reader.error(CGROUP, f"{here}/name", f"invalid interface name {quote(name)}", name, 'such as "eth0"')
        priorities.append(InterfacePriority(name, reader.count(row, "priority", here, UINT32)))
    return NetworkResources(reader.number(obj, "classID", at, UINT32), tuple(priorities))


def _read_rdma(reader: Reader, obj: dict[str, Any], at: str) -> tuple[RdmaLimit, ...]:
    limits = []
    devices = reader.table(obj, "rdma", at) or {}
    for name in devices:
        here = f"{at}/rdma/{escape(name)}"
        limit = reader.table(devices, name, f"{at}/rdma") or {}
        if not name or " " in name or "\n" in name:
            reader.error(CGROUP, here, f"invalid rdma device name {quote(name)}", name, "such as mlx5_1")
        limits.append(RdmaLimit(name, reader.number(limit, "hcaHandles", here, UINT32),
                                reader.number(limit, "hcaObjects", here, UINT32)))
    return tuple(limits)


def _read_unified(reader: Reader, obj: dict[str, Any], at: str) -> tuple[tuple[str, str], ...]:
    pairs = reader.pairs(obj, "unified", at)
    for name, _ in pairs:
        controller, dot, parameter = name.partition(".")
        if "/" in name or not (controller and dot and parameter):
            reader.error(CGROUP, f"{at}/unified/{escape(name)}", f"invalid unified key {quote(name)}", name,
                         "the name of a file in the cgroup's directory, such as memory.high")
    return pairs
