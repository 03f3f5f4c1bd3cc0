"""What holds for every test of the system tier: none of them may hang."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.layouts import note
from tests.limits import ended_after, seconds_of

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Note the layout while the fixtures are there."""
    yield
    note(item)


@pytest.fixture(autouse=True)
def limit(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that takes longer than any of them should (R15)."""
    with ended_after(seconds_of(request)):
        yield
