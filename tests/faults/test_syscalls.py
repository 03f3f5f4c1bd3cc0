"""Every system call of the runtime and of container-init fails in turn, or its caller is killed there (R2, R3)."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING

import pytest

from tests.faults import sweep, tally

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.bundle import Bundle
    from tests.system.runtime import Runtime

    MakeBundle = Callable[..., Bundle]

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="needs x86-64: the injector sets its registers"),
]

SEED = os.environ.get("PYRUNTIME_SEED", "1")
SAMPLES = {"create": 16, "run": 8, "exec": 8, "start": 6}
SAMPLE = 3
CHUNK = 50  # points that are counted together
KINDS = {"fail": "one system call fails", "kill": "SIGKILL at one system call"}


def run(runtime: Runtime, bundle: Bundle, verb: str, action: str, size: int) -> None:
    """So many points of a verb; raises AssertionError with what did not hold."""
    points = sweep.sample(sweep.record(runtime, bundle, verb), f"{SEED} {verb} {action}", size)
    found = []
    for at in range(0, len(points), CHUNK):
        some = list(sweep.faults(runtime, bundle, verb, action, points[at : at + CHUNK]))
        tally.add(f"{verb}: {KINDS[action]}", cases=len(points[at : at + CHUNK]), failed=len(some))
        found += some
    assert not found, f"{len(found)} of {len(points)}\n" + "\n\n".join(found)


@pytest.mark.parametrize("action", KINDS)
@pytest.mark.parametrize("verb", sweep.VERBS)
def test_sample(runtime: Runtime, make_bundle: MakeBundle, verb: str, action: str) -> None:
    """Some points of every verb, chosen by PYRUNTIME_SEED."""
    bundle = make_bundle("true" if verb == "run" else "sleep 600", sweep.RICH)
    run(runtime, bundle, verb, action, SAMPLES.get(verb, SAMPLE))


@pytest.mark.slow
@pytest.mark.parametrize("action", KINDS)
@pytest.mark.parametrize("verb", sweep.VERBS)
def test_every_call(runtime: Runtime, make_bundle: MakeBundle, verb: str, action: str) -> None:
    """All points of every verb."""
    bundle = make_bundle("true" if verb == "run" else "sleep 600", sweep.RICH)
    run(runtime, bundle, verb, action, 1_000_000)
