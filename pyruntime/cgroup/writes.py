"""Resources to cgroup file writes, for v1 and v2. Pure: no file is read, the order is that in which to write.

Files and conversions: runtime-spec config-linux.md (Control groups), the kernel's cgroup-v1/*.rst and cgroup-v2.rst.
Device rules are the subject of devices.py.
"""

from __future__ import annotations

from pyruntime.errors import HostError, SpecError
from pyruntime.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyruntime.spec.linux import CPU, BlockIO, HugepageLimit, Memory, RdmaLimit, Resources

R = "/linux/resources"
UNLIMITED = -1
DEFAULT_PERIOD_US = 100_000
MIN_SHARES, MAX_SHARES = 2, 262_144

# v1 controllers in the order in which limits are set and missing ones reported; on v2 blkio is called io.
CONTROLLERS = ("cpuset", "devices", "memory", "cpu", "pids", "blkio", "hugetlb", "net_cls", "net_prio", "rdma")
V2_NAMES = {"blkio": "io"}


class Write(Record):
    """One write(2) of `data` to `file` of the container's directory in `controller`'s hierarchy (v1 name).

    `early`: must be in place before the first process joins. `at_least`: a file whose number must not exceed `data`,
    else the write is refused (memory.checkBeforeUpdate on v2, where the kernel would kill instead); "" for none.
    """

    controller: str
    file: str
    data: str
    origin: str
    early: bool = False
    at_least: str = ""


def controller_writes(name: str, resources: Resources, version: int) -> list[Write]:
    """The writes for one controller (v1 name), device rules excepted, on cgroup `version` 1 or 2; [] when none.

    Raises SpecError for values that cannot be, HostError for a limit that this version does not have.
    """
    writer = (_V1 if version == 1 else _V2).get(name)
    return writer(resources) if writer else []


def unified_writes(unified: tuple[tuple[str, str], ...], available: tuple[str, ...]) -> tuple[Write, ...]:
    """`unified` verbatim, a write for each line, to come after all others.

    Raises SpecError for a key that is no file name of the form controller.parameter, HostError when its controller
    is not in `available` (cgroup.* needs none).
    """
    writes: list[Write] = []
    for key, value in unified:
        origin = f"{R}/unified/{_token(key)}"
        controller, dot, rest = key.partition(".")
        if not (controller and dot and rest) or "/" in key:
            raise SpecError(f'unified resource "{key}" must be a file name of the form controller.parameter',
                            field=origin)
        if controller != "cgroup" and controller not in available:
            raise HostError(f'unified resource "{key}" can\'t be set: controller "{controller}" not available',
                            field=origin, value=value)
        writes += [Write(controller, key, line, origin) for line in value.split("\n") if line]
    return tuple(writes)


# -- memory

def _memory_v1(resources: Resources) -> list[Write]:
    """The limit before memory+swap: in a new cgroup both are unlimited and the kernel wants limit <= memory+swap."""
    memory = resources.memory
    limit, swap = memory.limit or 0, memory.swap or 0
    swap_limit_v2(memory)  # the rules of memory against swap are the same
    if limit == UNLIMITED and not swap:
        swap = UNLIMITED
    writes = []
    if limit:
        writes.append(Write("memory", "memory.limit_in_bytes", str(limit), f"{R}/memory/limit"))
    if swap:
        where = "swap" if memory.swap else "limit"
        writes.append(Write("memory", "memory.memsw.limit_in_bytes", str(swap), f"{R}/memory/{where}"))
    if memory.reservation:
        writes.append(Write("memory", "memory.soft_limit_in_bytes", str(memory.reservation), f"{R}/memory/reservation"))
    if memory.disable_oom_killer:
        writes.append(Write("memory", "memory.oom_control", "1", f"{R}/memory/disableOOMKiller"))
    if memory.swappiness is not None and memory.swappiness != UNLIMITED:
        writes.append(_swappiness(memory.swappiness))
    return writes


