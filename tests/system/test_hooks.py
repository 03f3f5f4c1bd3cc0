"""Hooks: six points, their namespaces, state, environment, cwd, timeouts and failures (contract 3.2; R13)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.system.bundle import Bundle, namespaces

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.runtime import Runtime

    MakeBundle = Callable[..., Bundle]

pytestmark = pytest.mark.system

POINTS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
IN_RUNTIME = ("prestart", "createRuntime", "poststart", "poststop")
# A file of the container's cgroup v1, for a hook that has the state on its stdin.
PIDS_MAX = "/sys/fs/cgroup/pids$(grep :pids: /proc/$(grep -o '.pid.: *[0-9]*' | tr -dc 0-9)/cgroup | cut -d: -f3)/pids.max"
BEFORE_START = ("prestart", "createRuntime", "createContainer")


def hook(script: str, **more: Any) -> dict[str, Any]:
    """A hook that runs a shell script; /bin/sh is in the rootfs too."""
    return {"path": "/bin/sh", "args": ["sh", "-c", script], **more}


def reporting(bundle: Bundle, folder: Path) -> None:
    """Every point writes what it sees: on the host to `folder`, startContainer to /report in its own root."""
    folder.mkdir()
    bundle.config["hooks"] = {}
    for point in POINTS:
        out = f"/report/{point}" if point == "startContainer" else f"{folder}/{point}"
        look = (
            f"cat >{out}.state; pwd >{out}.cwd; env >{out}.env; readlink /proc/self/ns/mnt >{out}.mnt 2>/dev/null; "
            f"readlink /proc/self/ns/uts >{out}.uts; true"
        )
        bundle.config["hooks"][point] = [hook(look)]
    (bundle.rootfs / "report").mkdir()
    bundle.save()


def report(bundle: Bundle, folder: Path, point: str, kind: str) -> str:
    """What the hook of that point wrote."""
    place = bundle.rootfs / "report" if point == "startContainer" else folder
    return (place / f"{point}.{kind}").read_text()


def test_all_six(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    """State, cwd and namespaces of each point."""
    folder = tmp_path / "report"
    bundle = make_bundle("sleep 600", {"process.cwd": "/tmp", "annotations": {"k": "v"}})
    reporting(bundle, folder)
    with runtime.container(bundle) as container:
        pid, mnt = container.pid, os.readlink(f"/proc/{container.pid}/ns/mnt")
        uts = os.readlink(f"/proc/{container.pid}/ns/uts")
        container.stop()
        container.ok("delete", cwd=tmp_path)
        states = {point: json.loads(report(bundle, folder, point, "state")) for point in POINTS}
    expected = {
        "prestart": ("creating", pid),
        "createRuntime": ("creating", pid),
        "createContainer": ("creating", 1),
        "startContainer": ("created", 1),
        "poststart": ("running", pid),
        "poststop": ("stopped", None),
    }
    assert {point: (state["status"], state.get("pid")) for point, state in states.items()} == expected
    for point, state in states.items():
        assert {key: state[key] for key in ("ociVersion", "id", "bundle", "annotations")} == {
            "ociVersion": "1.3.0",
            "id": container.id,
            "bundle": str(bundle.path),
            "annotations": {"k": "v"},
        }, point
    assert {point: report(bundle, folder, point, "cwd").strip() for point in POINTS} == {
        "prestart": str(bundle.path),
        "createRuntime": str(bundle.path),
        "createContainer": str(bundle.rootfs),
        "startContainer": "/tmp",
        "poststart": str(bundle.path),
        "poststop": str(tmp_path),
    }
    host = os.readlink("/proc/self/ns/uts")
    assert {point: report(bundle, folder, point, "uts").strip() for point in POINTS} == {
        point: host if point in IN_RUNTIME else uts for point in POINTS
    }
    assert report(bundle, folder, "startContainer", "mnt").strip() == mnt


def test_environment(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    """Without env: the runtime's own outside, none in createContainer, the program's in startContainer."""
    folder = tmp_path / "report"
    bundle = make_bundle("true", {"process.env": ["PATH=/bin", "MINE=1"]})
    reporting(bundle, folder)
    runtime.look(bundle, env={"PATH": os.environ["PATH"], "CALLER": "1"})
    for point in POINTS:
        env = report(bundle, folder, point, "env")
        assert ("CALLER=1" in env, "MINE=1" in env) == (point in IN_RUNTIME, point == "startContainer"), point


def test_own_environment(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    """env replaces all of it; args[0] is argv[0]; without args argv is the path."""
    bundle = make_bundle("true")
    script = tmp_path / "script"
    script.write_text(f'#!/bin/sh\necho "$0 $#" >{tmp_path}/argv\n')
    script.chmod(0o755)
    bundle.change(
        {
            "hooks": {
                "prestart": [
                    {"path": "/usr/bin/env", "args": ["env"], "env": []},
                    hook(f"env >{tmp_path}/env; echo $0 >{tmp_path}/zero", env=["ONLY=1"]),
                    {"path": str(script)},
                ]
            }
        }
    )
    runtime.look(bundle)
    assert {line.split("=")[0] for line in (tmp_path / "env").read_text().split()} <= {
        "ONLY",
        "PWD",
        "_",
        "SHLVL",
        "OLDPWD",
    }
    assert "ONLY=1" in (tmp_path / "env").read_text()
    assert (tmp_path / "argv").read_text() == f"{script} 0\n"


def test_in_order(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    """Listed order, points in theirs, the program between."""
    log = tmp_path / "log"
    hooks = {point: [hook(f"echo {point}{number} >>{log}") for number in (0, 1)] for point in IN_RUNTIME}
    hooks["createContainer"] = [hook(f"echo createContainer{number} >>{log}") for number in (0, 1)]
    runtime.look(make_bundle("true", {"hooks": hooks}))
    order = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
    assert log.read_text().split() == [f"{point}{number}" for point in order for number in (0, 1)]


def test_limits_are_there_before_hooks_and_do_not_hold_them(
    runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    """A hook can look at the container's limits and edit them (contract 8, row 15), and start threads beyond them."""
    if not Path("/sys/fs/cgroup/pids/cgroup.procs").exists():
        pytest.skip("needs cgroup v1")
    threads = "import threading; [threading.Thread(target=threading.Event().wait, args=(1,)).start() for _ in range(9)]"
    look = f"cat {PIDS_MAX} >{tmp_path}/limit; {sys.executable} -c '{threads}'"
    bundle = make_bundle("true", {"linux.resources": {"pids": {"limit": 3}}})
    bundle.change({"hooks": {"createRuntime": [hook(look)], "poststart": [hook(f"{sys.executable} -c '{threads}'")]}})
    assert runtime.look(bundle) == ""
    assert (tmp_path / "limit").read_text() == "3\n"


