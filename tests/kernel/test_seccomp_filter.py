"""Filters made by libseccomp and our prologue: their verdicts by interpreter, and by the kernel on a child process."""

from __future__ import annotations

import json
import platform
import signal
import struct
import subprocess
import sys

import pytest

from pyruntime.errors import HostError
from pyruntime.host.facts import HostFacts
from pyruntime.native import seccomp as native
from pyruntime.plan.seccomp import normalise
from tests.seccomp_bpf import (
    ALLOW,
    KILL_PROCESS,
    KILL_THREAD,
    NOTIFY,
    TRAP,
    X32,
    X32_BIT,
    X86,
    X86_64,
    errno,
    moby_default,
    profile,
    run,
)  # fmt: skip

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not native.libseccomp_version(), reason="libseccomp.so.2 is not installed"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers in these tables are x86-64's"),
]

HOST = HostFacts(kernel=(6, 1), machine="x86_64")
TOKENS = {"SCMP_ARCH_X86_64": X86_64, "SCMP_ARCH_X86": X86, "SCMP_ARCH_X32": X32}
READ, WRITE, SOCKET, MKDIR, PERSONALITY, CLONE = 0, 1, 41, 83, 135, 56
EPERM, ENOSYS = errno(1), errno(38)


def build(**raw: object) -> tuple[bytes, tuple[str, ...]]:
    """Filter and warnings of an OCI profile given by its keys."""
    return native.compile_filter(normalise(profile({"defaultAction": "SCMP_ACT_ERRNO", **raw}), HOST))


def allow(*names: str, **more: object) -> dict[str, object]:
    """One entry of `syscalls`."""
    return {"names": list(names), "action": "SCMP_ACT_ALLOW", **more}


def arg(index: int, op: str, value: int, value_two: int = 0) -> dict[str, object]:
    """One entry of `args`."""
    return {"index": index, "op": f"SCMP_CMP_{op}", "value": value, "valueTwo": value_two}


BIG = 0x1_0000_0005


@pytest.mark.parametrize(("args", "passes", "stops"), [
    ([arg(0, "NE", 5)], (4, BIG), (5,)),
    ([arg(0, "LT", 5)], (0, 4), (5, 6, BIG)),
    ([arg(0, "LE", 5)], (4, 5), (6, BIG)),
    ([arg(0, "EQ", BIG)], (BIG,), (5, BIG + 1, 1 << 32)),
    ([arg(0, "GE", 5)], (5, 6, BIG), (4,)),
    ([arg(0, "GT", 5)], (6, BIG), (4, 5)),
    ([arg(0, "MASKED_EQ", 0xF0, 0x10)], (0x10, 0x1F, 0x1_0000_001F), (0, 0x20, 0x30)),
    ([arg(0, "EQ", 1), arg(0, "EQ", 3)], (1, 3), (0, 2)),        # the same index twice: either
    ([arg(0, "GE", 1), arg(1, "EQ", 0)], (1, 2), (0,)),          # two indexes: both
], ids=["ne", "lt", "le", "eq", "ge", "gt", "masked", "or", "and"])  # fmt: skip
def test_operators(args, passes, stops):
    bpf, _ = build(syscalls=[allow("mkdir", args=args)])
    assert {value: run(bpf, MKDIR, X86_64, (value, 0)) for value in (*passes, *stops)} == {
        **dict.fromkeys(passes, ALLOW), **dict.fromkeys(stops, EPERM)}  # fmt: skip


@pytest.mark.parametrize(("action", "verdict"), [
    ({"action": "SCMP_ACT_KILL"}, KILL_THREAD),
    ({"action": "SCMP_ACT_KILL_THREAD"}, KILL_THREAD),
    ({"action": "SCMP_ACT_KILL_PROCESS"}, KILL_PROCESS),
    ({"action": "SCMP_ACT_TRAP"}, TRAP),
    ({"action": "SCMP_ACT_ERRNO"}, errno(1)),
    ({"action": "SCMP_ACT_ERRNO", "errnoRet": 38}, errno(38)),
    ({"action": "SCMP_ACT_TRACE", "errnoRet": 7}, 0x7FF00007),
    ({"action": "SCMP_ACT_LOG"}, 0x7FFC0000),
    ({"action": "SCMP_ACT_NOTIFY"}, NOTIFY),
], ids=str)  # fmt: skip
def test_actions(action, verdict):
    bpf, warnings = build(defaultAction="SCMP_ACT_ALLOW", syscalls=[{"names": ["mkdir"], **action}],
                          listenerPath="/run/agent.sock")  # fmt: skip
    assert (run(bpf, MKDIR, X86_64), run(bpf, READ, X86_64), warnings) == (verdict, ALLOW, ())


@pytest.mark.parametrize("default", ["SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP", "SCMP_ACT_ERRNO"])
def test_newer_calls_answer_enosys(default):
    bpf, _ = build(defaultAction=default, syscalls=[allow("read", "mkdir")])
    plain = run(bpf, WRITE, X86_64)
    assert plain != ENOSYS
    numbers = (MKDIR - 1, MKDIR, MKDIR + 1, 9999)
    assert [run(bpf, number, X86_64) for number in numbers] == [plain, ALLOW, ENOSYS, ENOSYS]


