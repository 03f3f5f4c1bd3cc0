"""One client's connection: h11 between an asyncio transport and the handlers.

State is touched on the event loop alone; what a handler's thread needs goes through bridge.Bridge. Bytes wait in `_inbox`
until h11 asks for more; past INBOX_BYTES the transport stops reading, so a body is never faster than its handler.
A client that closes its end while its request is worked on has gone: `gone` is set, the next read or write raises.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import h11

from pyruntime.api.server.bridge import Bridge
from pyruntime.api.server.query import Query
from pyruntime.api.server.router import split_version
from pyruntime.api.server.wire import JSON, Answer, ClientGone, Request, failure
from pyruntime.errors import EngineError

if TYPE_CHECKING:
    from pyruntime.api.server.router import Route
    from pyruntime.api.server.server import Server

HEAD_BYTES = 256 << 10  # the request line and all headers; X-Registry-Config is the longest
HEAD_TIMEOUT_S = 30.0  # from a head's first byte to its last
INBOX_BYTES = 512 << 10
PIECE_BYTES = 256 << 10  # a piece of a body as a handler gets it, about
DRAIN_BYTES = 64 << 20  # of a body nobody read: clients that send all before they read get their answer
LINGER_S = 5.0  # for a client that still sends when its connection ends: RFC 9112 section 9.6
NO_BODY = (204, 304)


class Connection(asyncio.Protocol):
    """Serves requests one after the other until either side closes."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        self._inbox = bytearray()
        self._eof = self._lost = self._head_asked = self._served = False
        self._wake = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._ended = asyncio.Event()
        self.gone = threading.Event()

    # ---- asyncio's side ---------------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Starts the task that serves."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.server.opened(self)
        self.task = asyncio.get_running_loop().create_task(self._run())

    def data_received(self, data: bytes) -> None:
        """Keeps bytes for `_event`."""
        self._inbox += data
        if len(self._inbox) > INBOX_BYTES:
            self._transport.pause_reading()
        self._wake.set()

    def eof_received(self) -> bool:
        """The client's end is closed; ours stays open for the answer."""
        self._eof = True
        self.gone.set()
        self._wake.set()
        return self._transport.get_extra_info("sslcontext") is None  # TLS knows no half-closed connection

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Nothing can be sent any more."""
        self._lost = True
        self.gone.set()
        self._wake.set()
        self._writable.set()
        self._ended.set()
        self.server.closed(self)

    def pause_writing(self) -> None:
        """The client is slow."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._writable.set()

    # ---- requests ---------------------------------------------------------------------------------------------------
    async def _run(self) -> None:
        """Until the last byte of the last answer has left: a server that ends waits for this."""
        try:
            while await self._one():
                pass
            await self._linger()
        except ClientGone:
            pass
        finally:
            self._transport.close()
        await self._ended.wait()

    async def _one(self) -> bool:
        """Serves one request. Whether the connection can take another."""
        try:
            head = await self._event()
        except (h11.RemoteProtocolError, TimeoutError) as error:
            await self._refuse(error)
            return False
        if not isinstance(head, h11.Request):
            return False
        with self.server.work():
            await self._handle(head)
        return await self._settle()

    async def _refuse(self, error: Exception) -> None:
        """Answers what is no request."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        status, text = 408, "the request's head was not complete in time"
        if isinstance(error, h11.RemoteProtocolError):
            status, text = error.error_status_hint, f"malformed request: {error}"
        await self.answer(failure(status, text), close=True)

    async def _linger(self) -> None:
        """Reads on until the client has closed: what is unread when a socket closes takes the answer's end with it."""
        if self._http.their_state in (h11.DONE, h11.MUST_CLOSE, h11.CLOSED):
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while not self._eof and not self._lost:
                    self._take()
                    self._wake.clear()
                    await self._wake.wait()

    async def _handle(self, head: h11.Request) -> None:
        """Finds the handler, runs it, sends its answer."""
        self._served, self._head_asked = True, head.method == b"HEAD"
        loop = asyncio.get_running_loop()
        bridge = Bridge(self, loop)
        try:
            request, route = self._understand(head, bridge)
        except EngineError as error:
            await self.answer(failure(error.status, error.message))
            return
        if route.inline:
            answer = route.handler(request)
            assert isinstance(answer, Answer)
            await self.answer(answer)
            return
        late = await loop.run_in_executor(self.server.pool, bridge.call, route.handler, request)
        if late is not None:
            await self.answer(late)

    def _understand(self, head: h11.Request, bridge: Bridge) -> tuple[Request, Route]:
        """The request and its route. Raises EngineError."""
        raw_path, _, query = head.target.decode("latin-1").partition("?")
        version, path = split_version(raw_path)
        method = head.method.decode("latin-1")
        match = self.server.router.find(method, path)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
        return Request(method, path, version, Query(query), headers, bridge, self.gone, match.params), match.route

    async def _settle(self) -> bool:
        """Makes ready for the next request: reads what is left of a short body. Whether there can be a next one."""
        left = DRAIN_BYTES
        while self._http.their_state is h11.SEND_BODY and left > 0 and not self._http.they_are_waiting_for_100_continue:
            try:
                event = await self._event()
            except h11.RemoteProtocolError:
                return False
            left -= len(event.data) if isinstance(event, h11.Data) else 0
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE and not self._lost:
            self._http.start_next_cycle()
            return not self.server.closing
        return False

    # ---- reading ----------------------------------------------------------------------------------------------------
    async def _event(self, *, patient: bool = True) -> Any:
        """h11's next event; NEED_DATA instead of waiting when not `patient`. Raises RemoteProtocolError, TimeoutError."""
        started = False
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            if self._inbox:
                self._http.receive_data(self._take())
                started = True
            elif self._eof or self._lost:
                self._http.receive_data(b"")
            elif not patient:
                return event
            else:
                if self._http.they_are_waiting_for_100_continue:
                    await self.send(h11.InformationalResponse(status_code=100, headers=[]))
                self._wake.clear()
                limit_s = HEAD_TIMEOUT_S if started and self._http.their_state is h11.IDLE else None
                await asyncio.wait_for(self._wake.wait(), limit_s)

    def _take(self) -> bytes:
        """What has come so far; the transport may read on."""
        data = bytes(self._inbox)
        self._inbox.clear()
        if not self._eof and not self._lost:
            self._transport.resume_reading()
        return data

    async def read_piece(self) -> bytes:
        """The next piece of the body, b"" at its end. Raises ClientGone."""
        parts: list[bytes] = []
        size = 0
        while size < PIECE_BYTES and self._http.their_state is h11.SEND_BODY:
            try:
                event = await self._event(patient=not parts)
            except h11.RemoteProtocolError:
                raise ClientGone from None
            if not isinstance(event, h11.Data):
                break
            parts.append(bytes(event.data))
            size += len(event.data)
        return b"".join(parts)

    async def read_raw(self) -> bytes:
        """After `hijack`: bytes as they come, b"" when the client has closed its side."""
        while not self._inbox and not self._eof and not self._lost:
            self._wake.clear()
            await self._wake.wait()
        return self._take()

    # ---- writing ----------------------------------------------------------------------------------------------------
    async def write(self, data: bytes) -> None:
        """Raw bytes. Returns when the client's buffer has room. Raises ClientGone."""
        if self._lost:
            raise ClientGone
        if data:
            self._transport.write(data)
        await self._writable.wait()
        if self._lost:
            raise ClientGone

    async def send(self, event: Any) -> None:
        """An event of h11. Raises ClientGone."""
        if self._lost:
            raise ClientGone
        await self.write(self._http.send(event) or b"")

    async def answer(self, answer: Answer, *, close: bool = False) -> None:
        """A whole answer. Raises ClientGone."""
        headers = self.server.headers(answer.headers)
        if answer.status not in NO_BODY:
            headers.append(("Content-Length", str(len(answer.body))))
            if answer.body or answer.content_type != JSON:  # no bytes are no JSON
                headers.append(("Content-Type", answer.content_type))
        if close or self.server.closing:
            headers.append(("Connection", "close"))
        await self.send(h11.Response(status_code=answer.status, headers=headers, reason=reason(answer.status)))
        if answer.body and answer.status not in NO_BODY and not self._head_asked:
            await self.send(h11.Data(data=answer.body))
        await self.send(h11.EndOfMessage())

    async def start_stream(self, status: int, content_type: str, headers: tuple[tuple[str, str], ...]) -> None:
        """The head of an answer whose length is not known. Raises ClientGone."""
        lines = [*self.server.headers(headers), ("Content-Type", content_type)]
        await self.send(h11.Response(status_code=status, headers=lines, reason=reason(status)))

    async def send_data(self, data: bytes) -> None:
        """A piece of the body of such an answer. Raises ClientGone."""
        if not self._head_asked:
            await self.send(h11.Data(data=data))

    async def end_stream(self) -> None:
        """Its end. Raises ClientGone."""
        await self.send(h11.EndOfMessage())

    async def hijack(self, content_type: str, *, upgrade: bool) -> None:
        """From here on the connection is a pipe: 101 when the client asked to upgrade, 200 without length otherwise."""
        lines = [f"{name}: {value}" for name, value in self.server.headers(())]
        first, more = "HTTP/1.1 200 OK", []
        if upgrade:
            first, more = "HTTP/1.1 101 UPGRADED", ["Connection: Upgrade", "Upgrade: tcp"]
        self._inbox[:0] = self._http.trailing_data[0]
        self.gone.clear()
        await self.write("\r\n".join([first, *more, f"Content-Type: {content_type}", *lines, "", ""]).encode("latin-1"))

    def leave(self, *, now: bool) -> None:
        """The daemon ends: a request under way is given up when `now`, finished otherwise; between two it closes.

        A client that has just connected has its first request on its way: unless `now` it is waited for.
        """
        if now:
            self.gone.set()
        between = self._http.our_state is h11.IDLE and not self._inbox and (now or self._served)
        if self._http.our_state is h11.MUST_CLOSE or between:
            self._transport.close()

    async def abort(self) -> None:
        """Cuts the connection, so that the client sees that the answer is not whole."""
        self._transport.abort()


def reason(status: int) -> bytes:
    """The phrase of a status line."""
    return HTTPStatus(status).phrase.encode("ascii")
