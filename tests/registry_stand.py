"""Debian's docker-registry on loopback for tests: plain, with TLS, with htpasswd, with tokens, as a mirror.

Each `Registry` is a process with a folder and a port of its own, stopped by its pid. `Authority` makes certificates,
`TokenServer` is a token server of this process (registries only check its signatures). Faults in between are in
fault_proxy.py.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import http.client
import http.server
import ipaddress
import json
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from pyruntime.image.registry import RegistryClient, RetryPolicy
from tests.small_images import digest_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.small_images import Made

PROGRAM = "docker-registry"
WAIT_S = 60.0
USER, PASSWORD = "anna", "s3cret, with: signs"
QUICK = RetryPolicy(attempts=4, base_s=0.02, cap_s=0.1)


def reserved_port() -> socket.socket:
    """A TCP port of loopback that the kernel gives to nobody else as long as this socket is open.

    A server that sets SO_REUSEADDR, as Go's and Python's do, may listen on it (socket(7)).
    """
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("127.0.0.1", 0))
    return made


class Registry:
    """One docker-registry. `host` is its name for references; `folder` holds its storage, config and log."""

    def __init__(self, folder: Path, *, authority: Authority | None = None, auth: dict[str, Any] | None = None,
                 remote: str = "") -> None:
        if shutil.which(PROGRAM) is None:
            pytest.skip("needs docker-registry (Debian: docker-registry)")
        folder.mkdir(parents=True, exist_ok=True)
        self._reserved = reserved_port()
        self.folder, self.port = folder, self._reserved.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        self.scheme = "https" if authority else "http"
        web: dict[str, Any] = {"addr": self.host, "relativeurls": False}
        if authority:
            web["tls"] = dict(zip(("certificate", "key"), authority.issue(folder, "server")))
        config = {"version": 0.1, "log": {"level": "info"}, "http": web, **({"auth": auth} if auth else {}),
                  "storage": {"filesystem": {"rootdirectory": str(folder / "storage")}, "delete": {"enabled": not remote}},
                  **({"proxy": {"remoteurl": remote}} if remote else {})}
        # JSON is YAML
        (folder / "config.yml").write_text(json.dumps(config))
        self._log = (folder / "log").open("w")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Starts the process, after `stop` too; until it listens."""
        self._process = subprocess.Popen([PROGRAM, "serve", str(self.folder / "config.yml")], stdin=subprocess.DEVNULL,
                                         stdout=self._log, stderr=self._log)
        end = time.monotonic() + WAIT_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < end, (self.folder / "log").read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """Ends it for good."""
        self.stop()
        self._log.close()
        self._reserved.close()

    def blobs(self) -> set[str]:
        """Digests of the content it stores."""
        top = self.folder / "storage/docker/registry/v2/blobs/sha256"
        return {f"sha256:{path.name}" for path in top.glob("*/*")}

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        """Status and body of a plain GET, by another hand than the client under test."""
        connection = http.client.HTTPConnection(self.host, timeout=WAIT_S)
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@contextlib.contextmanager
def registry(folder: Path, **more: Any) -> Iterator[Registry]:
    """A running docker-registry; stopped at the end."""
    made = Registry(folder, **more)
    try:
        yield made
    finally:
        made.close()


def put(client: RegistryClient, name: str, data: bytes, **more: Any) -> str:
    """Uploads bytes; what upload_blob says."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        return client.upload_blob(name, digest_of(data), file.fileno(), len(data), **more)


def push_made(client: RegistryClient, name: str, made: Made, *targets: str) -> None:
    """Uploads an image, under its digest when no target is given."""
    for data in made.blobs.values():
        put(client, name, data)
    for target in targets or (made.digest,):
        client.put_manifest(name, target, made.manifest, made.media_type)


def upload(found: Registry, path: str, made: Made, *targets: str) -> None:
    """The same to a registry that asks nobody who they are."""
    push_made(RegistryClient(policy=QUICK), f"{found.host}/{path}", made, *targets)


def htpasswd(folder: Path) -> dict[str, Any]:
    """The `auth` of a registry that knows USER by PASSWORD."""
    import bcrypt

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "htpasswd"
    path.write_text(f"{USER}:{bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()}\n")
    return {"htpasswd": {"realm": "the stand", "path": str(path)}}


class Authority:
    """A certificate authority; `path` is its certificate."""

    def __init__(self, folder: Path, name: str = "pyruntime test") -> None:
        from cryptography.hazmat.primitives.asymmetric import rsa

        folder.mkdir(parents=True, exist_ok=True)
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.name = self._named(name)
        self.certificate = self._sign(self.key, self.name, authority=True)
        self.path = folder / "ca.crt"
        self.path.write_bytes(pem(self.certificate))

    @staticmethod
    def _named(name: str) -> Any:
        from cryptography import x509
        from cryptography.x509.oid import NameOID

        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])

    def _sign(self, key: Any, name: Any, *, authority: bool) -> Any:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes

        now = dt.datetime.now(dt.UTC)
        names = [x509.DNSName("localhost"), x509.DNSName("registry.test"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        return (
            x509.CertificateBuilder().subject_name(name).issuer_name(self.name).public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1)).not_valid_after(now + dt.timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self.key, hashes.SHA256())
        )  # fmt: skip

    def issue(self, folder: Path, name: str) -> tuple[str, str]:
        """(certificate, key) for loopback, in files of the folder."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import rsa

        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        (folder / f"{name}.cert").write_bytes(pem(self._sign(key, self._named(name), authority=False)))
        (folder / f"{name}.key").write_bytes(key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()))
        return str(folder / f"{name}.cert"), str(folder / f"{name}.key")


