"""The prologue that answers ENOSYS to system calls newer than a profile (contract 4.9, security S30). Pure.

A profile that denies what it does not name also denies calls that did not exist when it was written; a libc that
finds EPERM there gives up, one that finds ENOSYS falls back (clone3, faccessat2). So the program below goes in front
of the filter. `newest` is the highest number that the profile names on an architecture.

        ld   arch
        jeq  ARCH, 0, next             one block an architecture
        ld   nr
        jge  0x40000000, 0, native     x86-64 only: x32 shares its number and sets this bit of nr
        jgt  newest of x32, enosys, filter     or, x32 not being listed, straight to the filter, which refuses it
native: jgt  newest, enosys, filter
next:   ...
        ja   filter
enosys: ret  ERRNO | ENOSYS
filter: what libseccomp made; it loads what it compares, so nothing of this carries over

Only loads, comparisons with constants and constant returns: Linux (5.11) finds calls that are always allowed by
running the filter over just these.
"""

from __future__ import annotations

from _struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

INSTRUCTION = Struct("=HBBI")  # struct sock_filter: code, jump when true, jump when false, constant
LD_ABS, JA, JEQ, JGT, JGE, RET = 0x20, 0x05, 0x15, 0x25, 0x35, 0x06  # linux/bpf_common.h, all with BPF_K
OFFSET_NR, OFFSET_ARCH = 0, 4  # struct seccomp_data
RET_ENOSYS = 0x00050000 | 38
X32_BIT = 0x40000000
ARM_PRIVATE = 0x0F0000  # __ARM_NR_BASE: cacheflush, set_tls and others lie far above the ordinary calls

# libseccomp's names to those of the warning, where they differ (the peers' texts have Go's names)
ARCH_WORDS = {"x86_64": "amd64", "aarch64": "arm64", "loongarch64": "loong64"}


def prologue(architectures: Sequence[tuple[str, int, Sequence[int]]]) -> tuple[bytes, tuple[str, ...]]:
    """The program to put in front, and a warning for each architecture on which the profile names nothing.

    `architectures`: (libseccomp's name, its number, numbers of the system calls named). Empty when no architecture
    has a known call: then the filter stands as it is.
    """
    newest: dict[str, int] = {}
    warnings = []
    for name, _, numbers in architectures:
        found = _newest(name, numbers)
        if found < 0:
            warnings.append(f"could not find any syscalls for arch {ARCH_WORDS.get(name, name)}")
        else:
            newest[name] = found
    tokens = {name: token for name, token, _ in architectures}
    blocks = [_block(tokens[name], name, newest) for name in tokens if _has_block(name, newest, tokens)]
    if not blocks:
        return b"", tuple(warnings)
    return _assemble(blocks), tuple(warnings)


def _newest(name: str, numbers: Sequence[int]) -> int:
    """The highest ordinary number, -1 when there is none."""
    if name == "arm":
        numbers = [number for number in numbers if number < ARM_PRIVATE]
    return max(numbers, default=-1)


def _has_block(name: str, newest: dict[str, int], tokens: dict[str, int]) -> bool:
    """x32 is part of the block of x86-64, which is always listed where x32 can run."""
    if name == "x32" and "x86_64" in tokens:
        return False
    return name in newest or (name == "x86_64" and "x32" in newest)


def _block(token: int, name: str, newest: dict[str, int]) -> list[tuple[int, str, str, int]]:
    """One architecture as (code, target when true, target when false, constant); "" is the next instruction."""
    code = [(JEQ, "", "next", token), (LD_ABS, "", "", OFFSET_NR)]
    if name == "x86_64":
        x32 = newest.get("x32", -1)
        code.append((JGE, "", "native", X32_BIT))
        code.append((JGT, "enosys", "filter", x32) if x32 >= 0 else (JA, "filter", "", 0))
    elif name == "arm":
        code.append((JGE, "filter", "", ARM_PRIVATE))
    code.append((JGT, "enosys", "filter", newest[name]) if name in newest else (JA, "filter", "", 0))
    return code


def _assemble(blocks: list[list[tuple[int, str, str, int]]]) -> bytes:
    """Blocks to bytes. Jumps are distances to the instruction after the next; all lie well within 255."""
    total = 1 + sum(len(block) for block in blocks)
    enosys, end = total + 1, total + 2
    out = [INSTRUCTION.pack(LD_ABS, 0, 0, OFFSET_ARCH)]
    for block in blocks:
        after = len(out) + len(block)
        labels = {"next": after, "native": after - 1, "enosys": enosys, "filter": end}
        for code, true, false, constant in block:
            here = len(out) + 1
            to_true, to_false = labels.get(true, here) - here, labels.get(false, here) - here
            if code == JA:
                out.append(INSTRUCTION.pack(JA, 0, 0, to_true))
            else:
                out.append(INSTRUCTION.pack(code, to_true, to_false, constant))
    out.append(INSTRUCTION.pack(JA, 0, 0, end - total - 1))
    out.append(INSTRUCTION.pack(RET, 0, 0, RET_ENOSYS))
    return b"".join(out)
