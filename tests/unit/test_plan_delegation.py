"""plan/delegation.py: who becomes the owner of the container's cgroup, and when nobody does. Pure."""

from __future__ import annotations

import pytest

from pyruntime.host.facts import BundleFacts, CgroupFacts, Hierarchy, HostFacts
from pyruntime.plan.delegation import delegation_steps
from pyruntime.plan.step import CgroupPlan
from tests.plan_samples import namespaces, spec

pytestmark = pytest.mark.unit
PATH = "/sys/fs/cgroup/web"
V2 = CgroupFacts("v2", (Hierarchy("/sys/fs/cgroup", (), "/", 2, ("pids",)),))
MOUNT = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw", "nosuid"]}
MAPS = [{"containerID": 0, "hostID": 1000, "size": 10}]
USER = {"linux.namespaces": namespaces("cgroup", "user"), "linux.uidMappings": MAPS, "linux.gidMappings": MAPS}
BASE = {"mounts": [MOUNT], "process.user": {"uid": 5, "gid": 5}}
OWN = {"linux.namespaces": namespaces("cgroup")}


def steps_of(changes, *, host=None, delegate="", bundle=None):
    config = spec({**BASE, **changes})
    facts = host or HostFacts(cgroup=V2)
    plan = CgroupPlan((("", PATH),), delegate=delegate)
    found = delegation_steps(config, config.process, bundle or BundleFacts("/b", "/b/rootfs"), facts, plan)
    return [(step.op, *step.args) for step in found]


@pytest.mark.parametrize(("changes", "uid"), [
    (OWN, 5),
    (USER, 1005),
    ({**USER, "process.user": {"uid": 0, "gid": 0}}, 1000),
    ({**OWN, "mounts": [{**MOUNT, "type": "bind", "options": ["bind"]}]}, 5),  # the type is not looked at
], ids=["own uid", "mapped", "mapped root", "any type"])  # fmt: skip
def test_the_owner(changes, uid):
    assert steps_of(changes) == [("cg_own", PATH, uid)]


@pytest.mark.parametrize(("changes", "host"), [
    ({}, None),
    ({"linux.namespaces": namespaces(cgroup="/proc/7/ns/cgroup")}, None),
    ({**OWN, "mounts": [{**MOUNT, "options": ["ro"]}]}, None),
    ({**OWN, "mounts": [{**MOUNT, "destination": "/cgroup"}]}, None),
    ({**OWN, "mounts": [{**MOUNT, "source": "none"}]}, None),
    ({**OWN, "process.user": {"uid": 0, "gid": 0}}, None),
    (OWN, HostFacts(cgroup=V2.replace(layout="hybrid"))),
    (OWN, HostFacts(cgroup=V2, euid=1000, capabilities=0)),
], ids=["no namespace", "joined", "ro", "elsewhere", "source", "root", "v1", "plain user"])  # fmt: skip
def test_no_change(changes, host):
    assert steps_of(changes, host=host) == []


def test_a_joined_namespace_has_its_own_map():
    bundle = BundleFacts("/b", "/b/rootfs", joined_uid_map=((0, 7000, 10),))
    changes = {"linux.namespaces": namespaces("cgroup", user="/proc/7/ns/user")}
    assert steps_of(changes, bundle=bundle) == [("cg_own", PATH, 7005)]


def test_a_delegated_cgroup_is_entered_then_owned():
    found = steps_of(OWN, delegate=f"{PATH}/init")
    assert found == [("cg_enter", f"{PATH}/init"), ("cg_own", PATH, 5), ("cg_own", f"{PATH}/init", 5)]
