"""A TCP connection that a caller who has cancelled does not wait for: names are looked up aside, connects are polled."""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Check = Callable[[], None]  # raises when the caller wants no more

LOOK_S = 0.1  # how often `check` is called


def reach(host: str, port: int, timeout_s: float, options: Iterable[Any], check: Check) -> socket.socket:
    """A connected socket with `timeout_s` set, which also bounds the look-up and each address that is tried.

    `options` are arguments of setsockopt. Raises socket.gaierror, TimeoutError, OSError of the last address, and what
    `check` raises.
    """
    problem: OSError = OSError(errno.EADDRNOTAVAIL, "the name has no address")
    for family, kind, protocol, _, address in _look_up(host.strip("[]"), port, timeout_s, check):
        made = socket.socket(family, kind, protocol)
        try:
            for option in options:
                made.setsockopt(*option)
            _connect(made, address, timeout_s, check)
        except OSError as error:
            made.close()
            problem = error
        except BaseException:
            made.close()
            raise
        else:
            made.settimeout(timeout_s)
            return made
    raise problem


def _connect(made: socket.socket, address: Any, timeout_s: float, check: Check) -> None:
    made.setblocking(False)
    code = made.connect_ex(address)
    if code == errno.EINPROGRESS:
        end = time.monotonic() + timeout_s
        poll = select.poll()
        poll.register(made, select.POLLOUT)
        while not poll.poll(LOOK_S * 1000):
            check()
            if time.monotonic() >= end:
                raise TimeoutError(errno.ETIMEDOUT, "timed out")
        code = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


def _look_up(host: str, port: int, timeout_s: float, check: Check) -> list[Any]:
    """getaddrinfo, which cannot be interrupted, in a thread that is left behind when nobody waits any more."""
    try:
        return socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        pass
    found: list[Any] = []
    failed: list[Exception] = []
    done = threading.Event()

    def run() -> None:
        try:
            found.extend(socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM))
        except (OSError, ValueError) as error:
            failed.append(error)
        done.set()

    threading.Thread(target=run, name="registry-look-up", daemon=True).start()
    end = time.monotonic() + timeout_s
    while not done.wait(LOOK_S):
        check()
        if time.monotonic() >= end:
            raise TimeoutError(errno.ETIMEDOUT, "timed out")
    if failed:
        raise failed[0]
    return found
