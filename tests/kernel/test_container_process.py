"""container-init's last steps: hooks, console, stdio, ids, the program and its start. Needs root."""

from __future__ import annotations

import array
import errno
import fcntl
import os
import shutil
import signal
import socket
import stat
import struct
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.initkit import (
    CLONE_NEWNS,
    MOUNT_CONSOLE,
    MS_REC,
    MS_SLAVE,
    NEW_ONLY,
    NULL_DEVICE,
    READY,
    TIMEOUT_S,
    Enter,
    Message,
    Run,
    Step,
    pack,
    readable,
    runs,
    start,
    wait_until,
)

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

BUSYBOX = shutil.which("busybox")
TTY = [Step("make_path", "/dev/pts", 0o755),
       Step("mount", "devpts", "devpts", "/dev/pts", ("newinstance", "ptmxmode=0666", "mode=0620"), 0, 0)]
PATH = ("PATH=/bin:/usr/bin",)
STATE = ('{"pid":', ',"id":"x"}')


@pytest.fixture
def system(root: Path) -> Path:
    """A root with a shell."""
    if BUSYBOX is None:
        pytest.skip("busybox is not installed")
    (root / "bin").mkdir()
    shutil.copy(BUSYBOX, root / "bin/busybox")
    for name in ("sh", "cat", "ls", "id", "sleep", "tty", "stat"):
        os.link(root / "bin/busybox", root / "bin" / name)
    return root


@pytest.fixture
def fifos(tmp_path: Path) -> Iterator[dict[int, int]]:
    """exec.fifo in slot 3 and exec.err in slot 4, opened as create does."""
    fds = {}
    for slot, name in ((3, "exec.fifo"), (4, "exec.err")):
        os.mkfifo(tmp_path / name)
        fds[slot] = os.open(tmp_path / name, os.O_RDWR | os.O_CLOEXEC)
    yield fds
    for fd in fds.values():
        os.close(fd)


def execve(*argv: str, env: tuple[str, ...] = PATH) -> Step:
    return Step("execve", argv, env)


def sh(script: str) -> Step:
    return execve("/bin/sh", "-c", script)


# --- hooks ----------------------------------------------------------------------------------------------------------
def hook(script: str, *, timeout_ms: int = 0, cwd: str | None = None, env: tuple[str, ...] = PATH,
         state: tuple[str, str] | None = STATE, tolerate: tuple[int, ...] = ()) -> Step:
    return Step("hook", "/bin/sh", ("sh", "-c", script), env, timeout_ms, state, cwd, tolerate=tolerate)


def test_a_hook_gets_state_env_cwd_and_nothing_else(enter: Enter, tmp_path: Path, root: Path) -> None:
    out = tmp_path / "outside"
    script = f"cat > {out}/state; pwd > {out}/cwd; ls /proc/self/fd > {out}/fds; env > {out}/env; umask > {out}/umask"
    run = enter(hook(script, cwd=".", env=("A=b", "PATH=/bin:/usr/bin")), Step("pivot_root"))
    assert (out / "state").read_text() == '{"pid":1,"id":"x"}'
    assert (out / "cwd").read_text().strip() in (str(root), "/")
    assert (out / "fds").read_text().split() == ["0", "1", "2", "3"]  # 3 is that of ls
    assert "A=b\n" in (out / "env").read_text()
    assert not {line.split("=")[0] for line in (out / "env").read_text().splitlines()} - {"A", "PATH", "PWD", "OLDPWD",
                                                                                         "SHLVL", "_"}
    assert (out / "umask").read_text() == "0022\n"
    assert "ERROR" not in run.kinds()


