"""The other verbs and the words around them: list, ps, events, update, spec, features, help, logs (contract 1, 2)."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
import termios
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest

from tests.system.bundle import Bundle, namespaces
from tests.system.runtime import Container, finish, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.runtime import Runtime

    MakeBundle = Callable[..., Bundle]

pytestmark = pytest.mark.system

NEEDS_V1 = pytest.mark.skipif(not Path("/sys/fs/cgroup/pids/cgroup.procs").exists(), reason="needs cgroup v1")


# --- list, ps -------------------------------------------------------------------------------------------------------
def test_list(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """Table, ids, JSON on one line; sorted by name; owner named."""
    runtime.root.mkdir(parents=True)
    assert runtime("list", "-f", "json").out == "[]\n"
    bundle = make_bundle("sleep 600")
    with runtime.container(bundle) as one, runtime.container(make_bundle("sleep 600"), start=False) as two:
        assert runtime("list", "-q").out == f"{one.id}\n{two.id}\n"
        text = runtime("list", "--format", "json").out
        assert text.count("\n") == 1
        rows = json.loads(text)
        assert [(row["id"], row["status"], row["owner"]) for row in rows] == [
            (one.id, "running", "root"),
            (two.id, "created", "root"),
        ]
        assert {**rows[0], "owner": ""} == one.state()
        header, first, _ = runtime("list").out.splitlines()
        assert header.split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
        assert first.split()[:4] == [one.id, str(one.pid), "running", str(bundle.path)]
        assert first.index("running") == header.index("STATUS")


def test_list_refusals(runtime: Runtime) -> None:
    """A root that was named has to be there; a format that is none."""
    result = runtime("list")
    assert (result.code, f"open {runtime.root}: no such file or directory" in result.message) == (1, True), result
    runtime.root.mkdir(parents=True)
    result = runtime("list", "--format", "xml")
    assert (result.code, "invalid format option" in result.message) == (1, True), result


def test_ps(running: Container) -> None:
    """Host pids of the cgroup and its sub-cgroups; the table is ps(1)'s, cut."""
    assert json.loads(running.runtime("ps", "--format", "json", running.id).out) == [running.pid]
    lines = running.runtime("ps", running.id).out.splitlines()
    assert lines[0].split()[:2] == ["UID", "PID"]
    assert [line.split()[1] for line in lines[1:]] == [str(running.pid)]
    assert running.runtime("ps", running.id, "-o", "pid,comm").out.split() == [
        "PID",
        "COMMAND",
        str(running.pid),
        "sleep",
    ]
    assert running.runtime("ps", "-f", "xml", running.id).code == 1


# --- events ---------------------------------------------------------------------------------------------------------
def test_stats(running: Container) -> None:
    """One record; the keys of contract 2.3."""
    text = running.runtime("events", "--stats", running.id).out
    assert text.count("\n") == 1
    record = json.loads(text)
    assert (record["type"], record["id"]) == ("stats", running.id)
    data = record["data"]
    assert {"cpu", "memory", "pids", "blkio", "hugetlb", "intel_rdt", "network_interfaces"} <= data.keys()
    assert data["pids"]["current"] == 1
    assert data["memory"]["usage"]["usage"] > 0
    assert data["cpu"]["usage"]["total"] >= 0


def test_events_stream(running: Container) -> None:
    """One record per interval; the stream ends with the container, exit 0."""
    call = running.runtime.popen("events", "--interval", "100ms", running.id, stdout=subprocess.PIPE)
    assert call.stdout is not None
    with call.stdout as out:
        for _ in range(2):
            assert json.loads(out.readline())["type"] == "stats"
        running.stop()
        assert {json.loads(line)["type"] for line in out} <= {"stats"}  # up to its end: a full pipe would hold it up
        assert finish(call) == 0


@pytest.mark.parametrize("interval", ["0s", "-1s"])
def test_events_interval(running: Container, interval: str) -> None:
    """Above zero."""
    result = running.runtime("events", f"--interval={interval}", running.id)
    assert (result.code, "duration interval must be greater than 0" in result.message) == (1, True), result


