"""What `spec` writes is valid, and differs for plain users where it must."""

from __future__ import annotations

import itertools
import json

import pytest

from pyruntime.spec.linux import IDMapping
from pyruntime.spec.parse import parse_spec
from pyruntime.spec.template import default_config, render
from pyruntime.spec.validate import validate_document


@pytest.mark.parametrize(("rootless", "cgroup_v2"), list(itertools.product((False, True), repeat=2)))
def test_template_has_neither_errors_nor_warnings(rootless, cgroup_v2):
    text = render(default_config(rootless=rootless, cgroup_v2=cgroup_v2, euid=1000, egid=1000))
    report = validate_document(text.encode())
    assert (report.errors, report.warnings) == ((), ())


def test_layout_is_tabs_and_one_newline():
    document = default_config(rootless=False, cgroup_v2=False, euid=0, egid=0)
    assert render(document) == json.dumps(document, indent="\t") + "\n"


@pytest.mark.parametrize(("rootless", "cgroup_v2", "kinds"), [
    (False, False, ["pid", "network", "ipc", "uts", "mount"]),
    (False, True, ["pid", "network", "ipc", "uts", "mount", "cgroup"]),
    (True, True, ["pid", "ipc", "uts", "mount", "cgroup", "user"]),
])
def test_namespaces(rootless, cgroup_v2, kinds):
    spec = parse_spec(default_config(rootless=rootless, cgroup_v2=cgroup_v2, euid=1000, egid=100))
    assert [space.type for space in spec.linux.namespaces] == kinds


def test_rootless_maps_the_caller_and_keeps_to_what_a_user_may():
    spec = parse_spec(default_config(rootless=True, cgroup_v2=True, euid=1000, egid=100))
    assert spec.linux.uid_mappings == (IDMapping(0, 1000, 1),)
    assert spec.linux.gid_mappings == (IDMapping(0, 100, 1),)
    assert spec.linux.resources.devices == ()
    mounts = {mount.destination: mount for mount in spec.mounts}
    assert mounts["/sys"].source == "/sys"
    assert "rbind" in mounts["/sys"].options
    assert "gid=5" not in mounts["/dev/pts"].options


def test_root_gets_the_contract_s_defaults():
    spec = parse_spec(default_config(rootless=False, cgroup_v2=False, euid=0, egid=0))
    assert spec.hostname == "pyruntime"
    assert spec.process.capabilities.ambient == ()
    assert spec.process.capabilities.bounding == ("CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE")
    assert [(rule.allow, rule.access) for rule in spec.linux.resources.devices] == [(False, "rwm")]
    assert "gid=5" in next(mount.options for mount in spec.mounts if mount.destination == "/dev/pts")