@pytest.mark.parametrize(("step", "error", "status", "detail"), [
    (hook("exit 3"), errno.ECHILD, 3 << 8, "\0"),
    (hook("echo out; echo err >&2; exit 1"), errno.ECHILD, 1 << 8, "out\n\0err\n"),
    (hook("kill -TERM $$"), errno.ECHILD, int(signal.SIGTERM), "\0"),
    (hook("echo before; sleep 60", timeout_ms=3000), errno.ETIMEDOUT, int(signal.SIGKILL), "before\n\0"),
    (hook("trap '' TERM INT; while :; do :; done", timeout_ms=200), errno.ETIMEDOUT, int(signal.SIGKILL), "\0"),
    (hook("true", cwd="/nowhere"), errno.ENOENT, 0, "/bin/sh"),
    (Step("hook", "/nowhere/hook", None, (), 0, STATE, None), errno.ENOENT, 0, "/nowhere/hook"),
    (Step("hook", "/etc/passwd", None, (), 0, STATE, None), errno.EACCES, 0, "/etc/passwd"),
    (Step("hook", "/etc", None, (), 0, STATE, None), errno.EACCES, 0, "/etc"),
], ids=["exit", "output", "signal", "timeout", "busy", "cwd", "missing", "plain-file", "directory"])
def test_a_failing_hook(init_program: Path, step: Step, error: int, status: int, detail: str) -> None:
    run = start(init_program, step).finish()
    assert (run.error.step, run.error.errno, run.error.value) == (0, error, status)
    assert run.error.payload.decode() == detail
    assert run.status == 1


@pytest.mark.parametrize("step", [
    hook("exec <&-; exit 0"), hook("cat >/dev/null"), hook("exit 0", state=None),
    hook("exit 0", state=('{"x":"' + "y" * 200_000, '"}')),
    hook("[ $(wc -c) -gt 200008 ]", state=('{"x":"' + "y" * 200_000, '"}')),
    hook("i=0; while [ $i -lt 3000 ]; do echo 0123456789012345678901234567890123456789; i=$((i+1)); done"),
    hook("exit 4", tolerate=(errno.ECHILD,)),
    Step("hook", "/bin/true", None, None, 0, None, None),
], ids=["no-stdin", "reads", "no-state", "unread", "large", "flood", "tolerated", "default-argv"])
def test_a_good_hook(init_program: Path, step: Step) -> None:
    run = start(init_program, step).finish()
    assert run.kinds() == [], run.messages
    assert run.status == 0


def test_the_last_of_the_output_is_kept(init_program: Path) -> None:
    run = start(init_program, hook("seq 1 5000; seq 5000 -1 1 >&2; exit 1")).finish()
    out, err = run.error.payload.decode().split("\0")
    assert 2000 < len(out) <= 2048
    assert out.endswith("4999\n5000\n")
    assert 2000 < len(err) <= 2048
    assert err.endswith("\n2\n1\n")


def test_a_grandchild_that_keeps_the_pipe_is_not_waited_for(init_program: Path, tmp_path: Path) -> None:
    run = start(init_program, hook(f"echo hello; sleep 600 & echo $! > {tmp_path}/pid; exit 1")).finish()
    assert run.error.payload == b"hello\n\0"
    pid = int((tmp_path / "pid").read_text())
    assert runs(pid)
    os.kill(pid, signal.SIGKILL)


def test_a_timeout_ends_the_process_group(init_program: Path, tmp_path: Path) -> None:
    run = start(init_program, hook(f"sleep 600 & echo $! > {tmp_path}/pid; wait", timeout_ms=3000)).finish()
    assert run.error.errno == errno.ETIMEDOUT
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not runs(pid), "its child has ended too")


# --- the program ----------------------------------------------------------------------------------------------------
AS_USER = [Step("setgroups", b""), Step("setgid", 1000), Step("setuid", 1000)]


