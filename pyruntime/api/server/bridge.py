"""Between a handler's thread and its connection on the event loop: body, stream, hijacked pipe, and the outermost frame."""

from __future__ import annotations

import asyncio
from concurrent.futures import CancelledError, wait
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from pyruntime.api.server.wire import Answer, ClientGone, Hijack, failure
from pyruntime.engine.failures import INTERNAL, status_and_text
from pyruntime.errors import Cancelled

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from pyruntime.api.server.connection import Connection
    from pyruntime.api.server.router import Handler
    from pyruntime.api.server.wire import Request, Stream

T = TypeVar("T")
LOOK_S = 1.0  # how often a handler's thread looks whether the server is still there


class Bridge:
    """Body, Sink and Duplex of one request in one object. Everything here blocks and is called from a thread."""

    def __init__(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._loop = loop
        self._reply: Stream | None = None
        self._started = False

    def call(self, handler: Handler, request: Request) -> Answer | None:
        """The handler's answer; None when it streamed one, or when nobody is there to read it."""
        try:
            reply = handler(request)
            if isinstance(reply, Answer):
                return reply
            self._serve(reply, request)
        except (ClientGone, Cancelled, CancelledError):
            self._connection.server.journal.debug(f"{request.method} {request.path}: the client has gone")
            self._abort()
        except Exception as error:  # noqa: BLE001 - the outermost frame of a request
            return self._failed(error, request)
        return None

    def _serve(self, reply: Stream | Hijack, request: Request) -> None:
        """Runs the producer of a stream, or the work on a hijacked connection."""
        if isinstance(reply, Hijack):
            upgrade = bool(request.headers.get("upgrade"))
            self._started = True
            self._run(self._connection.hijack(reply.content_type, upgrade=upgrade))
            reply.work(self)
            return
        self._reply = reply
        reply.produce(self)
        self.start()
        self._run(self._connection.end_stream())

    def _failed(self, error: Exception, request: Request) -> Answer | None:
        """The answer that tells an error, None when an answer has begun: then the connection is cut."""
        status, text = status_and_text(error)
        if status == INTERNAL:
            self._connection.server.journal.failure(f"{request.method} {request.path}: {text}", error)
        if not self._started:
            return failure(status, text)
        self._abort()
        return None

    def _abort(self) -> None:
        """Cuts the connection, if it is still there."""
        with suppress(ClientGone, CancelledError):
            self._run(self._connection.abort())

    def _run(self, work: Coroutine[None, None, T]) -> T:
        """Runs a coroutine on the loop and waits for it. Raises ClientGone when the loop has ended before."""
        try:
            found = asyncio.run_coroutine_threadsafe(work, self._loop)
            while not wait([found], LOOK_S).done:  # what a loop is given as it ends, it never begins
                if self._loop.is_closed():
                    break
            else:
                return found.result()
        except RuntimeError:
            if not self._loop.is_closed():
                raise
        work.close()
        raise ClientGone

    # ---- Body -------------------------------------------------------------------------------------------------------
    def read(self) -> bytes:
        """The next piece of the request's body, b"" at the end; on a hijacked connection what the client writes."""
        raw = self._started and self._reply is None
        return self._run(self._connection.read_raw() if raw else self._connection.read_piece())

    def __iter__(self) -> Iterator[bytes]:
        while part := self.read():
            yield part

    # ---- Sink -------------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Sends the head, once."""
        if not self._started and self._reply is not None:
            self._started = True
            reply = self._reply
            self._run(self._connection.start_stream(reply.status, reply.content_type, reply.headers))

    def write(self, data: bytes) -> None:
        """Sends a piece of a stream, or raw bytes on a hijacked connection."""
        if self._reply is None:
            self._run(self._connection.write(data))
            return
        self.start()
        if data:
            self._run(self._connection.send_data(data))