def test_oom_event(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """R10."""
    bundle = make_bundle(
        "echo up; read x </tmp/go; head -c 60000000 /dev/zero | tail -c 50000000 >/dev/null; sleep 600",
        {"linux.resources": {"memory": {"limit": 8 << 20}}},
    )
    os.mkfifo(bundle.rootfs / "tmp/go")
    with runtime.container(bundle) as container:
        container.wait_output("up")
        call = runtime.popen("events", "--interval", "100ms", container.id, stdout=subprocess.PIPE)
        assert call.stdout is not None
        with call.stdout as out:
            assert json.loads(out.readline())["type"] == "stats"  # it watches
            (bundle.rootfs / "tmp/go").write_text("x\n")
            others = (record for line in out if (record := json.loads(line))["type"] != "stats")
            assert next(others) == {"type": "oom", "id": container.id}
            call.terminate()
            finish(call)


def test_an_oom_that_ends_the_container_is_told(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """R10: it comes, and all is over, while the one who reads the records does something else."""
    script = "echo up; read x </tmp/go; exec tail -c 60000000 /dev/zero"
    bundle = make_bundle(script, {"linux.resources": {"memory": {"limit": 8 << 20}}})
    os.mkfifo(bundle.rootfs / "tmp/go")
    ours, theirs = os.pipe()
    page = fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, 4096)
    with runtime.container(bundle) as container, open(ours, "rb") as out:
        container.wait_output("up")
        call = runtime.popen("events", "--interval", "1ms", container.id, stdout=theirs)
        os.close(theirs)
        wait_until(lambda: unread(out) > page - 2048, "it waits to be read")
        (bundle.rootfs / "tmp/go").write_text("x\n")
        container.wait_status("stopped")
        assert "oom" in {json.loads(line)["type"] for line in out}
        assert finish(call) == 0


def unread(file: IO[bytes]) -> int:
    """Bytes that lie in a pipe (FIONREAD)."""
    return int.from_bytes(fcntl.ioctl(file, termios.FIONREAD, bytes(4)), sys.byteorder)


# --- update ---------------------------------------------------------------------------------------------------------
UPDATE: list[tuple[tuple[str, ...], str, str, str]] = [
    (("--pids-limit", "33"), "pids", "pids.max", "33"),
    (("--pids-limit", "-1"), "pids", "pids.max", "max"),
    (("--memory", "64m"), "memory", "memory.limit_in_bytes", str(64 << 20)),
    (("--memory", "65Mib"), "memory", "memory.limit_in_bytes", str(65 << 20)),
    (("--memory-reservation", "32m"), "memory", "memory.soft_limit_in_bytes", str(32 << 20)),
    (("--cpu-share", "512"), "cpu", "cpu.shares", "512"),
    (("--cpu-quota", "50000"), "cpu", "cpu.cfs_quota_us", "50000"),
    (("--cpu-period", "50000"), "cpu", "cpu.cfs_period_us", "50000"),
    (("--cpuset-cpus", "0"), "cpuset", "cpuset.cpus", "0"),
]


@NEEDS_V1
@pytest.mark.parametrize(("flags", "controller", "file", "expected"), UPDATE, ids=str)
def test_update(running: Container, flags: tuple[str, ...], controller: str, file: str, expected: str) -> None:
    """Applied, and kept in the saved configuration."""
    path = Path(running.saved()["cgroup_paths"][controller]) / file
    if not path.exists():
        pytest.skip(f"needs {file}")
    assert running.runtime("update", *flags, running.id) == (0, "", "")
    assert path.read_text().strip() == expected
    assert "resources" in running.saved()["config"]["linux"]


@NEEDS_V1
def test_update_from_a_document(running: Container, tmp_path: Path) -> None:
    """--resources from a file and from stdin; device rules are not touched."""
    devices = Path(running.saved()["cgroup_paths"]["devices"]) / "devices.list"
    pids = Path(running.saved()["cgroup_paths"]["pids"]) / "pids.max"
    before = devices.read_text()
    document = {"pids": {"limit": 44}, "devices": [{"allow": False, "access": "rwm"}]}
    (tmp_path / "r.json").write_text(json.dumps(document))
    assert running.runtime("update", "-r", tmp_path / "r.json", running.id).code == 0
    assert (pids.read_text(), devices.read_text()) == ("44\n", before)
    assert running.runtime("update", "--resources=-", running.id, stdin='{"pids": {"limit": 45}}').code == 0
    assert pids.read_text() == "45\n"


@NEEDS_V1
def test_update_that_fails_changes_nothing(running: Container) -> None:
    """The old values are written again."""
    pids = Path(running.saved()["cgroup_paths"]["pids"]) / "pids.max"
    assert running.runtime("update", "--pids-limit", "60", running.id).code == 0
    result = running.runtime("update", "--pids-limit", "70", "--cpuset-cpus", "4000", running.id)
    assert result.code == 1
    assert pids.read_text() == "60\n"
    assert running.saved()["config"]["linux"]["resources"]["pids"]["limit"] == 60


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--memory", "lots"), "invalid value for memory"),
        (("--pids-limit", "x"), ""),
        (("--resources", "/nope"), "no such file or directory"),
    ],
    ids=str,
)
def test_update_refused(running: Container, flags: tuple[str, ...], text: str) -> None:
    """Words that are no value."""
    result = running.runtime("update", *flags, running.id)
    assert (result.code, text in result.message) == (1, True), result


