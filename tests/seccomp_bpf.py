"""What the seccomp tests share: an interpreter for classic BPF, and profiles."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from pyruntime.spec.linux import Seccomp, SyscallArg, SyscallRule

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

X86_64, X86, X32, AARCH64, ARM = 0xC000003E, 0x40000003, 0x4000003E, 0xC00000B7, 0x40000028  # linux/audit.h
X32_BIT = 0x40000000
ALLOW, KILL_PROCESS, KILL_THREAD, TRAP, NOTIFY = 0x7FFF0000, 0x80000000, 0, 0x00030000, 0x7FC00000


def errno(number: int) -> int:
    """SECCOMP_RET_ERRNO with that number."""
    return 0x00050000 | number


def run(program: bytes, number: int, arch: int, args: tuple[int, ...] = ()) -> int:
    """The verdict of a filter for one system call. Fails on what the kernel's checker would refuse.

    bpf(4) of BSD and linux/filter.h: the accumulator, loads from struct seccomp_data, forward jumps.
    """
    data = struct.pack("=IIQ6Q", number & 0xFFFFFFFF, arch, 0, *(*args, 0, 0, 0, 0, 0, 0)[:6])
    code = list(struct.iter_unpack("=HBBI", program))
    at = acc = 0
    tests = {0x10: int.__eq__, 0x20: int.__gt__, 0x30: int.__ge__, 0x40: lambda a, k: bool(a & k)}
    while True:
        op, true, false, k = code[at]
        at += 1
        if op == 0x20:  # BPF_LD | BPF_W | BPF_ABS
            assert k % 4 == 0
            assert k < 64
            acc = struct.unpack_from("=I", data, k)[0]
        elif op == 0x54:  # BPF_ALU | BPF_AND | BPF_K
            acc &= k
        elif op == 0x05:  # BPF_JMP | BPF_JA
            at += k
        elif op == 0x06:  # BPF_RET | BPF_K
            return int(k)
        elif op & 0x0F == 0x05:  # BPF_JMP | BPF_K
            at += true if tests[op & 0xF0](acc, k) else false
        else:
            raise AssertionError(f"instruction {at - 1} has code {op:#x}")


def profile(raw: dict[str, Any]) -> Seccomp:
    """The record of an OCI `linux.seccomp` object."""
    rules = tuple(
        SyscallRule(
            tuple(rule["names"]),
            rule["action"],
            rule.get("errnoRet"),
            tuple(SyscallArg(a["index"], a["value"], a["op"], a.get("valueTwo", 0)) for a in rule.get("args") or ()),
        )
        for rule in raw.get("syscalls", ())
    )
    flags = raw.get("flags")
    return Seccomp(
        default_action=raw["defaultAction"],
        default_errno_ret=raw.get("defaultErrnoRet"),
        architectures=tuple(raw.get("architectures", ())),
        flags=None if flags is None else tuple(flags),
        listener_path=raw.get("listenerPath", ""),
        syscalls=rules,
    )


def moby_default(capabilities: frozenset[str] = frozenset(), arch: str = "amd64") -> dict[str, Any]:
    """Moby's default profile as an OCI object, for a container with those capabilities. Skips without the file."""
    path = DATA / "moby" / "seccomp-default.json"
    if not path.exists():
        pytest.skip(f"no {path}: the shared data folder is not beside the repository")
    source = json.loads(path.read_text())

    def applies(rule: dict[str, Any]) -> bool:
        include, exclude = rule.get("includes", {}), rule.get("excludes", {})
        return (
            capabilities.issuperset(include.get("caps", ()))
            and not capabilities.intersection(exclude.get("caps", ()))
            and arch in include.get("arches", (arch,))
            and arch not in exclude.get("arches", ())
        )

    keys = ("names", "action", "args", "errnoRet")
    return {
        "defaultAction": source["defaultAction"],
        "defaultErrnoRet": source["defaultErrnoRet"],
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{k: rule[k] for k in keys if k in rule} for rule in source["syscalls"] if applies(rule)],
    }
