"""cgroup/update.py: flags, merging, and an order of writes that the kernel takes (contract 1.4). Pure."""

from __future__ import annotations

import random

import pytest

from pyruntime.cgroup.update import compile_update, merge, resources_from_flags
from pyruntime.errors import HostError, SpecError, UsageError
from pyruntime.host.facts import CgroupFacts, Hierarchy
from pyruntime.spec.linux import (
    CPU,
    BlockIO,
    DeviceRule,
    HugepageLimit,
    Memory,
    Resources,
    ThrottleDevice,
    WeightDevice,
)

pytestmark = pytest.mark.unit
NAMES = ("cpuset", "cpu", "memory", "devices", "pids", "blkio", "hugetlb")
V1 = CgroupFacts("v1", tuple(Hierarchy(f"/cg/{name}", (name,)) for name in NAMES))
V2 = CgroupFacts("v2", (Hierarchy("/cg", (), "/", 2, ("cpu", "memory", "pids", "io", "cpuset")),))
PATHS = {1: tuple((name, f"/cg/{name}/web") for name in NAMES), 2: (("", "/cg/web"),)}


def update(saved, change, version=1):
    merged, steps = compile_update(saved, change, PATHS[version], V1 if version == 1 else V2)
    return merged, [(step.op, step.args[0].rpartition("/")[2], step.args[1]) for step in steps]


def files(saved, change, version=1):
    return [(name, data) for _, name, data in update(saved, change, version)[1]]


# -- flags

SIZES = [
    ("0", 0), ("1024", 1024), ("1k", 1024), ("2K", 2048), ("3m", 3 << 20), ("3MB", 3 << 20), ("3MiB", 3 << 20),
    ("1g", 1 << 30), ("1.5g", 3 << 29), ("2t", 2 << 40), ("10b", 10), ("5 m", 5 << 20), ("-1", -1),
]


@pytest.mark.parametrize(("text", "size"), SIZES, ids=str)
def test_size(text, size):
    assert resources_from_flags({"memory": text}).memory.limit == size


BAD = [
    ("memory", "x", "invalid value for memory: invalid size: 'x'"),
    ("memory", "-2", "invalid value for memory: invalid size: '-2'"),
    ("memory", "m", "invalid value for memory: invalid size: 'm'"),
    ("memory", "1mm", "invalid value for memory: invalid size: '1mm'"),
    ("memory", "9999999999g", "invalid value for memory: invalid size: '9999999999g'"),
    ("memory", "\u0661m", "invalid value for memory: invalid size: '\u0661m'"),
    ("memory-swap", ".5g", "invalid value for memory-swap: invalid size: '.5g'"),
    ("memory-reservation", "1.g", "invalid value for memory-reservation: invalid size: '1.g'"),
    ("cpu-share", "-1", 'invalid value for cpu-share: strconv.ParseUint: parsing "-1": invalid syntax'),
    ("cpu-period", "1k", 'invalid value for cpu-period: strconv.ParseUint: parsing "1k": invalid syntax'),
    ("cpu-quota", "9" * 19, f'invalid value for cpu-quota: strconv.ParseInt: parsing "{"9" * 19}": value out of range'),
    ("cpu-idle", " 1", 'invalid value for cpu-idle: strconv.ParseInt: parsing " 1": invalid syntax'),
    ("blkio-weight", "65536", 'invalid value for blkio-weight: strconv.ParseUint: parsing "65536": value out of range'),
    ("pids-limit", "many", 'invalid value for pids-limit: strconv.ParseInt: parsing "many": invalid syntax'),
]


@pytest.mark.parametrize(("name", "text", "message"), BAD, ids=lambda value: str(value)[:20])
def test_bad_flag(name, text, message):
    with pytest.raises(UsageError) as caught:
        resources_from_flags({name: text})
    assert str(caught.value) == message


def test_all_flags():
    flags = {"memory": "1m", "memory-reservation": "2m", "memory-swap": "-1", "kernel-memory": "1",
             "kernel-memory-tcp": "2",
             "cpu-period": "1", "cpu-quota": "-1", "cpu-burst": "0", "cpu-share": "4", "cpu-rt-period": "5",
             "cpu-rt-runtime": "-6", "cpu-idle": "1", "cpuset-cpus": "0-1", "cpuset-mems": "0", "blkio-weight": "7",
             "pids-limit": "0"}
    assert resources_from_flags(flags) == Resources(
        memory=Memory(1 << 20, 2 << 20, -1, 1, 2), block_io=BlockIO(weight=7), pids_limit=0,
        cpu=CPU(4, -1, 0, 1, -6, 5, "0-1", "0", 1))


def test_absent_and_empty_flags_ask_for_nothing():
    assert resources_from_flags({}) == Resources()
    assert resources_from_flags({"memory": "", "pids-limit": "", "cpuset-cpus": ""}) == Resources()


