"""The remaining verbs and the words around them: exec, list, ps, events, update, spec, features, help, logs (contract 1, 2)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.system.bundle import Bundle, namespaces
from tests.system.runtime import Container, finish, wait_until
from tests.system.test_namespaces import USER, owned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.system.runtime import Runtime

    MakeBundle = Callable[..., Bundle]

pytestmark = pytest.mark.system

CAPS = ["CAP_KILL", "CAP_CHOWN"]
NEEDS_V1 = pytest.mark.skipif(not Path("/sys/fs/cgroup/pids/cgroup.procs").exists(), reason="needs cgroup v1")


@pytest.fixture
def running(runtime: Runtime, make_bundle: MakeBundle) -> Iterator[Container]:
    """A running container with values of its own for an exec to take over."""
    changes = {"process.env": ["PATH=/bin", "KEPT=1"], "process.cwd": "/tmp", "process.user": {
        "uid": 0, "gid": 0, "umask": 0o27, "additionalGids": [7]}, "process.noNewPrivileges": True, "process.oomScoreAdj": 50,
        "process.rlimits": [{"type": "RLIMIT_CORE", "soft": 4096, "hard": 4096}],
        "process.capabilities": {"bounding": CAPS, "effective": CAPS, "permitted": CAPS}}  # fmt: skip
    with runtime.container(make_bundle("echo up; exec sleep 60", changes)) as container:
        container.wait_output("up")
        yield container


# --- exec -------------------------------------------------------------------------------------------------------------
EXEC: list[tuple[str, tuple[str, ...], str, str]] = [
    ("inherits", (), "pwd; echo $KEPT; umask; id -G; ulimit -c; cat /proc/self/oom_score_adj; grep -E 'NoNewPrivs|CapBnd' /proc/self/status",
     "/tmp\n1\n0027\n0 7\n8\n50\nCapBnd:\t0000000000000021\nNoNewPrivs:\t1"),
    ("--cwd", ("--cwd", "/etc"), "pwd", "/etc"),
    ("-e adds", ("-e", "A=1", "--env", "B=x y", "-e", "KEPT=2"), "echo $A $B $KEPT", "1 x y 2"),
    ("--user", ("--user", "1000:1001"), "id -u; id -g", "1000\n1001"),
    ("--user without a group", ("-u", "1000"), "id -u; id -g", "1000\n0"),
    ("-g adds", ("-g", "8", "-g", "9"), "id -G", "0 7 8 9"),
    ("--cap adds", ("--cap", "CAP_NET_RAW"), "grep -E 'CapBnd|CapEff' /proc/self/status | cut -f2", "0000000000002021\n0000000000002021"),
    ("single dash", ("-cwd", "/etc", "-env=A=5"), "pwd; echo $A", "/etc\n5"),
    ("no terminal", (), "test -t 0 || echo none", "none"),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "script", "expected"), [row[1:] for row in EXEC], ids=[row[0] for row in EXEC])
def test_exec(running: Container, flags: tuple[str, ...], script: str, expected: str) -> None:
    """On a copy of what the container was created with, each flag changing one thing."""
    assert running.look(script, *flags) == expected


def test_exec_is_inside(running: Container) -> None:
    """The same namespaces and cgroup as init, and no other."""
    for kind in ("mnt", "pid", "uts", "ipc", "net", "cgroup", "user"):
        inside = running.look(f"readlink /proc/self/ns/{kind}")
        assert inside == os.readlink(f"/proc/{running.pid}/ns/{kind}"), kind
    assert running.look("cat /proc/self/cgroup") == running.look("cat /proc/1/cgroup")


def test_exec_no_new_privs(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """--no-new-privs where the container has none."""
    with runtime.container(make_bundle("sleep 60")) as container:
        assert container.look("grep NoNewPrivs /proc/self/status") == "NoNewPrivs:\t0"
        assert container.look("grep NoNewPrivs /proc/self/status", "--no-new-privs") == "NoNewPrivs:\t1"


@pytest.mark.parametrize("code", [0, 7, 255])
def test_exec_code(running: Container, code: int) -> None:
    """The command's own."""
    assert running.exec("sh", "-c", f"exit {code}").code == code


