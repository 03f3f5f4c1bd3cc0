"""cgroup/plan.py and host/cgroup_probe.py: hierarchies, placement, order of steps. Pure."""

from __future__ import annotations

import pytest

from pyruntime.cgroup.plan import compile_cgroup, container_places
from pyruntime.errors import HostError, RuntimeFailure, SpecError
from pyruntime.host.cgroup_probe import parse_cgroup
from pyruntime.host.facts import CgroupFacts, Hierarchy, HostFacts
from pyruntime.plan.step import CgroupPlan, Options
from pyruntime.spec.config import Spec
from pyruntime.spec.linux import (
    CPU,
    BlockIO,
    DeviceRule,
    HugepageLimit,
    Linux,
    Memory,
    NetworkResources,
    RdmaLimit,
    Resources,
)

pytestmark = pytest.mark.unit
S = "/sys/fs/cgroup"
NAMES = ("cpuset", "cpu,cpuacct", "memory", "devices", "freezer", "pids", "name=systemd")
OWN = "/box/job"
HYBRID = CgroupFacts("hybrid", (
    *(Hierarchy(f"{S}/{name.removeprefix('name=')}", tuple(name.split(",")), OWN) for name in NAMES),
    Hierarchy(f"{S}/unified", (), OWN, 2, ("hugetlb", "rdma")),
))
V2 = CgroupFacts("v2", (Hierarchy(S, (), OWN, 2, ("cpu", "memory", "pids", "io")),))
NONE = CgroupFacts()
DENY_ALL = DeviceRule(False, "a", None, None, "rwm")


def compiled(facts, path="", *, host=None, options=None, **resources):
    spec = Spec("1.3.0", linux=Linux(cgroups_path=path, resources=Resources(**resources)))
    return compile_cgroup(spec, (host or HostFacts()).replace(cgroup=facts), options or Options(id="web"))


def lines(steps):
    return [" ".join(step.args) for step in steps]


# -- placement

PLACES = [  # cgroupsPath, below a v1 mount, below the unified mount
    ("", "/box/job/web", "/box/web"),
    ("web2", "/box/job/web2", "/box/web2"),
    ("a/b", "/box/job/a/b", "/box/a/b"),
    ("a/../../b", "/box/job/b", "/box/b"),
    ("./a//b/.", "/box/job/a/b", "/box/a/b"),
    ("../../../etc", "/box/job/etc", "/box/etc"),
    ("/", None, None),
    ("/..", None, None),
    ("a/..", None, None),
    (".", None, None),
    ("/pods/x", "/pods/x", "/pods/x"),
    ("/pods/../../x", "/x", "/x"),
    ("/a/./b//", "/a/b", "/a/b"),
]


@pytest.mark.parametrize(("path", "v1", "unified"), PLACES, ids=lambda value: repr(value))
def test_places(path, v1, unified):
    if v1 is None:
        with pytest.raises(SpecError) as caught:
            container_places(path, "web", HYBRID)
        assert caught.value.field == "/linux/cgroupsPath"
        return
    places = [place for _, place in container_places(path, "web", HYBRID)]
    assert places[0] == f"{S}/cpuset{v1}"
    assert places[-1] == f"{S}/unified{unified}"
    assert len(places) == len(NAMES) + 1


def test_own_cgroup_at_the_root():
    facts = CgroupFacts("v2", (Hierarchy(S, (), "/", 2, ()),))
    assert [place for _, place in container_places("", "web", facts)] == [f"{S}/web"]


def test_paths_have_an_entry_for_each_controller():
    assert compiled(HYBRID, "/x").paths == (
        ("cpuset", f"{S}/cpuset/x"), ("cpu", f"{S}/cpu,cpuacct/x"), ("cpuacct", f"{S}/cpu,cpuacct/x"),
        ("memory", f"{S}/memory/x"), ("devices", f"{S}/devices/x"), ("freezer", f"{S}/freezer/x"),
        ("pids", f"{S}/pids/x"), ("name=systemd", f"{S}/systemd/x"), ("", f"{S}/unified/x"))


def test_every_hierarchy_is_made_and_joined_once():
    plan = compiled(HYBRID, "/x")
    places = [place for _, place in container_places("/x", "", HYBRID)]
    assert lines(plan.make) == places
    assert lines(plan.join) == places
    assert {step.op for step in plan.make} == {"cg_make"}
    assert {step.op for step in plan.join} == {"cg_join"}


# -- limits

def test_limits_go_to_the_hierarchy_of_their_controller():
    plan = compiled(HYBRID, "/x", memory=Memory(limit=5), cpu=CPU(shares=9, cpus="0"), pids_limit=3,
                    devices=(DENY_ALL,))
    assert lines(plan.early) == [f"{S}/cpuset/x/cpuset.cpus 0"]
    assert lines(plan.limits)[0] == f"{S}/devices/x/devices.deny a"
    assert lines(plan.limits)[-3:] == [f"{S}/memory/x/memory.limit_in_bytes 5", f"{S}/cpu,cpuacct/x/cpu.shares 9",
                                       f"{S}/pids/x/pids.max 3"]
    assert {step.op for step in plan.limits} == {"cg_write"}


