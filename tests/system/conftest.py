"""What holds for every test of the system tier, none of which may hang, and a container that several look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.layouts import note
from tests.limits import ended_after, seconds_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.system.bundle import Bundle
    from tests.system.runtime import Container, Runtime

    MakeBundle = Callable[..., Bundle]

CAPS = ["CAP_KILL", "CAP_CHOWN"]


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


@pytest.fixture
def running(runtime: Runtime, make_bundle: MakeBundle) -> Iterator[Container]:
    """A running container with values of its own for an exec to take over."""
    changes = {
        "process.env": ["PATH=/bin", "KEPT=1"],
        "process.cwd": "/tmp",
        "process.user": {"uid": 0, "gid": 0, "umask": 0o27, "additionalGids": [7]},
        "process.noNewPrivileges": True,
        "process.oomScoreAdj": 50,
        "process.rlimits": [{"type": "RLIMIT_CORE", "soft": 4096, "hard": 4096}],
        "process.capabilities": {"bounding": CAPS, "effective": CAPS, "permitted": CAPS},
    }
    with runtime.container(make_bundle("echo up; exec sleep 600", changes)) as container:
        container.wait_output("up")
        yield container
