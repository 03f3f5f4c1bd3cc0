"""Registries that mean harm, and what must not come of it: secrets told, memory or time without end, a crash (S51, S64)."""

from __future__ import annotations

import contextlib
import gc
import http.server
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pyruntime.errors import DigestMismatch, ImageError, RegistryError
from pyruntime.image.digest import digest_of
from pyruntime.image.reference import parse_reference
from pyruntime.image.registry import Credentials, HostConfig, RegistryClient
from pyruntime.image.registry.credentials import only_for
from tests.fault_proxy import Fault, FaultProxy, answer, connections_to, fault_proxy
from tests.registry_stand import PASSWORD, QUICK, USER, Authority, put

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("default::ResourceWarning")]
SIZE = 300_000
ANNA = Credentials(USER, PASSWORD)


@pytest.fixture(scope="module")
def content(plain):
    """Content that the registry has in the repository `x`."""
    data = os.urandom(SIZE)
    put(RegistryClient(policy=QUICK), f"{plain.host}/x", data)
    return data


@contextlib.contextmanager
def server(reply: Any, *, tls: Authority | None = None, folder: Any = None) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """(host, requests as (method, path, Authorization)) of a server that calls `reply(handler)` for each."""
    asked: list[tuple[str, str, str]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do(self) -> None:
            asked.append((self.command, self.path, self.headers.get("Authorization", "")))
            with contextlib.suppress(OSError):
                reply(self)

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do  # noqa: N815 # names of http.server

        def log_message(self, *args: object) -> None:
            pass

    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.daemon_threads = True
    if tls is not None:
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls.issue(folder, "hostile"))
        made.socket = context.wrap_socket(made.socket, server_side=True)
    threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"127.0.0.1:{made.server_port}", asked
    finally:
        made.shutdown()
        made.server_close()


