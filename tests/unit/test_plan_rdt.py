"""linux.intelRdt as steps: which group, what is written, what is ours, and what is refused."""

from __future__ import annotations

import pytest

from pyruntime.errors import SpecError
from pyruntime.host.facts import HostFacts
from pyruntime.plan.rdt import compile_rdt, parse_schemata
from tests.plan_samples import ops, plan, spec

ROOT = "/sys/fs/resctrl"
HOST = HostFacts(resctrl=ROOT, resctrl_groups=("info", "gold", "mon_groups"))


def rdt(value, host=HOST):
    return compile_rdt(spec({"linux.intelRdt": value}), host, "web")


def lines(found):
    return [(step.op, *step.args) for step in (*found.make, *found.join)]


def test_without_a_name_the_group_is_the_containers_and_goes_with_it():
    found = rdt({"l3CacheSchema": "L3:0=ff", "memBwSchema": "MB:0=50", "schemata": ["L2:0=f"]})
    assert lines(found) == [
        ("rdt_make", f"{ROOT}/web"),
        ("rdt_write", f"{ROOT}/web/schemata", "L3:0=ff\n"),
        ("rdt_write", f"{ROOT}/web/schemata", "MB:0=50\n"),
        ("rdt_write", f"{ROOT}/web/schemata", "L2:0=f\n"),
        ("rdt_join", f"{ROOT}/web"),
    ]
    assert (found.group, found.ours) == (f"{ROOT}/web", (f"{ROOT}/web",))


def test_a_group_that_is_there_has_to_agree_and_stays():
    found = rdt({"closID": "gold", "l3CacheSchema": "L3:0=ff\nL3:1=f", "schemata": ["MB:0=50"]})
    assert lines(found) == [
        ("rdt_compare", f"{ROOT}/gold/schemata", ("L3:0=ff", "L3:1=f")),
        ("rdt_write", f"{ROOT}/gold/schemata", "L3:0=ff\nL3:1=f\n"),
        ("rdt_write", f"{ROOT}/gold/schemata", "MB:0=50\n"),
        ("rdt_join", f"{ROOT}/gold"),
    ]
    assert found.ours == ()


def test_a_named_group_that_is_made_stays():
    found = rdt({"closID": "new", "memBwSchema": "MB:0=50"})
    assert lines(found)[0] == ("rdt_make", f"{ROOT}/new")
    assert found.ours == ()


def test_the_default_group():
    assert lines(rdt({"closID": "/"})) == [("rdt_join", ROOT)]


def test_monitoring_has_a_group_of_its_own():
    found = rdt({"closID": "gold", "enableMonitoring": True})
    monitor = f"{ROOT}/gold/mon_groups/web"
    assert lines(found) == [("rdt_make", monitor), ("rdt_join", f"{ROOT}/gold"), ("rdt_join", monitor)]
    assert found.ours == (monitor,)


def test_stage_0_joins_before_it_clones():
    found = plan({"linux.intelRdt": {}}, host=HOST)
    names = ops(found)
    assert names.index("spawn") < names.index("rdt_join") < names.index("clone")


@pytest.mark.parametrize(("value", "host", "said", "field"), [
    ({}, HostFacts(), "Intel RDT is not enabled", "/linux/intelRdt"),
    ({"closID": "silver"}, HOST, "clos group silver does not exist", "/linux/intelRdt/closID"),
])  # fmt: skip
def test_refused(value, host, said, field):
    with pytest.raises(SpecError, match=said) as caught:
        rdt(value, host)
    assert (caught.value.field, bool(caught.value.hint)) == (field, True)


def test_schemata_are_numbers():
    assert parse_schemata("    L3:0=00ff;1=f\nMB:0=100\n") == {("L3", "0"): 255, ("L3", "1"): 15, ("MB", "0"): 100}
