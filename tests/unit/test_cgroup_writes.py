"""cgroup/writes.py: resources to files and values, v1 and v2 (contract 4.8). Pure."""

from __future__ import annotations

import pytest

from pyruntime.cgroup.writes import (
    CONTROLLERS,
    controller_writes,
    io_weight,
    unified_writes,
    weight_from_shares,
)
from pyruntime.errors import HostError, RuntimeFailure, SpecError
from pyruntime.spec.linux import (
    CPU,
    BlockIO,
    HugepageLimit,
    InterfacePriority,
    Memory,
    NetworkResources,
    RdmaLimit,
    Resources,
    ThrottleDevice,
    WeightDevice,
)

pytestmark = pytest.mark.unit
GB = 1 << 30


def resource_writes_v1(resources):
    return tuple(write for name in CONTROLLERS for write in controller_writes(name, resources, 1))


def resource_writes_v2(resources):
    return tuple(write for name in CONTROLLERS for write in controller_writes(name, resources, 2))


def pairs(writes):
    return [(write.file, write.data) for write in writes]


def memory(**fields):
    return Resources(memory=Memory(**fields))


def cpu(**fields):
    return Resources(cpu=CPU(**fields))


def io(**fields):
    return Resources(block_io=BlockIO(**fields))


V1 = [
    (Resources(), []),
    (memory(limit=0), []),  # 0 is unset
    (memory(limit=64), [("memory.limit_in_bytes", "64")]),
    (memory(limit=64, swap=128), [("memory.limit_in_bytes", "64"), ("memory.memsw.limit_in_bytes", "128")]),
    (memory(limit=64, swap=64), [("memory.limit_in_bytes", "64"), ("memory.memsw.limit_in_bytes", "64")]),
    (memory(limit=64, swap=-1), [("memory.limit_in_bytes", "64"), ("memory.memsw.limit_in_bytes", "-1")]),
    (memory(limit=-1), [("memory.limit_in_bytes", "-1"), ("memory.memsw.limit_in_bytes", "-1")]),
    (memory(reservation=32), [("memory.soft_limit_in_bytes", "32")]),
    (memory(swappiness=0), [("memory.swappiness", "0")]),
    (memory(swappiness=100), [("memory.swappiness", "100")]),
    (memory(disable_oom_killer=True), [("memory.oom_control", "1")]),
    (memory(disable_oom_killer=False), []),
    (memory(kernel=1, kernel_tcp=1, use_hierarchy=True, check_before_update=True), []),
    (cpu(shares=0), []),
    (cpu(shares=2), [("cpu.shares", "2")]),
    (cpu(shares=262144), [("cpu.shares", "262144")]),
    (cpu(quota=50000, period=100000), [("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "50000")]),
    (cpu(quota=-1), [("cpu.cfs_quota_us", "-1")]),
    (cpu(quota=5000, burst=1000), [("cpu.cfs_quota_us", "5000"), ("cpu.cfs_burst_us", "1000")]),
    (cpu(idle=1, shares=100), [("cpu.idle", "1")]),  # an idle group refuses shares
    (cpu(idle=0, shares=100), [("cpu.idle", "0"), ("cpu.shares", "100")]),
    (cpu(realtime_period=1000, realtime_runtime=500), [("cpu.rt_period_us", "1000"), ("cpu.rt_runtime_us", "500")]),
    (cpu(cpus="0-1", mems="0"), [("cpuset.cpus", "0-1"), ("cpuset.mems", "0")]),
    (Resources(pids_limit=0), [("pids.max", "1")]),  # a real limit, not "none"
    (Resources(pids_limit=-1), [("pids.max", "max")]),
    (Resources(pids_limit=7), [("pids.max", "7")]),
    (io(weight=500), [("blkio.bfq.weight", "500")]),
    (io(leaf_weight=500), [("blkio.leaf_weight", "500")]),
    (io(weight_device=(WeightDevice(8, 0, 300, 200),)),
     [("blkio.bfq.weight_device", "8:0 300"), ("blkio.leaf_weight_device", "8:0 200")]),
    (io(throttle_read_bps_device=(ThrottleDevice(8, 0, 1),), throttle_write_bps_device=(ThrottleDevice(8, 0, 2),),
        throttle_read_iops_device=(ThrottleDevice(8, 0, 3),), throttle_write_iops_device=(ThrottleDevice(8, 16, 4),)),
     [("blkio.throttle.read_bps_device", "8:0 1"), ("blkio.throttle.write_bps_device", "8:0 2"),
      ("blkio.throttle.read_iops_device", "8:0 3"), ("blkio.throttle.write_iops_device", "8:16 4")]),
    (Resources(hugepage_limits=(HugepageLimit("2MB", 4096),)),
     [("hugetlb.2MB.limit_in_bytes", "4096"), ("hugetlb.2MB.rsvd.limit_in_bytes", "4096")]),
    (Resources(network=NetworkResources(0x100001, (InterfacePriority("eth0", 5),))),
     [("net_cls.classid", "1048577"), ("net_prio.ifpriomap", "eth0 5")]),
    (Resources(rdma=(RdmaLimit("mlx5", 3, 10), RdmaLimit("x", hca_objects=1))),
     [("rdma.max", "mlx5 hca_handle=3 hca_object=10"), ("rdma.max", "x hca_object=1")]),
]


@pytest.mark.parametrize(("resources", "expected"), V1, ids=lambda value: str(value)[:60])
def test_v1(resources, expected):
    assert pairs(resource_writes_v1(resources)) == expected


V2 = [
    (Resources(), []),
    (memory(limit=64), [("memory.max", "64")]),
    (memory(limit=-1), [("memory.swap.max", "max"), ("memory.max", "max")]),
    (memory(limit=64, swap=200), [("memory.swap.max", "136"), ("memory.max", "64")]),
    (memory(limit=64, swap=64), [("memory.swap.max", "0"), ("memory.max", "64")]),
    (memory(limit=64, swap=-1), [("memory.swap.max", "max"), ("memory.max", "64")]),
    (memory(reservation=32), [("memory.low", "32")]),
    (memory(swappiness=10, disable_oom_killer=True), []),
    (cpu(shares=1024), [("cpu.weight", "100")]),
    (cpu(shares=1), [("cpu.weight", "1")]),
    (cpu(quota=50000), [("cpu.max", "50000 100000")]),
    (cpu(period=20000), [("cpu.max", "max 20000")]),
    (cpu(quota=-1, period=20000), [("cpu.max", "max 20000")]),
    (cpu(quota=50000, burst=100), [("cpu.max", "50000 100000"), ("cpu.max.burst", "100")]),
    (cpu(idle=1, shares=5), [("cpu.idle", "1")]),
    (cpu(cpus="1"), [("cpuset.cpus", "1")]),
    (Resources(pids_limit=0), [("pids.max", "1")]),
    (io(weight=500), [("io.bfq.weight", "500")]),
    (io(weight_device=(WeightDevice(8, 0, 300),)), [("io.bfq.weight", "8:0 300")]),
    (io(throttle_read_bps_device=(ThrottleDevice(8, 0, 9),), throttle_write_iops_device=(ThrottleDevice(8, 0, 0),)),
     [("io.max", "8:0 rbps=9"), ("io.max", "8:0 wiops=max")]),
    (Resources(hugepage_limits=(HugepageLimit("1GB", GB),)),
     [("hugetlb.1GB.max", str(GB)), ("hugetlb.1GB.rsvd.max", str(GB))]),
    (Resources(rdma=(RdmaLimit("mlx5", 3),)), [("rdma.max", "mlx5 hca_handle=3")]),
]


@pytest.mark.parametrize(("resources", "expected"), V2, ids=lambda value: str(value)[:60])
def test_v2(resources, expected):
    assert pairs(resource_writes_v2(resources)) == expected


REFUSED = [
    (1, memory(swap=64), SpecError, "unable to set swap limit without memory limit", "/linux/resources/memory/swap"),
    (2, memory(limit=-1, swap=64), SpecError, "unable to set swap limit without", "/linux/resources/memory/swap"),
    (1, memory(limit=64, swap=32), SpecError, "memory+swap limit should be >= memory limit",
     "/linux/resources/memory/swap"),
    (1, memory(swappiness=101), SpecError, "invalid memory swappiness value: 101",
     "/linux/resources/memory/swappiness"),
    (1, cpu(shares=1), SpecError, "the minimum allowed cpu-shares is 2", "/linux/resources/cpu/shares"),
    (1, cpu(shares=262145), SpecError, "the maximum allowed cpu-shares is 262144", "/linux/resources/cpu/shares"),
    (2, cpu(realtime_runtime=5), HostError, "realtime limits are not supported",
     "/linux/resources/cpu/realtimeRuntime"),
    (2, io(leaf_weight=5), HostError, "leaf weights are not supported", "/linux/resources/blockIO/leafWeight"),
]


@pytest.mark.parametrize(("version", "resources", "kind", "message", "field"), REFUSED,
                         ids=lambda value: str(value)[:40])
def test_refused(version, resources, kind, message, field):
    writer = resource_writes_v1 if version == 1 else resource_writes_v2
    with pytest.raises(kind, match=message.replace("+", r"\+")) as caught:
        writer(resources)
    assert isinstance(caught.value, RuntimeFailure)
    assert caught.value.field == field


def test_early_are_those_needed_before_joining():
    resources = cpu(realtime_period=1, realtime_runtime=1, cpus="0", mems="0", shares=5, quota=1000)
    early = [write.file for write in resource_writes_v1(resources) if write.early]
    assert early == ["cpuset.cpus", "cpuset.mems", "cpu.rt_period_us", "cpu.rt_runtime_us"]


def test_origin_names_the_key_of_the_config():
    resources = Resources(memory=Memory(limit=-1), hugepage_limits=(HugepageLimit("2MB", 1),),
                          rdma=(RdmaLimit("a/b", 1),), block_io=BlockIO(
                              throttle_read_iops_device=(ThrottleDevice(8, 0, 1), ThrottleDevice(8, 1, 1))))
    origins = {write.file: write.origin for write in resource_writes_v1(resources)}
    prefix = "/linux/resources"
    assert origins["memory.limit_in_bytes"] == f"{prefix}/memory/limit"
    assert origins["memory.memsw.limit_in_bytes"] == f"{prefix}/memory/limit"  # memory -1 lifts swap too
    assert origins["hugetlb.2MB.limit_in_bytes"] == f"{prefix}/hugepageLimits/0"
    assert origins["rdma.max"] == f"{prefix}/rdma/a~1b"
    assert origins["blkio.throttle.read_iops_device"] == f"{prefix}/blockIO/throttleReadIOPSDevice/1"


@pytest.mark.parametrize(("shares", "weight"), [
    (0, 0), (1, 1), (2, 1), (1024, 100), (262144, 10000), (300000, 10000), (512, 59), (2048, 174)])
def test_weight_from_shares(shares, weight):
    assert weight_from_shares(shares) == weight


def test_weight_from_shares_never_falls():
    weights = [weight_from_shares(shares) for shares in range(2, 262145, 97)]
    assert weights == sorted(weights)


@pytest.mark.parametrize(("weight", "expected"), [(0, 0), (10, 1), (1000, 10000), (500, 4950)])
def test_io_weight(weight, expected):
    assert io_weight(weight) == expected


def test_memory_is_checked_first_only_on_v2():
    asked = memory(limit=64, check_before_update=True)
    assert [write.at_least for write in resource_writes_v2(asked)] == ["memory.current"]
    assert [write.at_least for write in resource_writes_v1(asked)] == [""]


def test_unified_is_verbatim_line_by_line():
    writes = unified_writes((("io.max", "8:0 rbps=1\n8:16 rbps=2\n"), ("cgroup.max.depth", "3")), ("io",))
    assert pairs(writes) == [("io.max", "8:0 rbps=1"), ("io.max", "8:16 rbps=2"), ("cgroup.max.depth", "3")]


@pytest.mark.parametrize(("key", "kind"), [
    ("memory/max", SpecError), ("../x.y", SpecError), ("memory", SpecError), (".max", SpecError),
    ("memory.", SpecError),
    ("memory.max", HostError)])
def test_unified_refused(key, kind):
    with pytest.raises(kind, match="unified resource"):
        unified_writes(((key, "1"),), ("pids",))