@pytest.mark.parametrize(("name", "path", "result"), [
    ("prog", "PATH=/good", "/good/prog"),
    ("prog", "PATH=/none:/bad:/good", "/good/prog"),
    ("prog", "PATH=/dirs:/good", "/good/prog"),
    ("prog", "PATH=", "./prog"),
    ("prog", "PATH=:/good", "./prog"),
    ("prog", "PATH=good", "good/prog"),
    ("prog", "PATH=/link", "/link/prog"),
    ("/good/prog", "", "/good/prog"),
    ("good/prog", "PATH=/bad", "good/prog"),
    ("./prog", "", "./prog"),
    ("prog", "PATH=/bad", errno.EACCES),
    ("prog", "PATH=/none:/bad:/none", errno.EACCES),
    ("prog", "PATH=/none", errno.ENOENT),
    ("prog", "PATH=/dirs", errno.ENOENT),
    ("prog", "HOME=/good", errno.ENOENT),
    ("/bad/prog", "", errno.EACCES),
    ("/dirs/prog", "", errno.EISDIR),
    ("/none/prog", "", errno.ENOENT),
    ("/good/prog/x", "", errno.ENOTDIR),
    ("/fifo", "", errno.EACCES),
    ("/private/prog", "", errno.EACCES),
    ("x" * 5000, "PATH=/good", errno.ENOENT),
    ("/" + "x" * 5000, "", errno.ENAMETOOLONG),
], ids=lambda value: str(value)[:20])
def test_find_program(enter: Enter, system: Path, name: str, path: str, result: str | int) -> None:
    """The result is the path that execve gets, told by a script of that name; or an errno. As an ordinary user."""
    for directory, mode in (("good", 0o755), ("bad", 0o644), ("private", 0o755), (".", 0o755)):
        (system / directory).mkdir(exist_ok=True)
        (system / directory / "prog").write_text("#!/bin/sh\necho $0 $1\n")
        (system / directory / "prog").chmod(mode)
    (system / "private").chmod(0o700)
    (system / "dirs/prog").mkdir(parents=True)
    (system / "link").symlink_to("good")
    os.mkfifo(system / "fifo", 0o777)
    steps = [Step("pivot_root"), *AS_USER, Step("chdir", "/", 0), Step("find_program", name, (path,) if path else ())]
    if isinstance(result, int):
        run = enter(*steps, fails=True)
        assert (run.error.errno, run.error.payload.decode()) == (result, name[:4080])
    else:
        run = enter(*steps, then=[execve(name, "argument", env=())]).release("ready").finish()
        assert run.text() == f"{result} argument\n"


def test_a_mount_without_exec_has_no_programs(enter: Enter, system: Path) -> None:
    run = enter(Step("pivot_root"), Step("mount_setattr", "/", 8, 0, 0, 0), Step("find_program", "/bin/sh", ()),
                fails=True)
    assert run.error.errno == errno.EACCES


@pytest.mark.parametrize(("passwd", "env", "home"), [
    ("root:x:0:0:root:/root:/bin/sh\nu:x:1000:1000::/home/u:/bin/sh\n", (), "/home/u"),
    ("u:x:1000:1000::/home/u:/bin/sh", (), "/home/u"),
    ("u:x:1000:1000::/first:\nv:x:1000:1000::/second:\n", (), "/first"),
    ("u:x:1000:1000::/home/u:/bin/sh\n", ("HOME=",), "/home/u"),
    ("u:x:1000:1000::/home/u:/bin/sh\n", ("HOME=/set",), "/set"),
    ("u:x:1000:1000::/home/u:/bin/sh\n", ("HOMER=/set",), "/home/u"),
    ("u:x:10000:1000::/home/u:\nv:x:100:1000::/v:\n", (), "/"),
    ("u:x:1000x:0::/a:\nu:x::0::/b:\nu:x:-1000:0::/c:\nu:x:1000\nu:x:1000:0::rel:\n\n:::::::\n", (), "/"),
    ("u:x:4294968296:0::/wrapped:\n", (), "/"),
    ("x" * 9000 + ":x:1000:0::/long:\n" + "u:x:1000:1000::/after:\n", (), "/after"),
    ("u:x:1000:1000::/" + "x" * 5000 + ":\n", (), "/"),
    (":" * 4095 + "\n" + "u:x:1000:1000::/after:\n", (), "/after"),
    ("a:x:1:1::/a:\n" * 1000 + "u:x:1000:1000::/thousandth:\n", (), "/thousandth"),
    ("", (), "/"), ("directory", (), "/"), ("fifo", (), "/"), ("missing", (), "/"), ("escape", (), "/"),
], ids=lambda value: str(value)[-40:])
def test_home(enter: Enter, system: Path, passwd: str, env: tuple[str, ...], home: str) -> None:
    path = system / "etc/passwd"
    path.parent.mkdir()
    special = {"directory": path.mkdir, "fifo": lambda: os.mkfifo(path), "missing": lambda: None,
               "escape": lambda: path.symlink_to("../../outside/passwd")}
    (system.parent / "outside/passwd").write_text("u:x:1000:1000::/escaped:\n")
    special.get(passwd, lambda: path.write_text(passwd))()
    script = execve("/bin/sh", "-c", 'echo "$HOME"', env=env)
    run = enter(Step("pivot_root"), Step("home", 1000, env), then=[script]).release("ready").finish()
    assert run.text() == home + "\n", run.messages