# -- merging and writes

def test_only_what_is_asked_for_is_written():
    saved = Resources(memory=Memory(limit=100, swap=200), cpu=CPU(shares=5), pids_limit=9)
    merged, steps = update(saved, Resources(pids_limit=0))
    assert steps == [("cg_write", "pids.max", "1")]
    assert merged == saved.replace(pids_limit=0)


def test_devices_are_never_touched():
    rules = (DeviceRule(False, "a", None, None, "rwm"),)
    merged, steps = update(Resources(devices=rules), Resources(devices=(DeviceRule(True, "a", None, None, "rwm"),)))
    assert merged.devices == rules
    assert steps == []


ORDERS = [  # saved, change, writes on v1
    (Memory(limit=100), Memory(limit=50), [("memory.limit_in_bytes", "50")]),
    (Memory(limit=100, swap=200), Memory(limit=300, swap=400),
     [("memory.memsw.limit_in_bytes", "400"), ("memory.limit_in_bytes", "300")]),
    (Memory(limit=300, swap=400), Memory(limit=100, swap=200),
     [("memory.limit_in_bytes", "100"), ("memory.memsw.limit_in_bytes", "200")]),
    (Memory(limit=100, swap=200), Memory(limit=-1),
     [("memory.memsw.limit_in_bytes", "-1"), ("memory.limit_in_bytes", "-1")]),
    (Memory(limit=100), Memory(limit=-1), [("memory.limit_in_bytes", "-1"), ("memory.memsw.limit_in_bytes", "-1")]),
    (Memory(limit=100, swap=200), Memory(limit=150),
     [("memory.limit_in_bytes", "150"), ("memory.memsw.limit_in_bytes", "200")]),
    (Memory(limit=100, swap=200), Memory(limit=0, swap=0, reservation=5), [("memory.soft_limit_in_bytes", "5")]),
]


@pytest.mark.parametrize(("saved", "change", "expected"), ORDERS, ids=range(len(ORDERS)))
def test_memory_order(saved, change, expected):
    assert files(Resources(memory=saved), Resources(memory=change)) == expected


def test_memory_zero_keeps_the_old_value():
    saved = Resources(memory=Memory(limit=100, swap=200, swappiness=5))
    assert merge(saved, Resources(memory=Memory(limit=0, swap=0))) == saved
    assert merge(saved, Resources(memory=Memory(swappiness=0))).memory.swappiness == 0


def test_memory_above_the_saved_swap_is_refused():
    with pytest.raises(SpecError, match="should be >= memory limit"):
        update(Resources(memory=Memory(limit=100, swap=200)), Resources(memory=Memory(limit=300)))


CPUS = [
    (CPU(quota=50, period=100), CPU(quota=70), [("cpu.cfs_period_us", "100"), ("cpu.cfs_quota_us", "70")]),
    (CPU(quota=50, period=100), CPU(period=200), [("cpu.cfs_period_us", "200"), ("cpu.cfs_quota_us", "50")]),
    (CPU(quota=50, period=100), CPU(quota=10, period=20), [("cpu.cfs_quota_us", "10"), ("cpu.cfs_period_us", "20")]),
    (CPU(), CPU(period=20), [("cpu.cfs_period_us", "20")]),
    (CPU(quota=50, period=100), CPU(quota=-1), [("cpu.cfs_quota_us", "-1"), ("cpu.cfs_period_us", "100")]),
    (CPU(quota=50, burst=40), CPU(quota=30, burst=20), [("cpu.cfs_burst_us", "20"), ("cpu.cfs_quota_us", "30")]),
    (CPU(quota=50, burst=10), CPU(quota=90, burst=60), [("cpu.cfs_quota_us", "90"), ("cpu.cfs_burst_us", "60")]),
    (CPU(idle=1), CPU(shares=5), []),
    (CPU(shares=7), CPU(idle=1), [("cpu.idle", "1")]),
    (CPU(shares=7, idle=1), CPU(idle=0), [("cpu.idle", "0"), ("cpu.shares", "7")]),
    (CPU(shares=7), CPU(shares=0), []),
    (CPU(), CPU(cpus="1", mems="0"), [("cpuset.cpus", "1"), ("cpuset.mems", "0")]),
]


@pytest.mark.parametrize(("saved", "change", "expected"), CPUS, ids=range(len(CPUS)))
def test_cpu_order(saved, change, expected):
    assert files(Resources(cpu=saved), Resources(cpu=change)) == expected


def test_quota_and_period_both_zero_are_forgotten():
    merged, steps = update(Resources(cpu=CPU(quota=5, period=6, shares=7)), Resources(cpu=CPU(quota=0, period=0)))
    assert merged.cpu == CPU(shares=7)
    assert steps == []


