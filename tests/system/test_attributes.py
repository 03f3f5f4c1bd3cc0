"""Scheduler, I/O priority, CPU affinity, memory policy, and mounts whose data is long: seen from inside (contract 4.2, 4.11)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.system.runtime import finish, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.bundle import Bundle
    from tests.system.runtime import Runtime

    MakeBundle = Callable[..., Bundle]

pytestmark = pytest.mark.system

STAT = "cut -d' ' -f%s /proc/self/stat"  # cut itself looks: attributes are inherited

ROWS: list[tuple[str, dict[str, Any], str, str]] = [
    ("batch and nice", {"process.scheduler": {"policy": "SCHED_BATCH", "nice": 7}}, STAT % "19,41", "7 3"),
    ("idle", {"process.scheduler": {"policy": "SCHED_IDLE"}}, STAT % "41", "5"),
    ("real time", {"process.scheduler": {"policy": "SCHED_RR", "priority": 3}}, STAT % "40,41", "3 2"),
    ("reset on fork", {"process.scheduler": {"policy": "SCHED_OTHER", "nice": -5, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}},
     STAT % "19" + "; cut -d' ' -f19 /proc/$$/stat", "0\n-5"),
    ("io priority", {"process.ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 6}}, "ionice -p $$", "best-effort: prio 6"),
    ("io idle", {"process.ioPriority": {"class": "IOPRIO_CLASS_IDLE"}}, "ionice -p $$ | cut -d: -f1", "idle"),
    ("memory policy", {"linux.memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}},
     "cut -d' ' -f2 /proc/self/numa_maps | sort -u", "bind=static:0"),
    ("local memory", {"linux.memoryPolicy": {"mode": "MPOL_LOCAL"}}, "cut -d' ' -f2 /proc/self/numa_maps | sort -u", "local"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "script", "expected"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_from_inside(runtime: Runtime, make_bundle: MakeBundle, changes: dict[str, Any], script: str, expected: str) -> None:
    """The program has what the config says."""
    if "numa_maps" in script and not Path("/proc/self/numa_maps").exists():
        pytest.skip("kernel without NUMA")
    if "priority" in str(changes.get("process.scheduler")) and not may_be_real_time():
        pytest.skip("real-time scheduling: a new cgroup has no rt_runtime here")
    assert runtime.look(make_bundle(script).change(changes)) == expected


def may_be_real_time() -> bool:
    """Whether a process of ours can become SCHED_RR at all."""
    if Path("/sys/fs/cgroup/cpu/cpu.rt_runtime_us").exists():
        return False  # a new cgroup of v1 starts with none
    return subprocess.run(["chrt", "-r", "3", "true"], check=False, capture_output=True).returncode == 0


def test_exec_has_its_own(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    """Attributes of the process file win; what it leaves out is the container's; the memory policy always is."""
    changes = {"process.scheduler": {"policy": "SCHED_BATCH"}, "process.ioPriority": {"class": "IOPRIO_CLASS_IDLE"}}
    wanted = tmp_path / "process.json"
    wanted.write_text('{"cwd": "/", "args": ["sh", "-c", "cut -d\' \' -f41 /proc/self/stat; ionice -p $$ | cut -d: -f1"],'
                      ' "env": ["PATH=/bin"], "scheduler": {"policy": "SCHED_IDLE"}}')
    with runtime.container(make_bundle("sleep 600").change(changes)) as container:
        result = runtime("exec", "--process", wanted, container.id)
    assert (result.code, result.out) == (0, "5\nidle\n"), result


