"""No fault test hangs, and what they did can be written down: PYRUNTIME_FAULTS_REPORT names the file (`make faults`)."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.faults import tally
from tests.limits import ended_after, seconds_of

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT_S, SLOW_LIMIT_S = 600, 7200  # a machine may be busy; what must not hang has limits of its own

HEAD = """# Fault injection: the last whole run

`make faults` on {when}, Linux {release}, seed {seed}. A case is one call of the runtime with one fault in it; afterwards
`delete --force` has to leave nothing: mounts, cgroups, processes, state, descriptors and memfds are counted. A failed
`create` or `run` has to leave nothing by itself, and to say why in one line. How: tests/faults.

| fault | cases | with something left, or told badly |
|---|---:|---:|
"""


@pytest.fixture(autouse=True)
def limit(request: pytest.FixtureRequest) -> Iterator[None]:
    """Ends a run that does not end."""
    with ended_after(seconds_of(request, limit_s=LIMIT_S, slow_limit_s=SLOW_LIMIT_S)):
        yield


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the report when one is asked for; with xdist it is the controller that does."""
    rows = tally.rows()
    if not rows or hasattr(session.config, "workerinput"):
        return
    head = HEAD.format(
        when=time.strftime("%Y-%m-%d"), release=os.uname().release, seed=os.environ.get("PYRUNTIME_SEED", "1")
    )
    lines = [f"| {kind} | {row.cases} | {row.failed} |" for kind, row in sorted(rows.items())]
    cases, failed = (sum(numbers) for numbers in zip(*rows.values(), strict=True))
    Path(tally.REPORT).write_text(head + "\n".join(lines) + f"\n| all | {cases} | {failed} |\n", encoding="utf-8")
    tally.COUNTS.unlink()
