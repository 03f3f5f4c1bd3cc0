"""plan/seccomp.py: a profile to rules, load flags, cache keys. Pure."""

from __future__ import annotations

import pytest

from pyruntime.errors import SpecError
from pyruntime.host.facts import HostFacts
from pyruntime.plan.seccomp import cache_key, load_flags, normalise
from pyruntime.spec.linux import Seccomp, SyscallArg, SyscallRule
from tests.seccomp_bpf import ALLOW, KILL_PROCESS, KILL_THREAD, NOTIFY, TRAP, errno

HOST = HostFacts(kernel=(6, 1), machine="x86_64")
EQ_1, EQ_2, GE_3 = SyscallArg(0, 1, "SCMP_CMP_EQ"), SyscallArg(0, 2, "SCMP_CMP_EQ"), SyscallArg(1, 3, "SCMP_CMP_GE")


def deny(*rules: SyscallRule, **fields: object) -> Seccomp:
    """A profile that answers EPERM but for `rules`."""
    return Seccomp(default_action="SCMP_ACT_ERRNO", syscalls=rules).replace(**fields)


@pytest.mark.parametrize(("action", "errno_ret", "value"), [
    ("SCMP_ACT_KILL", None, KILL_THREAD),
    ("SCMP_ACT_KILL_THREAD", None, KILL_THREAD),
    ("SCMP_ACT_KILL_PROCESS", None, KILL_PROCESS),
    ("SCMP_ACT_TRAP", None, TRAP),
    ("SCMP_ACT_ERRNO", 0, errno(0)),
    ("SCMP_ACT_ERRNO", 38, errno(38)),
    ("SCMP_ACT_TRACE", None, 0x7FF00001),                        # EPERM here too
    ("SCMP_ACT_TRACE", 9, 0x7FF00009),
    ("SCMP_ACT_ALLOW", None, ALLOW),
    ("SCMP_ACT_LOG", None, 0x7FFC0000),
    ("SCMP_ACT_NOTIFY", None, NOTIFY),
], ids=str)  # fmt: skip
def test_actions(action, errno_ret, value):
    rules = normalise(deny(SyscallRule(("mkdir",), action, errno_ret), default_errno_ret=99), HOST)
    assert rules.default_action == errno(99)
    assert rules.groups == ((("mkdir",), value, ((),)),)


def test_absent_errno_is_eperm():
    assert normalise(deny(), HOST).default_action == errno(1)


@pytest.mark.parametrize(("seccomp", "loaded"), [
    (Seccomp(default_action=""), False),
    (Seccomp(default_action="SCMP_ACT_ALLOW"), True),            # an empty filter still refuses foreign ABIs
    (deny(), True),
], ids=["neither", "allow", "deny"])  # fmt: skip
def test_no_action_and_no_rules_is_no_filter(seccomp, loaded):
    assert (normalise(seccomp, HOST) is not None) == loaded


@pytest.mark.parametrize(("rule", "groups", "named"), [
    (SyscallRule(("a", "b"), "SCMP_ACT_ERRNO"), (), ("a", "b")),
    (SyscallRule(("a",), "SCMP_ACT_ERRNO", 1), (), ("a",)),      # 1 is what the default has unsaid
    (SyscallRule(("a",), "SCMP_ACT_ERRNO", 2), ((("a",), errno(2), ((),)),), ()),
    (SyscallRule(("a",), "SCMP_ACT_ERRNO", 1, (EQ_1,)), (), ("a",)),
], ids=["same", "same errno", "other errno", "same with condition"])  # fmt: skip
def test_rules_equal_to_the_default_are_skipped_but_named(rule, groups, named):
    rules = normalise(deny(rule), HOST)
    assert (rules.groups, rules.named) == (groups, named)


@pytest.mark.parametrize(("args", "alternatives"), [
    ((), ((),)),
    ((EQ_1,), (((0, 4, 1, 0),),)),
    ((EQ_1, GE_3), (((0, 4, 1, 0), (1, 5, 3, 0)),)),             # both must hold
    ((EQ_1, EQ_2), (((0, 4, 1, 0),), ((0, 4, 2, 0),))),          # either
    ((EQ_1, GE_3, EQ_2), (((0, 4, 1, 0),), ((1, 5, 3, 0),), ((0, 4, 2, 0),))),  # as runc: each of its own
    ((SyscallArg(2, 0x7E020000, "SCMP_CMP_MASKED_EQ", 5),), (((2, 7, 0x7E020000, 5),),)),
    ((SyscallArg(5, 2**64 - 1, "SCMP_CMP_NE"),), (((5, 1, 2**64 - 1, 0),),)),
], ids=["none", "one", "and", "or", "or all", "mask", "64 bits"])  # fmt: skip
def test_conditions(args, alternatives):
    rules = normalise(deny(SyscallRule(("a",), "SCMP_ACT_ALLOW", None, args)), HOST)
    assert rules.groups == ((("a",), ALLOW, alternatives),)


