"""Devices and links of /dev."""

from __future__ import annotations

import os
import stat

import pytest

from pyruntime.host.facts import HostFacts
from pyruntime.plan.kernel import EEXIST, ENOENT, S_IFBLK, S_IFCHR, S_IFIFO, makedev
from pyruntime.plan.opcodes import OP_FLAGS
from tests.plan_samples import ops, plan, steps, user_ns, where

DEFAULTS = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"]


@pytest.mark.parametrize("number", [(1, 3), (5, 0), (259, 70000), (4095, 255), (0xFFFFF, 0xFFFFF)], ids=str)
def test_makedev_is_the_librarys(number):
    assert makedev(*number) == os.makedev(*number)


def test_node_types_are_the_systems():
    assert (S_IFCHR, S_IFBLK, S_IFIFO) == (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO)


def test_defaults():
    found = steps(plan(), "mknod")
    assert [step.args[0] for step in found] == DEFAULTS
    assert {step.args[1] for step in found} == {S_IFCHR | 0o666}
    assert {step.args[3:] for step in found} == {(0, 0)}
    assert found[0].args[2] == makedev(1, 3)


def test_missing_parents_are_made():
    (made,) = steps(plan(), "mknod")[0].alternatives
    assert (made.op, made.args[0], made.on_errno, made.retry) == ("make_path", "/dev", ENOENT, True)


@pytest.mark.parametrize(("device", "args"), [
    ({"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229},
     ("/dev/fuse", S_IFCHR | 0o666, makedev(10, 229), 0, 0)),
    ({"path": "/dev/u", "type": "u", "major": 1, "minor": 2}, ("/dev/u", S_IFCHR | 0o666, makedev(1, 2), 0, 0)),
    ({"path": "/dev/b", "type": "b", "major": 8, "minor": 300, "fileMode": 0o100600, "uid": 3, "gid": 4},
     ("/dev/b", S_IFBLK | 0o600, makedev(8, 300), 3, 4)),  # type bits of fileMode are dropped
    ({"path": "/run/p", "type": "p", "fileMode": 0}, ("/run/p", S_IFIFO, 0, 0, 0)),
], ids=str)  # fmt: skip
def test_listed(device, args):
    node = steps(plan({"linux.devices": [device]}), "mknod")[-1]
    assert (node.args, node.origin) == (args, "/linux/devices/0")


def test_a_listed_default_wins():
    device = {"path": "/dev//null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600}
    found = [step.args for step in steps(plan({"linux.devices": [device]}), "mknod") if step.args[0] == "/dev/null"]
    assert found == [("/dev/null", S_IFCHR | 0o600, makedev(1, 3), 0, 0)]


def test_ptmx_is_always_the_link():
    device = {"path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2}
    found = plan({"linux.devices": [device]})
    assert [step.args[0] for step in steps(found, "mknod")] == DEFAULTS
    assert steps(found, "symlink")[-1].args == ("pts/ptmx", "/dev/ptmx", OP_FLAGS["REPLACE"])


@pytest.mark.parametrize("kcore", [True, False])
def test_links(kcore):
    found = steps(plan(host=HostFacts(has_kcore=kcore)), "symlink")
    names = ["/dev/fd", "/dev/stdin", "/dev/stdout", "/dev/stderr", *(["/dev/core"] if kcore else []), "/dev/ptmx"]
    assert [step.args[1] for step in found] == names
    assert all(step.tolerate == (EEXIST,) for step in found[:-1])  # an existing name is kept


@pytest.mark.parametrize(
    ("mounts", "made"),
    [
        ([{"destination": "/dev", "type": "tmpfs"}], True),
        ([{"destination": "/dev", "source": "/dev", "options": ["rbind"]}], False),
        ([{"destination": "/dev/", "type": "bind", "source": "/dev"}], False),
        ([{"destination": "/dev", "type": "devtmpfs", "source": "devtmpfs"}], False),
        ([{"destination": "/dev", "type": "bind", "source": "/dev"}, {"destination": "/dev", "type": "tmpfs"}], True),
        ([{"destination": "/dev/x", "type": "bind", "source": "/dev"}], True),
    ],
    ids=str,
)
def test_a_bound_dev_is_left_alone(mounts, made):
    found = plan({"mounts": mounts})
    assert ("mknod" in ops(found)) == made
    assert ("symlink" in ops(found)) == made


@pytest.mark.parametrize(
    ("changes", "host"), [(user_ns(), HostFacts()), ({}, HostFacts(in_user_ns=True))], ids=["ours", "outer"]
)
def test_in_a_user_namespace_nodes_are_bound(changes, host):
    devices = [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "uid": 3}, {"path": "/p", "type": "p"}]
    found = plan(changes | {"linux.devices": devices}, host=host)
    opened = {step.args[3]: step.args for step in steps(found, "open_device")}
    assert [args[0] for args in opened.values()] == [*DEFAULTS, "/dev/fuse"]
    assert [step.args[1] for step in steps(found, "move_mount")] == [*DEFAULTS, "/dev/fuse"]
    assert all(step.args[0] in opened for step in steps(found, "move_mount"))
    assert [step.args for step in steps(found, "mknod")] == [("/p", S_IFIFO | 0o666, 0, 0, 0)]
    assert where(found, "open_device") < where(found, "spawn")
