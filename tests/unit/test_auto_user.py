"""The map of a user namespace that nobody configured."""

from __future__ import annotations

import pytest

from pyruntime.lifecycle.auto_user import MAX_LINES, mappings


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        ([], []),
        ([(5000, 10), (7000, 5)], [(1, 5000, 10), (11, 7000, 5)]),
        ([(5000, 10), (5000, 10)], [(1, 5000, 10)]),
        ([(5000, 10), (5009, 2), (5010, 2)], [(1, 5000, 10), (11, 5010, 2)]),
        ([(990, 20), (0, 0), (1001, 3)], [(1, 1001, 3)]),
    ],
    ids=["none", "two", "twice", "one id twice", "his own id"],
)
def test_each_id_is_mapped_once(ranges, expected) -> None:
    first, *lines = mappings(1000, ranges)
    assert first == {"containerID": 0, "hostID": 1000, "size": 1}
    assert [(line["containerID"], line["hostID"], line["size"]) for line in lines] == expected


def test_the_kernel_takes_so_many_lines() -> None:
    assert len(mappings(0, [(10 * number, 1) for number in range(1, 1000)])) == MAX_LINES
