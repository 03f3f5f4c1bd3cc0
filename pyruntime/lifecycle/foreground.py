"""Staying with a process until it ends: signals go to it, its terminal is ours, its exit code is the answer.

Only the command line asks for this (`signals=True`): all signals are blocked and read from a signalfd, so none is lost
between two calls, and everything is one poll loop. A library caller's signals are left alone.
"""

from __future__ import annotations

from posix import O_CLOEXEC, O_RDWR, close, isatty, open, read, set_blocking, write
from select import POLLERR, POLLHUP, POLLIN, POLLOUT, poll

from pyruntime.errors import HostError, Interrupted
from pyruntime.lifecycle import process
from pyruntime.native import kernel, wait

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SIGCHLD, SIGURG, SIGWINCH = 17, 23, 28
ENDING = (1, 2, 3, 15)  # SIGHUP, SIGINT, SIGQUIT, SIGTERM
SIGINFO_SIZE = 128  # struct signalfd_siginfo, signalfd(2)
CHUNK = 65536
HIGH_WATER = 1 << 20


class Terminal:
    """The host's end of a container's terminal: raw mode here, the pty's master there, bytes between them."""

    def __init__(self, master: int) -> None:
        self.master = master
        self.tty = _host_tty()
        self.saved: list[Any] | None = None
        self.to_master = b""
        self.input_open = True

    def enter(self) -> None:
        """Raw mode on the host's terminal, no CR before NL on the master, the window's size (contract 3.6)."""
        import termios
        import tty

        mode = termios.tcgetattr(self.master)
        mode[1] &= ~termios.ONLCR
        termios.tcsetattr(self.master, termios.TCSANOW, mode)
        if self.tty >= 0:
            self.saved = termios.tcgetattr(self.tty)
            tty.setraw(self.tty, termios.TCSANOW)
            mode = termios.tcgetattr(self.tty)
            mode[1] |= termios.OPOST  # the master sends bare line feeds, the user's terminal adds the carriage return
            termios.tcsetattr(self.tty, termios.TCSANOW, mode)
            self.resize()
        set_blocking(self.master, False)

    def leave(self) -> None:
        """The host's terminal as it was."""
        if self.saved is not None:
            import termios

            termios.tcsetattr(self.tty, termios.TCSADRAIN, self.saved)
            self.saved = None

    def resize(self) -> None:
        """Give the master the size of the host's window (TIOCGWINSZ, TIOCSWINSZ), unless that has none."""
        from fcntl import ioctl

        size = ioctl(self.tty, 0x5413, bytes(8)) if self.tty >= 0 else bytes(8)
        if any(size[:4]):
            ioctl(self.master, 0x5414, size)

    def register(self, watch: Any) -> None:
        """Ask for what can be done now: nothing is read while the other side is full."""
        events = POLLIN | (POLLOUT if self.to_master else 0)
        if self.master >= 0:
            watch.register(self.master, events)
        if self.input_open:
            watch.register(0, POLLIN if len(self.to_master) < HIGH_WATER else 0)

    def pump(self, ready: dict[int, int]) -> None:
        """Move what is there."""
        if ready.get(0, 0) & (POLLIN | POLLHUP | POLLERR):
            self._take_input()
        if ready.get(self.master, 0) & (POLLIN | POLLHUP | POLLERR):
            self._take_output()
        if self.to_master and self.master >= 0:
            try:
                self.to_master = self.to_master[write(self.master, self.to_master) :]
            except BlockingIOError:
                return
            except OSError:
                self.to_master = b""

    def _take_input(self) -> None:
        try:
            data = read(0, CHUNK)
        except OSError:
            data = b""
        self.to_master += data
        if not data:
            self.input_open = False
            self.to_master += b"\x04"  # end of file for whoever reads the terminal

    def _take_output(self) -> bool:
        """Copy what the container wrote; False at its end."""
        try:
            data = read(self.master, CHUNK)
        except BlockingIOError:
            return False
        except OSError:  # EIO: no slave is open any more
            data = b""
        if not data:
            close(self.master)
            self.master = -1
            return False
        _write_all(1, data)
        return True

    def drain(self) -> None:
        """After the end: what still stands in the pty."""
        while self.master >= 0 and self._take_output():
            continue


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[write(fd, view) :]
        except BlockingIOError:
            watch = poll()
            watch.register(fd, POLLOUT)
            watch.poll()
        except OSError:
            return


def _host_tty() -> int:
    """The terminal we were called from: stderr, stdout or stdin, else /dev/tty; -1 with none."""
    for fd in (2, 1, 0):
        if isatty(fd):
            return fd
    try:
        return open("/dev/tty", O_RDWR | O_CLOEXEC)
    except OSError as error:
        raise HostError(f"open /dev/tty: {(error.strerror or '').lower()}", errno=error.errno or 0,
                        field="/process/terminal", value="true",
                        hint="run it from a terminal, set process.terminal to false, or detach with "
                             "--console-socket") from error  # fmt: skip


class Foreground:
    """The loop that waits for a child. With `signals` those of this process are blocked from now on and forwarded."""

    def __init__(self, *, signals: bool) -> None:
        self.signals = kernel.signalfd() if signals else -1
        if signals:
            wait.hand_over()

    def wait_for(self, fd: int) -> None:
        """Wait until `fd` can be read or has ended. Raises Interrupted for a signal that would end this process before.

        Other signals have nobody to go to yet.
        """
        while self.signals >= 0:
            watch = poll()
            watch.register(self.signals, POLLIN)
            watch.register(fd, POLLIN)
            ready = dict(watch.poll())
            if fd in ready:
                return
            ending = [number for number in self._take() if number in ENDING]
            if ending:
                raise Interrupted(ending[0])

    def _take(self) -> list[int]:
        """The numbers of the signals that have come."""
        data = read(self.signals, SIGINFO_SIZE * 16)
        return [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), SIGINFO_SIZE)]

    def wait(self, pidfd: int, terminal: Terminal | None) -> int:
        """The child's exit code, 128 + n for a signal. Forwards every signal but SIGCHLD, SIGURG and SIGWINCH."""
        while True:
            watch = poll()
            if self.signals >= 0:
                watch.register(self.signals, POLLIN)
            watch.register(pidfd, POLLIN)
            if terminal is not None:
                terminal.register(watch)
            ready = dict(watch.poll())
            if terminal is not None:
                terminal.pump(ready)
            if self.signals in ready:
                self._forward(pidfd, terminal)
            if pidfd in ready:
                if terminal is not None:
                    terminal.drain()
                return process.reap(pidfd)

    def _forward(self, pidfd: int, terminal: Terminal | None) -> None:
        for number in self._take():
            if number == SIGWINCH:
                if terminal is not None:
                    terminal.resize()
            elif number not in (SIGCHLD, SIGURG):
                process.send_signal(pidfd, number)
