"""HTTP to a Docker engine: a unix or TCP socket, the version both sides speak, and answers as streams.

One `Client` is one sequence of requests; a connection is used for one request only, so that an answer that was not
read to its end disturbs nobody. Raises ApiError for an answer of 400 and above, Unreachable when nobody listens.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from pyruntime.errors import RuntimeFailure, UsageError
from pyruntime.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

API_VERSION = (1, 51)  # the newest that this client knows
OLDEST = (1, 24)  # of an engine that does not say
CONNECT_TIMEOUT_S = 30.0
PIECE_BYTES = 256 << 10
MAX_MESSAGE_BYTES = 1 << 20


class ApiError(RuntimeFailure):
    """The engine's answer was an error; `status` is its HTTP status, `str()` its message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Unreachable(RuntimeFailure):
    """Nobody answers on the socket."""


class Reply:
    """An answer's head with its body still to be read. Close it, or use it in a `with`."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self._connection = connection
        self._response = response
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}

    def __enter__(self) -> Reply:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; the engine sees a body that was not read as given up."""
        self._response.close()
        self._connection.close()

    def read(self, limit_bytes: int = -1) -> bytes:
        """The rest of the body, or at most `limit_bytes` of it; b"" at its end. Raises Unreachable when it was cut."""
        try:
            return self._response.read() if limit_bytes < 0 else self._response.read(limit_bytes)
        except (http.client.HTTPException, OSError) as error:
            raise Unreachable(f"the engine closed the connection before its answer was complete: {error!r}") from None

    def pieces(self) -> Iterator[bytes]:
        """The body, in pieces as they come."""
        try:
            while piece := self._response.read1(PIECE_BYTES):
                yield piece
        except (http.client.HTTPException, OSError) as error:
            raise Unreachable(f"the engine closed the connection before its answer was complete: {error!r}") from None
        if self._response.length:  # a body of known length that ended early is no error to read1
            raise Unreachable("the engine closed the connection before its answer was complete")

    def json(self) -> Any:
        """The whole body as JSON. Raises ApiError when it is none."""
        try:
            return json.loads(self.read() or b"null")
        except ValueError as error:
            raise ApiError(self.status, f"the engine's answer is no JSON: {error}") from None

    def objects(self) -> Iterator[Any]:
        """Each JSON object of a stream, as soon as its line is complete."""
        rest = b""
        for piece in self.pieces():
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if line.strip():
                    yield json.loads(line)
        if rest.strip():
            yield json.loads(rest)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        """Connects. Raises OSError."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(CONNECT_TIMEOUT_S)
        self.sock.connect(self._path)
        self.sock.settimeout(None)


class Client:
    """An engine at `host` (unix:///path, tcp://name:port), asked in the version both know."""

    def __init__(self, host: str) -> None:
        self.host = host
        self._kind, self._place = parse_host(host)
        self._version: tuple[int, int] | None = None

    def __repr__(self) -> str:
        return f"Client({self.host!r})"

    @property
    def version(self) -> tuple[int, int]:
        """The version that requests are made in, by asking /_ping the first time; $DOCKER_API_VERSION overrules."""
        if self._version is None:
            forced = os.environ.get("DOCKER_API_VERSION", "")
            self._version = parse_version(forced) if forced else self.ping()
        return self._version

    def ping(self) -> tuple[int, int]:
        """The newest version that both sides know. Raises Unreachable."""
        with self._send("HEAD", "/_ping", None, {}) as reply:
            offered = reply.headers.get("api-version", "")
        return min(API_VERSION, parse_version(offered) if offered else OLDEST)

    def request(self, method: str, path: str, query: Mapping[str, Any] | None = None, *,
                body: Iterable[bytes] | bytes | None = None, headers: Mapping[str, str] | None = None) -> Reply:  # fmt: skip
        """Asks for `path` below the version's prefix. Raises ApiError, Unreachable."""
        major, minor = self.version
        target = f"/v{major}.{minor}{quote(path, safe='/:@')}"
        if fields := encode_query(query or {}):
            target += f"?{fields}"
        reply = self._send(method, target, body, dict(headers or {}))
        if reply.status >= 400:
            with reply:
                raise ApiError(reply.status, _message(reply))
        return reply

    def get(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        """The JSON of a GET."""
        with self.request("GET", path, query) as reply:
            return reply.json()

    def post(self, path: str, query: Mapping[str, Any] | None = None, value: Any = None) -> Any:
        """The JSON of a POST whose body is `value`."""
        body = json.dumps(value).encode() if value is not None else b""
        headers = {"Content-Type": "application/json"} if body else {}
        with self.request("POST", path, query, body=body, headers=headers) as reply:
            return reply.json()

    def _send(self, method: str, target: str, body: Iterable[bytes] | bytes | None, headers: dict[str, str]) -> Reply:
        connection = self._connection()
        headers = {"Host": "docker", "User-Agent": f"pyctr/{VERSION} (linux)", **headers}
        try:
            chunked = body is not None and not isinstance(body, bytes)
            try:
                connection.request(method, target, body, headers, encode_chunked=chunked)
            except (BrokenPipeError, ConnectionResetError):
                # the engine answered before it had read all: its answer may be there
                if connection.sock is None:
                    raise
            return Reply(connection, connection.getresponse())
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._unreachable(error) from None

    def _connection(self) -> http.client.HTTPConnection:
        """A connection that is not connected yet."""
        if self._kind == "unix":
            return _UnixConnection(self._place)
        if not os.environ.get("DOCKER_TLS_VERIFY"):
            return http.client.HTTPConnection(self._place)
        import ssl

        folder = os.environ.get("DOCKER_CERT_PATH") or os.path.expanduser("~/.docker")
        context = ssl.create_default_context(cafile=f"{folder}/ca.pem")
        context.load_cert_chain(f"{folder}/cert.pem", f"{folder}/key.pem")
        return http.client.HTTPSConnection(self._place, context=context)

    def _unreachable(self, error: Exception) -> Unreachable:
        """The words that docker's users know, and the cause when it is another than an absent daemon."""
        if isinstance(error, PermissionError):
            return Unreachable("permission denied while trying to connect to the Docker daemon socket at "
                               f"{self.host}: {os.strerror(error.errno or 0).lower()}")  # fmt: skip
        text = f"Cannot connect to the Docker daemon at {self.host}. Is the docker daemon running?"
        if isinstance(error, (FileNotFoundError, ConnectionRefusedError)):
            return Unreachable(text)
        cause = error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)
        return Unreachable(text, value=cause or type(error).__name__)


def parse_host(host: str) -> tuple[str, str]:
    """("unix", path) or ("tcp", "name:port"). Raises UsageError."""
    scheme, found, place = host.partition("://")
    if not found:
        scheme, place = "tcp", host
    if scheme == "unix" and place.startswith("/"):
        return "unix", place
    if scheme in ("tcp", "http") and place.strip("/"):
        place = place.rstrip("/")
        tls = bool(os.environ.get("DOCKER_TLS_VERIFY"))
        return "tcp", place if ":" in place.rpartition("]")[2] else f"{place}:{2376 if tls else 2375}"
    raise UsageError(f"unable to parse docker host `{host}`", hint="write unix:///path/to/socket or tcp://name:port")


def parse_version(text: str) -> tuple[int, int]:
    """(1, 41) of "1.41". Raises UsageError."""
    major, _, minor = text.partition(".")
    if not (major.isascii() and major.isdigit() and minor.isascii() and minor.isdigit()):
        raise UsageError(f"API version {text!r} is not of the form 1.41", hint="see DOCKER_API_VERSION")
    return int(major), int(minor)


def encode_query(query: Mapping[str, Any]) -> str:
    """A query string: None and "" are left out, True is 1, False 0, a list repeats its key, a dict is JSON."""
    pairs: list[tuple[str, str]] = []
    for key, value in query.items():
        if isinstance(value, bool):
            pairs.append((key, "1" if value else "0"))
        elif isinstance(value, dict):
            pairs += [(key, json.dumps(value, separators=(",", ":")))] if value else []
        elif isinstance(value, (list, tuple)):
            pairs += [(key, str(item)) for item in value]
        elif value is not None and value != "":
            pairs.append((key, str(value)))
    return urlencode(pairs)


def _message(reply: Reply) -> str:
    """The message of an error's body."""
    raw = reply.read(MAX_MESSAGE_BYTES)
    try:
        value = json.loads(raw)
    except ValueError:
        value = None
    if isinstance(value, dict) and isinstance(value.get("message"), str):
        return str(value["message"])
    return raw.decode("utf-8", "replace").strip() or f"the engine answered {reply.status}"
