"""exec, ps, events and update on cgroup v2 with each driver: the system tier's tests, and what v2 has of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.system.conftest import running
from tests.system.test_verbs import test_events_stream, test_oom_event, test_ps, test_stats
from tests.vm.drivers import both_drivers

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.bundle import Bundle
    from tests.system.runtime import Container

    MakeBundle = Callable[..., Bundle]

__all__ = ["both_drivers", "running", "test_events_stream", "test_oom_event", "test_ps", "test_stats"]

pytestmark = pytest.mark.system
UPDATES = [
    (("--pids-limit", "33"), "pids.max", "33"),
    (("--pids-limit", "-1"), "pids.max", "max"),
    (("--memory", "64m"), "memory.max", str(64 << 20)),
    (("--memory", "64m", "--memory-swap", "96m"), "memory.swap.max", str(32 << 20)),
    (("--memory-reservation", "32m"), "memory.low", str(32 << 20)),
    (("--cpu-share", "512"), "cpu.weight", "59"),
    (("--cpu-quota", "50000", "--cpu-period", "50000"), "cpu.max", "50000 50000"),
    (("--cpuset-cpus", "0"), "cpuset.cpus", "0"),
    (("--cpu-idle", "1"), "cpu.idle", "1"),
]


def place(container: Container) -> Path:
    """The container's cgroup, from its state."""
    return Path(container.saved()["cgroup_paths"][""])


def test_updates_one_after_the_other(running: Container) -> None:
    """Each file, right after its flag."""
    for flags, file, expected in UPDATES:
        running.ok("update", *flags)
        assert (place(running) / file).read_text().strip() == expected, flags


def test_an_update_that_fails_changes_nothing(running: Container) -> None:
    running.ok("update", "--pids-limit", "40")
    document = json.dumps({"pids": {"limit": 50}, "unified": {"memory.max": "none"}})
    result = running.runtime("update", "--resources", "-", running.id, stdin=document)
    assert result.code == 1
    assert "memory.max" in result.message
    assert (place(running) / "pids.max").read_text() == "40\n"


def test_pressure_in_statistics(running: Container) -> None:
    data = json.loads(running.runtime("events", "--stats", running.id).out)["data"]
    for part in (data["cpu"], data["memory"], data["blkio"]):
        assert part["psi"]["some"].keys() == {"avg10", "avg60", "avg300", "total"}


def test_exec_in_a_sub_cgroup(running: Container) -> None:
    (place(running) / "sub").mkdir()
    assert running.look("cat /proc/self/cgroup", "--cgroup", "/sub").endswith(f"{place(running).name}/sub")
    refused = running.exec("true", flags=("--cgroup", "../other"))
    assert (refused.code, "bad sub cgroup path" in refused.message) == (255, True)


def test_exec_while_paused_waits(running: Container) -> None:
    running.ok("pause")
    assert running.exec("true").code == 255
    running.ok("resume")
    assert running.exec("true").code == 0
