"""Namespaces: fresh, joined, with and without privilege; id maps and time offsets."""

from __future__ import annotations

import pytest

from pyruntime.host.facts import HostFacts
from pyruntime.plan.kernel import CLONE_FLAGS, CLONE_NEWTIME, CLONE_NEWUSER
from pyruntime.plan.opcodes import BARRIERS
from tests.plan_samples import BUNDLE, MAPS, ROOTLESS, namespaces, only, ops, plan, steps, user_ns, where


def joined_kinds(found):
    """Types in the order of their setns."""
    names = {bit: name for name, bit in CLONE_FLAGS.items()}
    return [names[step.args[1]] for step in steps(found, "setns")]


JOINED = {"network": "/n", "user": "/u", "ipc": "/i", "mount": "/m", "pid": "/p"}


@pytest.mark.parametrize(("host", "expected"), [
    (HostFacts(), ["ipc", "network", "pid", "mount", "user"]),  # our rights cover what the joined user ns may not own
    (ROOTLESS, ["user", "ipc", "network", "pid", "mount"]),  # its rights are all we have
], ids=["privileged", "rootless"])  # fmt: skip
def test_order_of_joining(host, expected):
    found = plan({"linux.namespaces": namespaces(**JOINED)}, host=host)
    assert joined_kinds(found) == expected


@pytest.mark.parametrize("host", [HostFacts(), ROOTLESS], ids=["privileged", "rootless"])
def test_joined_namespaces_are_opened_first_and_entered_unseen(host):
    found = plan({"linux.namespaces": namespaces(**JOINED)}, host=host)
    assert [step.args[0] for step in steps(found, "open_ns")] == list(JOINED.values())
    slots = {step.args[2] for step in steps(found, "open_ns")}
    assert {step.args[0] for step in steps(found, "setns")} == slots
    assert where(found, "set_dumpable", 0) < where(found, "setns")
    assert [step.args for step in steps(found, "set_dumpable")] == [(0,)]


def test_joining_a_user_namespace_makes_us_its_root():
    found = plan({"linux.namespaces": namespaces("mount", user="/u")})
    setns = where(found, "setns")
    assert found.steps[setns + 1].op == "set_ids"
    assert "id_map" not in ops(found)


def test_a_host_network_is_joined_before_a_fresh_user_namespace():
    changes = user_ns() | {"linux.namespaces": namespaces("user", "mount", network="/run/netns/a")}
    found = plan(changes)
    assert where(found, "setns") < where(found, "unshare")
    assert where(found, "unshare") < where(found, "clone")


def test_fresh_user_namespace_maps():
    found = plan(user_ns())
    start = where(found, "unshare")
    assert found.steps[start].args == (CLONE_NEWUSER,)
    assert [step.op for step in found.steps[start : start + 8]] == [
        "unshare", "set_dumpable", "barrier", "id_map", "id_map", "release", "set_ids", "clone"]  # fmt: skip
    assert found.steps[start + 2].args == (BARRIERS["mapped"],)
    assert [(step.args, step.origin) for step in steps(found, "id_map")] == [
        (("uid", ((0, 100000, 65536),), ""), "/linux/uidMappings"),
        (("gid", ((0, 100000, 65536),), ""), "/linux/gidMappings"),
    ]


def test_dumpable_for_the_maps_alone_when_something_is_joined():
    changes = user_ns() | {"linux.namespaces": namespaces("user", "mount", network="/n")}
    assert [step.args[0] for step in steps(plan(changes), "set_dumpable")] == [0, 1, 0]


OWN = [{"containerID": 0, "hostID": 1000, "size": 1}]


@pytest.mark.parametrize(("host", "maps", "denied"), [
    (ROOTLESS, OWN, True),
    (ROOTLESS, MAPS, False),  # newgidmap writes that one
    (ROOTLESS, [{"containerID": 0, "hostID": 1001, "size": 1}], False),
    (HostFacts(), OWN, False),
], ids=["own", "range", "other", "root"])  # fmt: skip
def test_setgroups_is_given_up_only_for_ones_own_gid(host, maps, denied):
    changes = user_ns() | {"linux.uidMappings": maps, "linux.gidMappings": maps}
    found = plan(changes, host=host)
    assert ("set_groups" in ops(found)) == denied
    if denied:
        assert where(found, "set_groups") < where(found, "id_map", "gid")