def test_a_hook_after_home_has_it_too(enter: Enter, system: Path) -> None:
    run = enter(Step("pivot_root"), Step("home", 1000, ()), hook('[ "$HOME" = / ]', env=()))
    assert run.error is None


@pytest.mark.parametrize(("steps", "error"), [
    ([Step("chdir", "/bin", 0)], 0),
    ([Step("chdir", "/none", 0)], errno.ENOENT),
    ([Step("chdir", "/bin/sh", 0)], errno.ENOTDIR),
    ([Step("chdir", "/private", 0, tolerate=(errno.EACCES,)), *AS_USER, Step("chdir", "/private", NEW_ONLY)], 0),
    ([*AS_USER, Step("chdir", "/private", 0, tolerate=(errno.EACCES,)), Step("chdir", "/private", NEW_ONLY)],
     errno.EACCES),
    ([Step("chdir", "/bin", 0), Step("chdir", "/none", NEW_ONLY)], 0),
], ids=str)
def test_chdir(enter: Enter, system: Path, steps: list[Step], error: int) -> None:
    (system / "private").mkdir(mode=0o700)
    run = enter(Step("pivot_root"), *steps, fails=error != 0)
    assert (run.error.errno if run.error else 0) == error
    assert error or os.readlink(f"/proc/{run.pid}/cwd") == str(steps[0].args[0])


def test_a_working_directory_outside_the_root_is_refused(init_program: Path, root: Path, tmp_path: Path) -> None:
    """S14, CVE-2024-21626: a leaked directory descriptor cannot become the cwd."""
    leak = os.open(tmp_path / "outside", os.O_RDONLY)
    (root / "proc").mkdir()
    run = start(init_program, Step("unshare", CLONE_NEWNS), Step("propagation", "/", MS_REC | MS_SLAVE),
                Step("use_root", str(root)), Step("place_fd", 2, 7), Step("mount", "proc", "proc", "/proc", (), 0, 0),
                Step("chroot"), Step("chdir", "/proc/self/fd/7", 0), fds={2: leak}, fd_base=8).finish()
    os.close(leak)
    assert (run.error.errno, run.error.payload) == (errno.ENOENT, b"outside of the root")


# --- the start ------------------------------------------------------------------------------------------------------
def record(fd: int) -> Message:
    """The ERROR record on exec.err, behind the byte that says that execve was next."""
    assert readable(fd, TIMEOUT_S)
    return Message(os.read(fd, 4096).removeprefix(b"x"))


