"""`process`, from inside: ids, capabilities, limits, environment, cwd, descriptors (contract 3.4, 4.2)."""

from __future__ import annotations

import os
import platform
import signal
import socket
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.system.bundle import DELETE, Bundle
from tests.system.runtime import WAIT_S, finish

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.runtime import Runtime

    MakeBundle = Callable[..., Bundle]

pytestmark = pytest.mark.system

CAPS = "grep ^Cap /proc/self/status | tr -d '\\t'"
USER = {"process.user.uid": 1000, "process.user.gid": 1000}
NET_BIND, CHOWN, KILL, SETUID = 1 << 10, 1, 1 << 5, 1 << 7
ALL = ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
LAST_CAP = int(Path("/proc/sys/kernel/cap_last_cap").read_text())


def sets(inheritable: int, permitted: int, effective: int, bounding: int, ambient: int) -> str:
    """The five lines of /proc/self/status."""
    names = (("Inh", inheritable), ("Prm", permitted), ("Eff", effective), ("Bnd", bounding), ("Amb", ambient))
    return "\n".join(f"Cap{name}:{value:016x}" for name, value in names)


# (changes, script, what it prints)
ROWS: list[tuple[str, dict[str, Any], str, str]] = [
    ("root by default", {}, "id", "uid=0(root) gid=0(root)"),
    ("uid and gid", USER, "id", "uid=1000(user) gid=1000(user)"),
    ("unknown ids", {"process.user.uid": 4294967294, "process.user.gid": 77}, "id -u; id -g", "4294967294\n77"),
    (
        "groups exactly",
        {"process.user.additionalGids": [5, 7, 4000000000]},
        "grep Groups /proc/self/status",
        "Groups:\t5 7 4000000000 ",
    ),
    ("groups of a user", {**USER, "process.user.additionalGids": [9]}, "id -G", "1000 9"),
    ("no groups", {}, "grep Groups /proc/self/status", "Groups:\t "),
    ("umask by default", {}, "umask", "0022"),
    ("umask", {"process.user.umask": 0o27}, "umask; touch /tmp/f; stat -c %a /tmp/f", "0027\n640"),
    ("umask 0", {"process.user.umask": 0}, "umask", "0000"),
    ("no_new_privs", {"process.noNewPrivileges": True}, "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1"),
    ("without it", {}, "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t0"),
    ("oom score", {"process.oomScoreAdj": 321}, "cat /proc/self/oom_score_adj", "321"),
    ("oom score 0 is a value", {"process.oomScoreAdj": 0}, "cat /proc/self/oom_score_adj", "0"),
    ("personality", {"linux.personality": {"domain": "LINUX32"}}, "uname -m", "i686"),
    ("personality LINUX", {"linux.personality": {"domain": "LINUX"}}, "uname -m", platform.machine()),
    ("cwd", {"process.cwd": "/tmp"}, "pwd; tr '\\0' '\\n' </proc/1/environ | grep -c PWD; true", "/tmp\n0"),
    ("cwd that only its user may enter", {**USER, "process.cwd": "/home/user/new"}, "pwd", "/home/user/new"),
    ("env exactly", {"process.args": ["env"]}, "", "PATH=/bin\nHOME=/root"),
    (
        "env duplicates: the last",
        {"process.env": ["PATH=/bin", "A=1", "B=2", "A=3"], "process.args": ["env"]},
        "",
        "PATH=/bin\nB=2\nA=3\nHOME=/root",
    ),
    (
        "env of any bytes",
        {"process.env": ["PATH=/bin", 'A=ä b\n"c', "E="]},
        'printf \'%s|%s\' "$A" "${E-unset}"',
        'ä b\n"c|',
    ),
    ("HOME of the user", USER, "echo $HOME", "/home/user"),
    ("HOME of an unknown uid", {"process.user.uid": 4242}, "echo $HOME", "/"),
    ("HOME as given", {"process.env": ["PATH=/bin", "HOME=/x"]}, "echo $HOME", "/x"),
    ("HOME empty counts as absent", {"process.env": ["PATH=/bin", "HOME="]}, "echo $HOME", "/root"),
    ("argv as given", {"process.args": ["busybox", "printf", "%s|", "a b", "", "$X", "ä\\"]}, "", "a b||$X|ä\\|"),
    (
        "argv[0] as given",
        {"process.args": ["sh", "-c", "cat /proc/$$/cmdline | tr '\\0' ' '"]},
        "",
        "sh -c cat /proc/$$/cmdline | tr '\\0' ' ' ",
    ),
    ("init is pid 1 of its session", {}, "cut -d' ' -f1,4,5,6 /proc/1/stat", "1 0 1 1"),
    ("dumpable again", {}, "stat -c %u /proc/1/mem", "0"),
    (
        "rlimits",
        {
            "process.rlimits": [
                {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
                {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
            ]
        },
        "ulimit -n; ulimit -Hn; ulimit -c",
        "100\n200\n0",
    ),
    (
        "rlimit smaller than our own needs",
        {"process.rlimits": [{"type": "RLIMIT_NOFILE", "soft": 4, "hard": 4}]},
        "ulimit -n",
        "4",
    ),
    (
        "rlimit NPROC 1 of a user",
        {**USER, "process.rlimits": [{"type": "RLIMIT_NPROC", "soft": 1, "hard": 1}]},
        'while read -r a b c d; do [ "$a $b" = "Max processes" ] && echo "$c"; done < /proc/self/limits; true',
        "1",
    ),
    (
        "rlimit names",
        {
            "process.rlimits": [
                {"type": "RLIMIT_STACK", "soft": 1 << 20, "hard": 1 << 21},
                {"type": "RLIMIT_MEMLOCK", "soft": 4096, "hard": 4096},
            ]
        },
        "ulimit -s; ulimit -Hs; ulimit -l",
        "1024\n2048\n4",
    ),
    ("capabilities: none", {"process.capabilities": {}}, CAPS, sets(0, 0, 0, 0, 0)),
    (
        "capabilities: bounding alone",
        {"process.capabilities": {"bounding": ALL}},
        CAPS,
        sets(0, CHOWN | KILL | NET_BIND, CHOWN | KILL | NET_BIND, CHOWN | KILL | NET_BIND, 0),
    ),
    (
        "capabilities: three sets of root",
        {"process.capabilities": {"bounding": ALL, "effective": ALL, "permitted": ALL}},
        CAPS,
        sets(0, CHOWN | KILL | NET_BIND, CHOWN | KILL | NET_BIND, CHOWN | KILL | NET_BIND, 0),
    ),
    (
        "capabilities of a user end at execve",
        {**USER, "process.capabilities": {"bounding": ALL, "effective": ALL, "permitted": ALL}},
        CAPS,
        sets(0, 0, 0, CHOWN | KILL | NET_BIND, 0),
    ),
    (
        "capabilities: inheritable and ambient of a user",
        {
            **USER,
            "process.capabilities": {
                "bounding": ALL,
                "effective": ["CAP_KILL"],
                "permitted": ALL,
                "inheritable": ["CAP_KILL", "CAP_CHOWN"],
                "ambient": ["CAP_KILL"],
            },
        },
        CAPS,
        sets(CHOWN | KILL, KILL, KILL, CHOWN | KILL | NET_BIND, KILL),
    ),
]


@pytest.mark.parametrize(("changes", "script", "expected"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_from_inside(
    runtime: Runtime, make_bundle: MakeBundle, changes: dict[str, Any], script: str, expected: str
) -> None:
    """One row, one change to the base config."""
    bundle = make_bundle(script)
    if "/home/user" in str(changes.get("process.cwd")):
        home = bundle.rootfs / "home/user/new"
        home.mkdir(parents=True)
        for path in (home, home.parent):
            os.chown(path, 1000, 1000)
            path.chmod(0o700)
    bundle.change(changes)
    assert runtime.look(bundle) == expected


def test_full_set_without_capabilities(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """No object: the caller's full set is kept, as runc does (contract 4.2)."""
    own = dict(
        line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Cap")
    )
    look = dict(line.split(":") for line in runtime.look(make_bundle(CAPS)).splitlines())
    assert (look["CapBnd"], look["CapEff"], look["CapInh"]) == (own["CapBnd"], own["CapEff"], "0" * 16)


def test_unknown_capabilities_warn(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """A grant that cannot be given warns, the rest is set (S5)."""
    names = ["CAP_KILL", "CAP_FOO", "CAP_BAR"]
    result = runtime.run(
        make_bundle(CAPS, {"process.capabilities": {"bounding": names, "effective": names, "permitted": names}})
    )
    assert result.code == 0
    assert "level=warning" in result.err
    assert "ignoring unknown or unavailable capabilities: [CAP_BAR CAP_FOO]" in result.err
    assert f"CapBnd:{KILL:016x}" in result.out


def test_ambient_that_is_not_permitted_warns(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """Raised one by one, failures only warn (contract 4.2)."""
    result = runtime.run(
        make_bundle(
            CAPS,
            {
                **USER,
                "process.capabilities": {
                    "bounding": ALL,
                    "permitted": ["CAP_KILL"],
                    "inheritable": ["CAP_KILL"],
                    "ambient": ["CAP_KILL", "CAP_CHOWN"],
                },
            },
        )
    )
    assert result.code == 0
    assert "can't raise ambient capability CAP_CHOWN" in result.err
    assert f"CapAmb:{KILL:016x}" in result.out


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    (
        {"process.rlimits": [{"type": "RLIMIT_FOO", "soft": 1, "hard": 1}]},
        "wrong rlimit value: RLIMIT_FOO",
        "/process/rlimits/0/type",
    ),
    ({"process.rlimits": [{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}]}, "", "/process/rlimits/0/soft"),
    ({"process.env": ["NOVALUE"]}, "invalid environment variable", "/process/env/0"),
    ({"process.env": ["=x"]}, "invalid environment variable", "/process/env/0"),
    ({"process.oomScoreAdj": 1001}, "", "/process/oomScoreAdj"),
    ({"process.user.uid": -1}, "", "/process/user/uid"),
    ({"process.user.uid": 4294967295}, "", "/process/user/uid"),
    ({"process.user.gid": 4294967296}, "", "/process/user/gid"),
    ({"process.user.additionalGids": [-5]}, "", "/process/user/additionalGids/0"),
    (
        {"process.selinuxLabel": "system_u:x"},
        "selinux label is specified in config, but selinux is disabled or not supported",
        "/process/selinuxLabel",
    ),
    ({"process.apparmorProfile": "no-such-profile"}, "", "/process/apparmorProfile"),
    ({"linux.personality": {"domain": "FOO"}}, "", "/linux/personality/domain"),
    ({"process.execCPUAffinity": {"initial": "0-x"}}, "bad CPUAffinity.Initial: ", "/process/execCPUAffinity/initial"),
]


@pytest.mark.parametrize(("changes", "text", "field"), REFUSED, ids=lambda value: str(value)[:50])
def test_refused(runtime: Runtime, make_bundle: MakeBundle, changes: dict[str, Any], text: str, field: str) -> None:
    """A restriction that cannot be had is an error, with its field, and nothing is left (S5)."""
    result = runtime.run(make_bundle("true", changes))
    assert (result.code, result.field) == (1, field), result
    assert text in result.message
    assert runtime.ids() == []


def test_hard_limit_above_our_own(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """Raising needs CAP_SYS_RESOURCE: given, or refused with the field."""
    bundle = make_bundle(
        "ulimit -Hn", {"process.rlimits": [{"type": "RLIMIT_NOFILE", "soft": 99999999, "hard": 99999999}]}
    )
    result = runtime.run(bundle)
    if result.code == 0:
        assert result.out == "99999999\n"
    else:
        assert result.field == "/process/rlimits/0"


def test_caller_leaves_no_trace(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """Descriptors, environment, umask, groups, signal set-up of the caller stay outside (S3, S13, S15)."""
    script = "ls -l /proc/self/fd | grep -c outside; env | grep -c SECRET; umask; grep Groups /proc/$$/status"
    signals = ["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"]  # not by a shell, which has its own ideas
    read, write = os.pipe()
    os.set_inheritable(read, True)
    outside = tempfile.NamedTemporaryFile(prefix="outside")

    def before() -> None:
        os.umask(0o777)
        os.setgroups([33])
        os.dup2(outside.fileno(), 17)
        for number in (signal.SIGPIPE, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR2])

    with outside:
        more: dict[str, Any] = {"preexec_fn": before, "close_fds": False, "env": {**os.environ, "SECRET": "1"}}
        result = runtime.run(make_bundle(script), **more)
        masks = runtime.look(make_bundle(signals), **more)
    os.close(read)
    os.close(write)
    assert result.out.splitlines() == ["0", "0", "0022", "Groups:\t "], result
    assert masks.splitlines() == ["SigBlk:\t" + "0" * 16, "SigIgn:\t" + "0" * 16]


def test_descriptors(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """Exactly three; busybox's own directory is the fourth."""
    assert runtime.look(make_bundle(["ls", "/proc/self/fd"])) == "0\n1\n2\n3"


@pytest.mark.parametrize("verb", ["run", "exec"])
def test_preserve_fds(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path, verb: str) -> None:
    """--preserve-fds N passes 3..3+N-1 at the same numbers, and no more (contract 1.4)."""
    (tmp_path / "given").write_text("three four five")

    def before() -> None:
        fd = os.open(tmp_path / "given", os.O_RDONLY)
        for number in (3, 4, 5):
            os.dup2(fd, number)

    script = "cat <&3; cat <&4; ls /proc/$$/fd; true"  # no pipe: the shell would hold its ends for a moment
    more: dict[str, Any] = {"preexec_fn": before, "close_fds": False}
    if verb == "run":
        out = runtime.look(make_bundle(script), "--preserve-fds", "2", **more)
    else:
        with runtime.container(make_bundle("sleep 600")) as container:
            out = container.exec("sh", "-c", script, flags=("--preserve-fds", "2"), **more).out
    given, _, numbers = out.partition("0\n1\n2\n")
    assert given == "three four five"
    assert {"3", "4"} <= set(numbers.split())
    assert "5" not in numbers.split()


def test_preserved_fd_must_be_open(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """The peers' words."""
    result = runtime.run(make_bundle("true"), "--preserve-fds", "2")
    assert (result.code, "unable to stat preserved-fd 0 (of 2)" in result.message) == (1, True), result


def test_listen_fds(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """Only when LISTEN_PID is the runtime's own pid; inside it is 1 (contract 1.10)."""
    bundle = make_bundle("echo $LISTEN_FDS:$LISTEN_PID:$(readlink /proc/self/fd/3 | cut -d: -f1)")
    shell = 'LISTEN_PID={}; export LISTEN_PID; exec "$@"'
    for pid, expected in (("$$", "1:1:socket"), ("1", "::")):
        with socket.socket() as listener:
            listener.listen()
            argv = runtime.argv("run", "-b", bundle.path, runtime.new_id())
            done = subprocess.run(
                ["sh", "-c", shell.format(pid), "sh", *argv],
                capture_output=True,
                text=True,
                check=True,
                env={**os.environ, "LISTEN_FDS": "1"},
                close_fds=False,
                preexec_fn=partial(os.dup2, listener.fileno(), 3),
            )
        assert done.stdout.startswith(expected), done


def test_listen_fds_come_before_preserved_ones(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    """preserve-fds follow after LISTEN_FDS."""
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)

    def before() -> None:
        files = [os.open(tmp_path / name, os.O_RDONLY) for name in ("a", "b")]
        high = [os.dup2(fd, 20 + fd) for fd in files]
        for number, fd in zip((3, 4), high, strict=True):
            os.dup2(fd, number)

    bundle = make_bundle("cat <&3; cat <&4; echo $LISTEN_FDS")
    argv = runtime.argv("run", "--preserve-fds", "1", "-b", bundle.path, runtime.new_id())
    done = subprocess.run(
        ["sh", "-c", 'LISTEN_PID=$$; export LISTEN_PID; exec "$@"', "sh", *argv],
        text=True,
        check=False,
        capture_output=True,
        env={**os.environ, "LISTEN_FDS": "1"},
        close_fds=False,
        preexec_fn=before,
    )
    assert (done.returncode, done.stdout) == (0, "ab1\n"), done


def test_notify_socket_of_run(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    """READY from inside is forwarded, followed by MAINPID of init on the host (contract 1.10)."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as host:
        host.bind(str(path))
        host.settimeout(WAIT_S)
        bundle = make_bundle(
            "echo $NOTIFY_SOCKET; test -S $NOTIFY_SOCKET && grep ' /run/notify ' /proc/self/mountinfo; sleep 600"
        )
        with runtime.container(bundle, start=False, env={**os.environ, "NOTIFY_SOCKET": str(path)}) as container:
            call = runtime.popen("start", container.id, env={**os.environ, "NOTIFY_SOCKET": str(path)})
            container.wait_output("ro,nosuid,nodev,noexec")
            assert call.poll() is None, "start waits for READY"
            inside = runtime.root / container.id / "notify/notify.sock"
            folder = os.open(inside.parent, os.O_PATH)  # a socket's address holds 107 bytes
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as program:
                program.connect(f"/proc/self/fd/{folder}/{inside.name}")
                os.close(folder)
                program.send(b"STATUS=busy")
                program.send(b"READY=1")
            told, files = b"", []
            while not files:
                data, files, _, _ = socket.recv_fds(host, 100, 1)
                told += data + b"\n"
            assert told.split() == [b"READY=1", f"MAINPID={container.pid}".encode(), b"BARRIER=1"]
            os.close(files[0])
            assert finish(call) == 0
            assert "/run/notify/notify.sock" in container.output()


def test_session_keyring(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """S35: a session keyring of the container's own, joined by exec too; --no-new-keyring leaves it."""
    if not Path("/proc/keys").exists():
        pytest.skip("needs /proc/keys")
    with runtime.container(make_bundle("cat /proc/keys; sleep 600")) as container:
        container.wait_output(f"_ses.{container.id}")
        assert f"_ses.{container.id}" in container.look("cat /proc/keys")
    with runtime.container(make_bundle("cat /proc/keys; echo; sleep 600"), "--no-new-keyring") as container:
        assert f"_ses.{container.id}" not in container.wait_output("\n\n")


def test_affinity_of_the_caller_does_not_leak(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """Reset to all CPUs unless configured (contract 4.2)."""
    every = sorted(os.sched_getaffinity(0))
    bundle = make_bundle("grep Cpus_allowed_list /proc/self/status | cut -f2")
    alone = runtime.look(bundle)
    assert runtime.look(bundle, preexec_fn=lambda: os.sched_setaffinity(0, every[:1])) == alone


def test_process_null_members(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """Go writes null for empty members: they count as absent."""
    bundle = make_bundle(
        "echo ok",
        {
            "process.capabilities": None,
            "process.rlimits": None,
            "hooks": None,
            "annotations": None,
            "linux.resources": None,
            "process.user": DELETE,
        },
    )
    assert runtime.look(bundle) == "ok"
