"""Small texts of the command line: container ids, `uid[:gid]`, sizes, durations. Every failure is a UsageError."""

from __future__ import annotations

from pyruntime.errors import UsageError
from pyruntime.spec.document import quote

MAX_CONTAINER_ID = 255  # bytes: the name of one directory
MAX_USER_ID = (1 << 32) - 2  # 2^32-1 means "no change" to the kernel
_ID_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+-.")
_ID_SHAPE = "letters, digits and _ + - . are allowed, at most 255; not . or .. alone"

_SIZE_UNITS = "bkmgtp"  # powers of 1024
_DURATION_UNITS = {
    "ns": 1e-9, "us": 1e-6, "\u00b5s": 1e-6, "\u03bcs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
MAX_DURATION_S = (1 << 63) / 1e9  # what Go's time.Duration holds


def check_container_id(container_id: str) -> None:
    """Raise UsageError unless the id is one that a container may have (contract 1.9, security S38)."""
    if not container_id:
        raise UsageError("container id cannot be empty")
    if len(container_id) > MAX_CONTAINER_ID or container_id in (".", "..") or not _ID_LETTERS.issuperset(container_id):
        raise UsageError("invalid container ID format", value=quote(container_id), hint=_ID_SHAPE)


def parse_user(text: str) -> tuple[int, int | None]:
    """(uid, gid) of `uid[:gid]`, gid None when it is not given. Digits only, 0 to 2^32-2 (security S27).

    A name is never looked up. Raises UsageError whose text begins `bad uid: ` or `bad gid: `.
    """
    uid, colon, gid = text.partition(":")
    return _parse_id(uid, "uid"), _parse_id(gid, "gid") if colon else None


def parse_gid(text: str) -> int:
    """One group id, as in `--additional-gids`; raises UsageError `bad gid: ...`."""
    return _parse_id(text, "gid")


def _parse_id(text: str, word: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise UsageError(f"bad {word}: {quote(text)} is not a number", hint="--user takes UID or UID:GID, decimal")
    value = int(text)
    if value > MAX_USER_ID:
        raise UsageError(f"bad {word}: {text} is out of range", hint=f"ids go from 0 to {MAX_USER_ID}")
    return value


def parse_size(text: str) -> int:
    """Bytes of a size such as `64m`, `1.5GiB`, `512`, or `-1` for no limit. Units are powers of 1024, any case.

    Raises UsageError `invalid size: '...'`.
    """
    if text == "-1":
        return -1
    plain = text.lower().strip(" ")
    number = plain.rstrip("bkmgtpi ")
    unit = plain[len(number):].strip(" ")
    if len(unit) > 1 and unit[1:] in ("b", "ib"):
        unit = unit[0]
    whole, dot, fraction = number.partition(".")
    good = len(unit) <= 1 and unit in _SIZE_UNITS and _is_digits(whole) and (not dot or _is_digits(fraction))
    if not good or len(number) > 20:
        raise UsageError(f"invalid size: {quote(text)}", hint="a number and b, k, m, g or t: 64m, 1.5g; -1: no limit")
    scale: int = 1024 ** _SIZE_UNITS.index(unit) if unit else 1
    size = int(whole) * scale + (int(fraction) * scale // 10 ** len(fraction) if dot else 0)
    if size >= 1 << 63:
        raise UsageError(f"invalid size: {quote(text)}", hint="too large: below 8 EiB")
    return size


def parse_duration_s(text: str) -> float:
    """Seconds of a duration as Go writes them: `5s`, `1m30s`, `1.5h`, `300ms`, `0`; a sign may lead.

    Raises UsageError `time: invalid duration "..."`.
    """
    rest = text[1:] if text[:1] in ("+", "-") else text
    if rest == "0":
        return 0.0
    total = 0.0
    ok = bool(rest)
    while rest and ok:
        number, unit, rest = _split_duration(rest)
        whole, _, fraction = number.partition(".")
        ok = (unit in _DURATION_UNITS and bool(whole or fraction) and len(number) <= 30
              and all(not part or _is_digits(part) for part in (whole, fraction)))
        if ok:
            total += float(number) * _DURATION_UNITS[unit]
    if not ok or total >= MAX_DURATION_S:
        raise UsageError(f"time: invalid duration {quote(text)}", hint="a number and a unit: 500ms, 5s, 1m30s, 1h")
    return -total if text[0] == "-" else total


def _split_duration(text: str) -> tuple[str, str, str]:
    """(number, unit, rest) of the first part of a duration."""
    tail = text.lstrip("0123456789.")
    number = text[:len(text) - len(tail)]
    end = 0
    while end < len(tail) and tail[end] not in "0123456789.":
        end += 1
    return number, tail[:end], tail[end:]


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()