def test_start_waits_for_a_byte_and_shows_where_it_is(enter: Enter, system: Path, fifos: dict[int, int],
                                                      tmp_path: Path) -> None:
    """Created: the FIFO has a reader beside ours; started: exec.err comes to its end."""
    run = enter(Step("pivot_root"), fds=fifos,
                then=[Step("wait_start", 3, 4), Step("close_from", 3), sh("ls /proc/self/fd 2>&1; exit 7")])
    for fd in fifos.values():
        os.close(os.dup(fd))
    run.release("ready")
    assert run.receive() is None  # the socket is closed: created
    start_fd = os.open(tmp_path / "exec.err", os.O_RDONLY | os.O_NONBLOCK)
    assert not readable(start_fd, 0.05)
    assert os.waitpid(run.pid, os.WNOHANG) == (0, 0)
    os.write(fifos[3], b"s")
    assert run.wait().status == 7
    os.close(start_fd)


@pytest.mark.parametrize(("content", "error", "words"), [
    ("no format", errno.ENOEXEC, "exec format error"),
    ("#!/none/interpreter\n", errno.ENOENT, "no such file or directory"),
    ("#!/etc\n", errno.EACCES, "permission denied"),
])
def test_a_late_failure_is_told_twice(enter: Enter, system: Path, fifos: dict[int, int], content: str, error: int,
                                      words: str) -> None:
    (system / "prog").write_text(content)
    (system / "prog").chmod(0o755)
    (system / "etc").mkdir()
    run = enter(Step("pivot_root"), Step("find_program", "/prog", ()), fds=fifos,
                then=[Step("wait_start", 3, 4), execve("/prog")]).release("ready")
    os.write(fifos[3], b"s")
    assert run.finish().status == 255
    failure = record(fifos[4])
    assert (failure.type, failure.errno, failure.payload) == ("ERROR", error, b"/prog")
    assert failure.step == enter.FIRST + 4
    assert run.text() == f"exec /prog: {words}\n"


def test_a_late_failure_of_exec_goes_to_the_socket(enter: Enter, system: Path) -> None:
    run = enter(Step("pivot_root"), then=[execve("/none")]).release("ready").finish()
    assert (run.error.errno, run.status, run.text()) == (errno.ENOENT, 255, "")


def test_an_alternative_behind_ready_is_told_before_the_socket_goes(enter: Enter, system: Path,
                                                                    fifos: dict[int, int]) -> None:
    choice = Step("close_slot", 9), Step("place_fd", 9, 0, instead=(Step("umask", 0, on_errno=errno.EBADF),))
    run = enter(Step("pivot_root"), fds=fifos, then=[*choice, Step("wait_start", 3, 4), sh("true")]).release("ready")
    message = run.receive()
    assert (message.type, message.step) == ("ALT", enter.FIRST + 4)
    assert run.receive() is None
    other = enter(Step("pivot_root"), then=[*choice, sh("true")]).release("ready").finish()
    assert "ALT" in other.kinds()


def test_a_failing_start_hook(enter: Enter, system: Path, fifos: dict[int, int]) -> None:
    run = enter(Step("pivot_root"), fds=fifos,
                then=[Step("wait_start", 3, 4), hook("echo why; exit 2"), sh("true")]).release("ready")
    os.write(fifos[3], b"s")
    assert run.finish().status == 255
    failure = record(fifos[4])
    assert (failure.errno, failure.value, failure.payload) == (errno.ECHILD, 2 << 8, b"why\n\0")


# --- ids, capabilities, filter --------------------------------------------------------------------------------------
def status_of(run: Run) -> dict[str, str]:
    lines = Path(f"/proc/{run.pid}/status").read_text().splitlines()
    return {key: value.strip() for key, value in (line.split(":", 1) for line in lines)}