# --- failures -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("point", BEFORE_START)
@pytest.mark.parametrize("verb", ["create", "run"])
def test_failing_hook_undoes_create(
    runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path, verb: str, point: str
) -> None:
    """Status and output in the error, nothing left, the next hook not run, poststop run (contract 3.1)."""
    hooks = {
        point: [hook("true"), hook("echo to out; echo to err >&2; exit 7"), hook(f"touch {tmp_path}/next")],
        "poststop": [hook(f"cat >{tmp_path}/stopped")],
    }
    result = runtime(verb, "-b", make_bundle("true", {"hooks": hooks}).path, runtime.new_id())
    assert (result.code, result.field) == (1, f"/hooks/{point}/1"), result
    assert f"error running {point} hook #1: exit status 7, stdout: to out, stderr: to err" in result.message
    assert not (tmp_path / "next").exists()
    assert json.loads((tmp_path / "stopped").read_text())["status"] == "stopped"
    assert runtime.ids() == []


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("killed", hook("kill -9 $$"), "signal"),
    ("silent", hook("exit 3"), "exit status 3, stdout: , stderr: "),
    ("missing", {"path": "/no/such/hook"}, "no such file or directory"),
    ("a folder", {"path": "/etc"}, "permission denied"),
    ("times out", hook("sleep 30", timeout=1), "hook ran past specified timeout of 1.0s"),
    ("times out with a child", hook("sleep 30 & sleep 30", timeout=1), "hook ran past specified timeout of 1.0s"),
]


