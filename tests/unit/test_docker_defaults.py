"""benchmarks/docker_defaults.py against moby's own profile, where the shared data folder is."""

from __future__ import annotations

import json

import pytest

from benchmarks.docker_defaults import CAPABILITIES, seccomp
from tests.seccomp_bpf import moby_default

MOBY_ARCH = {"x86_64": "amd64", "aarch64": "arm64"}
ARCHITECTURES = {
    "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "aarch64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
}


def rules(profile: dict) -> set[tuple[str, ...]]:
    """Each name with its action and conditions, so that grouping and order do not matter."""
    return {
        (name, rule["action"], str(rule.get("errnoRet")), json.dumps(
            [(a["index"], a["op"], a["value"], a.get("valueTwo", 0)) for a in rule.get("args") or ()]))
        for rule in profile["syscalls"] for name in rule["names"]
    }  # fmt: skip


@pytest.mark.parametrize("machine", MOBY_ARCH)
def test_profile_is_equal_in_effect_to_mobys(machine):
    ours = seccomp(machine)
    theirs = moby_default(frozenset(CAPABILITIES), MOBY_ARCH[machine])
    assert rules(ours) == rules(theirs)
    assert ours["architectures"] == ARCHITECTURES[machine]
    assert (ours["defaultAction"], ours["defaultErrnoRet"]) == (theirs["defaultAction"], theirs["defaultErrnoRet"])


def test_fourteen_capabilities():
    assert len(set(CAPABILITIES)) == 14