@pytest.mark.parametrize(("default", "verdict"), [
    ({"defaultAction": "SCMP_ACT_ALLOW"}, ALLOW),
    ({"defaultAction": "SCMP_ACT_LOG"}, 0x7FFC0000),
    ({"defaultAction": "SCMP_ACT_TRACE"}, 0x7FF00001),
    ({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38}, ENOSYS),
], ids=str)  # fmt: skip
def test_defaults_without_prologue(default, verdict):
    bpf, warnings = build(**default, syscalls=[{"names": ["mkdir"], "action": "SCMP_ACT_KILL"}])
    assert (run(bpf, 9999, X86_64), run(bpf, MKDIR, X86_64), warnings) == (verdict, KILL_THREAD, ())


def test_names_of_skipped_rules_count_as_known():
    bpf, _ = build(syscalls=[allow("read"), {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}])
    assert [run(bpf, number, X86_64) for number in (MKDIR, MKDIR + 1)] == [EPERM, ENOSYS]


def test_profile_that_names_nothing_warns_and_denies():
    bpf, warnings = build(syscalls=[allow("no_such_call")])
    assert warnings == ("could not find any syscalls for arch amd64",)
    assert [run(bpf, number, X86_64) for number in (READ, 9999)] == [EPERM, EPERM]


def test_unknown_names_are_left_out_and_reported():
    raw = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [allow("read", "no_such_call", "é")]}
    rules = normalise(profile(raw), HOST)
    assert native.unknown_names(rules) == ("no_such_call", "é")
    assert run(native.compile_filter(rules)[0], READ, X86_64) == ALLOW


@pytest.mark.parametrize("default", ["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"])
@pytest.mark.parametrize(("listed", "arch", "number", "refused"), [
    ((), X86, 5, True),
    ((), X86_64, X32_BIT | READ, True),
    ((), X86_64, READ, False),
    (("SCMP_ARCH_X86",), X86, 3, False),
    (("SCMP_ARCH_X86",), X86_64, X32_BIT | READ, True),
    (("SCMP_ARCH_X32",), X86_64, X32_BIT | READ, False),
    (("SCMP_ARCH_X32",), X86, 3, True),
], ids=str)  # fmt: skip
def test_other_abis_are_refused_unless_listed(default, listed, arch, number, refused):
    bpf, _ = build(defaultAction=default, architectures=list(listed), syscalls=[
        {"names": ["read"], "action": "SCMP_ACT_ALLOW" if default == "SCMP_ACT_ERRNO" else "SCMP_ACT_LOG"}])
    assert (run(bpf, number, arch) == KILL_THREAD) == refused


def expected(raw: dict, numbers: dict[str, int], number: int, args: tuple[int, ...], newest: int) -> int:
    """What the text of a default-deny profile says about one call; a model without libseccomp."""
    compare = {"LT": int.__lt__, "EQ": int.__eq__, "GT": int.__gt__}
    if number > newest:
        return ENOSYS
    for rule in raw["syscalls"]:
        if number not in [numbers[name] for name in rule["names"]]:
            continue
        for test in rule.get("args") or ():
            value, op = args[test["index"]], test["op"].removeprefix("SCMP_CMP_")
            if op == "MASKED_EQ":
                holds = value & test["value"] == test.get("valueTwo", 0)
            else:
                holds = compare[op](value, test["value"])
            if not holds:
                break
        else:
            return ALLOW if rule["action"] == "SCMP_ACT_ALLOW" else errno(rule["errnoRet"])
    return EPERM


@pytest.mark.parametrize("capabilities", [frozenset(), frozenset({"CAP_SYS_ADMIN", "CAP_BPF"})], ids=["none", "admin"])
@pytest.mark.parametrize("arch", TOKENS)
def test_moby_default_profile(arch, capabilities):
    """Every number of every architecture, with arguments on both sides of each condition."""
    raw = moby_default(capabilities)
    rules = normalise(profile(raw), HOST)
    bpf, _ = native.compile_filter(rules)
    names = {name for rule in raw["syscalls"] for name in rule["names"]}
    handle = native._open()
    numbers = {name: native.lib.pr_filter_number(handle, TOKENS[arch], name.encode()) for name in names}
    native.lib.pr_filter_close(handle)
    newest = max(numbers.values())
    base, token = (X32_BIT, X86_64) if arch == "SCMP_ARCH_X32" else (0, TOKENS[arch])
    # calls that also go through socketcall(2) or ipc(2): libseccomp numbers them below 0 and adds both ways
    multiplexed = {102, 117, 337, 345, *range(359, 374), *range(393, 403)} if token == X86 else set()
    samples = [(value,) * 6 for value in (0, 1, 8, 38, 39, 40, 41, 0x20008, 0x7E020000, 0x10000, 0xFFFFFFFF)]
    wrong = [
        (number, args[0])
        for number in range(base, base + 600)
        for args in samples
        if number not in multiplexed and run(bpf, number, token, args) != expected(raw, numbers, number, args, newest)
    ]
    assert not wrong


