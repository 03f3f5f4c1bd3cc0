"""The HTTP server by raw bytes: versions, bodies, streams, errors, clients that go, hijacked connections, the end."""

from __future__ import annotations

import json
import os
import socket
import threading
import time

import pytest

from pyruntime.api.server.router import Route
from pyruntime.api.server.wire import Answer, ClientGone, Hijack, Stream, answer, read_whole
from pyruntime.errors import EngineError
from tests.unit.api.serving import WAIT_S, Serving, read_all, request


def echo(got):
    return answer({"path": got.path, "version": got.version, "params": got.params, "flag": got.query.flag("f"),
                   "filters": got.query.filters()})


def count(got):
    return Answer(200, str(sum(len(part) for part in got.body)).encode(), "text/plain")


def lines(got):
    def produce(sink):
        for number in range(3):
            sink.write(b"%d\n" % number)
        if got.query.flag("fail"):
            raise EngineError("too late", status=409)

    return Stream(produce)


def early(_got):
    def produce(sink):
        raise EngineError("before the first line", status=409)

    return Stream(produce)


def crash(_got):
    raise ZeroDivisionError("never")


def swap(got):
    first = read_whole(got.body)

    def work(pipe):
        pipe.write(b"<" + first + b">")
        while data := pipe.read():
            pipe.write(data.upper())
        pipe.write(b"bye")

    return Hijack(work)


STARTED, GONE = threading.Semaphore(0), threading.Semaphore(0)  # handlers that have begun, that saw their client go


def endless(_got):
    def produce(sink):
        STARTED.release()
        try:
            while True:
                sink.write(b"x" * 65536)
        except ClientGone:
            GONE.release()
            raise

    return Stream(produce)


def patient(got):
    STARTED.release()
    if got.gone.wait(2 * WAIT_S):
        GONE.release()
    return Answer(204)


LARGE = b"0123456789abcdef" * (1 << 14)


def large(got):
    kept = got.body._connection._transport.get_extra_info("socket")
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # the kernel takes it in small pieces
    STARTED.release()
    return Answer(200, LARGE, "text/plain")


def object_(got):
    return answer(got.json())


ROUTES = [Route("GET", "/_ping", lambda got: Answer(200, b"OK", "text/plain"), True), Route("HEAD", "/_ping", lambda got: Answer(200, b"OK", "text/plain"), True),
          Route("GET", "/echo/{name*}/json", echo), Route("GET", "/echo/{id}", echo), Route("POST", "/count", count),
          Route("GET", "/lines", lines), Route("GET", "/early", early), Route("GET", "/crash", crash),
          Route("POST", "/swap", swap), Route("GET", "/endless", endless), Route("GET", "/patient", patient),
          Route("GET", "/large", large), Route("POST", "/object", object_)]


@pytest.fixture(scope="module")
def serving(tmp_path_factory):
    with Serving(tmp_path_factory.mktemp("serving"), ROUTES) as found:
        yield found


def split(raw: bytes) -> tuple[int, dict[str, str], bytes]:
    """(status, headers, body) of one answer."""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *rest = head.decode().split("\r\n")
    return int(first.split()[1]), {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)}, body


@pytest.mark.parametrize(("target", "status", "value"), [
    ("/echo/a/b%2Fc/json?f=1", 200, {"path": "/echo/a/b/c/json", "version": [1, 51], "params": {"name": "a/b/c"}, "flag": True, "filters": {}}),
    ("/v1.30/echo/x?f=no", 200, {"path": "/echo/x", "version": [1, 30], "params": {"id": "x"}, "flag": False, "filters": {}}),
    ("/echo/x?filters=%7B%22a%22%3A%7B%22b%22%3Atrue%2C%22c%22%3Afalse%7D%7D", 200, {"path": "/echo/x", "version": [1, 51], "params": {"id": "x"}, "flag": False, "filters": {"a": ["b"]}}),
    ("/echo/x?filters=%7B%22a%22%3A%5B%22b%22%5D%7D", 200, {"path": "/echo/x", "version": [1, 51], "params": {"id": "x"}, "flag": False, "filters": {"a": ["b"]}}),
    ("http://docker/v1.30/echo/x", 200, {"path": "/echo/x", "version": [1, 30], "params": {"id": "x"}, "flag": False, "filters": {}}),
    ("/echo/x?filters=null", 200, {"path": "/echo/x", "version": [1, 51], "params": {"id": "x"}, "flag": False, "filters": {}}),
    ("/echo/x?filters=nonsense", 400, {"message": "invalid filter: nonsense"}),
    ("/nothing", 404, {"message": "page not found"}),
    ("/v1.99/echo/x", 400, {"message": "client version 1.99 is too new. Maximum supported API version is 1.51"}),
    ("/v1.12/echo/x", 400, {"message": "client version 1.12 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version"}),
    ("/early", 409, {"message": "before the first line"}),
    ("/crash", 500, {"message": "ZeroDivisionError: never"}),
], ids=str)
def test_answers(serving, target, status, value):
    got, headers, body = split(serving.ask(request("GET", target)))
    assert (got, json.loads(body)) == (status, value)
    assert headers["content-type"] == "application/json"
    assert headers["api-version"] == "1.51"


