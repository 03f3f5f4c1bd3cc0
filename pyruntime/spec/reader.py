"""Typed access to a decoded document: every reader gives a usable value and notes what was wrong with it.

Parsers never stop at a mistake. A field of the wrong type is noted and its default returned, so that one pass finds
all violations. Line 1 of the error is the first in the order in which the peers check (contract 4.13), which the
rank of each violation carries; violations of equal rank keep the document's order.
"""

from __future__ import annotations

from pyruntime.errors import SpecError, Violation
from pyruntime.spec.document import escape, kind, quote, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

# Ranks, in the order of contract 4.13. Types come first: the peers decode before they check.
TYPE, PROCESS, MOUNT, DEVICE, CGROUP, PROPAGATION, NAMESPACE, USER_MAP, SECCOMP, EXTRA, AFFINITY = range(11)
SWAP, ROOTFS, NETDEV, UTS, PATHS, NAMESPACE_USE, SYSCTL, RDT, ROOTLESS, IDMAP, SCHEDULER = range(11, 22)
IO_PRIORITY, MEMORY_POLICY, LATER = range(22, 25)

INT32 = ("int32", -(1 << 31), (1 << 31) - 1)
INT64 = ("int64", -(1 << 63), (1 << 63) - 1)
UINT16 = ("uint16", 0, (1 << 16) - 1)
UINT32 = ("uint32", 0, (1 << 32) - 1)
UINT64 = ("uint64", 0, (1 << 64) - 1)

NO_ID = (1 << 32) - 1  # (uid_t)-1 means "leave as it is" to the kernel: chown(2), setresuid(2)


