"""A mount that is added to a running container: the order of its steps, and what a failure of one leaves."""

from __future__ import annotations

import pytest

from pyruntime.errors import HostError, InitError
from pyruntime.lifecycle.live_mounts import is_attached
from pyruntime.plan.live_mounts import compile_add
from pyruntime.plan.step import ExecOptions
from tests.plan_samples import BUNDLE, HOST, NO_CGROUPS, spec

BIND = {"destination": "/data", "source": "/srv", "options": ["rbind", "ro", "rnosuid", "rshared"]}


def add(mount):
    return compile_add(spec({"mounts": [mount]}), 0, BUNDLE, HOST, ExecOptions(nstypes=0x20000), NO_CGROUPS)


def test_a_bind_has_its_attributes_before_it_is_attached():
    plan = add(BIND)
    found = [(step.op, step.args[1:]) for step in plan.steps if step.op in ("tree_attributes", "spawn", "move_mount")]
    assert found == [("tree_attributes", (1, 0, 0)), ("tree_attributes", (2, 0, 1)), ("spawn", ()),
                     ("move_mount", ("/data", 0))]  # fmt: skip


@pytest.mark.parametrize(("op", "there"), [("setns", False), ("move_mount", False), ("mount_setattr", True)])
def test_what_a_failure_leaves(op, there):
    plan = add(BIND)
    number = next(at for at, step in enumerate(plan.steps, 1) if step.op == op)
    assert is_attached(plan, InitError("x", step=number)) is there


def test_a_host_step_leaves_nothing():
    assert not is_attached(add(BIND), HostError("x"))
