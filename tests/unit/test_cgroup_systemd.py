"""The systemd driver's pure half: names of slices and units, properties of limits and annotations."""

from __future__ import annotations

import pytest

from pyruntime.cgroup.plan import compile_cgroup
from pyruntime.cgroup.systemd import (
    INFINITY,
    cpu_mask,
    parse_variant,
    place,
    resource_properties,
    slice_path,
    unit_of,
    unit_properties,
)
from pyruntime.errors import SpecError
from pyruntime.host.facts import BundleFacts, HostFacts
from pyruntime.plan.order import compile_plan
from pyruntime.plan.step import Options
from tests.plan_samples import HYBRID, V2, spec, user_ns


@pytest.mark.parametrize(("path", "root", "found"), [
    ("", True, ("system.slice", "pyruntime-web.scope")),
    ("", False, ("user.slice", "pyruntime-web.scope")),
    ("machine-a.slice:docker:abc", True, ("machine-a.slice", "docker-abc.scope")),
    (":cri:abc", True, ("system.slice", "cri-abc.scope")),
    ("-.slice::abc", True, ("-.slice", "abc.scope")),
    ("a.slice:ignored:b.slice", True, ("a.slice", "b.slice")),
])  # fmt: skip
def test_place(path, root, found):
    assert place(path, "web", root=root) == found


@pytest.mark.parametrize("path", ["/a/b", "a:b", "a:b:c:d", "a/b.slice:c:d", "a--b.slice:c:d", "noslice:c:d"])
def test_places_that_are_none(path):
    with pytest.raises(SpecError) as caught:
        place(path, "web", root=True)
    assert (caught.value.field, bool(caught.value.hint)) == ("/linux/cgroupsPath", True)


@pytest.mark.parametrize(("name", "path"), [
    ("system.slice", "/system.slice"), ("-.slice", ""), ("a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice"),
])  # fmt: skip
def test_dashes_nest(name, path):
    assert slice_path(name) == path


def limits(value, version=2):
    resources = spec({"linux.resources": value}).linux.resources
    return {name: given for name, _, given in resource_properties(resources, version=version)}


@pytest.mark.parametrize(("value", "version", "found"), [
    ({"memory": {"limit": 1000, "reservation": 500, "swap": 1500}}, 2, {"MemoryMax": 1000, "MemoryLow": 500, "MemorySwapMax": 500}),
    ({"memory": {"limit": -1}}, 2, {"MemoryMax": INFINITY}),
    ({"memory": {"limit": 1000}}, 1, {"MemoryLimit": 1000}),
    ({"cpu": {"shares": 1024}}, 2, {"CPUWeight": 100}),
    ({"cpu": {"shares": 1024}}, 1, {"CPUShares": 1024}),
    ({"cpu": {"idle": 1}}, 2, {"CPUWeight": 0}),
    ({"cpu": {"quota": 50000}}, 2, {"CPUQuotaPerSecUSec": 500000}),
    ({"cpu": {"quota": 1234, "period": 10000}}, 2, {"CPUQuotaPeriodUSec": 10000, "CPUQuotaPerSecUSec": 130000}),
    ({"cpu": {"quota": -1}}, 2, {"CPUQuotaPerSecUSec": INFINITY}),
    ({"cpu": {"cpus": "0-2,9", "mems": "0"}}, 2, {"AllowedCPUs": b"\x07\x02", "AllowedMemoryNodes": b"\x01"}),
    ({"pids": {"limit": 0}}, 2, {"TasksMax": 1}),
    ({"pids": {"limit": -1}}, 2, {"TasksMax": INFINITY}),
    ({"unified": {"memory.high": "max", "pids.max": "7", "io.max": "8:0 rbps=1"}}, 2, {"MemoryHigh": INFINITY, "TasksMax": 7}),
])  # fmt: skip
def test_limits(value, version, found):
    assert limits(value, version) == found


def test_cpu_mask():
    assert cpu_mask("0,7,8") == b"\x81\x01"


@pytest.mark.parametrize(("text", "found"), [
    ("true", ("b", True)), ("'a b'", ("s", "a b")), ('"x"', ("s", "x")), ("5", ("i", 5)), ("uint64 7", ("t", 7)),
    ("0.5", ("d", 0.5)), ("['a', 'b']", ("as", ["a", "b"])),
])  # fmt: skip
def test_variant(text, found):
    assert parse_variant(text, "/annotations/x") == found


