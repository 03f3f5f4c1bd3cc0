"""The client: hosts, queries, the version both sides speak, errors, answers that are cut."""

from __future__ import annotations

import socket
import threading

import pytest

from pyruntime.api.client.connection import ApiError, Client, Unreachable, encode_query, parse_host, parse_version
from pyruntime.api.server.router import Route
from pyruntime.api.server.wire import Answer, Stream, answer, failure
from pyruntime.errors import EngineError, UsageError
from tests.unit.api.serving import Serving


@pytest.mark.parametrize(("host", "found"), [
    ("unix:///run/x.sock", ("unix", "/run/x.sock")), ("tcp://h:1", ("tcp", "h:1")), ("h:1", ("tcp", "h:1")), ("tcp://h", ("tcp", "h:2375")),
    ("tcp://[::1]:9/", ("tcp", "[::1]:9")), ("http://h:1", ("tcp", "h:1")),
])
def test_hosts(host, found):
    assert parse_host(host) == found


@pytest.mark.parametrize("host", ["unix://relative", "ssh://h", "npipe:////./pipe/x", "tcp://"])
def test_wrong_hosts(host):
    with pytest.raises(UsageError, match="unable to parse docker host"):
        parse_host(host)


def test_a_host_with_tls_has_its_own_port(monkeypatch):
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    assert parse_host("tcp://h") == ("tcp", "h:2376")


@pytest.mark.parametrize(("query", "text"), [
    ({"a": "b c", "n": None, "e": "", "t": True, "f": False}, "a=b+c&t=1&f=0"), ({"names": ["x", "y"]}, "names=x&names=y"), ({"filters": {}}, ""),
    ({"filters": {"a": {"b": True}}}, "filters=%7B%22a%22%3A%7B%22b%22%3Atrue%7D%7D"), ({"n": 0}, "n=0"),
], ids=str)
def test_queries(query, text):
    assert encode_query(query) == text


def test_versions():
    assert parse_version("1.41") == (1, 41)
    with pytest.raises(UsageError):
        parse_version("new")


OFFERED = "1.30"


def lines(got):
    def produce(sink):
        sink.write(b'{"n":1}\r\n{"n"')
        sink.write(b":2}\n")
        if got.query.flag("cut"):
            raise EngineError("late", status=500)
        sink.write(b'{"n":3}')

    return Stream(produce)


ROUTES = [
    Route("HEAD", "/_ping", lambda _: Answer(200, b"", "text/plain", (("Api-Version", OFFERED),))),
    Route("GET", "/where", lambda got: answer({"version": got.version, "agent": got.headers["user-agent"]})),
    Route("GET", "/plain", lambda _: Answer(500, b"no json", "text/plain")),
    Route("GET", "/failing", lambda _: failure(409, "in the way")),
    Route("GET", "/lines", lines),
    Route("POST", "/count", lambda got: answer(sum(map(len, got.body)))),
    Route("POST", "/early", lambda _: failure(400, "enough")),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with Serving(tmp_path_factory.mktemp("serving"), ROUTES) as serving:
        yield Client(f"unix://{serving.path}")


def test_the_older_of_both_versions_is_spoken(client, monkeypatch):
    found = client.get("/where")
    assert found["version"] == [1, 30]
    assert found["agent"].startswith("pyctr/")
    monkeypatch.setenv("DOCKER_API_VERSION", "1.25")
    assert Client(client.host).get("/where")["version"] == [1, 25]


@pytest.mark.parametrize(("path", "status", "message"), [("/failing", 409, "in the way"), ("/plain", 500, "no json"), ("/none", 404, "page not found")])
def test_errors(client, path, status, message):
    with pytest.raises(ApiError) as error:
        client.get(path)
    assert (error.value.status, str(error.value)) == (status, message)


def test_objects_come_one_by_one_and_a_cut_is_seen(client):
    with client.request("GET", "/lines") as reply:
        assert [value["n"] for value in reply.objects()] == [1, 2, 3]
    with client.request("GET", "/lines", {"cut": True}) as reply, pytest.raises(Unreachable, match="before its answer was complete"):
        list(reply.objects())


def test_bodies_are_streamed_and_may_be_refused_early(client):
    with client.request("POST", "/count", body=(b"x" * 100_000 for _ in range(20))) as reply:
        assert reply.json() == 2_000_000
    with pytest.raises(ApiError, match="enough"):
        client.request("POST", "/early", body=(b"x" * 100_000 for _ in range(100)))


def test_an_early_answer_is_read_when_the_engine_has_closed():
    """Over TCP what it left unread makes the client's next write fail with ECONNRESET, not EPIPE."""
    closed = threading.Event()

    def serve() -> None:
        with listener.accept()[0] as found:
            while b"begun" not in found.recv(1 << 16, socket.MSG_PEEK):
                pass
            found.sendall(b'HTTP/1.1 400 No\r\nContent-Length: 20\r\n\r\n{"message":"enough"}')
        closed.set()

    def body():
        yield b"begun"
        assert closed.wait(60)
        yield b"more"

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        client = Client(f"tcp://127.0.0.1:{listener.getsockname()[1]}")
        client._version = (1, 40)
        with pytest.raises(ApiError, match="enough"):
            client.request("POST", "/x", body=body())
        thread.join()


def test_nobody_listens(tmp_path):
    with pytest.raises(Unreachable, match=r"^Cannot connect to the Docker daemon at unix://.*\. Is the docker daemon running\?$"):
        Client(f"unix://{tmp_path}/none").ping()