def test_update_obsolete_flags(running: Container) -> None:
    """Accepted, ignored, with a warning."""
    result = running.runtime("update", "--kernel-memory", "5m", running.id)
    assert result.code == 0
    assert "level=warning" in result.err


# --- spec, features, help, version, logs ----------------------------------------------------------------------------
def test_spec(runtime: Runtime, tmp_path: Path, make_bundle: MakeBundle) -> None:
    """Tab-indented, not replaced, and what it writes runs."""
    bundle = make_bundle()
    (bundle.path / "config.json").unlink()
    assert runtime("spec", "-b", bundle.path) == (0, "", "")
    text = (bundle.path / "config.json").read_text()
    assert text.startswith('{\n\t"ociVersion": "1.')
    result = runtime("spec", cwd=bundle.path)
    assert (result.code, "File config.json exists. Remove it first" in result.message) == (1, True), result
    bundle.config = json.loads(text)
    bundle.change(
        {
            "process.terminal": False,
            "process.args": ["sh", "-c", "hostname; id -u; exit 3"],
            "process.env": ["PATH=/bin"],
        }
    )
    result = runtime.run(bundle)
    assert (result.code, result.out) == (3, "pyruntime\n0\n"), result
    assert json.loads(runtime("spec", "--file", "-").out)["process"]["terminal"] is True


def test_spec_rootless(runtime: Runtime) -> None:
    """A user namespace of one id, no network namespace, no resources (contract 4.12)."""
    config = json.loads(runtime("spec", "--rootless", "-f", "-").out)
    kinds = [entry["type"] for entry in config["linux"]["namespaces"]]
    assert "user" in kinds
    assert "network" not in kinds
    assert "resources" not in config["linux"]
    assert config["linux"]["uidMappings"] == [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]


def test_features(runtime: Runtime) -> None:
    """Without any state; the keys of contract 2.4."""
    text = runtime("features").out
    assert text.startswith('{\n    "ociVersionMin"')
    assert text.endswith("}\n")
    features = json.loads(text)
    assert features["hooks"] == [
        "prestart",
        "createRuntime",
        "createContainer",
        "startContainer",
        "poststart",
        "poststop",
    ]
    assert features["mountOptions"] == sorted(features["mountOptions"])
    assert features["linux"]["namespaces"] == sorted(
        ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"]
    )
    assert not runtime.root.exists()


WORDS: list[tuple[tuple[str, ...], int, str, str]] = [
    ((), 0, "USAGE", ""),
    (("--help",), 0, "USAGE", ""),
    (("-h",), 0, "USAGE", ""),
    (("help",), 0, "USAGE", ""),
    (("help", "run"), 0, "--detach", ""),
    (("run", "--help"), 0, "--detach", ""),
    (("--version",), 0, "pyruntime version ", ""),
    (("-v",), 0, "spec: 1.", ""),
    (("foo",), 3, "", "No help topic for 'foo'"),
    (("version",), 3, "", "No help topic for 'version'"),
    (("state",), 1, "Incorrect Usage.", '"state" requires exactly 1 argument(s)'),
    (("state", "a", "b"), 1, "Incorrect Usage.", '"state" requires exactly 1 argument(s)'),
    (("exec",), 1, "Incorrect Usage.", '"exec" requires a minimum of 1 argument(s)'),
    (("kill", "a", "--all", "KILL"), 1, "Incorrect Usage.", '"kill" requires a maximum of 2 argument(s)'),
    (("run", "--nope", "x"), 1, "", "flag provided but not defined: -nope"),
    (("run", "-b"), 1, "", "flag needs an argument: -b"),
    (("events", "--interval", "5x", "a"), 1, "", "invalid value"),
    (("run", "--detach=perhaps", "a"), 1, "", "invalid boolean value"),
]