def says(status: int, body: bytes = b"", **headers: str) -> Any:
    return lambda handler: answer(handler, status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


def told(error: BaseException) -> str:
    """All that a user or a log may see of an error."""
    found = f"{error!r} {error}"
    if isinstance(error, ImageError):
        found += f" {error.details()}"
    return found


# ---- secrets ----
@pytest.mark.parametrize("token", ["s3cret\r\nX-Evil: 1", "s3cret\n", "s3crét☃"])
def test_a_token_that_is_no_header_is_not_shown(plain, token) -> None:
    client = RegistryClient(HostConfig(certs_folders=()), Credentials(registry_token=token), policy=QUICK)
    with pytest.raises(RegistryError, match="characters that no header may hold") as caught:
        client.ping(plain.host)
    assert "s3cr" not in told(caught.value)


def test_what_cannot_be_sent_is_not_shown(plain, client) -> None:
    """The last line of defence: http.client's error has the header in it."""
    from pyruntime.image.registry.http import Operation

    with pytest.raises(RegistryError, match="characters that no request may hold") as caught:
        client.http.send(Operation(), "GET", f"http://{plain.host}/v2/", {"Authorization": "Bearer s3cret\n"})
    assert "s3cret" not in told(caught.value)


@pytest.mark.parametrize("challenge", ['Basic realm="x"', 'Bearer realm="http://{host}/token",service="s"'])
def test_a_stranger_behind_a_redirect_asks_for_credentials(proxy, content, challenge) -> None:
    with fault_proxy("127.0.0.1:1") as stranger:
        anna = RegistryClient(HostConfig(certs_folders=()), only_for(proxy.host, ANNA), policy=QUICK)
        asks = {"WWW-Authenticate": challenge.format(host=stranger.host)}
        stranger.faults.append(Fault("GET", ".", status=401, headers=asks, times=-1))
        proxy.faults.append(Fault("GET", "/blobs/", status=307, headers={"Location": f"http://{stranger.host}/taken"}, times=-1))
        with pytest.raises(RegistryError, match="unauthorized"):
            list(anna.blob(f"{proxy.host}/x", digest_of(content), SIZE))
        assert {request.path for request in stranger.seen} == {"/taken"}
        assert not any("Authorization" in request.headers for request in stranger.seen)


def test_an_upload_that_is_sent_elsewhere_goes_without_credentials(plain, content, tmp_path) -> None:
    with fault_proxy(plain.host) as proxy, fault_proxy(plain.host) as stranger:
        anna = RegistryClient(HostConfig(certs_folders=()), Credentials(registry_token="t0ken"), policy=QUICK)
        begun = {"Location": f"http://{stranger.host}/v2/x/blobs/uploads/1?_state=2"}
        proxy.faults.append(Fault("POST", "/uploads/", status=202, headers=begun))
        stranger.faults.append(Fault("PUT", ".", status=201, times=-1))
        put(anna, f"{proxy.host}/x", b"small")
        assert [request.method for request in stranger.seen] == ["PUT"]
        assert "Authorization" not in stranger.seen[0].headers
        assert proxy.seen[0].headers["Authorization"] == "Bearer t0ken"


def test_a_token_server_in_the_clear_for_a_registry_with_tls(tmp_path) -> None:
    authority = Authority(tmp_path / "ca")
    with server(says(200, b'{"token":"x"}')) as (token_host, asked):
        asks = says(401, WWW_Authenticate=f'Bearer realm="http://{token_host}/token",service="s"')
        with server(asks, tls=authority, folder=tmp_path) as (host, _):
            client = RegistryClient(HostConfig(certs_folders=()), ANNA, policy=QUICK)
            for call in (client.ping, client.login):
                with pytest.raises(RegistryError, match="is on plain http: refused"):
                    call(host)
        assert asked == []


def test_a_token_server_that_leads_to_the_clear_or_elsewhere(tmp_path) -> None:
    authority = Authority(tmp_path / "ca")
    with server(says(200, b'{"token":"x"}')) as (away, asked):
        with server(says(302, Location=f"http://{away}/token"), tls=authority, folder=tmp_path) as (token_host, first):
            asks = says(401, WWW_Authenticate=f'Bearer realm="https://{token_host}/token",service="s"')
            with server(asks, tls=authority, folder=tmp_path) as (host, _):
                client = RegistryClient(HostConfig(certs_folders=()), ANNA, policy=QUICK)
                with pytest.raises(RegistryError, match="redirect from https to http refused"):
                    client.ping(host)
            assert first[0][2].startswith("Basic ")  # the protocol: the server that the registry named
        assert asked == []
        # to another host in the clear when all is: without the password
        with server(says(302, Location=f"http://{away}/token")) as (token_host, _):
            asks = says(401, WWW_Authenticate=f'Bearer realm="http://{token_host}/token",service="s"')
            with server(asks) as (host, _), pytest.raises(RegistryError):
                RegistryClient(HostConfig(certs_folders=()), ANNA, policy=QUICK).ping(host)
        assert {authorization for _, _, authorization in asked} == {""}


def test_what_a_registry_says_of_a_secret_it_was_sent_is_one_short_line(plain) -> None:
    def echo(handler: http.server.BaseHTTPRequestHandler) -> None:
        said = handler.headers.get("Authorization", "")
        answer(handler, 401, {"WWW-Authenticate": "Basic"}, b'{"errors":[{"code":"UNAUTHORIZED","message":"%s\\u001b[2J\\nmore"}]}' % said.encode())

    with server(echo) as (host, _), pytest.raises(RegistryError) as caught:
        RegistryClient(HostConfig(certs_folders=()), ANNA, policy=QUICK).ping(host)
    assert PASSWORD not in told(caught.value)
    assert "\x1b" not in caught.value.message
    assert "\n" not in caught.value.message


# ---- time and memory ----
def test_a_link_header_that_is_a_puzzle(client) -> None:
    odd = "<a>;" * 16_000
    with server(says(200, b'{"tags":["a"]}', Link=odd)) as (host, _):
        began = time.process_time()
        assert list(client.tags(f"{host}/x")) == ["a"]
        assert time.process_time() - began < 3


def test_warnings_without_end(plain, proxy) -> None:
    said: list[str] = []
    client = RegistryClient(HostConfig(certs_folders=()), policy=QUICK, warn=said.append)
    for number in range(40):
        proxy.faults.append(Fault("GET", "/v2/$", headers={"Warning": f'299 - "{number:02} {"x" * 30_000}"'}))
        client.ping(proxy.host)
    assert len(said) == 20
    assert {len(text) for text in said} == {1000}


def test_scopes_without_end(client) -> None:
    numbers = iter(range(10**6))

    def ask(handler: http.server.BaseHTTPRequestHandler) -> None:
        if handler.path.startswith("/token"):
            answer(handler, 200, {}, b'{"token":"x"}')
            return
        scope = " ".join(f"repository:x{next(numbers)}:pull" for _ in range(10))
        realm = f"http://{handler.headers['Host']}/token"
        answer(handler, 401, {"WWW-Authenticate": f'Bearer realm="{realm}",service="s",scope="{scope}",error="insufficient_scope"'}, b"")

    with server(ask) as (host, asked):
        for _ in range(5):
            with pytest.raises(RegistryError, match="unauthorized"):
                client.ping(host)
        assert max(len(path) for _, path, _ in asked) < 1500


@pytest.mark.parametrize("reply", [
    says(200, b"{}", Docker_Content_Digest="sha256:" + "0" * 64), says(200, b" " * (5 << 20)), says(200, b"[" * 100_000), says(200, b"\xff\xfe"),
    says(200, b"", Content_Length="9" * 5000), says(200, b"x", Content_Length="5, 6"), says(200, b"{}", Content_Length="-1"),
    says(301, Location="http://["), says(202, Location="http://["), says(200, b"{}", Link='<http://[>; rel="next"'), says(301, Location="x" * 60_000), says(401, WWW_Authenticate='Bearer realm="' + "x" * 60_000),
    says(401, WWW_Authenticate="Bearer realm=ftp://x"), says(429, Retry_After="9" * 5000), says(404, b'{"errors":' * 5000),
    lambda handler: handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n"),
    lambda handler: handler.wfile.write(b"HTTP/1.1 200 OK\r\nA: " + b"b" * 100_000 + b"\r\n\r\n"),
    lambda handler: handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\nx"),
    lambda handler: handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nx"),
    lambda handler: handler.wfile.write(b"SSH-2.0-OpenSSH_9\r\n"),
    lambda handler: handler.wfile.write(b"HTTP/1.1 99999999999999999999 OK\r\n\r\n"),
], ids=range(21))  # fmt: skip
def test_any_answer_is_an_image_error(client, reply) -> None:
    """Everywhere: a manifest, its HEAD, a blob, a list, an upload. Never another exception, never a long wait."""

    def closing(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        reply(handler)

    with server(closing) as (host, _):
        name, digest = f"{host}/x", digest_of(b"content")
        calls = [lambda: client.manifest(parse_reference(f"{name}:v1")), lambda: client.manifest(parse_reference(f"{name}:v1"), head=True),
                 lambda: list(client.blob(name, digest, 7)), lambda: list(client.blob(name, digest, 7, 3)), lambda: list(client.tags(name)),
                 lambda: client.referrers(name, digest), lambda: client.has_blob(name, digest), lambda: put(client, name, b"content"),
                 lambda: client.put_manifest(name, "v1", b"{}", "application/vnd.oci.image.manifest.v1+json")]  # fmt: skip
        began = time.monotonic()
        for call in calls:
            with contextlib.suppress(ImageError):
                call()
        assert time.monotonic() - began < 60


def test_an_answer_that_is_refused_leaves_no_socket(client) -> None:
    """One whose lengths contradict each other is refused between the library's two layers; collecting garbage is no close."""
    with server(says(200, b"x", Content_Length="5, 6", Connection="close")) as (host, _):
        gc.disable()
        try:
            before = connections_to(host)
            for _ in range(3):
                with pytest.raises(RegistryError, match="multiple unmatching values"):
                    list(client.blob(f"{host}/x", digest_of(b"content"), 7))
            assert connections_to(host) == before
        finally:
            gc.enable()


# ---- lengths and ranges that lie ----
def fetched(client: RegistryClient, proxy: FaultProxy, content: bytes, offset: int = 0) -> bytes:
    return b"".join(client.blob(f"{proxy.host}/x", digest_of(content), SIZE, offset))


@pytest.mark.parametrize("said", ["", "bytes 5-9/*", "bytes 1000-5/10", f"bytes 1000-{SIZE - 1}/{SIZE + 1}", "bytes " + "9" * 5000 + "-1/*", "nonsense",
                                  "bytes */300000", f"bytes 1000-{SIZE - 1}/{'9' * 5000}"])  # fmt: skip
def test_a_range_that_lies(proxy, client, content, said) -> None:
    proxy.faults.append(Fault("GET", "/blobs/", status=206, body=content[1000:], headers={"Content-Range": said} if said else {}, times=-1))
    with pytest.raises((RegistryError, DigestMismatch)):
        fetched(client, proxy, content, 1000)


def test_a_range_nobody_asked_for(proxy, client, content) -> None:
    proxy.faults.append(Fault("GET", "/blobs/", status=206, body=content[7:], headers={"Content-Range": f"bytes 7-{SIZE - 1}/{SIZE}"}))
    with pytest.raises(RegistryError, match="asked for bytes from 0"):
        fetched(client, proxy, content)


def test_a_body_that_is_longer_than_its_range(proxy, client, content) -> None:
    proxy.faults.append(Fault("GET", "/blobs/", status=206, body=content[1000:] + b"more",
                              headers={"Content-Range": f"bytes 1000-{SIZE - 1}/{SIZE}"}))  # fmt: skip
    with pytest.raises(DigestMismatch, match="is longer than"):
        fetched(client, proxy, content, 1000)


@pytest.mark.parametrize("reached", ["0-0", "0-99", "nonsense", "0-" + "9" * 5000, "0-99999999999"])
def test_a_registry_that_takes_in_nothing(proxy, client, reached, monkeypatch) -> None:
    """The pieces of an upload are said to be fewer, or more, than they are: an end, not the same piece for ever."""
    monkeypatch.setattr("pyruntime.image.registry.upload.PIECE_BYTES", 1 << 20)
    monkeypatch.setattr("pyruntime.image.registry.upload.SINGLE_MAX_BYTES", 100)
    proxy.faults.append(Fault("PATCH", "/uploads/", headers={"Range": reached}, times=-1))
    with tempfile.TemporaryFile() as file, contextlib.suppress(ImageError):
        data = os.urandom(3 << 20)
        file.write(data)
        file.flush()
        client.upload_blob(f"{proxy.host}/up", digest_of(data), file.fileno(), len(data))
    assert proxy.count("PATCH", ".") < 20
