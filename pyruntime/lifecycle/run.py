"""run: create and start in one call, then stay until the end, or return at once when detached (contract 3.3)."""

from __future__ import annotations

from posix import close, getcwd

from pyruntime.errors import HostError, NotFoundError, RuntimeFailure, SpecError
from pyruntime.host.probe import clean_path
from pyruntime.lifecycle import cleanup, create, process, store
from pyruntime.lifecycle.prepare import bundle_path, prepare
from pyruntime.lifecycle.start import start_entry
from pyruntime.native import kernel
from pyruntime.native import wait as waiting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.lifecycle import foreground, notify
    from pyruntime.lifecycle.create import Launched
    from pyruntime.lifecycle.settings import Settings
    from pyruntime.spec.config import Spec

CONSOLE_TIMEOUT_MS = 30_000


def run(settings: Settings, container_id: str, bundle: str = "", *, config: str = "config.json", detach: bool = False,
        keep: bool = False, console_socket: str = "", pidfd_socket: str = "", pid_file: str = "",
        no_pivot: bool = False, no_new_keyring: bool = False, preserve_fds: int = 0, listen_fds: int = 0,
        notify_socket: str = "", no_subreaper: bool = False, stdio: tuple[int, int, int] = (0, 1, 2),
        signals: bool = False) -> int:
    """The program's exit code (128 + n for signal n), 0 when detached. The container is deleted unless `keep`.

    `signals` blocks all signals of this thread and forwards them: for the command line. A failure to start is raised;
    one after the program was let go (a late execve) has left the container deleted too.
    """
    options = create.make_options(settings, container_id, no_pivot=no_pivot, no_new_keyring=no_new_keyring,
                                  preserve_fds=preserve_fds, listen_fds=listen_fds, console=True,
                                  notify=bool(notify_socket))
    pid_path = clean_path(getcwd(), pid_file) if pid_file else ""
    prepared = prepare(settings, bundle_path(bundle), options, config=config,
                       adjust=lambda spec: terminal_rule(spec, detach=detach, console_socket=console_socket))
    assert prepared.spec.process is not None
    own_tty = prepared.spec.process.terminal and not console_socket
    console, far = kernel.streampair() if own_tty else (-1, create.connect_console(console_socket))
    try:
        launched = create.launch(settings, prepared, stdio=stdio, console_fd=far)
        with launched.entry:
            terminal, watcher, pending = _begin(settings, launched, console, pidfd_socket=pidfd_socket, pid_path=pid_path,
                                                notify_socket=notify_socket, signals=signals and not detach)
    finally:
        for fd in (console, far):
            if fd >= 0:
                close(fd)
    if not detach:
        return stay(settings, launched, terminal, watcher, keep=keep, pending=pending)
    close(launched.pidfd)
    if pending is not None:
        pending.wait()
    return 0


def _begin(settings: Settings, launched: Launched, console: int, *, pidfd_socket: str, pid_path: str, notify_socket: str,
           signals: bool) -> tuple[foreground.Terminal | None, foreground.Foreground | None, notify.Pending | None]:
    """Let the program run: its terminal, what waits beside that or forwards signals, and what waits for READY.

    `console` is where init sends the terminal's master, -1 for nowhere. When it fails all is as it was before.
    """
    terminal: foreground.Terminal | None = None
    try:
        create.finish(launched, pidfd_socket=pidfd_socket, pid_path=pid_path)
        if console >= 0:
            terminal = take_terminal(console)
        watcher = watch(terminal, signals=signals)
        found = launched.state | {"config": launched.prepared.document}
        return terminal, watcher, start_entry(launched.entry, found, notify_socket=notify_socket, watcher=watcher)
    except BaseException as failure:
        if terminal is not None:
            terminal.leave()
        _abandon(settings, launched, failure)
        raise


def terminal_rule(spec: Spec, *, detach: bool, console_socket: str) -> Spec:
    """The rule between process.terminal, --detach and --console-socket (contract 1.7)."""
    if detach:
        return create.terminal_check(console_socket)(spec)
    if console_socket:
        raise SpecError("cannot use console socket if runc will not detach or allocate tty", field="/process/terminal",
                        hint="drop --console-socket, or detach")
    return spec


def take_terminal(console: int) -> foreground.Terminal:
    """The master that init sent, in raw mode with the host's terminal."""
    waiting.until(console, CONSOLE_TIMEOUT_MS)
    _, fds = kernel.receive(console, 64, max_fds=1, timeout_ms=0)
    if not fds:
        raise HostError("container init sent no console", field="/process/terminal")
    from pyruntime.lifecycle.foreground import Terminal

    terminal = Terminal(fds[0])
    terminal.enter()
    return terminal


def _abandon(settings: Settings, launched: Launched, failure: BaseException) -> None:
    """The program never ran: undo everything, and keep the cause first in what is raised."""
    create.abandon(settings, launched)
    close(launched.pidfd)
    if isinstance(failure, RuntimeFailure) and not failure.late and not failure.message.startswith(create.START_FAILED):
        failure.within(create.START_FAILED)


def stay(settings: Settings, launched: Launched, terminal: foreground.Terminal | None,
         watcher: foreground.Foreground | None, *, keep: bool, pending: notify.Pending | None = None) -> int:
    """Wait for the end; then the container goes, whatever happened to the wait."""
    ended = False
    try:
        if pending is not None:
            pending.wait_beside(settings.warn)
        code = wait(launched.pidfd, terminal, watcher)
        ended = True
        return code
    finally:
        if terminal is not None:
            terminal.leave()
        close(launched.pidfd)
        if not keep:
            _remove(settings, launched, ended=ended)


def watch(terminal: foreground.Terminal | None, *, signals: bool) -> foreground.Foreground | None:
    """What waits beside a terminal or forwards signals, which it takes over now; None when neither is asked for.

    Before the program runs: a signal that comes right after its first output must find its way too (R9).
    """
    if not signals and terminal is None:
        return None
    from pyruntime.lifecycle.foreground import Foreground

    return Foreground(signals=signals)


def wait(pidfd: int, terminal: foreground.Terminal | None, watcher: foreground.Foreground | None) -> int:
    """The exit code of a child that we stay with."""
    return process.reap(pidfd) if watcher is None else watcher.wait(pidfd, terminal)


def _remove(settings: Settings, launched: Launched, *, ended: bool) -> None:
    """Delete the container of this run, unless somebody has done so or taken its id since."""
    prepared = launched.prepared
    try:
        entry = store.lookup(settings.root, launched.entry.id)
    except NotFoundError:
        return
    with entry:
        entry.lock()
        left = create.left(prepared, entry, pid=launched.pid, start_time=launched.start_time)
        if left is None or left.token != prepared.options.keyring_token:
            return
        own = prepared.spec.linux.namespace("pid")
        cleanup.destroy(entry, left, dead=ended and own is not None and not own.path)
        if prepared.spec.hooks.poststop:
            from pyruntime.lifecycle import hooks
            from pyruntime.lifecycle.prepare import hook_state

            state = hook_state(entry.id, "stopped", 0, prepared.bundle.path, prepared.spec)
            hooks.run_poststop(prepared.spec.hooks.poststop, state, settings.warn)
