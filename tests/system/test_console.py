"""Terminals: `run` under a pty as people use it, console sockets, pidfd sockets (contract 3.6; S18, S19)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.system.bundle import Bundle, namespaces
from tests.system.runtime import WAIT_S, finish, track, wait_until
from tests.system.test_namespaces import USER, owned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.system.runtime import Runtime

    MakeBundle = Callable[..., Bundle]

pytestmark = pytest.mark.system

TERMINAL = {"process.terminal": True}


class Session:
    """A call under a terminal of its own, as a user has it."""

    def __init__(self, argv: list[str], rows: int = 24, columns: int = 80) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(rows, columns)
        self.before = termios.tcgetattr(self.slave)
        self.call = track(
            subprocess.Popen(
                argv,
                stdin=self.slave,
                stdout=self.slave,
                stderr=self.slave,
                start_new_session=True,
                preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            )
        )
        self.text = ""

    def resize(self, rows: int, columns: int) -> None:
        """The user's window changes."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def send(self, text: str) -> None:
        """Keys."""
        os.write(self.master, text.encode())

    def expect(self, text: str, timeout_s: float = WAIT_S) -> str:
        """Read until the screen shows `text`; everything since the last time."""
        end = time.monotonic() + timeout_s
        while text not in self.text:
            if not select.select([self.master], [], [], max(0, end - time.monotonic()))[0]:
                raise AssertionError(f"no {text!r} in {self.text!r}")
            try:
                self.text += os.read(self.master, 65536).decode(errors="replace")
            except OSError:
                raise AssertionError(f"the end before {text!r} in {self.text!r}") from None
        before, _, self.text = self.text.partition(text)
        return before

    def ask(self, command: str) -> str:
        """What the shell inside prints for a command."""
        self.send(f"{command}; echo do''ne\n")  # as typed it is not what is waited for
        return self.expect("done\r\n")

    def drain(self) -> None:
        """Read what is there, so that nobody waits for us."""
        while select.select([self.master], [], [], 0)[0]:
            self.text += os.read(self.master, 65536).decode(errors="replace")

    def end(self) -> int:
        """The code of the call."""
        end = time.monotonic() + WAIT_S
        while self.call.poll() is None and time.monotonic() < end:
            self.drain()
            time.sleep(0.01)
        code = finish(self.call, 1)
        self.drain()
        return code


@contextlib.contextmanager
def session(argv: list[str], **size: int) -> Iterator[Session]:
    """A Session, closed at the end."""
    made = Session(argv, **size)
    try:
        yield made
    finally:
        if made.call.poll() is None:
            made.call.kill()
            made.call.wait()
        os.close(made.master)
        os.close(made.slave)


def shell(runtime: Runtime, bundle: Bundle) -> list[str]:
    """`run` of a shell that says when it is ready, by a prompt of its own."""
    bundle.change({"process.args": ["sh", "-i"], "process.env": ["PATH=/bin", "PS1=prompt> ", "TERM=dumb"], **TERMINAL})
    return runtime.argv("run", "-b", bundle.path, runtime.new_id())


