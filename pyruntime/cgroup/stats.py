"""What a container uses, as the `data` object of the `stats` event (contract 2.3).

A controller is read where the container has it: its v1 directory, else the unified one. A value whose file is missing
is left out or 0, as the shape demands; times are nanoseconds, sizes bytes. On a hybrid host pressure (PSI) comes from
the unified tree.
"""

from __future__ import annotations

from posix import O_CLOEXEC, O_RDONLY, close, listdir, open, read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Paths = tuple[tuple[str, str], ...]
    Numbers = dict[str, int]
    Object = dict[str, Any]

NO_LIMIT = (1 << 64) - 1
CPUSET_FLAGS = ("cpu_exclusive", "mem_hardwall", "mem_exclusive", "memory_migrate", "memory_spread_page",
                "memory_spread_slab", "memory_pressure", "sched_load_balance", "sched_relax_domain_level")
# key of the event, v1 names without their prefix: BFQ's, then the throttling layer's, which counts only two of them
BLKIO = (
    ("ioServiceBytesRecursive", "io_service_bytes_recursive"),
    ("ioServicedRecursive", "io_serviced_recursive"),
    ("ioQueueRecursive", "io_queued_recursive"),
    ("ioServiceTimeRecursive", "io_service_time_recursive"),
    ("ioWaitTimeRecursive", "io_wait_time_recursive"),
    ("ioMergedRecursive", "io_merged_recursive"),
    ("ioTimeRecursive", "time_recursive"),
    ("sectorsRecursive", "sectors_recursive"),
)
BLKIO_PREFIXES = ("blkio.bfq.", "blkio.throttle.")
# io.stat word (cgroup-v2.rst), key of the event, operation
IO_STAT = {
    "rbytes": ("ioServiceBytesRecursive", "Read"), "wbytes": ("ioServiceBytesRecursive", "Write"),
    "dbytes": ("ioServiceBytesRecursive", "Discard"), "rios": ("ioServicedRecursive", "Read"),
    "wios": ("ioServicedRecursive", "Write"), "dios": ("ioServicedRecursive", "Discard"),
}


def stats(paths: Paths) -> Object:
    """The data of one stats event. A cgroup that is gone counts as empty."""
    dirs = dict(paths)
    unified = dirs.get("", "")
    data: Object = {
        "cpu": _cpu(dirs),
        "cpuset": _cpuset(dirs.get("cpuset", ""), unified),
        "memory": _memory_v1(dirs["memory"]) if "memory" in dirs else _memory_v2(unified),
        "pids": _pids(dirs.get("pids") or unified),
        "blkio": _blkio_v1(dirs["blkio"]) if "blkio" in dirs else _io_v2(unified),
        "hugetlb": _hugetlb(dirs["hugetlb"], 1) if "hugetlb" in dirs else _hugetlb(unified, 2),
        "intel_rdt": {},
        "network_interfaces": None,
    }
    for key, file in (("cpu", "cpu.pressure"), ("memory", "memory.pressure"), ("blkio", "io.pressure")):
        if pressure := _pressure(unified, file):
            data[key]["psi"] = pressure
    return data


# -- cpu

def _cpu(dirs: dict[str, str]) -> Object:
    usage = _usage_v1(dirs["cpuacct"]) if "cpuacct" in dirs else _usage_v2(dirs.get("", ""))
    stat = _table(dirs.get("cpu") or dirs.get("", ""), "cpu.stat")
    throttled_ns = stat.get("throttled_time") or stat.get("throttled_usec", 0) * 1000
    throttling = _without_zeros({"periods": stat.get("nr_periods", 0), "throttledPeriods": stat.get("nr_throttled", 0),
                                 "throttledTime": throttled_ns})
    return {"usage": usage} | ({"throttling": throttling} if throttling else {})


def _usage_v1(path: str) -> Object:
    per_cpu = [int(word) for word in _text(path, "cpuacct.usage_percpu").split()]
    lines = [line.split() for line in _text(path, "cpuacct.usage_all").split("\n")[1:] if line]  # cpu user system
    lists = {"percpu": per_cpu, "percpu_kernel": [int(line[2]) for line in lines],
             "percpu_user": [int(line[1]) for line in lines]}
    usage: Object = _without_zeros({"total": _number(path, "cpuacct.usage")})
    usage |= {key: numbers for key, numbers in lists.items() if numbers}
    return usage | {"kernel": _number(path, "cpuacct.usage_sys"), "user": _number(path, "cpuacct.usage_user")}


def _usage_v2(path: str) -> Object:
    stat = _table(path, "cpu.stat")
    usage = _without_zeros({"total": stat.get("usage_usec", 0) * 1000})
    return usage | {"kernel": stat.get("system_usec", 0) * 1000, "user": stat.get("user_usec", 0) * 1000}


def _cpuset(path: str, unified: str) -> Object:
    """v2 has none of the flags; where a list is empty the effective one is what counts."""
    data: Object = {}
    for key in ("cpus", "mems"):
        text = _text(path, f"cpuset.{key}") if path else _text(unified, f"cpuset.{key}.effective")
        if numbers := parse_list(text):
            data[key] = numbers
    return data | {flag: _number(path, f"cpuset.{flag}") for flag in CPUSET_FLAGS}


def parse_list(text: str) -> list[int]:
    """The numbers of a kernel list: "0-2,7" is 0 1 2 7 (cpuset(7), formats)."""
    numbers: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            numbers.extend(range(int(first), int(last or first) + 1))
    return numbers


# -- memory

