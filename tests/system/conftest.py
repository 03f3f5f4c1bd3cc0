"""What holds for every test of the system tier: none of them may hang."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT_S = 90
SLOW_LIMIT_S = 600


@pytest.fixture(autouse=True)
def limit(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that takes longer than any of them should (R15)."""

    def expired(number: int, frame: object) -> None:
        raise TimeoutError("the test took too long")

    before = signal.signal(signal.SIGALRM, expired)
    signal.alarm(SLOW_LIMIT_S if request.node.get_closest_marker("slow") else LIMIT_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
