"""Times of configs and filters."""

from __future__ import annotations

import pytest

from pyruntime.errors import InvalidReference
from pyruntime.image.times import parse_duration, parse_rfc3339, parse_when

NOW = 1_800_000_000.0
DAY = 1_735_689_600  # 2025-01-01T00:00:00Z


@pytest.mark.parametrize(("text", "ns"), [
    ("2025-01-01T00:00:00Z", DAY * 10**9), ("2025-01-01T02:00:00+02:00", DAY * 10**9), ("2024-12-31T23:30:00-00:30", DAY * 10**9),
    ("2025-01-01t00:00:00.000000001z", DAY * 10**9 + 1), ("2025-01-01T00:00:00.1234567899Z", DAY * 10**9 + 123456789),
    ("0001-01-01T00:00:00Z", -62135596800 * 10**9),
])
def test_rfc3339(text, ns) -> None:
    assert parse_rfc3339(text) == ns


@pytest.mark.parametrize(("text", "seconds"), [
    ("1h30m", 5400), ("10s", 10), ("1.5h", 5400), ("100ms", 0.1), ("-5m", -300), ("0", 0), ("+1us", 1e-6), (".5s", 0.5),
])
def test_duration(text, seconds) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "1", "h", "1h ", "1d", "-", "1h-1m", "1e3s"])
def test_no_duration(text) -> None:
    with pytest.raises(ValueError, match="no duration"):
        parse_duration(text)


@pytest.mark.parametrize(("text", "ns"), [
    (str(DAY), DAY * 10**9), (f"{DAY}.5", DAY * 10**9 + 500_000_000), ("2025-01-01", DAY * 10**9), ("2025-01-01T00:00", DAY * 10**9),
    ("2025-01-01T00", DAY * 10**9), ("2025-01-01T02:00+02:00", DAY * 10**9), ("2025-01-01T00:00:00", DAY * 10**9),
    ("1h", int(NOW - 3600) * 10**9), ("24h0m0s", int(NOW - 86400) * 10**9),
])
def test_when(text, ns) -> None:
    assert parse_when(text, NOW) == ns


@pytest.mark.parametrize("text", ["", "yesterday", "2025-13-01", "2025-01-01T25:00:00Z", "1x"])
def test_no_time(text) -> None:
    with pytest.raises(InvalidReference, match="invalid time"):
        parse_when(text, NOW)
