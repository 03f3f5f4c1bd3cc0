"""What a handler takes and gives: Request, Answer, Stream, and their JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

from pyruntime.errors import EngineError
from pyruntime.record import Record

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

    from pyruntime.api.server.query import Query

JSON = "application/json"
MAX_JSON_BYTES = 4 << 20  # a body that is read whole


class ClientGone(Exception):
    """The client closed its connection: nobody reads the answer, the work may be given up."""


class Body(Protocol):
    """A request's body as a stream; `read` blocks, so only for handlers in a thread."""

    def read(self) -> bytes:
        """The next piece, b"" at the end. Raises ClientGone."""

    def __iter__(self) -> Iterator[bytes]:
        """All pieces."""


class Sink(Protocol):
    """Where a Stream's producer writes. The status line goes out with the first call of either method."""

    def start(self) -> None:
        """Sends the head at once. After it an error can only be told inside the stream."""

    def write(self, data: bytes) -> None:
        """Sends `data`, blocks while the client is slow. Raises ClientGone."""


class Request(Record):
    """One request. `version` is (1, 41) below /v1.41, the newest without prefix; names of headers are lower case."""

    method: str
    path: str  # decoded, without the version's prefix
    version: tuple[int, int]
    query: Query
    headers: dict[str, str]
    body: Body
    gone: threading.Event  # set when the client has closed its end
    params: dict[str, str]  # what the braces of the route's pattern matched

    def json(self) -> dict[str, Any]:
        """The body as a JSON object, {} for an empty one and for null. Raises EngineError 400."""
        raw = read_whole(self.body)
        if not raw.strip():
            return {}
        kind = self.headers.get("content-type", "")
        if kind.partition(";")[0].strip().lower() not in ("", JSON):
            raise EngineError(f"unsupported Content-Type header ({kind}): must be 'application/json'", status=400)
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else error
            raise EngineError(f"invalid JSON: {reason}", status=400) from None
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise EngineError("invalid JSON: the body has to be an object", status=400)
        return value


class Answer(Record):
    """A whole answer."""

    status: int = 200
    body: bytes = b""
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


class Stream(Record):
    """An answer of unknown length. An error that `produce` raises before its first write becomes an ordinary answer."""

    produce: Callable[[Sink], None]
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()
    status: int = 200


class Duplex(Protocol):
    """A hijacked connection: plain bytes both ways. Its end closes the connection."""

    def read(self) -> bytes:
        """What the client has sent, b"" when it has closed its side."""

    def write(self, data: bytes) -> None:
        """Sends `data`, blocks while the client is slow. Raises ClientGone."""


class Hijack(Record):
    """An answer that takes the connection over: 101 for a client that asks to upgrade, else 200 without a length."""

    work: Callable[[Duplex], None]
    content_type: str = "application/vnd.docker.raw-stream"


def read_whole(body: Body, limit_bytes: int = MAX_JSON_BYTES) -> bytes:
    """All of a body. Raises EngineError 413 past the limit."""
    parts, size = [], 0
    for part in body:
        size += len(part)
        if size > limit_bytes:
            raise EngineError(f"request body is over {limit_bytes} bytes", status=413)
        parts.append(part)
    return b"".join(parts)


def lower_keys(value: dict[str, Any]) -> dict[str, Any]:
    """An object's own keys in lower case: the reference engine matches names of fields without regard to case."""
    return {key.lower(): entry for key, entry in value.items()}


def encode(value: Any) -> bytes:
    """Compact JSON with a newline, as the reference engine writes it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def answer(value: Any, status: int = 200) -> Answer:
    """`value` as a JSON answer."""
    return Answer(status, encode(value))


def failure(status: int, message: str) -> Answer:
    """The one shape of every error."""
    return answer({"message": message}, status)