@pytest.mark.parametrize(("key", "text"), [
    ("ab", "1"), ("Name1", "1"), ("Name", "'open"), ("Name", "[1, 'a']"), ("Name", "words here"), ("TimeoutStopSec", "'a'"),
])  # fmt: skip
def test_annotations_that_are_refused(key, text):
    config = spec({"annotations": {f"org.systemd.property.{key}": text}})
    with pytest.raises(SpecError) as caught:
        unit_properties(config, "web", "system.slice", "web.scope", version=2)
    assert caught.value.field == f"/annotations/org.systemd.property.{key}"


def test_properties_of_a_scope_and_of_a_slice():
    config = spec({"annotations": {"org.systemd.property.TimeoutStopSec": "uint64 5", "other": "x"}})
    found = {name: value for name, _, value in unit_properties(config, "web", "a.slice", "web.scope", version=2)}
    assert found["Slice"] == "a.slice"
    assert found["Delegate"] is True
    assert found["TimeoutStopUSec"] == 5_000_000
    assert {name for name in found if name.endswith("Accounting")} == {
        "MemoryAccounting", "CPUAccounting", "TasksAccounting", "IOAccounting",
    }  # fmt: skip
    found = {name: value for name, _, value in unit_properties(config, "web", "a.slice", "b.slice", version=1)}
    assert found["Wants"] == ["a.slice"]
    assert "Delegate" not in found


@pytest.mark.parametrize("facts", [V2, HYBRID])
def test_the_unit_comes_before_everything_in_it(facts):
    config = spec({"linux.cgroupsPath": "machine.slice:p:web", "linux.resources": {"cpu": {"shares": 100}}})
    plan = compile_cgroup(config, HostFacts(cgroup=facts), Options(id="web", cgroup_manager="systemd"))
    assert plan.make == plan.early == ()
    assert plan.join[0].op == "sd_scope"
    assert plan.join[0].args[0] == "p-web.scope"
    assert {path.rpartition("/machine.slice/")[2] for _, path in plan.paths} == {"p-web.scope"}
    assert {"cg_make", "cg_join"} <= {step.op for step in plan.join[1:]} <= {"cg_make", "cg_join", "cg_write", "cg_devices"}
    assert unit_of(plan.paths) == "p-web.scope"


def test_a_user_instance_has_its_own_root():
    base = "/user.slice/user-1000.slice/user@1000.service"
    host = HostFacts(euid=1000, cgroup=V2, systemd_base=base)
    plan = compile_cgroup(spec({}), host, Options(id="web", cgroup_manager="systemd"))
    assert dict(plan.paths)[""] == f"/sys/fs/cgroup{base}/user.slice/pyruntime-web.scope"


def test_a_cgroup_below_the_unit():
    """Stage 0 leaves the unit's own cgroup before controllers are switched on there."""
    config = spec({"annotations": {"run.oci.systemd.subgroup": "container"}, "linux.resources": {"cpu": {"shares": 1024}}})
    plan = compile_cgroup(config, HostFacts(cgroup=V2), Options(id="web", cgroup_manager="systemd"))
    path = "/sys/fs/cgroup/system.slice/pyruntime-web.scope/container"
    assert plan.paths == (("", path),)
    assert unit_of(plan.paths) == "pyruntime-web.scope"
    found = [(step.op, str(step.args[0]).rpartition("/sys/fs/cgroup")[2]) for step in plan.join]
    scope = "/system.slice/pyruntime-web.scope"
    assert found[:3] == [("sd_scope", "pyruntime-web.scope"), ("cg_make", f"{scope}/container"), ("cg_join", f"{scope}/container")]
    assert found[-2:] == [("cg_write", f"{scope}/cgroup.subtree_control"), ("cg_devices", f"{scope}/container")]
    assert [step.args for step in plan.limits if step.op == "cg_write"] == [(f"{path}/cpu.weight", "100")]


def test_a_bind_of_the_unit_s_cgroup_is_opened_when_it_is_there():
    """By init: the unit, and with it the directory, is made when stage 0 can be put into it."""
    mount = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}
    config = spec({**user_ns("cgroup"), "mounts": [mount]})
    host = HostFacts(cgroup=V2)
    for manager, op in (("systemd", "clone_tree"), ("cgroupfs", "open_tree")):
        options = Options(id="web", cgroup_manager=manager)
        cgroup = compile_cgroup(config, host, options)
        found = compile_plan(config, BundleFacts("/b", "/b/rootfs"), host, options, cgroup)
        path = cgroup.paths[0][1]
        assert [step.op for step in found.steps if path in step.args and step.op.endswith("_tree")] == [op]
