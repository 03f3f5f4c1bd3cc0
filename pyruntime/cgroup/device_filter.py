"""Device rules as a BPF program for cgroup v2 (cgroup-v2.rst, Device controller; linux/bpf.h). Pure.

For each access asked for, the last rule that names it for the device decides; what no rule names is denied. The
program goes through the rules from the last to the first and keeps the accesses that are still undecided in r3.
"""

from __future__ import annotations

from _struct import pack

from pyruntime.cgroup.devices import DEFAULT_RULES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.spec.linux import DeviceRule

TYPES = {"b": 1, "c": 2}  # BPF_DEVCG_DEV_*
ACCESSES = {"m": 1, "r": 2, "w": 4}  # BPF_DEVCG_ACC_*
ALL = 7
# operation codes (linux/bpf.h, linux/bpf_common.h)
LOAD_WORD, AND32, SHIFT_RIGHT32, MOVE, COPY, JUMP_IF, JUMP_UNLESS, EXIT = 0x61, 0x54, 0x74, 0xB7, 0xBF, 0x15, 0x56, 0x95


def rule_texts(rules: tuple[DeviceRule, ...]) -> tuple[str, ...]:
    """The config's rules, then DEFAULT_RULES, as `allow c 1:3 rwm`."""
    return tuple(
        f"{'allow' if rule.allow else 'deny'} {rule.type} {'*' if rule.major is None else rule.major}:"
        f"{'*' if rule.minor is None else rule.minor} {rule.access}" for rule in (*rules, *DEFAULT_RULES))


def allows_all(rules: tuple[DeviceRule, ...]) -> bool:
    """Nothing is denied to begin with: a filter that cannot be loaded takes nothing away (contract 4.6)."""
    return all(rule.allow for rule in rules) and any(
        rule.type == "a" and rule.major is None and rule.minor is None and set(rule.access) == set("rwm")
        for rule in rules)


def compile_filter(texts: tuple[str, ...]) -> bytes:
    """The program for rule_texts; 8 bytes for each instruction."""
    program = [
        _op(LOAD_WORD, 2, 1), _op(AND32, 2, value=0xFFFF),  # r2: type
        _op(LOAD_WORD, 3, 1), _op(SHIFT_RIGHT32, 3, value=16),  # r3: accesses
        _op(LOAD_WORD, 4, 1, offset=4), _op(LOAD_WORD, 5, 1, offset=8),  # major, minor
    ]  # fmt: skip
    for text in reversed(texts):
        program += _block(text)
    return b"".join([*program, *_return(0)])


def _block(text: str) -> list[bytes]:
    verb, kind, device, letters = text.split(" ")
    major, _, minor = device.partition(":")
    access = sum(ACCESSES[letter] for letter in set(letters))
    if verb == "allow":
        body = [_op(AND32, 3, value=ALL & ~access), _op(JUMP_UNLESS, 3, offset=2), *_return(1)]
    else:
        body = [_op(COPY, 6, 3), _op(AND32, 6, value=access), _op(JUMP_IF, 6, offset=2), *_return(0)]
    wanted = [(2, TYPES.get(kind)), (4, None if major == "*" else int(major)), (5, None if minor == "*" else int(minor))]
    for register, value in reversed(wanted):
        if value is not None:
            body.insert(0, _op(JUMP_UNLESS, register, value=value, offset=len(body)))
    return body


def _return(value: int) -> list[bytes]:
    return [_op(MOVE, 0, value=value), _op(EXIT)]


def _op(code: int, target: int = 0, source: int = 0, *, offset: int = 0, value: int = 0) -> bytes:
    """struct bpf_insn; JUMP_* compare register `target` with `value`."""
    return pack("<BBhI", code, source << 4 | target, offset, value & 0xFFFFFFFF)
