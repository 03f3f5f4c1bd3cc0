"""Words of the command line to values: contract 1.1, the rules of Go's flag package as runc's users know them.

Long flags take one dash or two; a value follows as the next word or after `=`; a boolean takes only `=`; lists repeat.
Flags may stand after positionals unless the verb stops at the first one; `--` ends them.
"""

from __future__ import annotations

from pyruntime.cli.flags import BOOL, DURATION, INT, LIST, Flag
from pyruntime.errors import UsageError
from pyruntime.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BOOLEANS = {"1": True, "t": True, "T": True, "true": True, "TRUE": True, "True": True,
            "0": False, "f": False, "F": False, "false": False, "FALSE": False, "False": False}  # fmt: skip
VALUES = {INT: "a whole number", DURATION: "a number with a unit, as in 500ms, 5s or 1m"}  # what the flag takes
UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class HelpAsked(Exception):
    """-h or --help stood among the flags."""


class Parsed(Record):
    """`values` has every flag by its keyword, `given` those that were named, `rest` the positionals."""

    values: dict[str, Any]
    given: frozenset[str]
    rest: tuple[str, ...]


def parse_flags(flags: tuple[Flag, ...], words: list[str], *, stops: bool) -> Parsed:
    """Flags and positionals of `words`. Raises UsageError in the peers' words, HelpAsked for -h and --help."""
    known = {flag.name: flag for flag in flags}
    known.update({flag.short: flag for flag in flags if flag.short})
    values = {flag.key: flag.default for flag in flags}
    given: set[str] = set()
    rest: list[str] = []
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word == "--":
            rest += words[at:]
            break
        if not word.startswith("-") or word == "-":
            rest.append(word)
            if stops:
                rest += words[at:]
                break
            continue
        name, equals, text = word[2 if word.startswith("--") else 1 :].partition("=")
        flag = _known(known, name, word)
        if flag.kind == BOOL:
            values[flag.key] = _bool(name, text) if equals else True
        else:
            if not equals:
                if at == len(words):
                    raise UsageError(f"flag needs an argument: -{name}")
                text = words[at]
                at += 1
            values[flag.key] = _value(flag, name, text, values[flag.key])
        given.add(flag.key)
    return Parsed(values, frozenset(given), tuple(rest))


def _known(known: dict[str, Flag], name: str, word: str) -> Flag:
    """The flag called `name`."""
    if name in known:
        return known[name]
    if name in ("h", "help"):
        raise HelpAsked
    if not name or name.startswith(("-", "=")):
        raise UsageError(f"bad flag syntax: {word}")
    raise UsageError(f"flag provided but not defined: -{name}", hint=_nearest(known, name))


def _nearest(known: dict[str, Flag], name: str) -> str:
    """A hint with the flags that begin alike, "" when none does."""
    near = [full for full, flag in known.items() if len(full) > 1 and not flag.hidden and full[:3] == name[:3]]
    return f"did you mean {' or '.join('--' + full for full in near)}?" if near else ""


def _bool(name: str, text: str) -> bool:
    """strconv.ParseBool."""
    if text not in BOOLEANS:
        raise UsageError(f'invalid boolean value "{text}" for -{name}: parse error', hint="true or false")
    return BOOLEANS[text]


def _value(flag: Flag, name: str, text: str, before: Any) -> Any:
    """`text` as the flag's kind wants it; a list grows from what it was `before`."""
    if flag.kind == LIST:
        return (*before, text)
    try:
        if flag.kind == INT:
            return _integer(text)
        if flag.kind == DURATION:
            return duration_s(text)
    except ValueError:
        raise UsageError(f'invalid value "{text}" for flag -{name}: parse error', hint=VALUES[flag.kind]) from None
    return text


def _integer(text: str) -> int:
    """A number as Go's strconv.ParseInt reads it with base 0, within 64 bits."""
    octal = len(text) > 1 and text[0] == "0" and text.isdigit()
    number = int(text, 8 if octal else 0)
    if not -(1 << 63) <= number < 1 << 63 or text != text.strip():
        raise ValueError(text)
    return number


def duration_s(text: str) -> float:
    """Seconds of a Go duration ("5s", "1m30s", "1.5h", "0"). Raises ValueError."""
    body, sign = (text[1:], -1.0) if text[:1] == "-" else (text.removeprefix("+"), 1.0)
    if body == "0":
        return 0.0
    if not body:
        raise ValueError(text)
    total = 0.0
    while body:
        digits = len(body) - len(body.lstrip("0123456789."))
        rest = body[digits:]
        unit = rest[: len(rest) - len(rest.lstrip("nuµmsh"))]
        if unit not in UNITS_S:
            raise ValueError(text)
        total += float(body[:digits]) * UNITS_S[unit]
        body = rest[len(unit) :]
    return sign * total


def check_count(program: str, verb: str, rest: tuple[str, ...], least: int, most: int) -> None:
    """Raises UsageError in the peers' words when there are too few or too many positionals."""
    count = len(rest)
    if least <= count and (most < 0 or count <= most):
        return
    wanted = (f"exactly {least}" if least == most
              else f"a minimum of {least}" if count < least else f"a maximum of {most}")  # fmt: skip
    raise UsageError(f'{program}: "{verb}" requires {wanted} argument(s)')
