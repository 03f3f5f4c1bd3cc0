"""One alarm for all tiers whose tests start programs: none of them may hang (R15)."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

LIMIT_S = 600  # a busy machine may be twenty times slower; what must not hang has limits of its own
SLOW_LIMIT_S = 1800


def seconds_of(request: pytest.FixtureRequest, *, limit_s: int = LIMIT_S, slow_limit_s: int = SLOW_LIMIT_S) -> int:
    """How long a test may take: tests marked `slow` get more."""
    return slow_limit_s if request.node.get_closest_marker("slow") else limit_s


@contextmanager
def ended_after(seconds: int) -> Iterator[None]:
    """Raises TimeoutError in the main thread when what runs inside takes longer; the alarm before is put back."""

    def expired(number: int, frame: object) -> None:
        raise TimeoutError("the test took too long")

    before = signal.signal(signal.SIGALRM, expired)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