class Reader:
    """Reads fields, collects violations.

    `errors`: (rank, violation) that every verb refuses. `strict`: violations that only `validate` calls errors and
    others warn about. `warnings`: legal, but probably not meant.
    """

    __slots__ = ("errors", "strict", "warnings")

    def __init__(self) -> None:
        self.errors: list[tuple[int, Violation]] = []
        self.strict: list[Violation] = []
        self.warnings: list[Violation] = []

    def error(self, rank: int, pointer: str, message: str, value: object = None, hint: str = "") -> None:
        """Note a violation that refuses the document; `value` None shows none."""
        self.errors.append((rank, _violation(pointer, message, value, hint)))

    def refuse(self, pointer: str, message: str, value: object = None, hint: str = "") -> None:
        """Note a violation for `validate`; create goes on."""
        self.strict.append(_violation(pointer, message, value, hint))

    def warn(self, pointer: str, message: str, value: object = None, hint: str = "") -> None:
        """Note something that is allowed."""
        self.warnings.append(_violation(pointer, message, value, hint))

    def sorted_errors(self) -> tuple[Violation, ...]:
        """All errors, first in the peers' order first."""
        return tuple(violation for _, violation in sorted(self.errors, key=lambda pair: pair[0]))

    def finish(self) -> None:
        """Raise SpecError with all errors, if there are any."""
        if self.errors:
            found = self.sorted_errors()
            first = found[0]
            raise SpecError(first.message, field=first.field, value=first.value, hint=first.hint, violations=found)

    def wrong(self, pointer: str, value: object, wanted: str, hint: str = "") -> None:
        """Note that `value` is not of JSON type `wanted`."""
        name = pointer[1:].replace("/", ".") or "config.json"
        self.error(TYPE, pointer, f"cannot unmarshal {kind(value)} into field {_short(name)} of type {wanted}", value,
                   hint or f"found {_a(kind(value))} where {_a(wanted)} belongs")

    def text(self, obj: dict[str, Any], key: str, at: str, default: str = "") -> str:
        """A string; absent and null are `default`."""
        value = obj.get(key)
        if type(value) is str:
            return value
        if value is not None:
            self.wrong(f"{at}/{key}", value, "string")
        return default

    def flag(self, obj: dict[str, Any], key: str, at: str) -> bool:
        """A boolean; absent and null are False."""
        value = obj.get(key)
        if value is not None and type(value) is not bool:
            self.wrong(f"{at}/{key}", value, "bool", "write true or false, without quotes")
        return value is True

    def number(self, obj: dict[str, Any], key: str, at: str, limits: tuple[str, int, int]) -> int | None:
        """A whole number in `limits` = (Go's type name, lowest, highest); absent and null are None."""
        value = obj.get(key)
        if value is None:
            return None
        if type(value) is int and limits[1] <= value <= limits[2]:
            return value
        self._bad_number(f"{at}/{key}", value, limits)
        return None

    def _bad_number(self, pointer: str, value: object, limits: tuple[str, int, int]) -> None:
        name, low, high = limits
        if type(value) not in (int, float):
            self.wrong(pointer, value, name, f"found {_a(kind(value))} where a number belongs")
            return
        hint = f"from {low} to {high}" if type(value) is int else "write a whole number, without fraction or exponent"
        self.error(TYPE, pointer, f"cannot unmarshal number {_short(shown(value))} into field "
                                  f"{_short(pointer[1:].replace('/', '.'))} of type {name}", value, hint)

    def count(self, obj: dict[str, Any], key: str, at: str, limits: tuple[str, int, int]) -> int:
        """As `number`, with 0 for absent."""
        return self.number(obj, key, at, limits) or 0

    def id(self, obj: dict[str, Any], key: str, at: str, rank: int = TYPE) -> int:
        """A user or group id, 0 to 2^32-2; absent is 0. 2^32-1 means "no change" to the kernel and is refused."""
        value = self.number(obj, key, at, UINT32) or 0
        if value == NO_ID:
            self.error(rank, f"{at}/{key}", f"invalid id {NO_ID}", value, "ids go from 0 to 4294967294")
            return 0
        return value

    def texts(self, obj: dict[str, Any], key: str, at: str) -> tuple[str, ...]:
        """An array of strings; absent and null are ()."""
        values = obj.get(key)
        if values is None:
            return ()
        if type(values) is not list:
            self.wrong(f"{at}/{key}", values, "[]string", 'write a list: ["..."]')
            return ()
        if set(map(type, values)) <= {str}:
            return tuple(values)
        for index, value in enumerate(values):
            if type(value) is not str:
                self.wrong(f"{at}/{key}/{index}", value, "string")
        return tuple(value for value in values if type(value) is str)

    def table(self, obj: dict[str, Any], key: str, at: str) -> dict[str, Any] | None:
        """An object; absent and null are None, and so is a value of another type."""
        value = obj.get(key)
        if value is not None and type(value) is not dict:
            self.wrong(f"{at}/{key}", value, "object")
            return None
        return value

    def rows(self, obj: dict[str, Any], key: str, at: str) -> Iterable[tuple[int, dict[str, Any]]]:
        """(index, object) of an array of objects; elements of other types are noted and left out."""
        values = obj.get(key)
        if values is None:
            return ()
        if type(values) is not list:
            self.wrong(f"{at}/{key}", values, "array", "write a list of objects: [{...}]")
            return ()
        if set(map(type, values)) <= {dict}:
            return enumerate(values)
        for index, value in enumerate(values):
            if type(value) is not dict:
                self.wrong(f"{at}/{key}/{index}", value, "object")
        return [(index, value) for index, value in enumerate(values) if type(value) is dict]

    def pairs(self, obj: dict[str, Any], key: str, at: str) -> tuple[tuple[str, str], ...]:
        """(name, text) of an object of strings, in file order; absent and null are ()."""
        table = self.table(obj, key, at)
        if not table:
            return ()
        if set(map(type, table.values())) <= {str}:
            return tuple(table.items())
        for name, value in table.items():
            if type(value) is not str:
                self.wrong(f"{at}/{key}/{escape(name)}", value, "string")
        return tuple((name, value) for name, value in table.items() if type(value) is str)

    def one_of(self, value: str, names: frozenset[str], rank: int, pointer: str, message: str) -> None:
        """Note `message` when `value` is not among `names`; the hint names the nearest or all."""
        if value not in names:
            self.error(rank, pointer, message, value, choose(value, names))


def choose(value: str, names: Iterable[str]) -> str:
    """A hint that names the one of `names` which differs from `value` by case or prefix only, else all of them."""
    plain = value.upper().replace("-", "_")
    for name in sorted(names):
        if plain and (name.upper() == plain or name.upper().endswith("_" + plain)):
            return f"write {name}"
    return "one of " + ", ".join(sorted(names))


def _violation(pointer: str, message: str, value: object, hint: str) -> Violation:
    return Violation(pointer, message, "" if value is None else shown(value), hint)


def _short(text: str) -> str:
    """`text` cut to 100 characters, so that line 1 of an error stays short, and printable."""
    if not text.isprintable():
        text = quote(text)
    return text if len(text) <= 100 else text[:100] + "..."


def _a(word: str) -> str:
    return word if word == "null" else ("an " if word[0] in "aeio" else "a ") + word