def test_hybrid_uses_the_unified_tree_for_what_v1_lacks():
    plan = compiled(HYBRID, "/a/b", hugepage_limits=(HugepageLimit("2MB", 7),), pids_limit=1)
    enable = [line for line in lines(plan.make) if "subtree" in line]
    assert enable == [f"{S}/unified/cgroup.subtree_control +hugetlb", f"{S}/unified/a/cgroup.subtree_control +hugetlb"]
    assert lines(plan.limits)[-2:] == [f"{S}/unified/a/b/hugetlb.2MB.max 7", f"{S}/unified/a/b/hugetlb.2MB.rsvd.max 7"]
    steps = [step for step in plan.make if step.op == "cg_write"]
    assert {step.origin for step in steps} == {"/linux/resources/hugepageLimits/0"}


def test_hybrid_switches_nothing_on_without_need():
    assert not [line for line in lines(compiled(HYBRID, "/a/b", pids_limit=1).make) if "subtree" in line]


def test_v2_switches_everything_on():
    plan = compiled(V2, "/a/b", memory=Memory(limit=5, swap=9))
    assert lines(plan.make) == [f"{S}/a/b", f"{S}/cgroup.subtree_control +cpu +memory +pids +io",
                                f"{S}/a/cgroup.subtree_control +cpu +memory +pids +io"]
    assert lines(plan.limits) == [f"{S}/a/b/memory.swap.max 4", f"{S}/a/b/memory.max 5"]


def test_unified_resources_come_last_on_v2():
    plan = compiled(V2, "/a", memory=Memory(limit=5), unified=(("memory.high", "4"),))
    assert lines(plan.limits) == [f"{S}/a/memory.max 5", f"{S}/a/memory.high 4"]
    assert plan.limits[-1].origin == "/linux/resources/unified/memory.high"


FIELDS = [
    (NONE, {"pids_limit": 5}, "pids", "/linux/resources/pids/limit"),
    (NONE, {"memory": Memory(limit=5)}, "memory", "/linux/resources/memory/limit"),
    (NONE, {"cpu": CPU(cpus="0")}, "cpuset", "/linux/resources/cpu/cpus"),
    (NONE, {"devices": (DENY_ALL,)}, "devices", "/linux/resources/devices"),
    (HYBRID, {"block_io": BlockIO(weight=100)}, "blkio", "/linux/resources/blockIO/weight"),
    (HYBRID, {"network": NetworkResources(class_id=1)}, "net_cls", "/linux/resources/network/classID"),
    (V2, {"network": NetworkResources(class_id=1)}, "net_cls", "/linux/resources/network/classID"),
    (V2, {"rdma": (RdmaLimit("x", 1),)}, "rdma", "/linux/resources/rdma/x"),
    (V2, {"hugepage_limits": (HugepageLimit("2MB", 1),)}, "hugetlb", "/linux/resources/hugepageLimits/0"),
]


@pytest.mark.parametrize(("facts", "resources", "controller", "field"), FIELDS, ids=lambda value: str(value)[:30])
def test_a_limit_without_its_controller_is_an_error(facts, resources, controller, field):
    with pytest.raises(HostError) as caught:
        compiled(facts, **resources)
    assert caught.value.message == f"cannot set {controller} limit: container could not join or create cgroup"
    assert caught.value.field == field
    assert caught.value.hint


@pytest.mark.parametrize(("facts", "options", "message"), [
    (HYBRID, {"unified": (("memory.max", "1"),)}, "invalid configuration: cannot use unified on cgroup v1"),
    (V2, {"unified": (("hugetlb.2MB.max", "1"),)}, 'controller "hugetlb" not available'),
], ids=["v1", "v2"])
def test_unified_refused(facts, options, message):
    with pytest.raises(RuntimeFailure, match=message):
        compiled(facts, **options)


@pytest.mark.parametrize("host", [HostFacts(euid=1000), HostFacts(in_user_ns=True)], ids=["rootless", "userns"])
def test_device_rules_are_left_out_without_the_rights(host):
    assert compiled(HYBRID, host=host, devices=(DENY_ALL,)).limits == ()


def test_no_cgroups_at_all():
    assert compiled(NONE) == CgroupPlan()


def test_disabled_manager_does_nothing():
    options = Options(id="web", cgroup_manager="disabled")
    assert compiled(HYBRID, "/", options=options, pids_limit=5, memory=Memory(limit=5, swap=1)) == CgroupPlan()


def test_every_step_has_an_origin():
    plan = compiled(HYBRID, "/x", memory=Memory(limit=5, swap=6), cpu=CPU(shares=9, cpus="0"), devices=(DENY_ALL,),
                    hugepage_limits=(HugepageLimit("2MB", 1),))
    steps = (*plan.make, *plan.early, *plan.join, *plan.limits)
    assert all(step.origin.startswith("/linux/") for step in steps)