@pytest.mark.parametrize(("body", "kind", "status", "message"), [
    (b'{"a":1}', "application/json", 200, None),
    (b"{}", "application/json; charset=utf-8", 200, None),
    (b"x", "text/plain", 400, "unsupported Content-Type header (text/plain): must be 'application/json'"),
    (b"{", "application/json", 400, "invalid JSON: "),
    (b"[]", "application/json", 400, "invalid JSON: the body has to be an object"),
    (b"null", "application/json", 200, None),
    (b"[" * 100_000, "application/json", 400, "invalid JSON: nested too deeply"),
    (b" " * (4 << 20) + b" ", "application/json", 413, "request body is over 4194304 bytes"),
], ids=["object", "charset", "kind", "broken", "list", "null", "deep", "large"])
def test_json_bodies(serving, body, kind, status, message):
    got, _, text = split(serving.ask(request("POST", "/object", f"Content-Type: {kind}", body=body)))
    assert got == status
    if message is not None:
        assert json.loads(text)["message"].startswith(message)


def test_head_has_the_length_and_no_body(serving):
    status, headers, body = split(serving.ask(request("HEAD", "/_ping")))
    assert (status, headers["content-length"], body) == (200, "2", b"")


def test_a_connection_serves_requests_one_after_the_other(serving):
    one = b"GET /v1.41/_ping HTTP/1.1\r\nHost: x\r\n\r\n"
    raw = serving.ask(one + b"POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12345" + one + request("GET", "/lines"))
    assert raw.count(b"HTTP/1.1 200 OK") == 4
    assert raw.endswith(b"\r\n\r\n2\r\n0\n\r\n2\r\n1\n\r\n2\r\n2\n\r\n0\r\n\r\n")


def test_a_chunked_body_is_read_while_it_comes(serving):
    piece = b"10000\r\n" + b"a" * 65536 + b"\r\n"
    with serving.connect() as found:
        found.sendall(b"POST /count HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n")
        assert found.recv(1000).startswith(b"HTTP/1.1 100 ")
        for _ in range(100):
            found.sendall(piece)
        found.sendall(b"0\r\n\r\n")
        assert split(read_all(found))[2] == b"6553600"