def test_exec_signal_code(running: Container) -> None:
    """128 + n."""
    assert running.exec("sh", "-c", "kill -9 $$").code == 137


def test_exec_flags_stop_at_the_id(running: Container) -> None:
    """What follows belongs to the command."""
    assert running.exec("echo", "--cwd", "/x", "-t").out == "--cwd /x -t\n"


def test_exec_in_a_user_namespace(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """As its root, and as a user of it."""
    with runtime.container(owned(make_bundle("sleep 60", USER))) as container:
        assert container.look("id -u; readlink /proc/self/ns/user") == f"0\n{os.readlink(f'/proc/{container.pid}/ns/user')}"
        assert container.look("id -u", "--user", "12:13") == "12"
        assert container.exec("id", flags=("--user", "70000")).code == 255


def test_exec_in_a_created_container(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """Works, and can precede start (contract 1.4)."""
    with runtime.container(make_bundle("cat /tmp/first; sleep 60"), start=False) as container:
        assert container.exec("sh", "-c", "echo before >/tmp/first").code == 0
        assert container.status == "created"
        container.ok("start")
        container.wait_output("before")


def test_exec_does_not_read_the_bundle(running: Container) -> None:
    """DESIGN, runtime 11: the bundle may change or vanish."""
    running.bundle.change({"process.env": ["PATH=/nope"], "process.cwd": "/nope"})
    assert running.look("pwd") == "/tmp"
    (running.bundle.path / "config.json").unlink()
    assert running.look("pwd") == "/tmp"


def test_exec_process_file(running: Container, tmp_path: Path) -> None:
    """--process: a key that is present wins, an absent one takes the container's value."""
    path = tmp_path / "process.json"
    look = ["sh", "-c", "pwd; echo [$KEPT]; id -u; id -G; umask; grep -E 'NoNewPrivs|CapBnd' /proc/self/status | cut -f2; ulimit -c"]
    path.write_text(json.dumps({"args": look, "cwd": "/etc", "env": ["PATH=/bin"], "user": {"uid": 5, "gid": 6}}))
    out = running.runtime("exec", "--process", path, "--cwd", "/ignored", running.id).out.splitlines()
    assert out == ["/etc", "[]", "5", "6", "0027", "0000000000000021", "1", "8"]
    path.write_text(json.dumps({"args": ["sh", "-c", "grep NoNewPrivs /proc/self/status | cut -f2; ulimit -c"], "cwd": "/", "env": ["PATH=/bin"],
                                "noNewPrivileges": False, "rlimits": []}))  # fmt: skip
    assert running.runtime("exec", "-p", path, running.id).out.splitlines()[0] == "0"


EXEC_REFUSED: list[tuple[str, tuple[str, ...], tuple[str, ...], str]] = [
    ("program missing", (), ("nope",), 'exec: "nope": executable file not found in $PATH'),
    ("path missing", (), ("/nope",), 'exec: "/nope": stat /nope: no such file or directory'),
    ("a folder", (), ("/bin",), 'exec: "/bin": is a directory'),
    ("no x bit", (), ("/etc/passwd",), 'exec: "/etc/passwd": permission denied'),
    ("cwd missing", ("--cwd", "/nope"), ("true",), 'chdir to cwd ("/nope") set in config.json failed: no such file or directory'),
    ("cwd relative", ("--cwd", "x"), ("true",), "Cwd must be an absolute path"),
    ("bad user", ("--user", "bob"), ("true",), "bad uid: "),
    ("bad env", ("-e", "X"), ("true",), "invalid environment variable"),
    ("sub-cgroup escape", ("--cgroup", "../x"), ("true",), "bad sub cgroup path: ../x"),
    ("sub-cgroup missing", ("--cgroup", "nope"), ("true",), "no such file or directory"),
    ("process file missing", ("--process", "/nope.json"), (), ""),
    ("terminal and detach", ("-t", "-d"), ("true",), "cannot allocate tty if runc will detach without setting console socket"),
    ("socket without a terminal", ("-d", "--console-socket", "/x"), ("true",), "cannot use console socket if runc will not detach or allocate tty"),
    ("label", ("--process-label", "x"), ("true",), "selinux label is specified"),
    ("late failure", (), ("/garbage",), "exec /garbage: exec format error"),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "args", "text"), [row[1:] for row in EXEC_REFUSED], ids=[row[0] for row in EXEC_REFUSED])
def test_exec_refused(running: Container, flags: tuple[str, ...], args: tuple[str, ...], text: str) -> None:
    """255 for every error of the runtime; the container goes on (contract 1.5)."""
    running.bundle.file("garbage", b"\x7fELFx", 0o755)
    result = running.exec(*args, flags=flags)
    assert (result.code, text in result.message) == (255, True), result
    assert result.message.startswith("exec failed: ")
    assert running.status == "running"


def test_exec_detached(running: Container, tmp_path: Path) -> None:
    """-d returns when the command runs; the pid file names it on the host."""
    result = running.exec("sleep", "50", flags=("-d", "--pid-file", tmp_path / "pid"))
    assert result.code == 0, result
    pid = int((tmp_path / "pid").read_text())
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x0050\0"
    assert pid in json.loads(running.runtime("ps", "--format", "json", running.id).out)


def test_exec_stdio(running: Container) -> None:
    """8 MB through pipes (R11)."""
    data = os.urandom(1 << 20) * 8
    done = subprocess.run(running.runtime.argv("exec", running.id, "cat"), input=data, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout == data) == (0, True)


def test_exec_forwards_signals(running: Container) -> None:
    """R9."""
    script = "trap 'echo got; exit 4' TERM; echo ready; while :; do sleep 0.02; done"
    call = running.runtime.popen("exec", running.id, "sh", "-c", script, stdout=subprocess.PIPE)
    assert call.stdout is not None
    with call.stdout as out:
        assert out.readline() == b"ready\n"
        call.terminate()
        assert finish(call) == 4
        assert out.read() == b"got\n"


def test_exec_ignore_paused(running: Container) -> None:
    """The process stays frozen until resume."""
    running.ok("pause")
    done: list[str] = []
    thread = threading.Thread(target=lambda: done.append(running.exec("echo", "thawed", flags=("--ignore-paused",)).out))
    thread.start()
    time.sleep(0.3)
    assert done == []
    running.ok("resume")
    thread.join(10)
    assert done == ["thawed\n"]


@NEEDS_V1
def test_exec_sub_cgroup(running: Container) -> None:
    """--cgroup CTRL:PATH joins an existing sub-cgroup of one controller."""
    path = Path(running.saved()["cgroup_paths"]["pids"]) / "sub"
    path.mkdir()
    look = running.look("grep pids /proc/self/cgroup", "--cgroup", "pids:sub")
    assert look.endswith(f"{running.id}/sub")
    assert not running.look("grep freezer /proc/self/cgroup", "--cgroup", "pids:/sub").endswith("/sub")


# --- list, ps ---------------------------------------------------------------------------------------------------------
def test_list(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """Table, ids, JSON on one line; sorted by name; owner named."""
    runtime.root.mkdir(parents=True)
    assert runtime("list", "-f", "json").out == "[]\n"
    bundle = make_bundle("sleep 60")
    with runtime.container(bundle) as one, runtime.container(make_bundle("sleep 60"), start=False) as two:
        assert runtime("list", "-q").out == f"{one.id}\n{two.id}\n"
        text = runtime("list", "--format", "json").out
        assert text.count("\n") == 1
        rows = json.loads(text)
        assert [(row["id"], row["status"], row["owner"]) for row in rows] == [(one.id, "running", "root"), (two.id, "created", "root")]
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
    assert running.runtime("ps", running.id, "-o", "pid,comm").out.split() == ["PID", "COMMAND", str(running.pid), "sleep"]
    assert running.runtime("ps", "-f", "xml", running.id).code == 1


# --- events -----------------------------------------------------------------------------------------------------------
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
        assert finish(call, 15) == 0


@pytest.mark.parametrize("interval", ["0s", "-1s"])
def test_events_interval(running: Container, interval: str) -> None:
    """Above zero."""
    result = running.runtime("events", f"--interval={interval}", running.id)
    assert (result.code, "duration interval must be greater than 0" in result.message) == (1, True), result


def test_oom_event(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """R10."""
    bundle = make_bundle("echo up; read x </tmp/go; head -c 60000000 /dev/zero | tail -c 50000000 >/dev/null; sleep 60",
                         {"linux.resources": {"memory": {"limit": 8 << 20}}})  # fmt: skip
    os.mkfifo(bundle.rootfs / "tmp/go")
    with runtime.container(bundle) as container:
        container.wait_output("up")
        call = runtime.popen("events", "--interval", "60s", container.id, stdout=subprocess.PIPE)
        assert call.stdout is not None
        with call.stdout as out:
            time.sleep(0.3)
            (bundle.rootfs / "tmp/go").write_text("x\n")
            assert json.loads(out.readline()) == {"type": "oom", "id": container.id}
            call.terminate()
            finish(call)


# --- update -----------------------------------------------------------------------------------------------------------
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


@pytest.mark.parametrize(("flags", "text"), [
    (("--memory", "lots"), "invalid value for memory"),
    (("--pids-limit", "x"), ""),
    (("--resources", "/nope"), "no such file or directory"),
], ids=str)  # fmt: skip
def test_update_refused(running: Container, flags: tuple[str, ...], text: str) -> None:
    """Words that are no value."""
    result = running.runtime("update", *flags, running.id)
    assert (result.code, text in result.message) == (1, True), result


def test_update_obsolete_flags(running: Container) -> None:
    """Accepted, ignored, with a warning."""
    result = running.runtime("update", "--kernel-memory", "5m", running.id)
    assert result.code == 0
    assert "level=warning" in result.err


# --- spec, features, help, version, logs ------------------------------------------------------------------------------
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
    bundle.change({"process.terminal": False, "process.args": ["sh", "-c", "hostname; id -u; exit 3"], "process.env": ["PATH=/bin"]})
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
    assert features["hooks"] == ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
    assert features["mountOptions"] == sorted(features["mountOptions"])
    assert features["linux"]["namespaces"] == sorted(["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"])
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


@pytest.mark.parametrize(("words", "code", "out", "err"), WORDS, ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
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
    done = subprocess.run([runtime.program, "--root", str(runtime.root), "--log", str(log), "--log-format", "json", "state", "none"],
                          capture_output=True, text=True, check=False, umask=0o22)  # fmt: skip
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
    subprocess.run([runtime.program, "--root", str(runtime.root), "--log", str(log), "--log-format", "json", "create", "-b", str(bundle.path),
                    runtime.new_id()], check=False, capture_output=True)  # fmt: skip
    assert json.loads(log.read_text())["level"] == "error"


@pytest.mark.parametrize("form", ["text", "json"])
def test_debug_records(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path, form: str) -> None:
    """--debug adds func and file to each record."""
    log = tmp_path / "log"
    bundle = make_bundle("true", {"process.capabilities": {"bounding": ["CAP_FOO"]}})
    done = subprocess.run([runtime.program, "--root", str(runtime.root), "--debug", "--log", str(log), "--log-format", form, "run", "-b",
                           str(bundle.path), runtime.new_id()], check=False, capture_output=True)  # fmt: skip
    assert done.returncode == 0
    assert "func" in log.read_text()


def test_cgroups_disabled(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """--cgroup-manager disabled: no cgroup is made (contract 1.2)."""
    bundle = make_bundle("cat /proc/self/cgroup", {"linux.namespaces": namespaces()})
    argv = [runtime.program, "--root", str(runtime.root), "--cgroup-manager", "disabled", "run", "-b", str(bundle.path), runtime.new_id()]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert sorted(done.stdout.splitlines()) == sorted(Path("/proc/self/cgroup").read_text().splitlines())


def test_update_is_seen_by_exec_and_events_by_status(running: Container) -> None:
    """A paused container gives figures and takes new limits."""
    running.ok("pause")
    assert json.loads(running.runtime("events", "--stats", running.id).out)["data"]["pids"]["current"] == 1
    assert running.runtime("update", "--pids-limit", "20", running.id).code == 0
    running.ok("resume")
    wait_until(lambda: running.status == "running", "running again")
