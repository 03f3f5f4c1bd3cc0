"""Scheduler, ioPriority, affinity and memory policy as the kernel takes them; what is warned about; long mount data."""

from __future__ import annotations

import struct

import pytest

from pyruntime.errors import SpecError
from pyruntime.plan.attributes import affinity_steps, mask_of, memory_policy, sched_attr
from pyruntime.plan.describe import describe
from pyruntime.plan.kernel import EINVAL, ENOSYS, EPERM, MS_NODEV, MS_REC, MS_SLAVE
from pyruntime.spec.config import ExecCPUAffinity, Scheduler
from pyruntime.spec.linux import MemoryPolicy
from tests.plan_samples import only, ops, plan, steps, where


@pytest.mark.parametrize(("scheduler", "fields"), [
    (Scheduler("SCHED_OTHER", nice=-5), (56, 0, 0, -5, 0, 0, 0, 0, 0, 0)),
    (Scheduler("SCHED_FIFO", priority=99), (56, 1, 0, 0, 99, 0, 0, 0, 0, 0)),
    (Scheduler("SCHED_IDLE", flags=("SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_UTIL_CLAMP_MAX")), (56, 5, 0x41, 0, 0, 0, 0, 0, 0, 0)),
    (Scheduler("SCHED_DEADLINE", runtime=10, deadline=20, period=1 << 63), (56, 6, 0, 0, 0, 10, 20, 1 << 63, 0, 0)),
], ids=str)  # fmt: skip
def test_struct_sched_attr(scheduler, fields):
    assert struct.unpack("<IIQiIQQQII", sched_attr(scheduler)) == fields


@pytest.mark.parametrize(("policy", "mode", "nodes"), [
    (MemoryPolicy("MPOL_DEFAULT"), 0, ()),
    (MemoryPolicy("MPOL_BIND", "0-2,64", ("MPOL_F_STATIC_NODES",)), 2 | 1 << 15, (0, 1, 2, 64)),
    (MemoryPolicy("MPOL_WEIGHTED_INTERLEAVE", "1"), 6, (1,)),
], ids=str)  # fmt: skip
def test_memory_policy(policy, mode, nodes):
    found, mask = memory_policy(policy)
    assert found == mode
    assert len(mask) % 8 == 0
    assert int.from_bytes(mask, "little") == sum(1 << node for node in nodes)


@pytest.mark.parametrize(("numbers", "size"), [((), 0), ((0,), 8), ((63,), 8), ((64,), 16), ((8191,), 1024)], ids=str)
def test_masks_are_whole_longs(numbers, size):
    assert len(mask_of(numbers)) == size


@pytest.mark.parametrize(("initial", "final", "expected"), [
    ("", "", ([], [])), ("1", "", ([2], [])), ("", "0-1", ([], [3])), ("0", "3,", ([1], [8])),
])  # fmt: skip
def test_affinity(initial, final, expected):
    found = affinity_steps(ExecCPUAffinity(initial, final))
    assert tuple([int.from_bytes(step.args[0], "little") for step in part] for part in found) == expected


def test_in_order_and_with_origins():
    found = plan({"process.scheduler": {"policy": "SCHED_BATCH"}, "linux.memoryPolicy": {"mode": "MPOL_LOCAL"},
                  "process.ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 3}, "linux.personality": {"domain": "LINUX32"}})  # fmt: skip
    names = ["umask", "scheduler", "io_priority", "personality", "memory_policy", "close_from"]
    assert [op for op in ops(found) if op in names] == names
    assert where(found, "memory_policy") < where(found, "setuid")
    assert [only(found, name).origin for name in names[1:5]] == [
        "/process/scheduler", "/process/ioPriority", "/linux/personality", "/linux/memoryPolicy"]  # fmt: skip
    assert [describe(only(found, name)) for name in names[1:5]] == ["SCHED_BATCH", "BE 3", "LINUX32", "MPOL_LOCAL"]
    assert only(found, "io_priority").args == (2 << 13 | 3,)


def test_an_exec_without_attributes_has_no_such_steps():
    assert not {"scheduler", "io_priority", "personality", "memory_policy"} & set(ops(plan()))


def test_described_in_words():
    found = plan({"process.scheduler": {"policy": "SCHED_OTHER", "nice": -3},
                  "linux.memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0,2", "flags": ["MPOL_F_RELATIVE_NODES"]}})  # fmt: skip
    assert describe(only(found, "scheduler")) == "SCHED_OTHER nice -3"
    assert describe(only(found, "memory_policy")) == "MPOL_BIND|MPOL_F_RELATIVE_NODES nodes 0,2"


@pytest.mark.parametrize(("memory", "fields"), [
    ({"kernel": 5}, ["kernel"]),
    ({"kernelTCP": 5, "useHierarchy": True}, ["kernelTCP", "useHierarchy"]),
    ({"kernel": 0, "useHierarchy": False}, []),
], ids=str)  # fmt: skip
def test_limits_the_kernel_lost_are_warned_about(memory, fields):
    assert [field for field, _ in plan({"linux.resources": {"memory": memory}}).warnings] == [
        f"/linux/resources/memory/{field}" for field in fields]  # fmt: skip


def overlay(lower: str):
    """A plan with one overlay of that lowerdir."""
    mount = {"destination": "/o", "type": "overlay", "source": "overlay", "options": ["nodev", f"lowerdir={lower}", "userxattr"]}
    return plan({"mounts+": [mount]})


def test_a_value_that_fsconfig_does_not_take_goes_through_mount():
    step = only(overlay("/a" * 150), "classic_mount")
    assert step.args == ("overlay", "overlay", "/o", MS_NODEV, f"lowerdir={'/a' * 150},userxattr")
    assert [other.op for other in step.alternatives] == ["make_path"]
    assert "classic_mount" not in ops(overlay("/a:/b"))


def test_data_beyond_a_page_is_refused():
    with pytest.raises(SpecError, match="mount data is too long") as caught:
        overlay("/a" * 2100)
    assert caught.value.field == "/mounts/1/options"


def test_propagation_on_an_older_kernel():
    mount = {"destination": "/m", "type": "tmpfs", "options": ["rslave"]}
    step = next(step for step in steps(plan({"mounts+": [mount]}), "mount_setattr") if step.args[3])
    assert [(other.on_errno, other.op, other.args) for other in step.alternatives] == [
        (ENOSYS, "classic_mount", ("", "", "/m", MS_SLAVE | MS_REC, ""))]  # fmt: skip


def test_a_locked_mount_is_covered(host_with_proc_mounts):
    found = steps(plan(host=host_with_proc_mounts, no_pivot=True), "umount")
    assert [step.args[0] for step in found] == ["/proc", "/sys"]
    assert [[(other.on_errno, other.op, other.args) for other in step.alternatives] for step in found] == [
        [(EINVAL, "cover", (path,)), (EPERM, "cover", (path,))] for path in ("/proc", "/sys")]  # fmt: skip


@pytest.fixture
def host_with_proc_mounts():
    """A host with a full proc and a full sysfs."""
    from pyruntime.host.facts import HostFacts

    return HostFacts(proc_mounts=("/proc", "/sys"))
