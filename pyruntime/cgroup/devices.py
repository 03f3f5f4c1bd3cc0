"""Device rules to devices.allow and devices.deny (cgroup-v1/devices.rst). Pure.

A v1 device cgroup is a default (allow or deny all) and a list of exceptions, each a (type, major, minor) with an
access. The kernel changes an exception only on an exact match of the three, so a rule that should cut a piece out of
a wider exception does nothing at all, silently. Hence the rules are not written as they stand: they are played
through on a model (`Access`), what the kernel could not express is refused, and the writes lead to the model's result.
"""

from __future__ import annotations

from pyruntime.cgroup.writes import R, Write
from pyruntime.errors import HostError
from pyruntime.spec.linux import DeviceRule

TYPE_CHECKING = False
if TYPE_CHECKING:
    Node = tuple[str, int | None, int | None]  # type b or c, major, minor; None: any

RULES = f"{R}/devices"
FULL = frozenset("rwm")

# What every container may use, whatever the config says: appended after its rules (contract: they come last).
# mknod of anything, then null zero full random urandom tty, pts slaves, ptmx, tun.
DEFAULT_RULES = (
    DeviceRule(True, "c", None, None, "m"),
    DeviceRule(True, "b", None, None, "m"),
    DeviceRule(True, "c", 1, 3, "rwm"),
    DeviceRule(True, "c", 1, 5, "rwm"),
    DeviceRule(True, "c", 1, 7, "rwm"),
    DeviceRule(True, "c", 1, 8, "rwm"),
    DeviceRule(True, "c", 1, 9, "rwm"),
    DeviceRule(True, "c", 5, 0, "rwm"),
    DeviceRule(True, "c", 136, None, "rwm"),
    DeviceRule(True, "c", 5, 2, "rwm"),
    DeviceRule(True, "c", 10, 200, "rwm"),
)


class Access:
    """The state of a device cgroup: `allow_all` is the default, `exceptions` are what differs from it.

    Each exception keeps the origin of the rule that last widened it.
    """

    def __init__(self, *, allow_all: bool) -> None:
        self.allow_all = allow_all
        self.exceptions: dict[Node, tuple[frozenset[str], str]] = {}

    def apply(self, rule: DeviceRule, origin: str, *, strict: bool) -> None:
        """Play one rule. Raises HostError when v1 cannot express it; with `strict` False such a part is left out."""
        access = frozenset(rule.access)
        if _resets(rule):
            self.allow_all = rule.allow
            self.exceptions.clear()
            return
        for kind in "bc" if rule.type == "a" else rule.type:
            node = (kind, rule.major, rule.minor)
            if rule.allow != self.allow_all:
                held, source = self.exceptions.get(node, (frozenset(), ""))
                self.exceptions[node] = (held | access, source if access <= held else origin)
            else:
                self._narrow(node, access, origin, strict=strict)

    def _narrow(self, node: Node, access: frozenset[str], origin: str, *, strict: bool) -> None:
        """Take `access` off every exception inside `node`; one that only overlaps cannot be split."""
        for other, (held, source) in list(self.exceptions.items()):
            if not held & access or not _overlap(node, other):
                continue
            if not _inside(other, node):
                if not strict:
                    continue
                raise HostError(
                    f"device rule {_text(node, access)} is not supported by cgroup v1: "
                    f"it would cut a hole into {_text(other, held)}", field=origin,
                    hint="list the devices one by one instead of the wider rule")
            if left := held - access:
                self.exceptions[other] = (left, source)
            else:
                del self.exceptions[other]

    def writes(self) -> list[Write]:
        """From any state to this one: the default first (which clears the exceptions), then each exception."""
        file, other = _files(allow_all=self.allow_all)
        return [Write("devices", file, "a", RULES),
                *(_write(other, node, access, origin) for node, (access, origin) in self.exceptions.items())]


def device_writes_v1(rules: tuple[DeviceRule, ...]) -> tuple[Write, ...]:
    """Writes for a new device cgroup: the config's rules in order, then DEFAULT_RULES.

    What no rule allows is denied, as on v2 and by runc, whatever the parent's cgroup allows: a container without rules
    has the devices of DEFAULT_RULES. Raises HostError for a rule that v1 would ignore.
    """
    state = Access(allow_all=False)
    for index, rule in enumerate(rules):
        state.apply(rule, f"{RULES}/{index}", strict=True)
    for rule in DEFAULT_RULES:
        state.apply(rule, RULES, strict=False)
    return tuple(state.writes())


def _resets(rule: DeviceRule) -> bool:
    """The rule is for all devices and every access: the only one that sets the default."""
    return rule.type == "a" and rule.major is None and rule.minor is None and frozenset(rule.access) == FULL


def _files(*, allow_all: bool) -> tuple[str, str]:
    """The file that sets this default, and the one that adds an exception to it."""
    return ("devices.allow", "devices.deny") if allow_all else ("devices.deny", "devices.allow")


def _write(file: str, node: Node, access: frozenset[str], origin: str) -> Write:
    return Write("devices", file, _text(node, access), origin)


def _text(node: Node, access: frozenset[str]) -> str:
    kind, major, minor = node
    letters = "".join(letter for letter in "rwm" if letter in access)
    return f"{kind} {'*' if major is None else major}:{'*' if minor is None else minor} {letters}"


def _inside(inner: Node, outer: Node) -> bool:
    return inner[0] == outer[0] and all(o is None or o == i for i, o in zip(inner[1:], outer[1:], strict=True))


def _overlap(one: Node, two: Node) -> bool:
    return one[0] == two[0] and all(a is None or b is None or a == b for a, b in zip(one[1:], two[1:], strict=True))


DEFAULT_TEXTS = frozenset(_text((rule.type, rule.major, rule.minor), frozenset(rule.access)) for rule in DEFAULT_RULES)
