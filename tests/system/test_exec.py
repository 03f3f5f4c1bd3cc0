"""exec: what it takes from the container, what each flag changes, how it fails and ends (contract 1.4, 3.3)."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.system.runtime import WAIT_S, Container, finish, wait_until
from tests.system.test_namespaces import USER, owned

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.bundle import Bundle
    from tests.system.runtime import Runtime

    MakeBundle = Callable[..., Bundle]

pytestmark = pytest.mark.system

NEEDS_V1 = pytest.mark.skipif(not Path("/sys/fs/cgroup/pids/cgroup.procs").exists(), reason="needs cgroup v1")


# --- exec -----------------------------------------------------------------------------------------------------------
EXEC: list[tuple[str, tuple[str, ...], str, str]] = [
    (
        "inherits",
        (),
        "pwd; echo $KEPT; umask; id -G; ulimit -c; cat /proc/self/oom_score_adj; "
        "grep -E 'NoNewPrivs|CapBnd' /proc/self/status",
        "/tmp\n1\n0027\n0 7\n8\n50\nCapBnd:\t0000000000000021\nNoNewPrivs:\t1",
    ),
    ("--cwd", ("--cwd", "/etc"), "pwd", "/etc"),
    ("-e adds", ("-e", "A=1", "--env", "B=x y", "-e", "KEPT=2"), "echo $A $B $KEPT", "1 x y 2"),
    ("--user", ("--user", "1000:1001"), "id -u; id -g", "1000\n1001"),
    ("--user without a group", ("-u", "1000"), "id -u; id -g", "1000\n0"),
    ("-g adds", ("-g", "8", "-g", "9"), "id -G", "0 7 8 9"),
    (
        "--cap adds",
        ("--cap", "CAP_NET_RAW"),
        "grep -E 'CapBnd|CapEff' /proc/self/status | cut -f2",
        "0000000000002021\n0000000000002021",
    ),
    ("single dash", ("-cwd", "/etc", "-env=A=5"), "pwd; echo $A", "/etc\n5"),
    ("no terminal", (), "test -t 0 || echo none", "none"),
]


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
    with runtime.container(make_bundle("sleep 600")) as container:
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
    with runtime.container(owned(make_bundle("sleep 600", USER))) as container:
        assert (
            container.look("id -u; readlink /proc/self/ns/user")
            == f"0\n{os.readlink(f'/proc/{container.pid}/ns/user')}"
        )
        assert container.look("id -u", "--user", "12:13") == "12"
        assert container.exec("id", flags=("--user", "70000")).code == 255


def test_exec_in_a_created_container(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """Works, and can precede start (contract 1.4)."""
    with runtime.container(make_bundle("cat /tmp/first; sleep 600"), start=False) as container:
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
    look = [
        "sh",
        "-c",
        "pwd; echo [$KEPT]; id -u; id -G; umask; grep -E 'NoNewPrivs|CapBnd' /proc/self/status | cut -f2; ulimit -c",
    ]
    path.write_text(json.dumps({"args": look, "cwd": "/etc", "env": ["PATH=/bin"], "user": {"uid": 5, "gid": 6}}))
    out = running.runtime("exec", "--process", path, "--cwd", "/ignored", running.id).out.splitlines()
    assert out == ["/etc", "[]", "5", "6", "0027", "0000000000000021", "1", "8"]
    path.write_text(
        json.dumps(
            {
                "args": ["sh", "-c", "grep NoNewPrivs /proc/self/status | cut -f2; ulimit -c"],
                "cwd": "/",
                "env": ["PATH=/bin"],
                "noNewPrivileges": False,
                "rlimits": [],
            }
        )
    )
    assert running.runtime("exec", "-p", path, running.id).out.splitlines()[0] == "0"


EXEC_REFUSED: list[tuple[str, tuple[str, ...], tuple[str, ...], str]] = [
    ("program missing", (), ("nope",), 'exec: "nope": executable file not found in $PATH'),
    ("path missing", (), ("/nope",), 'exec: "/nope": stat /nope: no such file or directory'),
    ("a folder", (), ("/bin",), 'exec: "/bin": is a directory'),
    ("no x bit", (), ("/etc/passwd",), 'exec: "/etc/passwd": permission denied'),
    (
        "cwd missing",
        ("--cwd", "/nope"),
        ("true",),
        'chdir to cwd ("/nope") set in config.json failed: no such file or directory',
    ),
    ("cwd relative", ("--cwd", "x"), ("true",), "Cwd must be an absolute path"),
    ("bad user", ("--user", "bob"), ("true",), "bad uid: "),
    ("bad env", ("-e", "X"), ("true",), "invalid environment variable"),
    ("sub-cgroup escape", ("--cgroup", "../x"), ("true",), "bad sub cgroup path: ../x"),
    ("sub-cgroup missing", ("--cgroup", "nope"), ("true",), "no such file or directory"),
    ("process file missing", ("--process", "/nope.json"), (), "open /nope.json: no such file or directory"),
    (
        "terminal and detach",
        ("-t", "-d"),
        ("true",),
        "cannot allocate tty if runc will detach without setting console socket",
    ),
    (
        "socket without a terminal",
        ("-d", "--console-socket", "/x"),
        ("true",),
        "cannot use console socket if runc will not detach or allocate tty",
    ),
    ("label", ("--process-label", "x"), ("true",), "selinux label is specified"),
    ("late failure", (), ("/garbage",), "exec /garbage: exec format error"),
]


@pytest.mark.parametrize(
    ("flags", "args", "text"), [row[1:] for row in EXEC_REFUSED], ids=[row[0] for row in EXEC_REFUSED]
)
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
    done = subprocess.run(
        running.runtime.argv("exec", running.id, "cat"), input=data, capture_output=True, timeout=60, check=False
    )
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
    thread = threading.Thread(
        target=lambda: done.append(running.exec("echo", "thawed", flags=("--ignore-paused",)).out)
    )
    thread.start()
    wait_until(lambda: len(json.loads(running.runtime("ps", "--format", "json", running.id).out)) > 1, "it is in the cgroup")
    assert done == []
    running.ok("resume")
    thread.join(WAIT_S)
    assert done == ["thawed\n"]


@NEEDS_V1
def test_exec_sub_cgroup(running: Container) -> None:
    """--cgroup CTRL:PATH joins an existing sub-cgroup of one controller."""
    path = Path(running.saved()["cgroup_paths"]["pids"]) / "sub"
    path.mkdir()
    look = running.look("grep pids /proc/self/cgroup", "--cgroup", "pids:sub")
    assert look.endswith(f"{running.id}/sub")
    assert not running.look("grep freezer /proc/self/cgroup", "--cgroup", "pids:/sub").endswith("/sub")
