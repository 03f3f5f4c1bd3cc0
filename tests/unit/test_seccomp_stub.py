"""native/seccomp_stub.py: the ENOSYS prologue, run by an interpreter in front of a filter that tells it was reached."""

from __future__ import annotations

import struct

import pytest

from pyruntime.native.seccomp_stub import prologue
from tests.seccomp_bpf import AARCH64, ARM, X32, X32_BIT, X86, X86_64, errno, run

FILTER = struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF1234)  # ret, with a mark
REACHED = 0x7FFF1234
ENOSYS = errno(38)
MIPS64 = 0x80000008

BOTH = [("x86_64", X86_64, [0, 400, 334]), ("x86", X86, [20, 102]), ("x32", X32, [X32_BIT, X32_BIT | 512])]
NO_X32 = BOTH[:2]
ONLY_X32 = [("x86_64", X86_64, []), ("x32", X32, [X32_BIT | 5])]
ARMS = [("aarch64", AARCH64, [57]), ("arm", ARM, [3, 0xF0002, 400])]
MANY = [(f"arch{i}", 0x40000100 + i, [i]) for i in range(20)]


@pytest.mark.parametrize(("architectures", "arch", "number", "verdict"), [
    (BOTH, X86_64, 0, REACHED),
    (BOTH, X86_64, 400, REACHED),
    (BOTH, X86_64, 401, ENOSYS),
    (BOTH, X86_64, 0x3FFFFFFF, ENOSYS),
    (BOTH, X86_64, X32_BIT, REACHED),
    (BOTH, X86_64, X32_BIT | 512, REACHED),
    (BOTH, X86_64, X32_BIT | 513, ENOSYS),
    (BOTH, X86, 102, REACHED),
    (BOTH, X86, 103, ENOSYS),
    (BOTH, X86, 0xFFFFFFFF, ENOSYS),
    (BOTH, AARCH64, 9999, REACHED),                              # not listed: the filter refuses it in its own way
    (NO_X32, X86_64, 401, ENOSYS),
    (NO_X32, X86_64, X32_BIT | 1, REACHED),
    (NO_X32, X86_64, X32_BIT | 99999, REACHED),
    (ONLY_X32, X86_64, 9999, REACHED),                           # no known call: nothing is newer than it
    (ONLY_X32, X86_64, X32_BIT | 6, ENOSYS),
    (ARMS, AARCH64, 57, REACHED),
    (ARMS, AARCH64, 58, ENOSYS),
    (ARMS, ARM, 400, REACHED),
    (ARMS, ARM, 401, ENOSYS),                                    # although cacheflush, 0xf0002, is named
    (ARMS, ARM, 0xF0002, REACHED),
    (ARMS, ARM, 0xF0005, REACHED),
    (MANY, 0x40000100, 1, ENOSYS),
    (MANY, 0x40000113, 19, REACHED),
    (MANY, 0x40000113, 20, ENOSYS),
    ([("mips64", MIPS64, [5000, 5300])], MIPS64, 5301, ENOSYS),
    ([("mips64", MIPS64, [5000, 5300])], MIPS64, 4001, REACHED),
], ids=str)  # fmt: skip
def test_verdicts(architectures, arch, number, verdict):
    front, _ = prologue(architectures)
    assert run(front + FILTER, number, arch) == verdict


@pytest.mark.parametrize(("architectures", "warnings"), [
    (BOTH, ()),
    ([("x86_64", X86_64, [])], ("could not find any syscalls for arch amd64",)),
    (ONLY_X32, ("could not find any syscalls for arch amd64",)),
    ([("aarch64", AARCH64, []), ("arm", ARM, [0xF0002])],
     ("could not find any syscalls for arch arm64", "could not find any syscalls for arch arm")),
    ([("x86", X86, [1]), ("loongarch64", 0xC0000102, [])], ("could not find any syscalls for arch loong64",)),
], ids=str)  # fmt: skip
def test_warnings(architectures, warnings):
    assert prologue(architectures)[1] == warnings


def test_nothing_known_leaves_the_filter_alone():
    assert prologue([("x86_64", X86_64, [])])[0] == b""