@pytest.mark.parametrize(("machine", "names", "architectures"), [
    ("x86_64", (), ("x86_64",)),
    ("x86_64", ("SCMP_ARCH_X86", "SCMP_ARCH_X86_64", "SCMP_ARCH_X32"), ("x86_64", "x86", "x32")),
    ("aarch64", ("SCMP_ARCH_ARM",), ("aarch64", "arm")),
    ("aarch64", ("SCMP_ARCH_X86_64",), ("aarch64", "x86_64")),
    ("i686", (), ("x86",)),
    ("armv7l", ("SCMP_ARCH_ARM",), ("arm",)),
    ("mips64", ("SCMP_ARCH_MIPS64N32", "SCMP_ARCH_MIPS64N32"), ("mips64", "mips64n32")),
], ids=str)  # fmt: skip
def test_native_architecture_is_always_filtered(machine, names, architectures):
    assert normalise(deny(architectures=names), HOST.replace(machine=machine)).architectures == architectures


@pytest.mark.parametrize(("action", "errno_ret", "enosys"), [
    ("SCMP_ACT_ERRNO", None, True),
    ("SCMP_ACT_ERRNO", 38, False),                               # newer calls get it without our help
    ("SCMP_ACT_KILL", None, True),
    ("SCMP_ACT_KILL_PROCESS", None, True),
    ("SCMP_ACT_TRAP", None, True),
    ("SCMP_ACT_ALLOW", None, False),
    ("SCMP_ACT_LOG", None, False),
    ("SCMP_ACT_TRACE", 38, False),
], ids=str)  # fmt: skip
def test_enosys_for_defaults_that_refuse(action, errno_ret, enosys):
    assert normalise(Seccomp(default_action=action, default_errno_ret=errno_ret), HOST).enosys is enosys


FLAG = "SECCOMP_FILTER_FLAG_"
WATCH = SyscallRule(("mkdir",), "SCMP_ACT_NOTIFY")


@pytest.mark.parametrize(("flags", "rules", "number"), [
    (None, (), 4),
    ((), (), 0),
    ((FLAG + "TSYNC",), (), 0),
    ((FLAG + "LOG",), (), 2),
    ((FLAG + "LOG", FLAG + "SPEC_ALLOW", FLAG + "TSYNC"), (), 6),
    ((FLAG + "WAIT_KILLABLE_RECV",), (), 0),                     # the kernel refuses it without a listener
    ((FLAG + "WAIT_KILLABLE_RECV",), (WATCH,), 32 | 8),
    (None, (WATCH,), 4 | 8),
    ((), (WATCH,), 8),
], ids=str)  # fmt: skip
def test_load_flags(flags, rules, number):
    assert load_flags(deny(*rules, flags=flags), HOST) == number


def test_flag_the_kernel_lacks():
    with pytest.raises(SpecError) as caught:
        load_flags(deny(flags=(FLAG + "LOG", FLAG + "WAIT_KILLABLE_RECV")), HOST.replace(kernel=(5, 10)))
    assert caught.value.field == "/linux/seccomp/flags/1"
    assert "Linux 5.19" in caught.value.hint


BASE = deny(SyscallRule(("a",), "SCMP_ACT_ERRNO", 5, (EQ_1,)), architectures=("SCMP_ARCH_X86",))


@pytest.mark.parametrize("changed", [
    BASE.replace(default_errno_ret=5),
    BASE.replace(default_errno_ret=1),                           # the same filter; a wasted entry, never a wrong one
    BASE.replace(default_action="SCMP_ACT_KILL"),
    BASE.replace(architectures=("SCMP_ARCH_X32",)),
    BASE.replace(flags=()),
    deny(SyscallRule(("a",), "SCMP_ACT_ERRNO", 6, (EQ_1,)), architectures=("SCMP_ARCH_X86",)),
    deny(SyscallRule(("a",), "SCMP_ACT_ERRNO", 5, (EQ_2,)), architectures=("SCMP_ARCH_X86",)),
    deny(SyscallRule(("a", "b"), "SCMP_ACT_ERRNO", 5, (EQ_1,)), architectures=("SCMP_ARCH_X86",)),
    deny(SyscallRule(("a, 'b",), "SCMP_ACT_ERRNO", 5, (EQ_1,)), architectures=("SCMP_ARCH_X86",)),
    deny(SyscallRule(("\udc80",), "SCMP_ACT_ERRNO", 5, (EQ_1,)), architectures=("SCMP_ARCH_X86",)),
], ids=range(10))  # fmt: skip
def test_cache_key_changes_with_the_profile(changed):
    assert cache_key(changed, "x86_64") != cache_key(BASE, "x86_64")


def test_cache_key_changes_with_every_other_input():
    kernel = ("6.1.0", "#1", "kill errno allow", "")
    keys = {cache_key(BASE, "x86_64", "1.0", *kernel), cache_key(BASE, "x86_64", "1.1", *kernel),
            cache_key(BASE, "aarch64", "1.0", *kernel)}  # fmt: skip
    keys |= {cache_key(BASE, "x86_64", "1.0", *kernel[:i], "other", *kernel[i + 1 :]) for i in range(4)}
    assert len(keys) == 7
    assert all(len(key) == 40 and not key.strip("0123456789abcdef") for key in keys)


def test_cache_key_is_stable_and_takes_json():
    raw = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["ä", "b"], "action": "SCMP_ACT_ALLOW"}]}
    assert cache_key(raw, 1) == cache_key(dict(raw), 1)
    assert cache_key(raw, 1) != cache_key(raw, "1")
