"""start: one byte into exec.fifo, and the answer from exec.err (DESIGN, runtime 7).

init holds both FIFOs open for reading and writing from `created` until execve. EOF on exec.err means that execve has
taken place (or that init died); a record on it is the step that failed after the byte.
"""

from __future__ import annotations

from errno import EINVAL, ENOENT, ENXIO
from posix import (
    O_CLOEXEC,
    O_NOFOLLOW,
    O_NONBLOCK,
    O_RDONLY,
    O_WRONLY,
    close,
    fstat,
    open,
    read,
    readlink,
    set_blocking,
    write,
)

from pyruntime.errors import HostError, RuntimeFailure, StateError
from pyruntime.lifecycle import process, state, states, store
from pyruntime.native import wait
from pyruntime.native.init import Message, parse_message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyruntime.lifecycle import foreground, notify
    from pyruntime.lifecycle.settings import Settings

DEATH_TIMEOUT_MS, SHORT_TIMEOUT_MS = 10_000, 200
GOING = b"x"  # what init writes right before execve


def start(settings: Settings, container_id: str, *, notify_socket: str = "") -> None:
    """Run the container's program. Raises StateError, ProgramError, HookError.

    With `notify_socket` (sd_notify(3)) and a container created with one, returns when it says READY or has ended.
    """
    with store.lookup(settings.root, container_id) as entry:
        entry.lock()
        found = state.load(entry)
        states.check(state.status(entry, found), "start", container_id)
        pending = start_entry(entry, found, notify_socket=notify_socket)
    if pending is not None:  # without the lock: how long it takes is up to the container
        pending.wait()


def start_entry(entry: store.Entry, found: dict[str, Any], *, notify_socket: str = "",
                watcher: foreground.Foreground | None = None) -> notify.Pending | None:
    """The same on a locked entry whose status is `created`; poststart hooks included.

    `watcher` has taken over the signals of this process: one that would end it ends the start. Raises Interrupted then.

    What is returned waits for READY, when `notify_socket` asks for it; the receiver waits or closes.
    """
    if not notify_socket or not _has_notify(entry):
        _start(entry, found, watcher)
        return None
    from pyruntime.lifecycle.notify import Pending, Proxy

    proxy = Proxy(entry, notify_socket)
    try:
        _start(entry, found, watcher)
        pid = int(found["init_process_pid"])
        pidfd = process.open_process(pid, int(found["init_process_start"]))
    except BaseException:
        proxy.close()
        raise
    return Pending(proxy, pid, pidfd)


def _has_notify(entry: store.Entry) -> bool:
    try:
        close(open("notify", O_RDONLY | O_CLOEXEC | O_NOFOLLOW, dir_fd=entry.fd))
    except OSError:
        return False
    return True


def _start(entry: store.Entry, found: dict[str, Any],
           watcher: foreground.Foreground | None) -> None:
    message = _release(entry, watcher)
    if message.type == "ERROR":
        _wait_for_death(found)
        raise _failure(found, message)
    if message.type == "EOF" and _wait_for_death(found, timeout_ms=_time_to_die(found)):
        raise HostError("container init was killed before it ran the program",
                        hint="from outside, by its seccomp filter or for its memory limit")
    entry.drop("exec.fifo", "exec.err")  # their presence means `created` to readers outside (contract 1.8)
    if found["config"].get("hooks"):
        _poststart(entry, found)


def _release(entry: store.Entry, watcher: foreground.Foreground | None) -> Message:
    """Write the byte and read until init has become the program, or says why not."""
    fifo, err = _open_fifos(entry)
    try:
        write(fifo, b"0")
        close(fifo)
        set_blocking(err, True)
        data = b""
        if watcher is not None:
            watcher.wait_for(err)
        while wait.until(err) and (chunk := read(err, 65536)):
            data += chunk
        return parse_message(data.removeprefix(GOING)) if data != GOING else Message("GOING")
    finally:
        close(err)


def _open_fifos(entry: store.Entry) -> tuple[int, int]:
    """exec.fifo to write to and exec.err to read from, both held by init. Raises StateError, HostError.

    Whatever else lies under these names would be waited for in vain: a file, or a FIFO that init does not know. init
    reads and writes both, so that opening one to write succeeds only while it has it open (fifo(7)).
    """
    fifo = err = -1
    try:
        try:
            fifo = _open_fifo(entry, "exec.fifo", O_WRONLY)
        except OSError as error:
            if error.errno == ENXIO:
                raise StateError("cannot start an already running container") from error
            raise
        held = _open_fifo(entry, "exec.err", O_WRONLY)
        err = _open_fifo(entry, "exec.err", O_RDONLY)
        close(held)
    except OSError as error:
        for fd in (fifo, err):
            if fd >= 0:
                close(fd)
        missing = "exec.fifo" if fifo < 0 else "exec.err"
        raise HostError(f"{missing} is missing or not the container's", errno=error.errno or ENOENT,
                        hint="its state is damaged; delete --force") from error
    return fifo, err


def _open_fifo(entry: store.Entry, name: str, access: int) -> int:
    fd = open(name, access | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW, dir_fd=entry.fd)
    if fstat(fd).st_mode & 0o170000 != 0o010000:  # S_IFMT, S_IFIFO
        close(fd)
        raise OSError(EINVAL, "not a FIFO")
    return fd


def _wait_for_death(found: dict[str, Any], *, timeout_ms: int = DEATH_TIMEOUT_MS) -> bool:
    """Whether init has ended, waiting at most so long."""
    pidfd = process.open_process(int(found["init_process_pid"]), int(found["init_process_start"]))
    if pidfd < 0:
        return True
    dead = process.is_dead(pidfd, timeout_ms)
    close(pidfd)
    return dead


def _time_to_die(found: dict[str, Any]) -> int:
    """How long to wait for the end of an init that said nothing before its FIFO was closed.

    A dying process loses its memory, by which /proc tells its program, before its descriptors, and both a moment before
    it is dead. Where a filter swallows the word, it runs its program.
    """
    try:
        readlink(f"/proc/{int(found['init_process_pid'])}/exe")
    except FileNotFoundError:
        return DEATH_TIMEOUT_MS
    except OSError:  # a plain user's call may not look
        pass
    return SHORT_TIMEOUT_MS


def _failure(found: dict[str, Any], message: Message) -> RuntimeFailure:
    from pyruntime.plan import messages

    op, origin, subject = found.get("start_steps", {}).get(str(message.step), ("execve", "/process/args/0", ""))
    detail = message.payload.decode("utf-8", "replace")
    timeout_ms = 0
    if op == "hook":
        hook = found["config"]["hooks"]["startContainer"][int(origin.rpartition("/")[2])]
        timeout_ms = (hook.get("timeout") or 0) * 1000
    failure = messages.start_error(op, origin, subject, message.errno, detail, message.value, timeout_ms=timeout_ms)
    failure.late = True
    return failure


def _poststart(entry: store.Entry, found: dict[str, Any]) -> None:
    """poststart hooks; one that fails kills the container (contract 3.2)."""
    from pyruntime.lifecycle import hooks
    from pyruntime.lifecycle.prepare import hook_state

    spec = state.spec(found)
    if not spec.hooks.poststart:
        return
    value = hook_state(entry.id, "running", int(found["init_process_pid"]), found["bundle"], spec)
    try:
        hooks.run_all(spec.hooks.poststart, "poststart", value, found["bundle"])
    except RuntimeFailure:
        from pyruntime.lifecycle import cleanup

        left = cleanup.remains(entry)
        if left is not None:
            cleanup.kill(left)
        raise