def _swappiness(value: int) -> Write:
    if not 0 <= value <= 100:
        raise SpecError(f"invalid memory swappiness value: {value} (valid range is 0-100)",
                        field=f"{R}/memory/swappiness", value=str(value))
    return Write("memory", "memory.swappiness", str(value), f"{R}/memory/swappiness")


def swap_limit_v2(memory: Memory) -> int | None:
    """Bytes of swap alone for memory.swap.max: -1 for no limit, None when there is nothing to set.

    Raises SpecError when memory+swap is given without a memory limit or is below it.
    """
    limit, swap = memory.limit or 0, memory.swap or 0
    if limit == UNLIMITED and not swap:
        return UNLIMITED
    if not swap:
        return None
    if swap == UNLIMITED:
        return UNLIMITED
    if limit <= 0:
        raise SpecError("unable to set swap limit without memory limit", field=f"{R}/memory/swap", value=str(swap))
    if swap < limit:
        raise SpecError("memory+swap limit should be >= memory limit", field=f"{R}/memory/swap", value=str(swap),
                        hint=f"memory.swap counts memory and swap together; it must be at least {limit}")
    return swap - limit


def _memory_v2(resources: Resources) -> list[Write]:
    memory = resources.memory
    writes = []
    swap = swap_limit_v2(memory)
    if swap is not None:
        writes.append(Write("memory", "memory.swap.max", _max(swap), f"{R}/memory/swap"))
    if memory.limit:
        guard = "memory.current" if memory.check_before_update and memory.limit > 0 else ""
        writes.append(Write("memory", "memory.max", _max(memory.limit), f"{R}/memory/limit", at_least=guard))
    if memory.reservation:
        writes.append(Write("memory", "memory.low", _max(memory.reservation), f"{R}/memory/reservation"))
    return writes


# -- cpu

def _shares(cpu: CPU) -> int:
    """cpu.shares to set; 0 for none. The kernel would clamp silently (MIN_SHARES, MAX_SHARES of kernel/sched)."""
    shares = cpu.shares or 0
    if not shares or cpu.idle == 1:  # an idle group refuses a weight: EINVAL
        return 0
    if shares < MIN_SHARES:
        raise SpecError(f"the minimum allowed cpu-shares is {MIN_SHARES}", field=f"{R}/cpu/shares", value=str(shares))
    if shares > MAX_SHARES:
        raise SpecError(f"the maximum allowed cpu-shares is {MAX_SHARES}", field=f"{R}/cpu/shares", value=str(shares))
    return shares


def _cpu_v1(resources: Resources) -> list[Write]:
    """Realtime before joining; idle before shares; period, then quota, then burst, as a new cgroup accepts them."""
    cpu = resources.cpu
    writes = []
    for value, file, key in ((cpu.realtime_period, "cpu.rt_period_us", "realtimePeriod"),
                             (cpu.realtime_runtime, "cpu.rt_runtime_us", "realtimeRuntime")):
        if value:
            writes.append(Write("cpu", file, str(value), f"{R}/cpu/{key}", early=True))
    if cpu.idle is not None:
        writes.append(Write("cpu", "cpu.idle", str(cpu.idle), f"{R}/cpu/idle"))
    if shares := _shares(cpu):
        writes.append(Write("cpu", "cpu.shares", str(shares), f"{R}/cpu/shares"))
    for value, file, key in ((cpu.period, "cpu.cfs_period_us", "period"), (cpu.quota, "cpu.cfs_quota_us", "quota")):
        if value:
            writes.append(Write("cpu", file, str(value), f"{R}/cpu/{key}"))
    if cpu.burst is not None:
        writes.append(Write("cpu", "cpu.cfs_burst_us", str(cpu.burst), f"{R}/cpu/burst"))
    return writes


def weight_from_shares(shares: int) -> int:
    """cgroup v2 cpu.weight (1..10000) for v1 cpu shares (2..262144); 0 (unset) stays 0, values outside are clamped.

    The curve maps the ends to the ends and both defaults to each other, 1024 to 100: 10^((l^2 + 125 l)/612 - 7/34)
    with l the binary logarithm of the shares.
    """
    if shares == 0:
        return 0
    if shares <= MIN_SHARES:
        return 1
    if shares >= MAX_SHARES:
        return 10_000
    from math import ceil, log2

    power = log2(shares)
    return ceil(10 ** ((power * power + 125 * power) / 612 - 7 / 34))


