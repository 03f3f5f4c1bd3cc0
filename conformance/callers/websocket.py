"""The streaming side of exec and attach: a WebSocket (RFC 6455) with Kubernetes' channels, over a pair of pipes.

The first byte of a message is its channel: 0 stdin, 1 stdout, 2 stderr, 3 the call's status (JSON), 4 a terminal's size.
"""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from conformance.callers.stand import wait_for

if TYPE_CHECKING:
    from types import TracebackType

    from conformance.callers.stand import Stand

PROTOCOL = "v4.channel.k8s.io"
STDIN, STDOUT, STDERR, STATUS, RESIZE = range(5)
BINARY, CLOSE = 2, 8


class Stream:
    """One connection to a URL that Exec or Attach gave; the way into the stand is a netcat there."""

    def __init__(self, stand: Stand, url: str) -> None:
        parts = urlsplit(url)
        self.heard = dict.fromkeys(range(5), b"")
        self.closed = False
        self._raw = b""
        self._call = subprocess.Popen(
            stand.argv("busybox", "nc", parts.hostname, parts.port), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [f"GET {parts.path} HTTP/1.1", f"Host: {parts.netloc}", "Upgrade: websocket", "Connection: Upgrade",
                 f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Protocol: {PROTOCOL}"]  # fmt: skip
        self._write("\r\n".join([*lines, "", ""]).encode())
        wait_for(lambda: (self._read(), b"\r\n\r\n" in self._raw)[1], lambda: f"an answer to the upgrade: {self._raw!r}")
        head, _, self._raw = self._raw.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._call.kill()
        self._call.wait()
        for file in (self._call.stdin, self._call.stdout):
            if file is not None:
                file.close()

    def send(self, channel: int, content: bytes) -> None:
        """One message; a client's frames are masked."""
        body = bytes([channel]) + content
        assert len(body) < 126, "longer frames have another head"
        mask = os.urandom(4)
        self._write(bytes([0x80 | BINARY, 0x80 | len(body)]) + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(body)))

    def wait(self, channel: int, wanted: bytes) -> None:
        """Until that channel has had the text."""
        wait_for(lambda: wanted in self.look()[channel], lambda: f"{wanted!r} in {self.heard}")

    def status(self) -> dict[str, Any]:
        """How the command ended, as the API's Status object."""
        wait_for(lambda: self.look()[STATUS].endswith(b"}"), lambda: f"a status in {self.heard}")
        found: dict[str, Any] = json.loads(self.heard[STATUS])
        return found

    def look(self) -> dict[int, bytes]:
        """All that came so far, by channel."""
        self._read()
        while (frame := _frame(self._raw)) is not None:
            kind, body, size = frame
            self._raw = self._raw[size:]
            if kind == BINARY and body:
                self.heard[body[0]] += body[1:]
            self.closed |= kind == CLOSE
        return self.heard

    def _write(self, content: bytes) -> None:
        assert self._call.stdin is not None
        self._call.stdin.write(content)
        self._call.stdin.flush()

    def _read(self) -> None:
        assert self._call.stdout is not None
        file = self._call.stdout.fileno()
        while select.select([file], [], [], 0)[0] and (more := os.read(file, 65536)):
            self._raw += more


def _frame(raw: bytes) -> tuple[int, bytes, int] | None:
    """(kind, content, size) of the first frame of a server, when it is whole."""
    if len(raw) < 2:
        return None
    length, start = raw[1] & 0x7F, 2
    if length >= 126:
        start += 2 if length == 126 else 8
        length = int.from_bytes(raw[2:start], "big")
    return (raw[0] & 0x0F, raw[start : start + length], start + length) if len(raw) >= start + length else None
