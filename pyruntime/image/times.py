"""Times as images and filters write them: RFC 3339, dates, Unix seconds, Go durations."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

from pyruntime.errors import InvalidReference

_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:\d\d)?")
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_UNIX = re.compile(r"\d+(?:\.\d{1,9})?")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_MINUTES = re.compile(r"(\d{4}-\d\d-\d\dT\d\d(?::\d\d)?)([Zz]|[+-]\d\d:\d\d)?")


def parse_rfc3339(text: str) -> int:
    """Nanoseconds since the epoch; without a zone it is UTC. Raises ValueError."""
    match = _RFC3339.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is no RFC 3339 time")
    date, clock, fraction, zone = match.groups()
    return _seconds(f"{date}T{clock}", zone) * 1_000_000_000 + int(((fraction or "") + "0" * 9)[:9])


def _seconds(text: str, zone: str | None) -> int:
    moment = datetime.fromisoformat(text).replace(tzinfo=timezone.utc)  # noqa: UP017 - one import less to explain
    offset = timedelta()
    if zone and zone not in "Zz":
        offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[4:6])) * (-1 if zone[0] == "-" else 1)
    return (moment - offset - datetime(1970, 1, 1, tzinfo=timezone.utc)) // timedelta(seconds=1)  # noqa: UP017


def parse_duration(text: str) -> float:
    """Seconds of a Go duration: `1h30m`, `10s`, `-5m`, `0`. Raises ValueError."""
    sign, rest = (-1.0, text[1:]) if text.startswith("-") else (1.0, text.removeprefix("+"))
    if rest == "0":
        return 0.0
    total, at = 0.0, 0
    while at < len(rest):
        match = _DURATION.match(rest, at)
        if not match:
            break
        total += float(match[1]) * _UNITS_S[match[2]]
        at = match.end()
    if not rest or at != len(rest):
        raise ValueError(f"{text!r} is no duration")
    return sign * total


def parse_when(text: str, now_s: float) -> int:
    """Nanoseconds since the epoch of a filter's value: RFC 3339, a date, Unix seconds, or a duration before now.

    Raises InvalidReference that names the value.
    """
    try:
        if _UNIX.fullmatch(text):
            whole, _, fraction = text.partition(".")
            return int(whole) * 1_000_000_000 + int((fraction + "0" * 9)[:9])
        if _DATE.fullmatch(text):
            return _seconds(f"{text}T00:00:00", None) * 1_000_000_000
        short = _MINUTES.fullmatch(text)
        if short:
            clock = short[1] if ":" in short[1] else f"{short[1]}:00"
            return _seconds(f"{clock}:00", short[2]) * 1_000_000_000
        if "T" in text or "t" in text:
            return parse_rfc3339(text)
        return int((now_s - parse_duration(text)) * 1e9)
    except (ValueError, OverflowError):
        raise InvalidReference(f"invalid time {text!r}", value=text,
                               hint="write 24h, 2026-01-31, 2026-01-31T12:00:00Z or Unix seconds") from None