def test_more_instructions_than_the_kernel_takes():
    rules = [allow("mkdir", args=[arg(0, "EQ", (i << 32) | i + 7)]) for i in range(1, 1500)]
    with pytest.raises(HostError):
        build(syscalls=rules)


def test_architecture_the_library_lacks():
    rules = normalise(profile({"defaultAction": "SCMP_ACT_ALLOW"}), HOST)
    with pytest.raises(HostError) as caught:
        native.compile_filter(rules.replace(architectures=("x86_64", "vax")))
    assert caught.value.field == "/linux/seccomp/architectures"


# ---- by the kernel --------------------------------------------------------------------------------------------------

CHILD = r"""
import ctypes, json, mmap, sys
bpf, flags, calls = bytes.fromhex(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]
code = mmap.mmap(-1, 4096, prot=7)                      # mov eax, edi; int 0x80; ret
code.write(b"\x89\xf8\xcd\x80\xc3")
entry32 = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
program = Program(len(bpf) // 8, bpf)
assert libc.prctl(38, 1, 0, 0, 0) == 0                  # PR_SET_NO_NEW_PRIVS
listener = libc.syscall(317, 1, flags, ctypes.byref(program))
assert listener >= 0, ctypes.get_errno()
for kind, number, *args in calls:
    if kind == "int80":
        result = entry32(number)
        answer = -result if result < 0 else 0
    else:
        ctypes.set_errno(0)
        libc.syscall(number, *(ctypes.c_ulong(a) for a in args))
        answer = ctypes.get_errno()
    print(answer, flush=True)
"""


def enforce(bpf: bytes, *calls: tuple, flags: int = 0) -> tuple[list[int], int]:
    """Errno of each call in a child under the filter, and the signal that ended the child (0: none)."""
    child = subprocess.run(
        [sys.executable, "-I", "-S", "-c", CHILD, bpf.hex(), str(flags), json.dumps(calls)],
        capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert child.returncode <= 0, child.stderr.decode()
    return [int(line) for line in child.stdout.split()], -child.returncode


GETUID, GETPPID, UNSHARE, GETUID32 = 102, 110, 272, 24
NEWUTS = 0x04000000


def test_kernel_moby_default():
    bpf, _ = native.compile_filter(normalise(profile(moby_default()), HOST))
    answers, ended = enforce(
        bpf, ("", GETUID), ("", UNSHARE, NEWUTS), ("", SOCKET, 40, 1, 0), ("", PERSONALITY, 0xFFFFFFFF),
        ("", PERSONALITY, 4), ("", CLONE, NEWUTS, 0, 0, 0, 0), ("", 435, 0, 0), ("", 9999), ("int80", GETUID32),
    )  # fmt: skip
    assert (answers, ended) == ([0, 1, 1, 0, 1, 1, 38, 38, 0], 0)


@pytest.mark.parametrize(("call", "listed"), [
    (("int80", GETUID32), ()),
    (("", X32_BIT | GETUID), ()),
    (("", X32_BIT | GETUID), ("SCMP_ARCH_X86",)),
], ids=["int80", "x32", "x32 beside x86"])  # fmt: skip
def test_kernel_refuses_other_abis(call, listed):
    bpf, _ = build(defaultAction="SCMP_ACT_ALLOW", architectures=list(listed))
    assert enforce(bpf, ("", GETUID), call) == ([0], signal.SIGSYS)


def test_kernel_actions():
    """The parts that need no listener or tracer: an errno, a kill, and a trap."""
    for action, answers, ended in (
        ({"action": "SCMP_ACT_ERRNO", "errnoRet": 77}, [0, 77, 0], 0),
        ({"action": "SCMP_ACT_KILL_PROCESS"}, [0], signal.SIGSYS),
        ({"action": "SCMP_ACT_TRAP"}, [0], signal.SIGSYS),
    ):
        bpf, _ = build(defaultAction="SCMP_ACT_ALLOW", syscalls=[{"names": ["getppid"], **action}])
        assert enforce(bpf, ("", GETUID), ("", GETPPID), ("", GETUID)) == (answers, ended)


@pytest.mark.parametrize("flags", [0, 2, 4, 6, 8], ids=["none", "log", "spec allow", "both", "listener"])
def test_kernel_takes_the_load_flags(flags):
    bpf, _ = build(defaultAction="SCMP_ACT_ALLOW", listenerPath="/s",
                   syscalls=[{"names": ["acct"], "action": "SCMP_ACT_NOTIFY"}])  # fmt: skip
    assert enforce(bpf, ("", GETUID), flags=flags) == ([0], 0)


def test_features_answers():
    assert [native.flag_supported(1 << bit) for bit in (0, 1, 2, 3, 30)] == [True, True, True, True, False]
    assert {"kill_process", "errno", "allow"} <= set(native.supported_actions())
    assert native.api_level() >= 5
    assert all(part.isdigit() for part in native.libseccomp_version().split("."))


def test_program_is_whole_instructions():
    bpf, _ = build(syscalls=[allow("read")])
    assert list(struct.iter_unpack("=HBBI", bpf))