@pytest.mark.parametrize(
    ("words", "code", "out", "err"), WORDS, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_words(program: str, words: tuple[str, ...], code: int, out: str, err: str) -> None:
    """Help, versions and wrong usage (contract 1.1)."""
    done = subprocess.run([program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == code, done
    assert out in done.stdout
    assert err.replace('"', '\\"') in done.stderr or err in done.stderr


GLOBALS: list[tuple[tuple[str, ...], str]] = [
    (("--log-format", "xml"), "invalid log-format: xml"),
    (("--rootless", "foo"), 'strconv.ParseBool: parsing "foo": invalid syntax'),
    (("--root", "/"), "Option --root argument should not be set to /"),
    (("--root", "/tmp/.."), "Option --root argument should not be set to /"),
    (("--cgroup-manager", "foo"), "cgroup manager"),
]


@pytest.mark.parametrize(("flags", "text"), GLOBALS, ids=str)
def test_global_flags_refused(program: str, flags: tuple[str, ...], text: str) -> None:
    """Exit 1 and the words of contract 1.2."""
    done = subprocess.run([program, *flags, "state", "x"], capture_output=True, text=True, check=False)
    assert (done.returncode, text in done.stderr.replace("\\", "")) == (1, True), done


def test_log_file_json(runtime: Runtime, tmp_path: Path) -> None:
    """One object, RFC 3339, appended, 0644; the message bare on stderr (contract 1.6)."""
    log = tmp_path / "log.json"
    done = subprocess.run(
        [runtime.program, "--root", str(runtime.root), "--log", str(log), "--log-format", "json", "state", "none"],
        capture_output=True,
        text=True,
        check=False,
        umask=0o22,
    )
    assert done.returncode == 1
    record = json.loads(log.read_text())
    assert list(record) == ["level", "msg", "time"]
    assert (record["level"], record["msg"]) == ("error", "container does not exist")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)", record["time"])
    assert done.stderr.splitlines()[0] == "container does not exist"
    assert oct(log.stat().st_mode & 0o7777) == "0o644"


def test_one_json_record_with_warnings(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    """podman reads the file as one object: no warnings in JSON mode (contract 1.6)."""
    bundle = make_bundle(["/nope"], {"process.capabilities": {"bounding": ["CAP_FOO"]}})
    log = tmp_path / "log.json"
    subprocess.run(
        [
            runtime.program,
            "--root",
            str(runtime.root),
            "--log",
            str(log),
            "--log-format",
            "json",
            "create",
            "-b",
            str(bundle.path),
            runtime.new_id(),
        ],
        check=False,
        capture_output=True,
    )
    assert json.loads(log.read_text())["level"] == "error"


@pytest.mark.parametrize("form", ["text", "json"])
def test_debug_records(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path, form: str) -> None:
    """--debug adds func and file to each record."""
    log = tmp_path / "log"
    bundle = make_bundle("true", {"process.capabilities": {"bounding": ["CAP_FOO"]}})
    done = subprocess.run(
        [
            runtime.program,
            "--root",
            str(runtime.root),
            "--debug",
            "--log",
            str(log),
            "--log-format",
            form,
            "run",
            "-b",
            str(bundle.path),
            runtime.new_id(),
        ],
        check=False,
        capture_output=True,
    )
    assert done.returncode == 0
    assert "func" in log.read_text()


def test_cgroups_disabled(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """--cgroup-manager disabled: no cgroup is made (contract 1.2)."""
    bundle = make_bundle("cat /proc/self/cgroup", {"linux.namespaces": namespaces()})
    argv = [
        runtime.program,
        "--root",
        str(runtime.root),
        "--cgroup-manager",
        "disabled",
        "run",
        "-b",
        str(bundle.path),
        runtime.new_id(),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert sorted(done.stdout.splitlines()) == sorted(Path("/proc/self/cgroup").read_text().splitlines())


def test_update_is_seen_by_exec_and_events_by_status(running: Container) -> None:
    """A paused container gives figures and takes new limits."""
    running.ok("pause")
    assert json.loads(running.runtime("events", "--stats", running.id).out)["data"]["pids"]["current"] == 1
    assert running.runtime("update", "--pids-limit", "20", running.id).code == 0
    running.ok("resume")
    wait_until(lambda: running.status == "running", "running again")
