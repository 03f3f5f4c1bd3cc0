"""cgroup/device_filter.py: the program is interpreted here, access by access."""

from __future__ import annotations

from struct import iter_unpack

import pytest

from pyruntime.cgroup.device_filter import allows_all, compile_filter, rule_texts
from pyruntime.spec.linux import DeviceRule

pytestmark = pytest.mark.unit
DENY = "deny a *:* rwm"


def verdict(program, kind, access, major, minor):
    """What the kernel's interpreter would return."""
    context = {0: access << 16 | kind, 4: major, 8: minor}
    registers, at, code = [0] * 7, 0, list(iter_unpack("<BBhI", program))
    while True:
        op, pair, offset, value = code[at]
        at, target, source = at + 1, pair & 15, pair >> 4
        match op:
            case 0x61:
                registers[target] = context[offset]
            case 0x54:
                registers[target] &= value
            case 0x74:
                registers[target] >>= value
            case 0xB7:
                registers[target] = value
            case 0xBF:
                registers[target] = registers[source]
            case 0x15:
                at += offset if registers[target] == value else 0
            case 0x56:
                at += offset if registers[target] != value else 0
            case 0x95:
                return registers[0]


@pytest.mark.parametrize(("rules", "kind", "access", "device", "allowed"), [
    ((), 2, 2, (1, 3), 0),
    (("allow c 1:3 r",), 2, 2, (1, 3), 1),
    (("allow c 1:3 r",), 2, 6, (1, 3), 0),  # write is not named
    (("allow c 1:3 r", "allow c 1:3 w"), 2, 6, (1, 3), 1),  # each access by its own rule
    (("allow c 1:3 rwm",), 1, 2, (1, 3), 0),
    (("allow c 1:3 rwm",), 2, 2, (1, 4), 0),
    ((DENY, "allow c 136:* rw"), 2, 6, (136, 9), 1),
    (("allow c 136:* rw", DENY), 2, 6, (136, 9), 0),  # the last one wins
    (("allow a *:* rwm", "deny c 1:3 w"), 2, 2, (1, 3), 1),
    (("allow a *:* rwm", "deny c 1:3 w"), 2, 6, (1, 3), 0),
    (("allow a *:* rwm",), 1, 7, (8, 0), 1),
], ids=str)  # fmt: skip
def test_last_rule_decides(rules, kind, access, device, allowed):
    assert verdict(compile_filter(rules), kind, access, *device) == allowed


def test_defaults_come_last():
    texts = rule_texts((DeviceRule(False, "a", None, None, "rwm"),))
    assert texts[0] == DENY
    assert "allow c 1:3 rwm" in texts
    assert verdict(compile_filter(texts), 2, 6, 1, 3) == 1
    assert verdict(compile_filter(texts), 2, 2, 1, 11) == 0


@pytest.mark.parametrize(("allow", "access", "expected"), [
    (True, "rwm", True), (True, "rw", False), (False, "rwm", False),
])
def test_allows_all(allow, access, expected):
    assert allows_all((DeviceRule(allow, "a", None, None, access),)) is expected
