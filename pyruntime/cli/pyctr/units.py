"""Sizes, ages and times as Docker's users read and write them. Pure but for the clock that is passed in."""

from __future__ import annotations

import calendar
import re
import time

from pyruntime.cli.parse import duration_s
from pyruntime.errors import UsageError

SIZES = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
STAMP = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?:T(\d\d)(?::(\d\d)(?::(\d\d)(?:\.(\d{1,9})\d*)?)?)?)?(Z|[+-]\d\d:\d\d)?")


def human_size(size_bytes: float, digits: int = 4) -> str:
    """Decimal units with `digits` significant digits: 1.98MB, 0B."""
    size, unit = float(size_bytes), 0
    while size >= 1000 and unit < len(SIZES) - 1:
        size /= 1000
        unit += 1
    return f"{size:.{digits}g}{SIZES[unit]}"


def human_duration(seconds: float) -> str:
    """A time span in words: About an hour, 3 weeks."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole < 60:
        return f"{whole} second{'s' * (whole != 1)}"
    minutes = whole // 60
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    for limit, size, name in ((24 * 14, 24, "days"), (24 * 60, 24 * 7, "weeks"), (24 * 730, 24 * 30, "months")):
        if hours < limit:
            return f"{hours // size} {name}"
    return f"{int(seconds / 3600) // 24 // 365} years"


def ago(moment_s: float, now_s: float) -> str:
    """How long ago it was; N/A for a time that is not known."""
    return f"{human_duration(now_s - moment_s)} ago" if moment_s > 0 else "N/A"


def local_time(moment_s: float) -> str:
    """A time as tables show it: 2026-11-29 10:21:38 +0000 UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(moment_s))


def rfc3339_nano(moment_ns: int) -> str:
    """A time in this machine's zone with all nine digits."""
    moment = time.localtime(moment_ns // 10**9)
    zone = time.strftime("%z", moment)
    zone = "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}"
    return time.strftime("%Y-%m-%dT%H:%M:%S", moment) + f".{moment_ns % 10**9:09d}{zone}"


def parse_stamp(text: str) -> int | None:
    """Nanoseconds since 1970 of an RFC 3339 time, or of its beginning; local time without a zone. None when it is none."""
    found = STAMP.fullmatch(text)
    if found is None:
        return None
    parts = [int(part or 0) for part in found.groups()[:6]]
    try:
        if zone := found[8]:
            offset = 0 if zone == "Z" else int(zone[1:3]) * 3600 + int(zone[4:]) * 60
            seconds = calendar.timegm((*parts, 0, 0, 0)) - (-offset if zone[0] == "-" else offset)
        else:
            seconds = int(time.mktime((*parts, 0, 0, -1)))  # type: ignore[arg-type]
    except (ValueError, OverflowError):
        return None
    return seconds * 10**9 + int((found[7] or "").ljust(9, "0") or 0)


def timestamp(text: str, now_ns: int) -> str:
    """`seconds.nanoseconds` of a time, a number of seconds, or a span before now, as the API takes it. Raises UsageError."""
    if not text:
        return ""
    try:
        moment = now_ns - int(duration_s(text) * 10**9)
    except ValueError:
        found = parse_stamp(text)
        if found is not None:
            moment = found
        elif re.fullmatch(r"\d+(\.\d{1,9})?", text):
            return text
        else:
            raise UsageError(f'invalid value for "{text}": failed to parse value as time or duration') from None
    return f"{moment // 10**9}.{moment % 10**9:09d}"
