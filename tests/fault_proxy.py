"""A proxy in front of a real registry that hands everything on, but for the faults it was given.

    with fault_proxy(registry) as proxy:
        proxy.faults.append(Fault("GET", "/blobs/", cut_at=1000, times=2))
        ... client asks proxy.host ...
        proxy.seen  # every request: (method, path, headers)
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import http.server
import os
import re
import socket
import struct
import termios
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE = 16384
GATE_S = 120.0  # after so long a gate that nobody sets lets everything through


class Fault:
    """What is done to requests whose method and path match, `times` times (-1: always), after `skip` good ones.

    status: answered here. cut_at: the answer's body, or with a body to send the request's, is cut after so many
    bytes, by a reset (`reset`) or a plain end. corrupt: the byte at that place is another one. headers: set in the
    answer ("" takes one away). no_range: the request's Range is not handed on. slow_s: wait between pieces. gate: what
    has to be set before anything is done, or with hold_at before the answer goes on after so many bytes of its body.
    """

    def __init__(self, method: str, path: str, *, times: int = 1, skip: int = 0, status: int = 0, cut_at: int = -1,
                 reset: bool = False, corrupt: int = -1, headers: dict[str, str] | None = None, body: bytes = b"",
                 no_range: bool = False, slow_s: float = 0.0, gate: threading.Event | None = None, hold_at: int = -1) -> None:
        self.method, self.path, self.times, self.skip = method, re.compile(path), times, skip
        self.status, self.cut_at, self.reset, self.corrupt = status, cut_at, reset, corrupt
        self.headers, self.body, self.no_range, self.slow_s, self.gate = headers or {}, body, no_range, slow_s, gate
        self.hold_at = hold_at
        self.hits = 0


class Seen(NamedTuple):
    """A request that came in."""

    method: str
    path: str
    headers: dict[str, str]


class FaultProxy:
    """See the module docstring. `active` requests are those whose answer's last bytes have not been sent."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.active = self.most_active = self.sent = self.connections = 0  # requests, and bytes of bodies handed on
        self._left = threading.local()
        self._lock = threading.Lock()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 120

            def setup(self) -> None:
                super().setup()
                outer.connections += 1

            def do(self) -> None:
                outer.handle(self)

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do  # noqa: N815 # names of http.server

            def log_message(self, *args: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *args: object) -> None:
                pass  # cuts are what this is for

        self.server = Server(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the server."""
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()

    def count(self, method: str, path: str) -> int:
        """Requests seen whose path has a match."""
        return sum(1 for request in self.seen if request.method == method and re.search(path, request.path))

    def _pick(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.method == method and fault.path.search(path) and fault.times:
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    fault.hits += 1
                    return fault
        return None

    def handle(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        """One request."""
        headers = dict(handler.headers.items())
        self.seen.append(Seen(handler.command, handler.path, headers))
        fault = self._pick(handler.command, handler.path) or Fault("", "")
        with self._lock:
            self._left.left = False
            self.active += 1
            self.most_active = max(self.active, self.most_active)
        try:
            if fault.gate is not None and fault.hold_at < 0:
                fault.gate.wait(GATE_S)
            if fault.status:
                _drain(handler, int(headers.get("Content-Length", 0)))
                self._leave()
                answer(handler, fault.status, fault.headers, fault.body)
                return
            if fault.no_range:
                headers.pop("Range", None)
            self._forward(handler, headers, fault)
        finally:
            self._leave()

    def _leave(self) -> None:
        """This thread's request is no longer active: its client may see the end of the answer and send the next one."""
        with self._lock:
            self.active -= not self._left.left
            self._left.left = True

    def _forward(self, handler: http.server.BaseHTTPRequestHandler, headers: dict[str, str], fault: Fault) -> None:
        connection = http.client.HTTPConnection(self.upstream, timeout=60)
        try:
            connection.putrequest(handler.command, handler.path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            if not self._send(handler, connection, int(headers.get("Content-Length", 0)), fault):
                _cut(handler, reset=fault.reset)
                return
            self._answer(handler, connection.getresponse(), fault)
        finally:
            connection.close()

    def ask(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body) of what the upstream answers."""
        connection = http.client.HTTPConnection(self.upstream, timeout=60)
        try:
            connection.request(method, path, body, headers)
            got = connection.getresponse()
            given = {name: value for name, value in got.getheaders() if name.lower() not in {"date", "connection"}}
            return got.status, given, got.read()
        finally:
            connection.close()

    def _send(self, handler: http.server.BaseHTTPRequestHandler, connection: http.client.HTTPConnection, length: int,
              fault: Fault) -> bool:
        """Hands the request's body on; False when it was cut."""
        done = 0
        while done < length:
            data = handler.rfile.read(min(PIECE, length - done))
            if not data:
                return False
            if 0 <= fault.cut_at < done + len(data):
                connection.send(data[: fault.cut_at - done])
                time.sleep(0.1)
                return False
            connection.send(data)
            done += len(data)
        return True

    def _head(self, handler: http.server.BaseHTTPRequestHandler, answer: http.client.HTTPResponse, fault: Fault) -> None:
        handler.send_response(answer.status)
        given = {name: value for name, value in answer.getheaders() if name.lower() not in {"date", "connection"}}
        for name, value in fault.headers.items():
            given = {known: old for known, old in given.items() if known.lower() != name.lower()}
            if value:
                given[name] = value
        for name, value in given.items():
            handler.send_header(name, value)
        if not answer.length:
            self._leave()
        handler.end_headers()

    def _answer(self, handler: http.server.BaseHTTPRequestHandler, answer: http.client.HTTPResponse, fault: Fault) -> None:
        self._head(handler, answer, fault)
        done = 0
        while data := answer.read(PIECE):
            if not answer.length:
                self._leave()
            if done <= fault.corrupt < done + len(data):
                at = fault.corrupt - done
                data = data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]
            if 0 <= fault.cut_at < done + len(data):
                handler.wfile.write(data[: fault.cut_at - done])
                _cut(handler, reset=fault.reset)
                return
            if fault.gate is not None and done <= fault.hold_at < done + len(data):
                fault.gate.wait(GATE_S)
            handler.wfile.write(data)
            done += len(data)
            with self._lock:
                self.sent += len(data)
            if fault.slow_s:
                time.sleep(fault.slow_s)


def answer(handler: http.server.BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes) -> None:
    """A whole answer."""
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


def connections_to(host: str) -> int:
    """How many sockets of this process are connected to a host and port."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError), socket.fromfd(int(name), socket.AF_INET, socket.SOCK_STREAM) as one:
            found += one.getpeername() == (host.partition(":")[0], int(host.partition(":")[2]))
    return found


def _drain(handler: http.server.BaseHTTPRequestHandler, length: int) -> None:
    while length > 0 and (data := handler.rfile.read(min(PIECE, length))):
        length -= len(data)


def _wait_sent(connection: socket.socket) -> None:
    """Returns when the other side's kernel has everything (SIOCOUTQ, tcp(7)): a reset drops what was not sent yet."""
    end = time.monotonic() + 30
    while struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, b"\0" * 4))[0] and time.monotonic() < end:
        time.sleep(0.005)


def _cut(handler: Any, *, reset: bool) -> None:
    """Ends the connection in the middle."""
    handler.close_connection = True
    with contextlib.suppress(OSError):
        handler.wfile.flush()
        if reset:
            _wait_sent(handler.connection)
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
        else:
            handler.connection.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    """A running proxy before `upstream`, a host and port; ended at the end."""
    made = FaultProxy(upstream)
    try:
        yield made
    finally:
        made.close()
