"""The client behind an HTTP proxy that leads names nobody else knows to real registries."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import threading

import pytest

from pyruntime.errors import RegistryError
from pyruntime.image.digest import digest_of
from pyruntime.image.registry import HostConfig, RegistryClient, RetryPolicy, from_environment
from tests.registry_stand import Authority, put, registry

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("default::ResourceWarning")]
QUICK = RetryPolicy(attempts=2, base_s=0.02, cap_s=0.1)
NAME = "registry.test:5000"


class Proxy:
    """CONNECT, and the absolute URL that begins a connection; `places` leads names to addresses, `secret` is `user:password`."""

    def __init__(self, places: dict[str, tuple[str, int]], secret: str = "") -> None:
        self.places, self.secret, self.lines = places, secret, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self.listener.accept()[0],), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), client.makefile("rb") as file:
            head = [file.readline()]
            while head[-1].strip():
                head.append(file.readline())
            method, target, version = head[0].split()
            self.lines.append(head[0].decode().strip())
            wanted = b"proxy-authorization: basic " + base64.b64encode(self.secret.encode()).lower()
            if self.secret and not any(line.lower().strip() == wanted for line in head):
                client.sendall(b"HTTP/1.1 407 who are you\r\nContent-Length: 0\r\n\r\n")
                return
            place, _, path = target.decode().removeprefix("http://").partition("/")
            with socket.create_connection(self.places[place]) as server:
                if method == b"CONNECT":
                    client.sendall(b"HTTP/1.1 200 go on\r\n\r\n")
                else:
                    head[0] = b"%s /%s %s\r\n" % (method, path.encode(), version)
                    server.sendall(b"".join(line for line in head if not line.lower().startswith(b"proxy-")))
                back = threading.Thread(target=self._copy, args=(server, client), daemon=True)
                back.start()
                while data := file.read1(65536):
                    server.sendall(data)
                with contextlib.suppress(OSError):
                    server.shutdown(socket.SHUT_WR)
                back.join()

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def proxy(places, secret: str = ""):
    made = Proxy(places, secret)
    try:
        yield made
    finally:
        made.listener.close()


def test_https_goes_through_a_tunnel(tmp_path) -> None:
    authority = Authority(tmp_path / "ca")
    folder = tmp_path / "certs.d" / NAME
    folder.mkdir(parents=True)
    (folder / "ca.crt").write_bytes(authority.path.read_bytes())
    with registry(tmp_path / "r", authority=authority) as made, proxy({NAME: ("127.0.0.1", made.port)}, "anna:pass word") as through:
        environment = {"HTTPS_PROXY": f"http://anna:pass%20word@{through.host}", "NO_PROXY": "example.org"}
        client = RegistryClient(from_environment(environment, certs_folders=(str(tmp_path / "certs.d"),)), policy=QUICK)
        data = os.urandom(6 << 20)
        put(client, f"{NAME}/x", data)
        assert client.blob_bytes(f"{NAME}/x", digest_of(data), len(data)) == data
        assert {line.rpartition(" ")[0] for line in through.lines} == {f"CONNECT {NAME}"}
        wrong = {"HTTPS_PROXY": f"http://anna:wrong@{through.host}"}
        with pytest.raises(RegistryError, match=f"the proxy for {NAME} failed: .*407") as caught:
            RegistryClient(from_environment(wrong, certs_folders=(str(tmp_path / "certs.d"),)), policy=QUICK).ping(NAME)
        assert "wrong" not in str(caught.value)


def test_http_goes_by_absolute_urls(tmp_path) -> None:
    with registry(tmp_path / "r") as made, proxy({NAME: ("127.0.0.1", made.port)}) as through:
        hosts = HostConfig(http_proxy=through.host, https_proxy=through.host, insecure=(NAME,), certs_folders=())
        client, data = RegistryClient(hosts, policy=QUICK), os.urandom(5000)
        put(client, f"{NAME}/x", data)
        assert client.blob_bytes(f"{NAME}/x", digest_of(data), len(data)) == data
        assert f"POST http://{NAME}/v2/x/blobs/uploads/ HTTP/1.1" in through.lines
        # loopback is asked directly, whatever the settings
        asked = len(through.lines)
        assert client.blob_bytes(f"{made.host}/x", digest_of(data), len(data)) == data
        assert len(through.lines) == asked


def test_a_proxy_that_is_not_there() -> None:
    hosts = HostConfig(https_proxy="http://127.0.0.1:1", certs_folders=())
    with pytest.raises(RegistryError, match="the proxy for registry.test failed|cannot connect"):
        RegistryClient(hosts, policy=QUICK).ping("registry.test")
