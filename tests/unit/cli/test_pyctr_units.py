"""Sizes, ages and times as docker shows and reads them."""

from __future__ import annotations

import pytest

from pyruntime.cli.pyctr.units import ago, human_duration, human_size, parse_stamp, rfc3339_nano, timestamp
from pyruntime.errors import UsageError

HOUR, DAY = 3600, 86400


@pytest.mark.parametrize(("size", "text"), [(0, "0B"), (999, "999B"), (1000, "1kB"), (1_980_000, "1.98MB"), (123_456_789, "123MB"), (7.5e9, "7.5GB")])
def test_sizes(size, text):
    assert human_size(size, 3) == text


def test_sizes_have_four_digits_by_default():
    assert human_size(1_234_567) == "1.235MB"


@pytest.mark.parametrize(("seconds", "text"), [
    (0.4, "Less than a second"), (1, "1 second"), (59, "59 seconds"), (60, "About a minute"), (150, "2 minutes"), (3599, "59 minutes"),
    (HOUR, "About an hour"), (5 * HOUR, "5 hours"), (47 * HOUR, "47 hours"), (2 * DAY, "2 days"), (13 * DAY, "13 days"), (14 * DAY, "2 weeks"),
    (59 * DAY, "8 weeks"), (60 * DAY, "2 months"), (729 * DAY, "24 months"), (730 * DAY, "2 years")])
def test_ages(seconds, text):
    assert human_duration(seconds) == text


def test_an_age_of_nothing():
    assert (ago(0, 100.0), ago(40.0, 100.0)) == ("N/A", "About a minute ago")


@pytest.mark.parametrize(("text", "seconds", "nanos"), [
    ("2026-11-29T10:00:00Z", 1795946400, 0), ("2026-11-29T11:30:00+01:30", 1795946400, 0), ("2026-11-29T10:00:00.25Z", 1795946400, 250_000_000),
    ("2026-11-29T10:00Z", 1795946400, 0)])
def test_stamps(text, seconds, nanos):
    assert parse_stamp(text) == seconds * 10**9 + nanos


@pytest.mark.parametrize(("text", "result"), [("", ""), ("10m", "400.000000005"), ("0", "1000.000000005"), ("1795946400", "1795946400"), ("17.5", "17.5"),
                                              ("1970-01-01T00:00:07Z", "7.000000000")])
def test_timestamps(text, result):
    assert timestamp(text, 1000 * 10**9 + 5) == result


def test_what_is_no_time():
    with pytest.raises(UsageError, match="failed to parse value as time or duration"):
        timestamp("yesterday", 0)


def test_event_times_have_nine_digits():
    assert rfc3339_nano(1795946400_000000007)[19:29] == ".000000007"