def test_usable_shell(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """Prompt, echo, job control, Ctrl-C, window size, exit code; the user's terminal is as it was."""
    with session(shell(runtime, make_bundle()), rows=33, columns=101) as user:
        user.expect("prompt> ")
        assert "\r\n42\r\n" in user.ask("echo $((6*7))")
        assert "/dev/" in user.ask("tty")
        assert "33 101" in user.ask("stty size")
        user.send("sh -c 'echo beg''un; exec sleep 100'\n")
        user.expect("begun\r\n")  # by the process that Ctrl-C is meant for
        user.send("\x03")
        user.expect("prompt> ")
        assert "Running" in user.ask("sleep 100 & jobs")
        user.send("kill %1; exit 9\n")
        assert user.end() == 9
        assert termios.tcgetattr(user.slave) == user.before


def test_window_change(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """SIGWINCH at the user's side reaches the container with the new size."""
    with session(shell(runtime, make_bundle())) as user:
        user.expect("prompt> ")
        user.resize(50, 132)
        user.call.send_signal(signal.SIGWINCH)
        wait_until(lambda: size_inside(user) == "50 132", "the new size")
        user.send("exit 0\n")
        assert user.end() == 0


def size_inside(user: Session) -> str:
    """What stty says inside."""
    return user.ask("stty size").strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("args", "hooks", "code"),
    [(["/garbage"], {}, 255), (["true"], {"poststart": [{"path": "/bin/false"}]}, 1), (["/nope"], {}, 1)],
    ids=["late", "poststart", "early"],
)
def test_given_back_after_a_failure(runtime: Runtime, make_bundle: MakeBundle, args: list[str], hooks: dict[str, Any],
                                    code: int) -> None:  # fmt: skip
    """A start that fails when the terminal is raw already leaves it as it was, before it tells the cause."""
    bundle = make_bundle("true", {**TERMINAL, "process.args": args, "hooks": hooks})
    bundle.file("garbage", b"\x7fELFx", 0o755)
    with session(runtime.argv("run", "-b", bundle.path, runtime.new_id())) as user:
        assert user.end() == code
        assert termios.tcgetattr(user.slave) == user.before
        assert "\r\n  hint: " in user.text  # with the user's own line ends
    assert runtime.ids() == []


def test_raw_while_it_runs(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """The user's terminal is raw meanwhile, and restored when the runtime is told to end."""
    with session(shell(runtime, make_bundle())) as user:
        user.expect("prompt> ")
        flags = termios.tcgetattr(user.slave)[3]
        assert not flags & (termios.ICANON | termios.ECHO | termios.ISIG)
        user.call.send_signal(signal.SIGHUP)
        user.send("exit 3\n")
        assert user.end() in (3, 129)
        assert termios.tcgetattr(user.slave) == user.before


def test_terminal_inside(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """stdio and /dev/console are the one pty of the container's own devpts; it is the controlling terminal."""
    script = (
        "for n in 0 1 2; do test -t $n || echo no $n; done; stat -c %t:%T /dev/console; echo x >/dev/tty; ls /dev/pts; "
        "cut -d' ' -f1,5,6 /proc/1/stat; ls -l /proc/1/fd 2>/dev/null | grep -c ptmx; grep -c ' /dev/console ' /proc/self/mountinfo"
    )
    bundle = make_bundle(script, {**TERMINAL, "process.consoleSize": {"height": 7, "width": 9}})
    with session(runtime.argv("run", "-b", bundle.path, runtime.new_id())) as user:
        assert user.end() == 0
        lines = user.text.split()
        assert lines == ["88:0", "x", "0", "ptmx", "1", "1", "1", "0", "1"], user.text


@pytest.mark.parametrize("redirected", ["stdin", "stdout"])
def test_terminal_with_redirected_stdio(runtime: Runtime, make_bundle: MakeBundle, redirected: str) -> None:
    """The host's terminal is found on another descriptor (contract 3.6)."""
    bundle = make_bundle("echo text; exit 4", TERMINAL)
    sign = "</dev/null" if redirected == "stdin" else ">/dev/null"
    with session(
        ["sh", "-c", f'exec "$@" {sign}', "sh", *runtime.argv("run", "-b", bundle.path, runtime.new_id())]
    ) as user:
        assert user.end() == 4


def test_eight_megabytes_through_the_pty(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """No loss (R11); the line ends become \\r\\n by the user's own terminal settings alone."""
    bundle = make_bundle("stty -onlcr; head -c 8388608 /dev/zero | tr '\\0' x; echo END", TERMINAL)
    with session(runtime.argv("run", "-b", bundle.path, runtime.new_id())) as user:
        end, size = time.monotonic() + 4 * WAIT_S, 0
        tail = b""
        while b"END" not in tail and time.monotonic() < end:
            if select.select([user.master], [], [], 1)[0]:
                data = os.read(user.master, 1 << 16)
                size += data.count(b"x")
                tail = (tail + data)[-16:]
        assert size == 8388608
        assert user.end() == 0


def test_exec_tty(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """exec -t: a shell of its own in a running container, /dev/console left alone."""
    with runtime.container(make_bundle("sleep 600")) as container:
        argv = runtime.argv("exec", "-t", "-e", "PS1=prompt> ", container.id, "sh", "-i")
        with session(argv, rows=11, columns=22) as user:
            user.expect("prompt> ")
            assert "/dev/pts/0" in user.ask("tty")
            assert "11 22" in user.ask("stty size")
            assert "absent" in user.ask("test -e /dev/console || echo absent")
            user.send("exit 8\n")
            assert user.end() == 8
            assert termios.tcgetattr(user.slave) == user.before


# --- console socket -------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """A stream socket that waits for one connection."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen()
        server.settimeout(WAIT_S)
        yield server


def received(server: socket.socket) -> tuple[bytes, int]:
    """Payload and the one descriptor of the one message."""
    client, _ = server.accept()
    with client:
        data, fds, _, _ = socket.recv_fds(client, 1000, 4)
        assert len(fds) == 1
        return data, fds[0]


@pytest.mark.parametrize("changes", [{}, USER], ids=["root", "user namespace"])
def test_console_socket(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path, changes: dict[str, Any]) -> None:
    """The master has arrived before create returns, its payload names it, its size is the config's."""
    bundle = make_bundle(
        "stty size; read line; echo got $line; sleep 600",
        {**TERMINAL, **changes, "process.consoleSize": {"height": 12, "width": 34}},
    )
    if changes:
        owned(bundle)
    with (
        listening(tmp_path / "sock") as server,
        runtime.container(bundle, "--console-socket", tmp_path / "sock", start=False) as container,
    ):
        data, master = received(server)
        with open(master, "r+b", buffering=0) as terminal:
            assert data == b"/dev/pts/ptmx"
            assert struct.unpack("HHHH", fcntl.ioctl(master, termios.TIOCGWINSZ, b"\0" * 8))[:2] == (12, 34)
            container.ok("start")
            text = b""
            while b"12 34" not in text:
                text += terminal.read(1000)
            terminal.write(b"hello\n")
            while b"got hello" not in text:
                text += terminal.read(1000)
        assert container.output() == ""


def test_console_socket_of_exec(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    """exec -t -d with a socket."""
    with runtime.container(make_bundle("sleep 600")) as container, listening(tmp_path / "sock") as server:
        result = container.exec("sh", "-c", "tty; sleep 600", flags=("-t", "-d", "--console-socket", tmp_path / "sock"))
        assert result.code == 0, result
        data, master = received(server)
        with open(master, "rb", buffering=0) as terminal:
            assert data == b"/dev/pts/ptmx"
            assert b"/dev/pts/0" in terminal.read(1000)


def test_console_socket_that_nobody_reads(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    """A missing socket fails create, which leaves nothing (R2)."""
    result = runtime(
        "create", "-b", make_bundle("true", TERMINAL).path, "--console-socket", tmp_path / "no", runtime.new_id()
    )
    assert result.code == 1
    assert "console socket" in result.message
    assert runtime.ids() == []


def test_console_needs_devpts(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """Without a devpts of its own: an error, not a node of the image (S18)."""
    bundle = make_bundle("true", TERMINAL)
    bundle.config["mounts"] = bundle.config["mounts"][:2]
    bundle.save()
    with session(runtime.argv("run", "-b", bundle.path, runtime.new_id())) as user:
        assert user.end() == 1
    assert runtime.ids() == []


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_console_target_of_the_image(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path, kind: str) -> None:
    """S18: what a link at /dev/console names is neither made, truncated nor covered."""
    (tmp_path / "victim").write_text("mine")
    bundle = make_bundle(
        "true",
        {
            **TERMINAL,
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {
                    "destination": "/dev/pts",
                    "type": "devpts",
                    "source": "devpts",
                    "options": ["newinstance", "ptmxmode=0666"],
                },
            ],
        },
    )
    (bundle.rootfs / "dev/pts").mkdir()
    if kind == "link":
        (bundle.rootfs / "dev/console").symlink_to(tmp_path / "victim")
    else:
        (bundle.rootfs / "dev/console").mkdir()
    with session(runtime.argv("run", "-b", bundle.path, runtime.new_id())) as user:
        assert user.end() == 1
    assert (tmp_path / "victim").read_text() == "mine"


# --- pidfd socket ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("verb", "payload"), [("create", b"standard"), ("run", b"standard"), ("exec", b"setns")])
def test_pidfd_socket(runtime: Runtime, make_bundle: MakeBundle, tmp_path: Path, verb: str, payload: bytes) -> None:
    """One pidfd of the process by SCM_RIGHTS (contract 1.4)."""
    with listening(tmp_path / "sock") as server:
        flags = ("--pidfd-socket", tmp_path / "sock")
        if verb == "run":
            result = runtime.run(make_bundle("exit 6"), *flags)
            assert result.code == 6
            data, pidfd = received(server)
            os.close(pidfd)
            assert data == payload
            return
        with runtime.container(make_bundle("sleep 600"), *(flags if verb == "create" else ())) as container:
            if verb == "exec":
                assert container.exec("sleep", "0.3", flags=(*flags, "--pid-file", tmp_path / "pid")).code == 0
            data, pidfd = received(server)
            assert data == payload
            info = Path(f"/proc/self/fdinfo/{pidfd}").read_text()
            if verb == "create":
                assert f"Pid:\t{container.pid}\n" in info
            else:
                assert f"Pid:\t{(tmp_path / 'pid').read_text()}\n" in info or "Pid:\t-1" in info
            os.close(pidfd)


def test_stdio_owner(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """S19: our pipes belong to the process's user; a file of the caller keeps its owner."""
    bundle = make_bundle(
        "echo x >/proc/self/fd/1 && stat -Lc %u /proc/self/fd/1",
        {"process.user.uid": 1000, "linux.namespaces": namespaces()},
    )
    done = subprocess.run(
        runtime.argv("run", "-b", bundle.path, runtime.new_id()), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "x\n1000\n"), done
    result = runtime.run(make_bundle("stat -Lc %u /proc/self/fd/1", {"process.user.uid": 1000}))
    assert result.out == "0\n"