def pem(certificate: Any) -> bytes:
    """A certificate as text."""
    from cryptography.hazmat.primitives import serialization

    return certificate.public_bytes(serialization.Encoding.PEM)


class TokenServer:
    """Signs tokens with RS256 and the certificate in x5c. Knows USER by PASSWORD, and identity tokens it gave out.

    Anybody may pull below `open/`, USER may do anything. `asked` has what was asked: (method, parameters, user).
    """

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.expires_s = 300
        self.lasts_s: float | None = None  # what signatures last for, when it is not what is said
        self.asked: list[tuple[str, dict[str, list[str]], str]] = []
        self.identities: set[str] = set()
        self.failures: list[tuple[int, dict[str, str]]] = []  # answers to give first
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer._get(self)

            def do_POST(self) -> None:
                outer._post(self)

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.realm = f"http://127.0.0.1:{self.server.server_port}/token"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def auth(self) -> dict[str, Any]:
        """The `auth` of a registry that trusts this server."""
        return {"token": {"realm": self.realm, "service": "the stand", "issuer": "the issuer",
                          "rootcertbundle": str(self.authority.path)}}

    def close(self) -> None:
        """Ends the server."""
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()

    def _get(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        query = parse_qs(urlsplit(handler.path).query)
        kind, _, word = handler.headers.get("Authorization", "").partition(" ")
        pair = base64.b64decode(word).decode() if kind == "Basic" else ""
        self.asked.append(("GET", query, pair.partition(":")[0]))
        if pair not in ("", f"{USER}:{PASSWORD}"):
            _answer(handler, 401, {"errors": [{"code": "UNAUTHORIZED", "message": "incorrect username or password"}]})
            return
        more = {}
        if pair and query.get("offline_token") == ["true"]:
            more["refresh_token"] = str(uuid.uuid4())
            self.identities.add(more["refresh_token"])
        self._grant(handler, query.get("scope", []), pair.partition(":")[0], more)

    def _post(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        form = parse_qs(handler.rfile.read(int(handler.headers["Content-Length"])).decode())
        self.asked.append(("POST", form, ""))
        if form.get("grant_type") != ["refresh_token"] or form["refresh_token"][0] not in self.identities:
            _answer(handler, 401, {"errors": [{"code": "UNAUTHORIZED", "message": "unknown identity token"}]})
            return
        self._grant(handler, form.get("scope", [""])[0].split(), USER, {"refresh_token": form["refresh_token"][0]})

    def _grant(self, handler: http.server.BaseHTTPRequestHandler, scopes: list[str], user: str, more: dict[str, str]) -> None:
        if self.failures:
            status, headers = self.failures.pop(0)
            _answer(handler, status, {}, headers)
            return
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            allowed = actions.split(",") if user else [a for a in actions.split(",") if a == "pull" and name.startswith("open/")]
            access.append({"type": kind, "name": name, "actions": allowed})
        token = self.sign(access, user)
        key = "access_token" if handler.command == "POST" else "token"
        _answer(handler, 200, {key: token, "expires_in": self.expires_s, **more})

    def sign(self, access: list[dict[str, Any]], user: str) -> str:
        """A signed token (RFC 7519)."""
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import padding

        now = time.time()
        der = self.authority.certificate.public_bytes(serialization.Encoding.DER)
        head = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
        lasts = self.expires_s if self.lasts_s is None else self.lasts_s
        claims = {"iss": "the issuer", "sub": user, "aud": "the stand", "exp": int(now + lasts), "nbf": int(now - 90),
                  "iat": int(now), "jti": str(uuid.uuid4()), "access": access}
        text = ".".join(_b64(json.dumps(part).encode()) for part in (head, claims))
        signature = self.authority.key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{text}.{_b64(signature)}"


@contextlib.contextmanager
def token_server(folder: Path) -> Iterator[TokenServer]:
    """A running token server; ended at the end."""
    made = TokenServer(Authority(folder))
    try:
        yield made
    finally:
        made.close()


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _answer(handler: http.server.BaseHTTPRequestHandler, status: int, document: Any, headers: dict[str, str] | None = None) -> None:
    raw = json.dumps(document).encode()
    handler.send_response(status)
    for name, value in {"Content-Type": "application/json", "Content-Length": str(len(raw)), **(headers or {})}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(raw)
