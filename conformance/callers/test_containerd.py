"""containerd drives pyruntime through containerd-shim-runc-v2, as `ctr` and Kubernetes have it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from conformance.callers.containerd import SHIM_ROOT, Containerd
from conformance.callers.stand import has_ended, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conformance.callers.stand import Stand

LOOP = ("sh", "-c", "trap 'exit 7' TERM; touch /up; while :; do sleep 0.1; done")  # before /up SIGTERM is ignored


@pytest.fixture(scope="module")
def daemon(make_stand: Callable[..., Stand], program: str) -> Containerd:
    """containerd with the image."""
    made = Containerd(make_stand("cd", "containerd", "ctr", "containerd-shim-runc-v2"), program)
    made.ok("images", "import", "/run/image.tar")
    return made


@pytest.fixture
def containerd(daemon: Containerd) -> Iterator[Containerd]:
    """The daemon; after the test nothing of it may be left."""
    yield daemon
    daemon.check()


def test_run_in_the_foreground(containerd: Containerd) -> None:
    ended = containerd.run("sh", "-c", "echo out; echo err >&2; cat /proc/self/status; exit 5")
    assert (ended.code, ended.out.startswith("out\n")) == (5, True), ended
    assert "err\n" in ended.err
    assert "CapEff:\t00000000a80425fb" in ended.out
    assert "NoNewPrivs:\t1" in ended.out


def test_stdin_reaches_the_program(containerd: Containerd) -> None:
    assert containerd.run("sh", "-c", "read -r line; echo $line", stdin="in and out\n").out == "in and out\n"


def test_a_missing_program_is_named(containerd: Containerd) -> None:
    ended = containerd.run("nosuch")
    assert ended.code == 1
    assert "OCI runtime create failed: pyruntime create failed: unable to start container process: " in ended.err
    assert 'exec: "nosuch": executable file not found in $PATH' in ended.err


def test_a_life(containerd: Containerd) -> None:
    with containerd.container(*LOOP) as name:
        assert containerd.status(name) == "RUNNING"
        ended = containerd.exec(name, "sh", "-c", "echo inside; exit 3")
        assert (ended.code, ended.out) == (3, "inside\n")
        assert containerd.exec(name, "nosuch").code != 0
        containerd.ok("task", "pause", name)
        containerd.wait_status(name, "PAUSED")
        containerd.ok("task", "resume", name)
        containerd.wait_status(name, "RUNNING")
        rows = containerd.ok("task", "ps", name).splitlines()
        assert rows[0].split()[0] == "PID"
        assert str(containerd.tasks()[name][0]) in rows[1]
        assert "pids.current" in containerd.ok("task", "metrics", name)
        containerd.wait_file(name, "/up")
        containerd.ok("task", "kill", "-s", "TERM", name)
        containerd.wait_status(name, "STOPPED")
        assert containerd.ctr("task", "kill", name).code != 0
        assert "exit with non-zero exit code 7" in containerd.ctr("task", "rm", name).err
        assert containerd.status(name) == ""


def test_limits(containerd: Containerd) -> None:
    with containerd.container(*LOOP, flags=("--memory-limit", str(32 << 20), "--cpus", "0.5")) as name:
        file = containerd.stand.cgroup_file
        assert file(name, "memory/memory.limit_in_bytes", "memory.max") == str(32 << 20)
        assert file(name, "cpu/cpu.cfs_quota_us", "cpu.max").split()[0] == "50000"


def test_events(containerd: Containerd) -> None:
    with containerd.events() as events:
        with containerd.container(*LOOP) as name:
            containerd.exec(name, "true")
            containerd.ok("task", "pause", name)
            containerd.ok("task", "resume", name)
            containerd.ok("task", "kill", "-s", "KILL", name)
            containerd.wait_status(name, "STOPPED")
        for topic in ("create", "start", "exec-added", "exec-started", "paused", "resumed", "exit", "delete"):
            events.wait(f"/tasks/{topic}")


def test_an_out_of_memory_event(containerd: Containerd) -> None:
    greedy = ("sh", "-c", "while [ ! -e /go ]; do sleep 0.1; done; x=$(yes | head -c 100000000); exit 3")
    with containerd.events() as events, containerd.container(*greedy, flags=("--memory-limit", str(24 << 20))) as name:
        assert containerd.exec(name, "touch", "/go").code == 0
        containerd.wait_status(name, "STOPPED")
        events.wait("/tasks/oom")
        assert "exit with non-zero exit code 137" in containerd.ctr("task", "rm", name).err


def test_a_terminal(containerd: Containerd) -> None:
    ctr, typed = ("ctr", "-n", containerd.namespace), "test -t 0 && echo t''ty; exit 6\n"
    args = containerd.run_args(containerd.new_id(), "sh", flags=("--rm", "-t"))
    assert containerd.stand.talk(*ctr, *args, typed=typed, wanted="tty\r") == 6
    with containerd.container(*LOOP) as name:
        args = ["task", "exec", "-t", "--exec-id", "tty", name, "sh"]
        assert containerd.stand.talk(*ctr, *args, typed=typed, wanted="tty\r") == 6


def test_containerd_is_killed_and_comes_back(containerd: Containerd) -> None:
    with containerd.container(*LOOP) as one, containerd.container(*LOOP) as two:
        pids = {name: containerd.tasks()[name][0] for name in (one, two)}
        for name in pids:
            containerd.wait_file(name, "/up")
        containerd.daemon.kill()
        containerd.stand.run("kill", "-TERM", str(pids[two]))
        wait_for(lambda: has_ended(containerd.stand.path(f"/proc/{pids[two]}")), "it ends while nobody looks")
        containerd.daemon.restart()
        containerd.wait_ready()
        containerd.wait_status(two, "STOPPED")
        assert containerd.tasks()[one] == (pids[one], "RUNNING")
        assert containerd.exec(one, "sh", "-c", "exit 4").code == 4
        containerd.ok("task", "kill", "-s", "TERM", one)
        containerd.wait_status(one, "STOPPED")
        assert "exit with non-zero exit code 7" in containerd.ctr("task", "rm", one).err


def test_the_shim_is_killed(containerd: Containerd) -> None:
    with containerd.container(*LOOP) as name:
        pid = containerd.tasks()[name][0]
        shims = [number for number, line in containerd.stand.processes().items() if "containerd-shim" in line]
        containerd.stand.ok("kill", "-KILL", *map(str, shims))
        wait_for(lambda: not containerd.stand.path(f"/proc/{pid}").exists(), "containerd deletes what a dead shim left")
        wait_for(lambda: containerd.status(name) in {"", "STOPPED", "UNKNOWN"}, "no task")
        containerd.forget_shims()


def test_state_is_where_the_shim_says(containerd: Containerd) -> None:
    with containerd.container(*LOOP) as name:
        state = containerd.stand.path(f"{SHIM_ROOT}/{containerd.namespace}/{name}/state.json")
        saved = json.loads(state.read_text())
        assert saved["init_process_pid"] == containerd.tasks()[name][0]


@pytest.mark.slow
def test_fifty_at_once(containerd: Containerd) -> None:
    from concurrent.futures import ThreadPoolExecutor

    names = [f"many{number}" for number in range(50)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: containerd.ok(*containerd.run_args(name, *LOOP, flags=("-d",)), timeout_s=300), names))
        tasks = containerd.tasks()
        assert [tasks[name][1] for name in names] == ["RUNNING"] * 50
        assert {done.code for done in pool.map(lambda name: containerd.exec(name, "sh", "-c", "exit 9"), names)} == {9}
        list(pool.map(containerd.remove, names))


@pytest.mark.slow
def test_checkpoint(containerd: Containerd) -> None:
    checked = containerd.stand.run("criu", "check")
    if checked.code != 0:
        pytest.skip(f"needs criu: {checked.both.strip().splitlines()[-1:]}")
    with containerd.container(*LOOP) as name:
        containerd.ok("task", "checkpoint", "--image-path", "/run/room/cp", name)
        assert (Path(containerd.stand.path("/run/room/cp")) / "inventory.img").exists()