@pytest.mark.parametrize(("host", "maps", "methods"), [
    (ROOTLESS, OWN, ["", ""]),
    (ROOTLESS, MAPS, ["newuidmap", "newgidmap"]),
    (ROOTLESS, [*OWN, {"containerID": 1, "hostID": 100000, "size": 65536}], ["newuidmap", "newgidmap"]),
    (ROOTLESS, [{"containerID": 0, "hostID": 1001, "size": 1}], ["newuidmap", "newgidmap"]),
    (ROOTLESS.replace(egid=5), OWN, ["", "newgidmap"]),
    (HostFacts(), MAPS, ["", ""]),
    (HostFacts(in_user_ns=True), MAPS, ["", ""]),
    (HostFacts(capabilities=1 << 6), MAPS, ["newuidmap", ""]),  # CAP_SETGID alone
], ids=["own", "range", "own and range", "other", "own uid only", "root", "inner root", "setgid"])  # fmt: skip
def test_who_writes_the_maps(host, maps, methods):
    found = plan(user_ns() | {"linux.uidMappings": maps, "linux.gidMappings": maps}, host=host)
    assert [step.args[2] for step in steps(found, "id_map")] == methods


@pytest.mark.parametrize(("host", "annotations", "present"), [
    (HostFacts(), {}, True),
    (ROOTLESS, {}, False),
    (HostFacts(), {"run.oci.keep_original_groups": "1"}, False),
    (HostFacts(), {"run.oci.keep_original_groups": "0"}, True),
], ids=str)  # fmt: skip
def test_setgroups_step(host, annotations, present):
    assert ("setgroups" in ops(plan(user_ns() | {"annotations": annotations}, host=host))) == present


def test_time_offsets_are_written_before_the_clone():
    changes = {
        "linux.namespaces": namespaces("time", "mount"),
        "linux.timeOffsets": {"monotonic": {"secs": -3, "nanosecs": 4}, "boottime": {"secs": 5}},
    }
    found = plan(changes)
    write = only(found, "write_proc")
    assert write.args[0] == "self/timens_offsets"
    assert sorted(write.args[1].splitlines()) == [b"boottime 5 0", b"monotonic -3 4"]
    assert where(found, "open_proc") < where(found, "unshare", CLONE_NEWTIME) < where(found, "write_proc")
    assert where(found, "write_proc") < where(found, "close_slot", 1) < where(found, "clone")
    assert "set_dumpable" not in ops(found)


def test_time_offsets_in_a_user_namespace_need_a_process_that_owns_its_proc_files():
    changes = user_ns("time") | {"linux.timeOffsets": {"boottime": {"secs": 5}}}
    found = plan(changes)
    assert [step.args[0] for step in steps(found, "set_dumpable")] == [1, 1]
    write = where(found, "write_proc")
    assert found.steps[write - 1].op == "set_dumpable"
    assert where(found, "set_ids") < write


def test_time_without_offsets_needs_no_procfs():
    found = plan({"linux.namespaces": namespaces("time", "mount")})
    assert "open_proc" not in ops(found)
    assert only(found, "unshare").args == (CLONE_NEWTIME,)


def test_cgroup_namespace_is_the_last_and_inits_own():
    found = plan({"linux.namespaces": namespaces("cgroup", "mount")})
    assert where(found, "unshare") > where(found, "release", "recorded")
    assert only(found, "unshare").origin == "/linux/namespaces/0"


@pytest.mark.parametrize(("entries", "up"), [
    (namespaces("network", "mount"), True), (namespaces("mount", network="/n"), False), (namespaces("mount"), False),
], ids=["fresh", "joined", "absent"])  # fmt: skip
def test_loopback_is_ours_in_a_fresh_network_alone(entries, up):
    assert ("link_up" in ops(plan({"linux.namespaces": entries}))) == up


def test_maps_of_a_joined_user_namespace_are_checked():
    bundle = BUNDLE.replace(joined_uid_map=((0, 0, 10),), joined_gid_map=((0, 0, 10),))
    changes = {"linux.namespaces": namespaces("mount", user="/u"), "process.user": {"uid": 9, "gid": 9}}
    assert only(plan(changes, bundle=bundle), "setuid").args == (9,)
