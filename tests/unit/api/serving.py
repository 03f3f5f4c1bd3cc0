"""A server of routes made for a test, in a thread of this process, and raw requests to it."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from pyruntime.api.server.router import Router
from pyruntime.api.server.server import Server
from pyruntime.engine.journal import Journal

WAIT_S = 60  # for what comes at once, on a busy machine too


class Serving:
    """`with Serving(path, routes) as serving:` answers at `path` until the end of the block; `ending` is set by then."""

    def __init__(self, folder: Path, routes: list, *, idle_s: float = 0.0, ending: threading.Event | None = None) -> None:
        self.path = str(folder / "api.sock")
        self.idle_s = idle_s
        self._ending = ending or threading.Event()
        self._routes = routes
        self._ready = threading.Event()
        self._log = open(folder / "log", "w", encoding="utf-8")
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        self._stop = None

        def remember(number: int, callback: object) -> None:  # only a main thread may handle signals
            if number == signal.SIGTERM:
                self._stop = (loop, callback)

        loop.add_signal_handler = remember  # type: ignore[method-assign]
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.path)
        server = Server(Router(self._routes), (("Api-Version", "1.51"),), Journal("debug", self._log.fileno()),
                        idle_s=self.idle_s, before_end=self._before_end)  # fmt: skip
        await server.run([(listener, None)], self._ready.set)

    def _before_end(self) -> None:
        Path(self.path).unlink(missing_ok=True)
        self._ending.set()

    def __enter__(self) -> Serving:
        self.thread.start()
        assert self._ready.wait(WAIT_S)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end()
        self.thread.join(WAIT_S)
        self._log.close()
        assert not self.thread.is_alive()

    def end(self) -> None:
        """Tells the server to end, as SIGTERM does."""
        if self.thread.is_alive() and self._stop:
            loop, callback = self._stop
            with suppress(RuntimeError):  # it has ended meanwhile
                loop.call_soon_threadsafe(callback)

    def connect(self) -> socket.socket:
        """A connection to it."""
        found = socket.socket(socket.AF_UNIX)
        found.settimeout(WAIT_S)
        found.connect(self.path)
        return found

    def ask(self, raw: bytes, *, half_close: bool = False) -> bytes:
        """All that is answered to `raw` on a connection of its own; requests say `Connection: close`."""
        with self.connect() as found:
            found.sendall(raw)
            if half_close:
                found.shutdown(socket.SHUT_WR)
            return read_all(found)


def read_all(found: socket.socket) -> bytes:
    """Everything until the other side closes."""
    parts = []
    while part := found.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def request(method: str, target: str, *lines: str, body: bytes = b"") -> bytes:
    """A request that ends the connection."""
    lines = ("Host: x", "Connection: close", *lines, *([f"Content-Length: {len(body)}"] if body else []))
    return "\r\n".join([f"{method} {target} HTTP/1.1", *lines, "", ""]).encode() + body