def _cpu_v2(resources: Resources) -> list[Write]:
    cpu = resources.cpu
    if cpu.realtime_period or cpu.realtime_runtime:
        raise HostError("realtime limits are not supported on cgroup v2", field=f"{R}/cpu/realtimeRuntime",
                        hint="remove realtimePeriod and realtimeRuntime")
    writes = []
    if cpu.idle is not None:
        writes.append(Write("cpu", "cpu.idle", str(cpu.idle), f"{R}/cpu/idle"))
    if cpu.shares and cpu.idle != 1:
        writes.append(Write("cpu", "cpu.weight", str(weight_from_shares(cpu.shares)), f"{R}/cpu/shares"))
    if cpu.quota or cpu.period:
        quota = str(cpu.quota) if cpu.quota and cpu.quota > 0 else "max"
        origin = f"{R}/cpu/{'quota' if cpu.quota else 'period'}"
        writes.append(Write("cpu", "cpu.max", f"{quota} {cpu.period or DEFAULT_PERIOD_US}", origin))
    if cpu.burst is not None:
        writes.append(Write("cpu", "cpu.max.burst", str(cpu.burst), f"{R}/cpu/burst"))
    return writes


# -- the same file names on both: cpuset, pids, rdma

def _cpuset(resources: Resources) -> list[Write]:
    """Before joining: v1 lets no process into a cpuset without cpus and mems."""
    cpu = resources.cpu
    return [Write("cpuset", f"cpuset.{key}", value, f"{R}/cpu/{key}", early=True)
            for key, value in (("cpus", cpu.cpus), ("mems", cpu.mems)) if value]


def _pids(resources: Resources) -> list[Write]:
    """0 asks for a real limit; 1 is the smallest that lets init itself live."""
    limit = resources.pids_limit
    if limit is None:
        return []
    return [Write("pids", "pids.max", "max" if limit < 0 else str(limit or 1), f"{R}/pids/limit")]


def _rdma(resources: Resources) -> list[Write]:
    return [Write("rdma", "rdma.max", _rdma_line(entry), f"{R}/rdma/{_token(entry.device)}")
            for entry in resources.rdma]


def _rdma_line(entry: RdmaLimit) -> str:
    handles = "" if entry.hca_handles is None else f" hca_handle={entry.hca_handles}"
    objects = "" if entry.hca_objects is None else f" hca_object={entry.hca_objects}"
    return f"{entry.device}{handles}{objects}"


# -- block io

THROTTLES = (  # field, key of config.json, v1 file, v2 word
    ("throttle_read_bps_device", "throttleReadBpsDevice", "blkio.throttle.read_bps_device", "rbps"),
    ("throttle_write_bps_device", "throttleWriteBpsDevice", "blkio.throttle.write_bps_device", "wbps"),
    ("throttle_read_iops_device", "throttleReadIOPSDevice", "blkio.throttle.read_iops_device", "riops"),
    ("throttle_write_iops_device", "throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", "wiops"),
)


def _blkio_v1(resources: Resources) -> list[Write]:
    """Weights are BFQ's: CFQ's blkio.weight left the kernel with 5.0. The leaf weights went too, so they fail."""
    io = resources.block_io
    return [*_weights(io, "blkio", "blkio.bfq", "blkio.bfq.weight_device"), *_throttles_v1(io)]