def locked(*names):
    """HYBRID, in which the caller may write to the hierarchies of `names` only."""
    return HYBRID.replace(hierarchies=tuple(
        entry.replace(writable=bool(set(names) & set(entry.controllers or ("",)))) for entry in HYBRID.hierarchies))


ROOTLESS = Options(id="web", rootless_cgroups=True)


def test_rootless_without_limits_uses_what_it_may():
    host = HostFacts(euid=1000)
    assert compiled(locked(), host=host, options=ROOTLESS) == CgroupPlan()
    plan = compiled(locked("name=systemd"), host=host, options=ROOTLESS)
    assert plan.paths == (("name=systemd", f"{S}/systemd/box/job/web"),)


def test_rootless_limit_out_of_reach():
    with pytest.raises(HostError, match="^cannot set pids limit: container could not join or create cgroup$"):
        compiled(locked(""), host=HostFacts(euid=1000), options=ROOTLESS, pids_limit=5)


def test_rootless_with_a_path_must_have_it():
    plan = compiled(locked(), "/pods/x", host=HostFacts(euid=1000), options=ROOTLESS)
    assert len(plan.make) == len(HYBRID.hierarchies)


# -- the probe's parser

OWN_TEXT = b"12:cpuset:/\n5:cpu,cpuacct:/j\n3:name=systemd:/user:1\n2:net_cls:/\n0::/u\n"
MOUNTS = b"""\
22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw
31 22 0:27 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755
32 31 0:28 / /sys/fs/cgroup/my\\040unified rw shared:10 - cgroup2 cgroup2 rw,nsdelegate
33 31 0:29 / /sys/fs/cgroup/systemd rw shared:11 - cgroup cgroup rw,xattr,name=systemd
34 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw shared:15 - cgroup cgroup rw,cpu,cpuacct
35 31 0:31 /deep /run/c/rootfs/cpuset rw - cgroup cgroup rw,cpuset
36 31 0:31 / /sys/fs/cgroup/cpuset rw shared:16 - cgroup cgroup rw,cpuset
37 22 0:40 / /x rw - tmpfs cgroup-like rw
"""


def test_parse_hybrid():
    assert parse_cgroup(OWN_TEXT, MOUNTS) == CgroupFacts("hybrid", (
        Hierarchy(f"{S}/cpuset", ("cpuset",), "/"), Hierarchy(f"{S}/cpu,cpuacct", ("cpu", "cpuacct"), "/j"),
        Hierarchy(f"{S}/systemd", ("name=systemd",), "/user:1"), Hierarchy(f"{S}/my unified", (), "/u", 2)))


@pytest.mark.parametrize(("own", "mounts", "layout"), [
    (b"", MOUNTS, "none"),
    (b"0::/\n", b"", "none"),
    (b"0::/\n", MOUNTS, "v2"),
    (b"1:cpuset:/\n0::/\n", MOUNTS, "hybrid"),
    (b"1:cpuset:/\n", MOUNTS, "v1"),
])
def test_parse_layout(own, mounts, layout):
    assert parse_cgroup(own, mounts).layout == layout


@pytest.mark.parametrize(("root", "own", "seen"), [
    ("/docker/x", "/docker/x", "/"),  # in a container without a cgroup namespace
    ("/docker/x", "/docker/x/y", "/y"),
    ("/docker/x", "/docker/xy", "/"),
    ("/..", "/", "/"),
])
def test_parse_mount_of_a_part(root, own, seen):
    mounts = f"1 2 0:3 {root} /cg rw - cgroup2 cgroup2 rw\n".encode()
    assert parse_cgroup(f"0::{own}\n".encode(), mounts).hierarchies == (Hierarchy("/cg", (), seen, 2),)


NAMED = Hierarchy(f"{S}/systemd", ("name=systemd",), "/")


def test_a_named_tree_beside_v2_is_no_v1():
    """Somebody mounts name=systemd for containers with an old systemd: limits are v2's, unified keys too."""
    facts = parse_cgroup(b"1:name=systemd:/\n0::/a\n",
                         b"30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
                         b"31 30 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n")  # fmt: skip
    assert facts.layout == "v2"
    assert facts.hierarchies[0] == NAMED
    plan = compiled(V2.replace(hierarchies=(NAMED, *V2.hierarchies)), "/web", unified=(("pids.max", "5"),))
    assert dict(plan.paths) == {"name=systemd": f"{S}/systemd/web", "": f"{S}/web"}
    assert lines(plan.limits) == [f"{S}/web/pids.max 5"]


def test_a_delegated_cgroup():
    spec = Spec("1.3.0", annotations=(("run.oci.delegate-cgroup", "init"),))
    assert compile_cgroup(spec, HostFacts(cgroup=V2), Options(id="web")).delegate == f"{S}/box/web/init"
    with pytest.raises(SpecError) as caught:
        compile_cgroup(spec, HostFacts(cgroup=HYBRID), Options(id="web"))
    assert caught.value.field == "/annotations/run.oci.delegate-cgroup"
