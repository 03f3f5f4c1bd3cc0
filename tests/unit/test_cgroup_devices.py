"""cgroup/devices.py: device rules to v1 writes, against a model of the kernel's own device cgroup. Pure."""

from __future__ import annotations

import itertools
import random

import pytest

from pyruntime.cgroup.devices import DEFAULT_RULES, device_writes_v1
from pyruntime.errors import HostError
from pyruntime.spec.linux import DeviceRule

pytestmark = pytest.mark.unit
DENY_ALL = DeviceRule(False, "a", None, None, "rwm")
ALLOW_ALL = DeviceRule(True, "a", None, None, "rwm")
DEFAULTS = ["c *:* m", "b *:* m", "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm", "c 5:0 rwm",
            "c 136:* rwm", "c 5:2 rwm", "c 10:200 rwm"]


def allow(kind, major, minor, access="rwm"):
    return DeviceRule(True, kind, major, minor, access)


def deny(kind, major, minor, access="rwm"):
    return DeviceRule(False, kind, major, minor, access)


class Kernel:
    """security/device_cgroup.c in Python: exceptions change on an exact match only."""

    def __init__(self, *, allow_all=True):
        self.allow_all, self.exceptions = allow_all, {}

    def write(self, file, data):
        allowing = file == "devices.allow"
        kind, *rest = data.split()
        if kind == "a":
            self.allow_all, self.exceptions = allowing, {}
            return
        node = (kind, rest[0])
        held = self.exceptions.get(node, set())
        held = held - set(rest[1]) if allowing == self.allow_all else held | set(rest[1])
        self.exceptions.pop(node, None)
        if held:
            self.exceptions[node] = held

    def allows(self, kind, major, minor, access):
        names = (f"{a}:{b}" for a in (major, "*") for b in (minor, "*"))
        matches = [self.exceptions.get((kind, name), set()) for name in names]
        if self.allow_all:  # any exception that touches the access refuses it
            return not any(access in held for held in matches)
        return any(access in held for held in matches)


def wanted(rules, kind, major, minor, access, *, start):
    """What the spec says: the last rule that matches decides."""
    verdict = start
    for rule in rules:
        if rule.type in ("a", kind) and rule.major in (None, major) and rule.minor in (None, minor) \
                and access in rule.access:
            verdict = rule.allow
    return verdict


def play(writes, kernel=None):
    kernel = kernel or Kernel()
    for write in writes:
        assert write.controller == "devices"
        kernel.write(write.file, write.data)
    return kernel


def texts(writes):
    return [(write.file.partition(".")[2], write.data) for write in writes]


def test_no_rules_is_the_default_list_and_nothing_else():
    """As with runc, on v1 and v2: whatever the parent allows."""
    assert texts(device_writes_v1(())) == [("deny", "a"), *(("allow", text) for text in DEFAULTS)]


def test_rules_without_one_for_all_devices_start_from_nothing():
    assert texts(device_writes_v1((allow("c", 9, 9),)))[:2] == [("deny", "a"), ("allow", "c 9:9 rwm")]


def test_deny_all_comes_first_and_once():
    rules = (allow("c", 9, 9), DENY_ALL, allow("c", 1, 5, "rw"), allow("b", 8, None, "r"))
    assert texts(device_writes_v1(rules))[:4] == [
        ("deny", "a"), ("allow", "c 1:5 rwm"), ("allow", "b 8:* r"), ("allow", "c *:* m")]


def test_origins():
    writes = device_writes_v1((DENY_ALL, allow("c", 9, 9), allow("c", 1, 3, "rwm")))
    origins = {write.data: write.origin for write in writes}
    assert origins["c 9:9 rwm"] == "/linux/resources/devices/1"
    assert origins["c 1:3 rwm"] == "/linux/resources/devices/2"  # named by the config, though it is a default too
    assert origins["c 5:0 rwm"] == "/linux/resources/devices"


HOLES = [
    (DENY_ALL, allow("c", 1, None), deny("c", 1, 3, "w")),
    (DENY_ALL, allow("c", None, None, "rw"), deny("c", 1, None, "r")),
    (ALLOW_ALL, deny("c", 1, None), allow("c", 1, 11)),
]


@pytest.mark.parametrize("rules", HOLES, ids=range(len(HOLES)))
def test_a_rule_that_the_kernel_would_ignore_is_refused(rules):
    with pytest.raises(HostError, match="not supported by cgroup v1") as caught:
        device_writes_v1(rules)
    assert caught.value.field == "/linux/resources/devices/2"


def test_a_wider_deny_takes_what_lies_inside():
    rules = (DENY_ALL, allow("c", 9, 9), allow("c", 9, 8), allow("b", 9, 9), deny("c", 9, None, "rw"))
    kernel = play(device_writes_v1(rules))
    assert not kernel.allows("c", 9, 9, "r")
    assert kernel.allows("b", 9, 9, "r")


def test_all_types_with_less_than_all_access_is_two_rules():
    kernel = play(device_writes_v1((DENY_ALL, allow("a", None, None, "r"))))
    assert kernel.allows("b", 8, 0, "r")
    assert not kernel.allows("b", 8, 0, "w")


def random_rules(rng):
    numbers = (None, 1, 2)
    first = rng.choice((DENY_ALL, ALLOW_ALL))
    accesses = ["".join(letters) for size in (1, 2, 3) for letters in itertools.combinations("rwm", size)]
    rest = [DeviceRule(rng.random() < 0.6, rng.choice("abc"), rng.choice(numbers), rng.choice(numbers),
                       rng.choice(accesses)) for _ in range(rng.randrange(5))]
    return (first, *rest)


NODES = list(itertools.product("bc", (1, 2, 7), (1, 2, 7), "rwm"))


def test_the_kernel_ends_where_the_rules_say():
    """S33: rules in order, the last match decides; what v1 cannot express is refused instead of ignored."""
    rng, refused = random.Random(4), 0
    for _ in range(400):
        rules = random_rules(rng)
        try:
            kernel = play(device_writes_v1(rules))
        except HostError:
            refused += 1
            continue
        everything = (*rules, *DEFAULT_RULES) if not kernel.allow_all else rules
        for kind, major, minor, access in NODES:
            if kernel.allow_all and access == "m":
                continue  # the default list lifts denials of mknod where it can
            assert kernel.allows(kind, major, minor, access) == wanted(
                everything, kind, major, minor, access, start=False), (rules, kind, major, minor, access)
    assert 0 < refused < 300
