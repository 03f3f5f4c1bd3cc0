"""Plans of callers without privileges over their own mount namespace: who opens bind sources, and when."""

from __future__ import annotations

import pytest

from pyruntime.host.facts import HostFacts
from pyruntime.plan.kernel import MS_PRIVATE, MS_REC, MS_SLAVE
from pyruntime.plan.opcodes import OP_FLAGS
from tests.plan_samples import ROOTLESS, namespaces, only, ops, plan, steps, user_ns, where

RECURSIVE, NO_FOLLOW = OP_FLAGS["RECURSIVE"], OP_FLAGS["TARGET_NO_FOLLOW"]
OPENED_BY_HOST = {"open_tree", "open_root", "open_device"}
NO_MOUNT_RIGHTS = HostFacts(in_user_ns=True, owns_mount_ns=False)


@pytest.mark.parametrize(("host", "inside"), [
    (HostFacts(), False),
    (ROOTLESS, True),
    (HostFacts(in_user_ns=True), False),  # a container in a container: it owns its mounts
    (NO_MOUNT_RIGHTS, True),  # unshare --user --map-root-user
    (HostFacts(capabilities=1 << 7), True),  # root without CAP_SYS_ADMIN
], ids=["root", "user", "nested root", "no mount namespace", "no capability"])  # fmt: skip
def test_who_opens_the_sources(host, inside):
    mounts = [{"destination": "/d", "type": "bind", "source": "/s", "options": ["rbind"]}]
    found = plan(user_ns() | {"mounts+": mounts}, host=host)
    assert bool(OPENED_BY_HOST & set(ops(found))) != inside
    assert ("clone_tree" in ops(found)) == inside


def test_sources_are_opened_in_the_copied_namespace_before_anything_is_attached():
    mounts = [{"destination": "/d", "type": "bind", "source": "s", "options": ["bind", "rprivate"]}]
    found = plan(user_ns() | {"mounts+": mounts}, host=ROOTLESS)
    opened = [index for index, step in enumerate(found.steps) if step.op == "clone_tree"]
    assert where(found, "clone") < where(found, "propagation") < min(opened)
    assert max(opened) < where(found, "attach_root") < where(found, "pivot_root")
    root, source, *_ = steps(found, "clone_tree")
    assert root.args[1:] == ("/b/rootfs", RECURSIVE | NO_FOLLOW, MS_SLAVE | MS_REC, 0, 0)
    assert (source.args[1:], source.origin) == (("/b/s", 0, MS_PRIVATE | MS_REC, 0, 0), "/mounts/1")
    assert only(found, "propagation").args == ("/", MS_SLAVE | MS_REC)


@pytest.mark.parametrize("option", ["shared", "rshared"])
def test_a_shared_tree_is_a_slave_when_it_is_opened(option):
    mounts = [{"destination": "/d", "type": "bind", "source": "/s", "options": ["rbind", option]}]
    found = plan(user_ns() | {"mounts+": mounts}, host=ROOTLESS)
    assert steps(found, "clone_tree")[1].args[3] == MS_SLAVE | MS_REC


def test_devices_are_checked_where_they_are_opened():
    found = plan(user_ns(), host=ROOTLESS)
    opened = {step.args[1]: step.args for step in steps(found, "clone_tree") if step.args[4]}
    assert opened["/dev/null"][2:] == (NO_FOLLOW, MS_SLAVE, 0o020666, 0x103)
    assert len(opened) == 6
    assert "mknod" not in ops(found)


def test_every_opened_slot_is_used():
    found = plan(user_ns("network"), host=ROOTLESS)
    used = {step.args[0] for step in found.init_steps() if step.op in ("move_mount", "attach_root")}
    assert {step.args[0] for step in steps(found, "clone_tree")} == used


@pytest.mark.parametrize(("kinds", "paths", "read_only"), [
    ((), (), True),
    (("cgroup",), (), True),  # nothing of its own to show
    (("cgroup",), (("", "/sys/fs/cgroup/a/b"),), False),
], ids=["no namespace", "no cgroup", "own"])  # fmt: skip
def test_the_hosts_cgroup_tree_is_never_writable(kinds, paths, read_only):
    from pyruntime.plan.step import CgroupPlan

    mounts = [{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}]
    changes = {"linux.namespaces": namespaces("user", "pid", "mount", *kinds), "mounts+": mounts}
    found = plan(user_ns() | changes, host=ROOTLESS, cgroup=CgroupPlan(paths))
    setters = [step for step in steps(found, "mount_setattr") if step.args[0] == "/sys/fs/cgroup"]
    assert any(step.args[1] & 1 for step in setters) == read_only