@pytest.mark.parametrize(("affinity", "expected"), [
    ({}, None),
    ({"final": "0"}, "0"),
    ({"initial": "0", "final": "0-1"}, "0-1"),
    ({"initial": "1"}, "1"),
], ids=str)
def test_affinity_of_an_exec(runtime: Runtime, make_bundle: MakeBundle, affinity: dict[str, str], expected: str | None) -> None:
    """`final` once it is in the cgroup, else `initial`; neither resets the caller's mask. init has all CPUs."""
    if (os.cpu_count() or 1) < 2:
        pytest.skip("one CPU")
    look = "grep Cpus_allowed_list /proc/self/status | cut -f2"
    bundle = make_bundle(f"{look}; sleep 600").change({"process.execCPUAffinity": affinity})
    here = Path("/proc/self/status").read_text().partition("Cpus_allowed_list:\t")[2].split("\n")[0]
    with runtime.container(bundle) as container:
        result = runtime("exec", container.id, "sh", "-c", look)
    assert (result.code, result.out.strip()) == (0, expected or here), result


BAD: list[tuple[str, dict[str, Any], str, str]] = [
    ("node", {"linux.memoryPolicy": {"mode": "MPOL_BIND", "nodes": "900"}}, "unable to set memory policy: set_mempolicy MPOL_BIND nodes 900",
     "/linux/memoryPolicy"),
    ("numbers", {"process.scheduler": {"policy": "SCHED_DEADLINE", "runtime": 5, "deadline": 3, "period": 2}},
     "error setting scheduler: SCHED_DEADLINE runtime 5 deadline 3 period 2", "/process/scheduler"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message", "field"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_refused_by_the_kernel(runtime: Runtime, make_bundle: MakeBundle, changes: dict[str, Any], message: str, field: str) -> None:
    """The create fails, in words, and names the field."""
    result = runtime.run(make_bundle("true").change(changes))
    assert result.code == 1
    assert message in result.message, result
    assert result.field == field


def test_overlay_of_many_layers(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    """A lowerdir longer than fsconfig takes goes through mount(2)."""
    layers = []
    for number in range(9):
        layer = tmp_path / f"layer-{number}-{'x' * 40}"
        layer.mkdir()
        (layer / f"file{number}").write_text("")
        layers.append(str(layer))
    option = f"lowerdir={':'.join(layers)}"
    assert len(option) > 500
    mount = {"destination": "/mnt/over", "type": "overlay", "source": "overlay", "options": ["ro", "nodev", option]}
    script = "ls /mnt/over | wc -l; grep ' /mnt/over ' /proc/self/mountinfo | cut -d' ' -f6"
    assert runtime.look(make_bundle(script).add_mounts(mount)) == "9\nro,nodev,relatime"


@pytest.mark.parametrize("hook", ["createRuntime", "createContainer"])
def test_an_interrupted_create_ends_its_hook(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path, hook: str) -> None:
    """SIGTERM to the runtime while a hook runs: the hook, its group and its runner are gone, nothing is a zombie."""
    mark = tmp_path / "pid"
    script = f"sleep 61 & echo $$ $! > {mark}; wait"
    busybox = make_bundle("true")
    program = str(busybox.rootfs / "bin/busybox")
    busybox.change({"hooks": {hook: [{"path": program, "args": ["sh", "-c", script]}]}})
    call = runtime.popen("create", "-b", busybox.path, runtime.new_id())
    wait_until(lambda: mark.exists() and len(mark.read_text().split()) == 2, "the hook")
    pids = [int(word) for word in mark.read_text().split()]
    call.terminate()
    assert finish(call) != 0
    if hook == "createContainer":  # ids of the container's pid namespace: gone with it
        return
    wait_until(lambda: not Path(f"/proc/{pids[0]}").exists(), "its runner reaps it")
    wait_until(lambda: not lives(pids[1]), "its child ends")  # an orphan, whose end is whoever's that adopts it


def lives(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def test_features_announce_them(runtime: Runtime) -> None:
    """What the rows above show is announced."""
    found = json.loads(runtime("features").out)["linux"]
    assert "MPOL_BIND" in found["memoryPolicy"]["modes"]
    assert "MPOL_F_STATIC_NODES" in found["memoryPolicy"]["flags"]
    assert found["mountExtensions"] == {"idmap": {"enabled": True}}
