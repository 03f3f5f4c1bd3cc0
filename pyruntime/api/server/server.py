"""The daemon's listening side: sockets, connections, the pool of threads, idle exit and the end.

The order of an end on demand matters to clients: the socket's name goes first, so that a new client starts a daemon of
its own; then whoever had reached the listener is still served; then the listener closes.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pyruntime.api.server.connection import Connection

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable, Iterator

    from pyruntime.api.server.router import Router
    from pyruntime.engine.journal import Journal

MAX_CONNECTIONS = 512  # requests at once; more wait
QUEUE = 4096  # connections that wait to be accepted: a client that finds it full fails at once (unix(7), EAGAIN)
LAST_CALL_S = 0.2  # for those who reached the listener before its name went
ROUNDS = 10  # of the loop, more than it needs from a connection in the listener's queue to its Connection
GRACE_S = 5.0  # for answers under way after SIGTERM


class Server:
    """Serves a router on sockets until told to end. `idle_s` 0: never ends by itself."""

    def __init__(self, router: Router, headers: tuple[tuple[str, str], ...], journal: Journal, *, idle_s: float = 0.0,
                 before_end: Callable[[], None] = lambda: None,
                 reload: Callable[[], None] = lambda: None) -> None:  # fmt: skip
        self.router = router
        self.journal = journal
        self.closing = False
        self.pool = ThreadPoolExecutor(MAX_CONNECTIONS, "request")
        self._headers = headers
        self._idle_s = idle_s
        self._before_end = before_end
        self._reload = reload
        self._reloading = threading.Lock()
        self._working = 0
        self._since = time.monotonic()
        self._connections: set[Connection] = set()
        self._listeners: list[asyncio.Server] = []

    def headers(self, more: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
        """What every answer carries; `more` replaces a header of the same name."""
        named = {name.lower() for name, _ in more}
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())  # RFC 9110, 6.6.1
        return [*(pair for pair in self._headers if pair[0].lower() not in named), ("Date", date), *more]

    @contextmanager
    def work(self) -> Iterator[None]:
        """Around a request: the daemon is not idle."""
        self._working += 1
        try:
            yield
        finally:
            self._working -= 1
            self._since = time.monotonic()

    def opened(self, connection: Connection) -> None:
        """A connection has come."""
        self._connections.add(connection)

    def closed(self, connection: Connection) -> None:
        """It has gone."""
        self._connections.discard(connection)

    async def run(self, listeners: list[tuple[socket.socket, ssl.SSLContext | None]],
                  ready: Callable[[], None] = lambda: None) -> None:  # fmt: skip
        """Serves until SIGTERM, SIGINT or the idle time is over; SIGHUP reads the settings again."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: loop.run_in_executor(self.pool, self._read_again))
        for listener, tls in listeners:
            listener.setblocking(False)
            if tls is None:
                made = await loop.create_unix_server(lambda: Connection(self), sock=listener, backlog=QUEUE)
            else:
                made = await loop.create_server(lambda: Connection(self), sock=listener, ssl=tls, backlog=QUEUE)
            self._listeners.append(made)
        self._since = time.monotonic()
        ready()
        while not stop.is_set() and not self._idle():
            try:
                await asyncio.wait_for(stop.wait(), self._wait_s())
            except TimeoutError:
                continue
        await self._end(asked=stop.is_set())

    def _read_again(self) -> None:
        """One after the other: what the last one reads stays."""
        with self._reloading:
            self._reload()

    def _idle(self) -> bool:
        """Whether nothing has been asked for long enough."""
        return not self._working and self._idle_s > 0 and time.monotonic() - self._since >= self._idle_s

    def _wait_s(self) -> float | None:
        """Until the next look at the clock."""
        if not self._idle_s:
            return None
        return max(0.05, min(self._idle_s, self._since + self._idle_s - time.monotonic()))

    async def _end(self, *, asked: bool) -> None:
        """Leaves in the order of the module's docstring."""
        self.journal.info("asked to end" if asked else f"nothing to do for {self._idle_s:g} s, ending")
        self._before_end()
        await asyncio.sleep(0 if asked else LAST_CALL_S)
        for _ in range(ROUNDS):
            await asyncio.sleep(0)
        for listener in self._listeners:
            listener.close()
        self.closing = True
        for connection in self._connections:
            connection.leave(now=asked)
        if tasks := [connection.task for connection in self._connections]:
            await asyncio.wait(tasks, timeout=GRACE_S)
        for connection in list(self._connections):
            await connection.abort()
        self.pool.shutdown(wait=False, cancel_futures=True)
