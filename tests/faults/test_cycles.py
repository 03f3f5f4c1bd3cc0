"""SIGKILL of the runtime at a random instant of create, start, exec and delete, then `delete --force` (R3)."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.faults import sweep, tally
from tests.system.leaks import Watch
from tests.system.runtime import finish, reap, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.bundle import Bundle
    from tests.system.runtime import Runtime

    MakeBundle = Callable[..., Bundle]

pytestmark = pytest.mark.system

SEED = os.environ.get("PYRUNTIME_SEED", "1")
CYCLE = ("create -b BUNDLE ID", "start ID", "exec ID true", "delete --force ID")
SAMPLE, ALL = 20, 1000


def memfds() -> int:
    """Anonymous files of the runtime's that processes below this one hold: container-init and its kin are in them.

    This process adopts what is orphaned below it, so that nothing of a call can be elsewhere.
    """
    found, below = 0, [os.getpid()]
    while below:
        folder = Path(f"/proc/{below.pop()}")
        with contextlib.suppress(OSError):  # it ends while it is looked at
            for path in folder.glob("task/*/children"):
                below += map(int, path.read_text().split())
        for path in folder.glob("fd/*"):
            with contextlib.suppress(OSError):
                found += os.readlink(path).startswith(("/memfd:container-init", "/memfd:seccomp"))
    return found


def durations(runtime: Runtime, bundle: Bundle) -> list[float]:
    """Seconds that each call of a cycle takes, the longest of three."""
    longest = [0.0] * len(CYCLE)
    for _ in range(3):
        name = runtime.new_id()
        for number, call in enumerate(CYCLE):
            begun = time.monotonic()
            assert runtime(*sweep.words(call, name, bundle)).code == 0
            longest[number] = max(longest[number], time.monotonic() - begun)
    return longest


def cycle(runtime: Runtime, bundle: Bundle, victim: int, delay_s: float) -> None:
    """The calls of a cycle up to the victim, which is killed after the delay; then what has to clean up."""
    name = runtime.new_id()
    for call in CYCLE[:victim]:
        assert runtime(*sweep.words(call, name, bundle)).code == 0
    call = runtime.popen(
        *sweep.words(CYCLE[victim], name, bundle), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    time.sleep(delay_s)
    call.kill()
    finish(call)
    result = runtime("delete", "--force", name)
    reap()
    assert result.code == 0, result


def run_cycles(runtime: Runtime, bundle: Bundle, number: int, seed: str) -> None:
    """Cycles that are cut; raises AssertionError with everything that is left."""
    chance = random.Random(seed)
    longest = durations(runtime, bundle)
    watch, held = Watch(), memfds()
    for _ in range(number):
        victim = chance.randrange(len(CYCLE))
        cycle(runtime, bundle, victim, chance.uniform(0, 1.1 * longest[victim]))
    left = sweep.settle(watch, runtime)
    tally.add("create, start, exec, delete, SIGKILL at a random instant", cases=number, failed=len(left))
    assert not left, "\n".join(left)
    wait_until(lambda: memfds() <= held, "no memory file is held", timeout_s=60)


def test_sample(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """Some cycles, seeded by PYRUNTIME_SEED."""
    run_cycles(runtime, make_bundle("sleep 600", sweep.RICH), SAMPLE, f"{SEED} sample")


@pytest.mark.slow
def test_thousand(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """1,000 of them: peers leave cgroups behind in 9 to 27 of 100."""
    run_cycles(runtime, make_bundle("sleep 600", sweep.RICH), ALL, f"{SEED} all")