def _weights(io: BlockIO, controller: str, prefix: str, device_file: str) -> list[Write]:
    origin = f"{R}/blockIO"
    writes = []
    if io.weight:
        writes.append(Write(controller, f"{prefix}.weight", str(io.weight), f"{origin}/weight"))
    if io.leaf_weight:
        writes.append(Write(controller, "blkio.leaf_weight", str(io.leaf_weight), f"{origin}/leafWeight"))
    for index, entry in enumerate(io.weight_device):
        where, device = f"{origin}/weightDevice/{index}", f"{entry.major}:{entry.minor}"
        if entry.weight is not None:
            writes.append(Write(controller, device_file, f"{device} {entry.weight}", f"{where}/weight"))
        if entry.leaf_weight is not None:
            writes.append(Write(controller, "blkio.leaf_weight_device", f"{device} {entry.leaf_weight}",
                                f"{where}/leafWeight"))
    return writes


def _throttles_v1(io: BlockIO) -> list[Write]:
    return [Write("blkio", file, f"{entry.major}:{entry.minor} {entry.rate}", f"{R}/blockIO/{key}/{index}")
            for field, key, file, _ in THROTTLES for index, entry in enumerate(getattr(io, field))]


def _blkio_v2(resources: Resources) -> list[Write]:
    """io.bfq.weight takes the weight as it is; where BFQ is not there the manager turns to io.weight."""
    io = resources.block_io
    writes = _weights(io, "io", "io.bfq", "io.bfq.weight")
    for write in writes:
        if write.file.startswith("blkio.leaf"):
            raise HostError("blkio leaf weights are not supported on cgroup v2", field=write.origin, value=write.data)
    # 0 is "no limit" on v1 and EINVAL for io.max
    return writes + [
        Write("io", "io.max", f"{entry.major}:{entry.minor} {word}={entry.rate or 'max'}", f"{R}/blockIO/{key}/{index}")
        for field, key, _, word in THROTTLES for index, entry in enumerate(getattr(io, field))]


def io_weight(weight: int) -> int:
    """io.weight (1..10000) for a blkio weight (10..1000); 0 (unset) stays 0."""
    return 0 if weight == 0 else 1 + (weight - 10) * 9999 // 990


# -- hugetlb, network

def _hugetlb_v1(resources: Resources) -> list[Write]:
    return _hugetlb(resources.hugepage_limits, "limit_in_bytes", "rsvd.limit_in_bytes")


def _hugetlb_v2(resources: Resources) -> list[Write]:
    return _hugetlb(resources.hugepage_limits, "max", "rsvd.max")


def _hugetlb(limits: tuple[HugepageLimit, ...], plain: str, reserved: str) -> list[Write]:
    """The plain limit counts faults, the reservation limit (Linux 5.7) what mmap reserves; both are set."""
    return [Write("hugetlb", f"hugetlb.{entry.page_size}.{file}", str(entry.limit), f"{R}/hugepageLimits/{index}")
            for index, entry in enumerate(limits) for file in (plain, reserved)]


def _net_cls(resources: Resources) -> list[Write]:
    class_id = resources.network.class_id
    return [Write("net_cls", "net_cls.classid", str(class_id), f"{R}/network/classID")] if class_id else []


def _net_prio(resources: Resources) -> list[Write]:
    return [Write("net_prio", "net_prio.ifpriomap", f"{entry.name} {entry.priority}", f"{R}/network/priorities/{index}")
            for index, entry in enumerate(resources.network.priorities)]


def _max(value: int) -> str:
    return "max" if value < 0 else str(value)


def _token(text: str) -> str:
    """One reference token of a JSON pointer (RFC 6901)."""
    return text.replace("~", "~0").replace("/", "~1")


_V1: dict[str, Callable[[Resources], list[Write]]] = {
    "cpuset": _cpuset, "memory": _memory_v1, "cpu": _cpu_v1, "pids": _pids, "blkio": _blkio_v1, "hugetlb": _hugetlb_v1,
    "net_cls": _net_cls, "net_prio": _net_prio, "rdma": _rdma,
}
_V2: dict[str, Callable[[Resources], list[Write]]] = {
    "cpuset": _cpuset, "memory": _memory_v2, "cpu": _cpu_v2, "pids": _pids, "blkio": _blkio_v2, "hugetlb": _hugetlb_v2,
    "rdma": _rdma,
}