def test_an_error_in_a_stream_cuts_it(serving):
    raw = serving.ask(request("GET", "/lines?fail=1"))
    assert b"2\n" in raw
    assert not raw.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("raw", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * (400 << 10),
                                 b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n"], ids=["words", "head", "length"])
def test_what_is_no_request_is_refused(serving, raw):
    """S62: a head that is too long among it."""
    status, _, body = split(serving.ask(raw))
    assert status in (400, 431)
    assert "malformed request" in json.loads(body)["message"]


def test_a_head_that_breaks_off_is_refused(serving):
    """The client has closed its side and reads."""
    status, _, body = split(serving.ask(b"GET / HTTP/1.1\r\nHost: x\r\n", half_close=True))
    assert status == 400
    assert "malformed request" in json.loads(body)["message"]
    assert serving.ask(b"", half_close=True) == b""


def test_a_refused_client_that_sends_on_reads_why(serving):
    """The answer is not lost to what was sent after it, and the end of the answer is seen at once."""
    with serving.connect() as found:
        found.sendall(b"nonsense\r\n\r\n")
        assert found.recv(1, socket.MSG_PEEK)
        found.sendall(b"a" * (4 << 20))
        assert b"malformed request" in read_all(found)


def test_a_refused_client_that_stays_does_not_hold_the_server(tmp_path, monkeypatch):
    monkeypatch.setattr("pyruntime.api.server.connection.LINGER_S", 10.0 * WAIT_S)
    monkeypatch.setattr("pyruntime.api.server.server.GRACE_S", 10.0 * WAIT_S)
    with Serving(tmp_path, ROUTES) as serving, serving.connect() as found:
        found.sendall(b"nonsense\r\n\r\n")
        assert b"malformed request" in read_all(found)
        serving.end()
        serving.thread.join(WAIT_S)
        assert not serving.thread.is_alive()


def test_an_answer_is_whole_when_the_server_ends(tmp_path):
    """However slowly it is read: what the kernel has not taken yet is not cut off."""
    with Serving(tmp_path, ROUTES) as serving, serving.connect() as found:
        found.sendall(request("GET", "/large"))
        assert STARTED.acquire(timeout=WAIT_S)
        raw = found.recv(100)
        serving.end()
        while part := found.recv(8192):
            raw += part
            time.sleep(0.001)
        assert split(raw)[2] == LARGE


@pytest.mark.parametrize("target", ["/endless", "/patient"])
def test_a_client_that_goes_ends_the_work(serving, target):
    with serving.connect() as found:
        found.sendall(request("GET", target))
        assert STARTED.acquire(timeout=WAIT_S)
    assert GONE.acquire(timeout=WAIT_S)


@pytest.mark.parametrize(("lines_", "first"), [
    (("Upgrade: tcp", "Connection: Upgrade"), b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/vnd.docker.raw-stream\r\n"),
    ((), b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n"),
], ids=["upgrade", "plain"])
def test_a_hijacked_connection_is_a_pipe_with_half_close(serving, lines_, first):
    head = "\r\n".join(["POST /swap HTTP/1.1", "Host: x", "Content-Length: 2", *lines_, "", ""]).encode()
    raw = serving.ask(head + b"{}early", half_close=True)
    assert raw.startswith(first)
    assert raw.endswith(b"\r\n\r\n<{}>EARLYbye")


def test_ping_is_answered_while_every_handler_waits(tmp_path, monkeypatch):
    monkeypatch.setattr("pyruntime.api.server.server.MAX_CONNECTIONS", 2)
    with Serving(tmp_path, ROUTES) as serving, serving.connect() as one, serving.connect() as two:
        for found in (one, two):
            found.sendall(request("GET", "/patient"))
            assert STARTED.acquire(timeout=WAIT_S)
        assert split(serving.ask(request("GET", "/_ping")))[2] == b"OK"
        for found in (one, two):
            found.setblocking(False)
            with pytest.raises(BlockingIOError):
                found.recv(1)
    for _ in range(2):
        assert GONE.acquire(timeout=WAIT_S)


def test_an_idle_server_ends_and_takes_its_name_along(tmp_path):
    with Serving(tmp_path, ROUTES, idle_s=3.0) as found:
        assert split(found.ask(request("GET", "/_ping")))[0] == 200
        found.thread.join(WAIT_S)
        assert not found.thread.is_alive()
        assert not os.path.exists(found.path)


def test_who_has_just_connected_is_served_by_a_server_that_ends(tmp_path, monkeypatch):
    """The end comes between a client's connect and its first request; it waits for it, not for those it has served."""
    ending = threading.Event()
    monkeypatch.setattr("pyruntime.api.server.server.GRACE_S", float(WAIT_S))
    with Serving(tmp_path, ROUTES, idle_s=3.0, ending=ending) as serving, serving.connect() as old, serving.connect() as new:
        old.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert old.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert ending.wait(WAIT_S)
        assert read_all(old).strip(b"OK") == b""
        new.sendall(request("GET", "/_ping"))
        assert split(read_all(new))[2] == b"OK"
        serving.thread.join(WAIT_S)
        assert not serving.thread.is_alive()


def test_a_handler_that_outlives_the_server_ends(tmp_path, monkeypatch):
    """Its thread neither waits for a loop that is no more nor fails there."""
    monkeypatch.setattr("pyruntime.api.server.server.GRACE_S", 0.1)
    go, workers, told = threading.Event(), [], []

    def late(_got):
        def produce(sink):
            workers.append(threading.current_thread())
            STARTED.release()
            go.wait(WAIT_S)
            try:
                sink.write(b"x")
            except ClientGone:
                told.append(True)
                raise

        return Stream(produce)

    with Serving(tmp_path, [Route("GET", "/late", late)]) as serving, serving.connect() as found:
        found.sendall(request("GET", "/late"))
        assert STARTED.acquire(timeout=WAIT_S)
        serving.end()
        serving.thread.join(WAIT_S)
        assert read_all(found) == b""
        go.set()
        workers[0].join(WAIT_S)
        assert told == [True]