def test_quota_over_period_never_rises_above_both_ends():
    """The kernel compares quota/period with the parent's at each write: no state between may exceed old and new."""
    rng = random.Random(1)
    for _ in range(500):
        old = CPU(quota=rng.choice((-1, 10, 20, 50)), period=rng.choice((10, 50, 100)))
        new = CPU(quota=rng.choice((-1, 10, 20, 50)), period=rng.choice((10, 50, 100)))
        state = {"cpu.cfs_quota_us": old.quota, "cpu.cfs_period_us": old.period}
        shares = [share(state)]
        for name, data in files(Resources(cpu=old), Resources(cpu=new)):
            state[name] = int(data)
            shares.append(share(state))
        assert state == {"cpu.cfs_quota_us": new.quota, "cpu.cfs_period_us": new.period}
        assert max(shares) <= max(shares[0], shares[-1]) or new.quota < 0


def share(state):
    """quota/period; no quota is the parent's share on v1, which always fits."""
    return 0.0 if state["cpu.cfs_quota_us"] < 0 else state["cpu.cfs_quota_us"] / state["cpu.cfs_period_us"]


def test_block_devices_are_upserted():
    saved = BlockIO(weight=5, weight_device=(WeightDevice(8, 0, 10),),
                    throttle_read_bps_device=(ThrottleDevice(8, 0, 1), ThrottleDevice(8, 1, 2)))
    change = BlockIO(weight_device=(WeightDevice(8, 0, 20), WeightDevice(9, 0, 30)),
                     throttle_read_bps_device=(ThrottleDevice(8, 1, 7),))
    merged, steps = update(Resources(block_io=saved), Resources(block_io=change))
    assert merged.block_io == saved.replace(
        weight_device=(WeightDevice(8, 0, 20), WeightDevice(9, 0, 30)),
        throttle_read_bps_device=(ThrottleDevice(8, 0, 1), ThrottleDevice(8, 1, 7)))
    assert [(name, data) for _, name, data in steps] == [
        ("blkio.bfq.weight_device", "8:0 20"), ("blkio.bfq.weight_device", "9:0 30"),
        ("blkio.throttle.read_bps_device", "8:1 7")]


def test_hugepages_are_upserted():
    saved = Resources(hugepage_limits=(HugepageLimit("2MB", 1), HugepageLimit("1GB", 2)))
    merged, _ = update(saved, Resources(hugepage_limits=(HugepageLimit("2MB", 9),)))
    assert merged.hugepage_limits == (HugepageLimit("2MB", 9), HugepageLimit("1GB", 2))


def test_v2_compares_usage_first_when_asked():
    change = Resources(memory=Memory(limit=50, check_before_update=True))
    assert update(Resources(memory=Memory(limit=100)), change, 2)[1] == [
        ("cg_check", "memory.current", "50"), ("cg_write", "memory.max", "50")]


@pytest.mark.parametrize(("saved", "change", "expected"), [
    (CPU(quota=50, period=100), CPU(quota=70), [("cpu.max", "70 100")]),
    (CPU(quota=50, period=100), CPU(period=200), [("cpu.max", "50 200")]),
    (CPU(quota=50, burst=40), CPU(quota=30, burst=20), [("cpu.max.burst", "20"), ("cpu.max", "30 100000")]),
], ids=["quota", "period", "burst"])
def test_v2_cpu(saved, change, expected):
    assert files(Resources(cpu=saved), Resources(cpu=change), 2) == expected


HYBRID = CgroupFacts("hybrid", (Hierarchy("/cg/pids", ("pids",)), Hierarchy("/cg/memory", ("memory",)),
                                Hierarchy("/cg/unified", (), "/", 2, ("hugetlb",))))
HUGE = Resources(hugepage_limits=(HugepageLimit("2MB", 1),))


def test_hybrid_switches_on_what_create_did_not_need():
    _, steps = compile_update(Resources(), HUGE, (("pids", "/cg/pids/a/b"), ("", "/cg/unified/a/b")), HYBRID)
    assert [" ".join(step.args) for step in steps] == [
        "/cg/unified/cgroup.subtree_control +hugetlb", "/cg/unified/a/cgroup.subtree_control +hugetlb",
        "/cg/unified/a/b/hugetlb.2MB.max 1", "/cg/unified/a/b/hugetlb.2MB.rsvd.max 1"]


@pytest.mark.parametrize(("change", "name"), [
    (HUGE, "hugetlb"),
    (Resources(memory=Memory(limit=1)), "memory"),
], ids=["hugetlb", "memory"])
def test_a_hierarchy_without_the_container_is_none(change, name):
    with pytest.raises(HostError, match=f"^cannot set {name} limit: container could not join or create cgroup$"):
        compile_update(Resources(), change, (("pids", "/cg/pids/a"),), HYBRID)
