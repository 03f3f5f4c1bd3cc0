"""`features` field by field: what it announces is done, and what it does not announce is refused (features.md of the spec)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pyruntime.plan.mounts import split_options
from tests.system.bundle import DELETE

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.bundle import Bundle
    from tests.system.runtime import Runtime

    MakeBundle = Callable[..., Bundle]

pytestmark = pytest.mark.system

FILES = {"mount": "mnt", "network": "net"}  # where /proc/PID/ns has another word than the specification


def announced(runtime: Runtime) -> dict[str, Any]:
    return dict(json.loads(runtime("features").out))


def test_every_namespace(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """A container has them all, and none of them is the host's; a name that is not announced is refused."""
    names = announced(runtime)["linux"]["namespaces"]
    maps = [{"containerID": 0, "hostID": 0, "size": 65536}]
    files = [FILES.get(name, name) for name in names]
    bundle = make_bundle(f"cd /proc/self/ns; for n in {' '.join(files)}; do readlink $n; done").change({
        "linux.namespaces": [{"type": name} for name in names], "linux.uidMappings": maps, "linux.gidMappings": maps})  # fmt: skip
    inside = runtime.look(bundle).splitlines()
    outside = [os.readlink(f"/proc/self/ns/{file}") for file in files]
    assert len(inside) == len(files)
    assert not set(inside) & set(outside)
    refused = runtime.run(bundle.change({"linux.namespaces": [{"type": "other"}]}))
    assert (refused.code, refused.field) == (1, "/linux/namespaces/0/type"), refused


def test_every_mount_option(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    """One mount with each; a word that is not announced goes to the file system, which refuses it."""
    names = announced(runtime)["mountOptions"]
    for name in names:
        assert split_options((name,)).data == (), name
    mounts = []
    for number, name in enumerate(names):
        target = f"/mnt/{number}"
        if name == "tmpcopyup":
            mounts.append({"destination": target, "type": "tmpfs", "source": "tmpfs", "options": [name]})
        elif name == "remount":
            mounts.append({"destination": "/dev/pts", "options": [name, "bind"]})
        else:
            mounts.append({"destination": target, "source": str(tmp_path), "options": ["rbind", name]})
    bundle = make_bundle("grep -c ' /mnt/' /proc/self/mountinfo").add_mounts(*mounts)
    assert int(runtime.look(bundle)) == len(names) - 1
    other = {"destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": ["no-such-option"]}
    assert runtime.run(make_bundle("true").add_mounts(other)).code == 1


def test_every_capability(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """All of them are known, and are all that the kernel has."""
    names = announced(runtime)["linux"]["capabilities"]
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    assert len(set(names)) == len(names) == last + 1
    bundle = make_bundle("grep CapBnd /proc/self/status | cut -f2").change({"process.capabilities": {"bounding": names}})
    result = runtime.run(bundle)
    ours = int(Path("/proc/self/status").read_text().partition("CapEff:\t")[2].split()[0], 16)
    assert int(result.out, 16) == ours, result
    assert "unknown" not in result.err or ours != (1 << last + 1) - 1


def test_every_word_of_seccomp(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """Actions, operators, architectures and flags that are announced make a filter that loads."""
    found = announced(runtime)["linux"]["seccomp"]
    actions = [name for name in found["actions"] if name != "SCMP_ACT_NOTIFY"]  # which takes an agent: test_seccomp.py
    rules = [{"names": ["acct"], "action": action, "args": [{"index": number % 6, "value": 1 << number, "op": operator}]}
             for number, action in enumerate(actions) for operator in found["operators"]]  # fmt: skip
    flags = [name for name in found["supportedFlags"] if "WAIT_KILLABLE" not in name]  # which takes a listener
    for architectures in (found["archs"], []):
        profile = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": architectures, "syscalls": rules, "flags": flags}
        assert runtime.look(make_bundle("echo loaded").change({"linux.seccomp": profile})) == "loaded"
    for key, word in (("defaultAction", "SCMP_ACT_X"), ("architectures", ["SCMP_ARCH_X"]), ("flags", ["X"])):
        changes = {"linux.seccomp": {"defaultAction": "SCMP_ACT_ALLOW", key: word}}
        result = runtime.run(make_bundle("true").change(changes))
        assert (result.code, result.field.startswith(f"/linux/seccomp/{key}")) == (1, True), result


def test_every_memory_policy(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """Modes and flags are accepted; what an older kernel lacks it refuses itself."""
    found = announced(runtime)["linux"]["memoryPolicy"]
    policies = [{"mode": mode} if mode in ("MPOL_DEFAULT", "MPOL_LOCAL") else {"mode": mode, "nodes": "0"}
                for mode in found["modes"]]  # fmt: skip
    policies += [{"mode": "MPOL_BIND", "nodes": "0", "flags": [flag]} for flag in found["flags"]]
    bundle = make_bundle("echo set")
    for policy in policies:
        result = runtime.run(bundle.change({"linux.memoryPolicy": policy}))
        assert result.out == "set\n" or "set_mempolicy" in result.message, (policy, result)


@pytest.mark.parametrize(("key", "field", "value"), [
    ("apparmor", "process.apparmorProfile", "no-such-profile"),
    ("selinux", "process.selinuxLabel", "no-such-label"),
    ("intelRdt", "linux.intelRdt", {"closID": "no-such"}),
    ("netDevices", "linux.netDevices", {"no-such-device": {}}),
])  # fmt: skip
def test_enabled_is_never_ignored(runtime: Runtime, make_bundle: MakeBundle, key: str, field: str, value: Any) -> None:
    """What is announced as known is carried out or refused, with its field and a hint."""
    assert announced(runtime)["linux"][key]["enabled"] is True
    bundle = make_bundle("true").change({field: value})
    bundle.config["linux"]["namespaces"].append({"type": "network"})
    bundle.save()
    result = runtime.run(bundle)
    assert (result.code, result.field.startswith("/" + field.replace(".", "/"))) == (1, True), result
    assert "  hint: " in result.err, result
    assert runtime.look(bundle.change({field: DELETE})) == ""


def test_the_callers_groups_are_kept(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """The annotation keeps the supplementary groups; without it they are exactly the config's (S28)."""
    bundle = make_bundle("id -G")
    caller = {"extra_groups": [4242]}
    assert runtime.look(bundle, **caller) == "0"
    bundle.change({"annotations": {"run.oci.keep_original_groups": "1"}})
    assert "4242" in runtime.look(bundle, **caller).split()