def test_ids_groups_and_capabilities_are_exact(init_program: Path) -> None:
    """S26, S28."""
    chown, kill, net = 1 << 0, 1 << 5, 1 << 10
    run = start(init_program, Step("bounding", chown | kill | net, 40), Step("keepcaps", 1),
                Step("setgroups", struct.pack("<3I", 7, 9, 100000)), Step("setgid", 1234), Step("setuid", 4321),
                Step("capset", kill, chown | kill, kill), Step("ambient", kill | net), Step("no_new_privs"),
                Step("umask", 0o27), READY).until("ready")
    status = status_of(run)
    assert {key: int(status[key], 16) for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {
        "CapInh": kill, "CapPrm": chown | kill, "CapEff": kill, "CapBnd": chown | kill | net, "CapAmb": kill}
    assert status["Uid"].split() == ["4321"] * 4
    assert status["Gid"].split() == ["1234"] * 4
    assert status["Groups"].split() == ["7", "9", "100000"]
    assert (status["NoNewPrivs"], status["Umask"]) == ("1", "0027")
    warned = [m for m in run.messages if m.type == "WARN"]
    assert [(m.step, m.errno, m.value) for m in warned] == [(6, errno.EPERM, 10)]


@pytest.mark.parametrize(("steps", "index", "error"), [
    ([Step("setuid", 5), Step("setuid", 6)], 1, errno.EPERM),
    ([Step("setuid", 5), Step("setgroups", b"")], 1, errno.EPERM),
    ([Step("setuid", 5), Step("bounding", 0, 3)], 1, errno.EPERM),
    ([Step("bounding", 0, 40), Step("setuid", 5), Step("bounding", 0, 40)], -1, 0),
    ([Step("capset", 1, 0, 0)], 0, errno.EPERM),
    ([Step("personality", 0)], -1, 0),
    ([Step("affinity", b"\1" + b"\0" * 7)], -1, 0),
    ([Step("affinity", b"\0" * 8)], 0, errno.EINVAL),
    ([Step("seccomp", b"\0" * 8, 0, -1)], 0, errno.EINVAL),
    ([Step("clone", 0), Step("setsid"), Step("setsid")], -1, 0),
], ids=str)
def test_refused_changes_of_identity(init_program: Path, steps: list[Step], index: int, error: int) -> None:
    run = start(init_program, *steps).finish()
    assert (run.error.step if run.error else -1) == index, run.messages
    assert (run.error.errno if run.error else 0) == error


def allow_only(*numbers: int) -> bytes:
    """A filter that kills the process for any other call (x86-64 numbers)."""
    load = struct.pack("<HBBI", 0x20, 0, 0, 0)
    tests = b"".join(struct.pack("<HBBI", 0x15, len(numbers) - i, 0, n) for i, n in enumerate(numbers))
    return load + tests + struct.pack("<HBBI", 6, 0, 0, 0x80000000) + struct.pack("<HBBI", 6, 0, 0, 0x7FFF0000)


LAST_CALLS = {"read": 0, "write": 1, "close": 3, "execve": 59, "exit_group": 231, "close_range": 436}
x86_64_only = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the filter holds numbers of x86-64")


@x86_64_only
@pytest.mark.parametrize("content", ["plain text", "#!/none\n"])
def test_behind_the_filter_only_the_last_calls_are_used(enter: Enter, system: Path, fifos: dict[int, int],
                                                        content: str) -> None:
    """Every one that init needs to wait, close, fail and report; the sanitizers' own calls would be killed."""
    if "sanitize" in enter.program.name:
        pytest.skip("the sanitizers make calls of their own")
    (system / "prog").write_text(content)
    (system / "prog").chmod(0o755)
    run = enter(Step("pivot_root"), Step("find_program", "/prog", ()),
                Step("seccomp", allow_only(*LAST_CALLS.values()), 0, -1), fds=fifos,
                then=[Step("wait_start", 3, 4), Step("close_slot", 2), Step("close_from", 3), execve("/prog")])
    run.release("ready")
    os.write(fifos[3], b"s")
    assert run.finish().status == 255, run.messages
    assert record(fifos[4]).errno in (errno.ENOEXEC, errno.ENOENT)


@x86_64_only
def test_without_a_umask_step_the_program_has_022(enter: Enter, system: Path) -> None:
    everything = struct.pack("<HBBI", 6, 0, 0, 0x7FFF0000)
    for steps in ([], [Step("no_new_privs"), Step("seccomp", everything, 0, -1)]):
        run = enter(Step("pivot_root"), *steps, then=[sh("umask")]).release("ready").finish()
        assert run.text() == "0022\n"


@x86_64_only
def test_the_seccomp_listener_is_fetched_before_init_goes_on(init_program: Path) -> None:
    notify = struct.pack("<HBBI", 6, 0, 0, 0x7FFF0000)
    run = start(init_program, Step("seccomp", notify, 8, 3), READY)
    message = run.receive()
    assert (message.type, message.step) == ("LISTENER", 0)
    assert "seccomp" in os.readlink(f"/proc/{run.pid}/fd/{message.value}")
    assert not readable(run.host.fileno(), 0.05)
    run.release("listener").until("ready")


# --- console and stdio ----------------------------------------------------------------------------------------------
def receive_master(sock: socket.socket) -> tuple[bytes, int]:
    """Payload and descriptor that came on the console socket."""
    data, control, _, _ = sock.recvmsg(64, socket.CMSG_SPACE(4))
    fds = array.array("i", control[0][2])
    return data, fds[0]


@pytest.fixture
def console_socket() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.settimeout(TIMEOUT_S)
    yield ours, theirs
    ours.close()
    theirs.close()


def test_console(enter: Enter, system: Path, console_socket: tuple[socket.socket, socket.socket]) -> None:
    """S18: the pair is of the container's devpts, bound on /dev/console, stdio and controlling terminal."""
    ours, theirs = console_socket
    run = enter(*TTY, Step("mknod", "/dev/tty", stat.S_IFCHR | 0o666, os.makedev(5, 0)), Step("pivot_root"),
                Step("console", 3, 40, 100, MOUNT_CONSOLE), fds={3: theirs.fileno()},
                then=[sh("tty; stat -c %t:%T /dev/console; echo typed: $(cat); exec 1>/dev/tty; echo again")])
    payload, master = receive_master(ours)
    assert payload == b"/dev/pts/ptmx"
    assert struct.unpack("4H", fcntl.ioctl(master, termios.TIOCGWINSZ, b"\0" * 8)) == (40, 100, 0, 0)
    assert stat.S_ISCHR(run.inside("/dev/console").stat().st_mode)
    assert (system / "dev/console").stat().st_size == 0
    assert stat.S_IMODE((system / "dev/console").stat().st_mode) == 0o666
    run.release("ready")
    os.write(master, b"hello\n\x04")
    output = b""
    while b"again" not in output:
        assert readable(master, TIMEOUT_S), output
        output += os.read(master, 4096)
    assert b"typed: hello" in output
    assert b"/dev/pts/0" in output
    assert run.finish().status == 0
    os.close(master)


def test_console_of_exec_leaves_dev_console_alone(enter: Enter, console_socket: tuple[socket.socket, ...]) -> None:
    ours, theirs = console_socket
    run = enter(*TTY, Step("pivot_root"), Step("console", 3, 0, 0, 0), fds={3: theirs.fileno()})
    os.close(receive_master(ours)[1])
    assert not run.inside("/dev/console").exists()


@pytest.mark.parametrize(("prepare", "error"), [
    ("link", errno.ELOOP), ("dangling", errno.ELOOP), ("directory", errno.ENOTDIR), ("no-devpts", errno.EXDEV),
    ("no-pts", errno.ENOENT), ("cover", errno.EXDEV), ("pts-link", errno.EXDEV),
])
def test_console_refuses_what_the_image_put_there(
        enter: Enter, root: Path, console_socket: tuple[socket.socket, ...], prepare: str, error: int) -> None:
    dev, victim = root / "dev", root.parent / "outside/victim"
    victim.write_text("untouched")
    dev.mkdir()
    steps = list(TTY)
    if prepare == "link":
        (root / "target").touch()
        (dev / "console").symlink_to("/target")
    elif prepare == "dangling":
        (dev / "console").symlink_to(victim)
    elif prepare == "directory":
        (dev / "console").mkdir()
    elif prepare == "no-devpts":
        (dev / "pts").mkdir()
        os.mknod(dev / "pts/ptmx", stat.S_IFCHR | 0o666, os.makedev(5, 2))
        steps = []
    elif prepare == "no-pts":
        steps = []
    elif prepare == "cover":
        steps += [Step("mask", "/dev/pts/ptmx")]
    elif prepare == "pts-link":
        (root / "elsewhere").mkdir()
        (dev / "pts").symlink_to("/elsewhere")
        steps = []
    run = enter(*steps, Step("pivot_root"), Step("console", 3, 24, 80, MOUNT_CONSOLE),
                fds={3: console_socket[1].fileno()}, fails=True)
    assert run.error is not None
    assert run.error.errno == error, run.error
    assert victim.read_text() == "untouched"
    assert prepare != "link" or (root / "target").stat().st_size == 0


def test_stdio_that_is_the_null_device_becomes_the_containers(enter: Enter, root: Path) -> None:
    (root / "dev").mkdir()
    steps = [Step("mount", "tmpfs", "t", "/dev", (), 0, 0),
             Step("mknod", "/dev/null", stat.S_IFCHR | 0o666, NULL_DEVICE)]
    run = enter(*steps, Step("pivot_root"), Step("reopen_null"))
    inside, stdin = run.inside("/dev/null").stat(), os.stat(f"/proc/{run.pid}/fd/0")
    assert (stdin.st_ino, stdin.st_dev) == (inside.st_ino, inside.st_dev)
    assert os.stat(f"/proc/{run.pid}/fd/1").st_dev != inside.st_dev


@pytest.mark.parametrize(("kind", "error"), [
    ("missing", errno.ENOENT), ("file", errno.ENODEV), ("link", errno.ELOOP), ("zero", errno.ENODEV),
    ("fifo", errno.ENODEV),
])
def test_a_false_null_device_is_not_opened(enter: Enter, root: Path, kind: str, error: int) -> None:
    path = root / "dev/null"
    path.parent.mkdir()
    {"missing": lambda: None, "file": path.touch, "link": lambda: path.symlink_to("/x"),
     "zero": lambda: os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5)), "fifo": lambda: os.mkfifo(path)}[kind]()
    run = enter(Step("pivot_root"), Step("reopen_null"), fails=True)
    assert run.error.errno == error


@pytest.mark.parametrize(("kind", "given"), [
    ("pipe", True), ("fifo", False), ("file", False), ("null", False), ("pty", True), ("socket", False),
])
def test_only_pipes_and_ptys_are_given_away(init_program: Path, tmp_path: Path, kind: str, given: bool) -> None:
    """S19."""
    others: list[int] = []
    if kind == "pipe":
        stdin, other = os.pipe()
        others.append(other)
    elif kind == "fifo":
        os.mkfifo(tmp_path / "f")
        stdin = os.open(tmp_path / "f", os.O_RDWR)
    elif kind == "pty":
        other, stdin = os.openpty()
        others.append(other)
    elif kind == "socket":
        pair = socket.socketpair()
        stdin = pair[0].detach()
        others.append(pair[1].detach())
    else:
        stdin = os.open("/dev/null" if kind == "null" else tmp_path / "x", os.O_RDWR | os.O_CREAT)
    owner = os.fstat(stdin).st_uid
    run = Run(pack([Step("chown_stdio", 4242), READY]), program=init_program, stdin=stdin).until("ready")
    assert os.fstat(stdin).st_uid == (4242 if given else owner)
    run.close()
    for fd in (stdin, *others):
        os.close(fd)
