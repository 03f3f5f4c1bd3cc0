"""Container ids, users, sizes and durations of the command line."""

from __future__ import annotations

import pytest

from pyruntime.errors import UsageError
from pyruntime.spec.ids import check_container_id, parse_duration_s, parse_gid, parse_size, parse_user


@pytest.mark.parametrize("text", ["a", "A-1_b.c+d", "...", ".a", "-", "a" * 255])
def test_ids_that_are_allowed(text):
    check_container_id(text)


@pytest.mark.parametrize(("text", "said"), [
    ("", "container id cannot be empty"),
    *((text, "invalid container ID format") for text in (
        ".", "..", "a/b", "/", "a b", "a\n", "\u00e9", "a\0", "a" * 256, "a:b", "../a", "a\udcff")),
], ids=repr)
def test_ids_that_are_refused(text, said):
    with pytest.raises(UsageError) as caught:
        check_container_id(text)
    assert str(caught.value) == said


@pytest.mark.parametrize(("text", "user"), [
    ("0", (0, None)), ("1000:5", (1000, 5)), ("4294967294:4294967294", (4294967294, 4294967294)), ("007", (7, None)),
])
def test_users(text, user):
    assert parse_user(text) == user


@pytest.mark.parametrize(("text", "said"), [
    *((text, "bad uid: ") for text in ("", "-1", "4294967295", "4294967296", "1x", " 1", "1 ", ":1", "root", "\u0661",
                                       "0x1", "+1", "1_0")),
    *((text, "bad gid: ") for text in ("1:", "1:2:3", "1:-1", "1:4294967295", "1:x")),
], ids=repr)
def test_users_that_are_refused(text, said):
    with pytest.raises(UsageError) as caught:
        parse_user(text)
    assert str(caught.value).startswith(said)


def test_a_group_alone():
    assert parse_gid("10") == 10
    with pytest.raises(UsageError, match="bad gid: "):
        parse_gid("wheel")


@pytest.mark.parametrize(("text", "size"), [
    ("-1", -1), ("0", 0), ("512", 512), ("512b", 512), ("1k", 1024), ("64m", 64 << 20), ("64M", 64 << 20),
    ("64MB", 64 << 20), ("64MiB", 64 << 20), ("1.5g", 3 << 29), ("2t", 2 << 40), ("10 k", 10240), ("0.5k", 512),
])
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "m", "-2", "-1m", "1mm", "1ib", "1x", "0x10", "1e3", "1.k", ".5k", "\u00b2", "9e",
                                  "9999999p", "1 2", "1\n", "9" * 30])
def test_sizes_that_are_refused(text):
    with pytest.raises(UsageError, match="invalid size: "):
        parse_size(text)


@pytest.mark.parametrize(("text", "seconds"), [
    ("5s", 5), ("1m30s", 90), ("1.5h", 5400), ("300ms", 0.3), ("0", 0), ("+1s", 1), ("-1s", -1), (".5s", 0.5),
    ("1h0m0s", 3600), ("10us", 1e-5), ("10\u00b5s", 1e-5), ("1.s", 1), ("7ns", 7e-9),
])
def test_durations(text, seconds):
    assert parse_duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "1d", "1s2", "1.1.1s", "- 1s", "1 s", "1e3s", ".s", "-", "9" * 31 + "s",
                                  "9999999999h"])
def test_durations_that_are_refused(text):
    with pytest.raises(UsageError, match="time: invalid duration"):
        parse_duration_s(text)