@pytest.mark.parametrize("point", BEFORE_START)
@pytest.mark.parametrize(("bad", "text"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_hook(runtime: Runtime, make_bundle: MakeBundle, point: str, bad: dict[str, Any], text: str) -> None:
    """Each kind of failure in its words, within its time (R13)."""
    begun = time.monotonic()
    result = runtime.run(make_bundle("true", {"hooks": {point: [bad]}}))
    assert (result.code, text in result.message) == (1, True), result
    assert text != BAD[1][2] or result.message.endswith("stderr: "), "the path is no output"
    assert f"error running {point} hook #0" in result.message
    assert time.monotonic() - begun < 25  # not what the hook sleeps
    assert runtime.ids() == []


@pytest.mark.parametrize(
    "bad", [hook("exit 3"), hook("sleep 30", timeout=1), {"path": "/no/such"}], ids=["fails", "hangs", "missing"]
)
def test_failing_start_container(runtime: Runtime, make_bundle: MakeBundle, bad: dict[str, Any]) -> None:
    """The program never runs; start gives 1, run 255 (contract 1.5)."""
    bundle = make_bundle("touch /ran", {"hooks": {"startContainer": [bad]}})
    with runtime.container(bundle, start=False) as container:
        result = container("start")
        assert (result.code, "error running startContainer hook #0" in result.message) == (1, True), result
        container.wait_status("stopped")
    assert runtime.run(bundle).code == 255
    assert not (bundle.rootfs / "ran").exists()


@pytest.mark.parametrize("verb", ["start", "run"])
def test_failing_poststart(runtime: Runtime, make_bundle: MakeBundle, verb: str) -> None:
    """The container is killed, 1."""
    bundle = make_bundle("sleep 600", {"hooks": {"poststart": [hook("exit 3")]}})
    text = "error running poststart hook #0: exit status 3"
    if verb == "run":
        result = runtime.run(bundle)
        assert (result.code, text in result.message) == (1, True), result
        return
    with runtime.container(bundle, start=False) as container:
        result = container("start")
        assert (result.code, text in result.message) == (1, True), result
        container.wait_status("stopped")


@pytest.mark.parametrize("verb", ["delete", "run"])
def test_failing_poststop(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path, verb: str) -> None:
    """A warning, the next still runs, and the code is not touched (contract 1.5)."""
    bundle = make_bundle(
        "exit 5", {"hooks": {"poststop": [hook("exit 3"), {"path": "/no"}, hook(f"touch {tmp_path}/next")]}}
    )
    if verb == "run":
        result = runtime.run(bundle)
        assert result.code == 5
    else:
        with runtime.container(bundle) as container:
            container.wait_status("stopped")
            result = container("delete")
            assert result.code == 0
    assert "level=warning" in result.err
    assert "poststop hook #0: exit status 3" in result.err
    assert "poststop hook #1" in result.err
    assert (tmp_path / "next").exists()


def test_flood_of_output(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """Its last 4 KiB are kept, and the hook is not held up by us."""
    result = runtime.run(
        make_bundle("true", {"hooks": {"prestart": [hook("head -c 3000000 /dev/zero | tr '\\0' x; echo END; exit 1")]}})
    )
    assert result.code == 1
    assert result.message.endswith("xEND, stderr: ")
    assert len(result.message) < 8192


def test_hook_that_ignores_its_input(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """EPIPE is tolerated, a big state too."""
    annotations = {f"key{number}": "v" * 1000 for number in range(200)}
    hooks = {"prestart": [hook("exec 0<&-; true")], "createContainer": [hook("true")]}
    assert runtime.run(make_bundle("exit 4", {"hooks": hooks, "annotations": annotations})).code == 4


def test_daemon_of_a_hook(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    """A grandchild that keeps the output pipe open does not hold us, and lives on: it is the hook's business."""
    begun = time.monotonic()
    script = f"sleep 3000 & echo $! >{tmp_path}/pid"
    assert runtime.run(make_bundle("exit 4", {"hooks": {"createRuntime": [hook(script)]}})).code == 4
    assert time.monotonic() - begun < 60
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_hook_may_change_limits(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """createRuntime sees the final limits, so what it writes stands."""
    if not Path("/sys/fs/cgroup/pids/cgroup.procs").exists():
        pytest.skip("needs cgroup v1")
    bundle = make_bundle(
        "sleep 600",
        {"hooks": {"createRuntime": [hook(f"echo 55 >{PIDS_MAX}")]}, "linux.resources": {"pids": {"limit": 77}}},
    )
    with runtime.container(bundle) as container:
        assert (Path(container.saved()["cgroup_paths"]["pids"]) / "pids.max").read_text() == "55\n"


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        ({"path": "relative"}, "/hooks/prestart/0/path"),
        ({"args": ["x"]}, "/hooks/prestart/0"),
        ({"path": "/bin/true", "timeout": 0}, "/hooks/prestart/0/timeout"),
        ({"path": "/bin/true", "timeout": -1}, "/hooks/prestart/0/timeout"),
        ({"path": "/bin/true", "env": ["x"]}, "/hooks/prestart/0/env/0"),
    ],
    ids=str,
)
def test_refused(runtime: Runtime, make_bundle: MakeBundle, entry: dict[str, Any], field: str) -> None:
    """What can be no hook is seen before anything is made."""
    result = runtime.run(make_bundle("true", {"hooks": {"prestart": [entry]}}))
    assert (result.code, result.field.startswith(field)) == (1, True), result


def test_start_container_is_the_user(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """After pivot, as the process's user with its capabilities (contract 3.2)."""
    bundle = make_bundle(
        "true", {"process.user.uid": 1000, "hooks": {"startContainer": [hook("id -u >/report/uid; ls / >/report/ls")]}}
    )
    (bundle.rootfs / "report").mkdir()
    shutil.chown(bundle.rootfs / "report", 1000)
    runtime.look(bundle)
    assert (bundle.rootfs / "report/uid").read_text() == "1000\n"
    assert "report" in (bundle.rootfs / "report/ls").read_text()


def test_create_container_sees_the_old_root(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    """Host path, container namespaces, mounts made: what it mounts below the rootfs is in the container."""
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra/file").write_text("from a hook\n")
    bundle = make_bundle(
        "cat /mnt/file; ip -o link | wc -l",
        {
            "linux.namespaces": namespaces("network"),
            "hooks": {"createContainer": [hook(f"mount --bind {tmp_path}/extra {{root}}/mnt")]},
        },
    )
    (bundle.rootfs / "mnt").mkdir()
    bundle.config["hooks"]["createContainer"][0]["args"][2] = f"mount --bind {tmp_path}/extra {bundle.rootfs}/mnt"
    bundle.save()
    assert runtime.look(bundle) == "from a hook\n1"
    assert f"{tmp_path}/extra" not in Path("/proc/self/mountinfo").read_text()