def _memory_v1(path: str) -> Object:
    raw = _table(path, "memory.stat")
    data: Object = _without_zeros({"cache": raw.get("cache", 0)})
    for key, prefix in (("usage", "memory."), ("swap", "memory.memsw."), ("kernel", "memory.kmem."),
                        ("kernelTCP", "memory.kmem.tcp.")):
        data[key] = _entry(_number(path, f"{prefix}limit_in_bytes"), _number(path, f"{prefix}usage_in_bytes"),
                           _number(path, f"{prefix}max_usage_in_bytes"), _number(path, f"{prefix}failcnt"))
    return data | {"raw": raw}


def _memory_v2(path: str) -> Object:
    """swap counts memory and swap together, as v1 does; kernel memory has no limit of its own on v2."""
    raw = _table(path, "memory.stat")
    limit, usage = _number(path, "memory.max"), _number(path, "memory.current")
    swap_limit, swap_usage = _number(path, "memory.swap.max"), _number(path, "memory.swap.current")
    both = NO_LIMIT if NO_LIMIT in (limit, swap_limit) else limit + swap_limit
    failures = _table(path, "memory.events").get("max", 0)
    data: Object = _without_zeros({"cache": raw.get("file", 0)})
    data["usage"] = _entry(limit, usage, _number(path, "memory.peak"), failures)
    data["swap"] = _entry(both, usage + swap_usage, 0, 0)
    data["kernel"] = data["kernelTCP"] = _entry(0, 0, 0, 0)
    return data | {"raw": raw}


def _entry(limit: int, usage: int, peak: int, failures: int) -> Object:
    return {"limit": limit} | _without_zeros({"usage": usage, "max": peak}) | {"failcnt": failures}


# -- the rest

def _pids(path: str) -> Object:
    """`limit` is absent when there is none."""
    limit = _number(path, "pids.max")
    return _without_zeros({"current": _number(path, "pids.current"), "limit": 0 if limit == NO_LIMIT else limit})


def _blkio_v1(path: str) -> Object:
    data: Object = {}
    for key, name in BLKIO:
        for prefix in BLKIO_PREFIXES:
            if entries := _blkio_entries(_text(path, prefix + name)):
                data[key] = entries
                break
    return data


def _blkio_entries(text: str) -> list[Object]:
    """Lines `8:0 Read 4096` or `8:0 4096`; the last line of a file is a total without a device."""
    entries = []
    for line in text.split("\n"):
        device, *rest = line.split() or [""]
        major, colon, minor = device.partition(":")
        if colon and rest:
            operation = {"op": rest[0]} if len(rest) > 1 else {}
            entries.append(_without_zeros({"major": int(major), "minor": int(minor)}) | operation
                           | _without_zeros({"value": int(rest[-1])}))
    return entries


def _io_v2(path: str) -> Object:
    data: Object = {}
    for line in _text(path, "io.stat").split("\n"):
        device, *words = line.split() or [""]
        major, _, minor = device.partition(":")
        for word in words:
            name, _, value = word.partition("=")
            if name in IO_STAT:
                key, operation = IO_STAT[name]
                data.setdefault(key, []).append(
                    _without_zeros({"major": int(major), "minor": int(minor)}) | {"op": operation}
                    | _without_zeros({"value": int(value)}))
    return data


def _hugetlb(path: str, version: int) -> Object:
    """{"2MB": {...}} for each page size; v2 keeps no peak and counts failures in hugetlb.SIZE.events."""
    usage = "usage_in_bytes" if version == 1 else "current"
    sizes = [name.split(".")[1] for name in _names(path)
             if name.startswith("hugetlb.") and name.count(".") == 2 and name.endswith(f".{usage}")]
    data: Object = {}
    for size in sorted(sizes):
        start = f"hugetlb.{size}."
        failures = (_number(path, f"{start}failcnt") if version == 1
                    else _table(path, f"{start}events").get("max", 0))
        peak = _number(path, f"{start}max_usage_in_bytes") if version == 1 else 0
        data[size] = _without_zeros({"usage": _number(path, start + usage), "max": peak}) | {"failcnt": failures}
    return data


def _pressure(path: str, file: str) -> Object:
    """{"some": {...}, "full": {...}} of one PSI file (accounting/psi.rst); {} without it."""
    data: Object = {}
    for line in _text(path, file).split("\n"):
        kind, *words = line.split() or [""]
        if words:
            pairs = (word.split("=") for word in words)
            data[kind] = {name: int(value) if name == "total" else float(value) for name, value in pairs}
    return data


# -- files

def _text(path: str, file: str) -> str:
    """The file's text, "" when it cannot be read: controllers differ by kernel and configuration."""
    if not path:
        return ""
    try:
        fd = open(f"{path}/{file}", O_RDONLY | O_CLOEXEC)
    except OSError:
        return ""
    try:
        chunks = [read(fd, 65536)]
        while chunks[-1]:
            chunks.append(read(fd, 65536))
    except OSError:  # e.g. EOPNOTSUPP for pressure that is switched off
        return ""
    finally:
        close(fd)
    return b"".join(chunks).decode("utf-8", "surrogateescape")


def _number(path: str, file: str) -> int:
    """The file's number; "max" is NO_LIMIT, a missing file 0."""
    text = _text(path, file).strip()
    return NO_LIMIT if text == "max" else int(text or 0)


def _table(path: str, file: str) -> Numbers:
    """{name: number} of a file with a pair on each line."""
    pairs = (line.split() for line in _text(path, file).split("\n"))
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


def _names(path: str) -> list[str]:
    try:
        return listdir(path) if path else []
    except OSError:
        return []


def _without_zeros(numbers: Numbers) -> Object:
    return {name: value for name, value in numbers.items() if value}
