"""The D-Bus wire, as much of it as a client of systemd needs: values to bytes and back, a connection, calls, signals.

A library would import a dozen modules of the standard library, which takes longer than all that is said to systemd.
Here nothing is waited for that need not be: credentials, Hello and the first calls go out in one write, as the answers
come in the order of the questions. Source: D-Bus Specification 0.43, Type System, Message Protocol, Authentication.

    auth    NUL "AUTH EXTERNAL " hex of the uid CR LF "BEGIN" CR LF         answer "OK " guid CR LF
    message byte order, type, flags, 1, u32 body size, u32 serial, a(yv) fields, padding to 8, body
"""

from __future__ import annotations

from _struct import pack, unpack_from
from posix import geteuid

from pyruntime.errors import HostError
from pyruntime.native import wait

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CALL, REPLY, ERROR, SIGNAL = 1, 2, 3, 4
PATH, INTERFACE, MEMBER, ERROR_NAME, REPLY_SERIAL, DESTINATION, SIGNATURE = 1, 2, 3, 4, 5, 6, 8
NUMBERS = {"y": "B", "b": "I", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d"}
ALIGNMENT = {"y": 1, "g": 1, "v": 1, "n": 2, "q": 2, "x": 8, "t": 8, "d": 8, "(": 8, "{": 8}  # all others 4
MAX_MESSAGE = 1 << 27
CALL_TIMEOUT_MS = 25_000
HINT = "is systemd the init of this host, and its bus there? or leave --systemd-cgroup out"


# -- values

def type_end(signature: str, at: int = 0) -> int:
    """Where the complete type that begins at `at` ends."""
    while signature[at] == "a":
        at += 1
    if signature[at] not in "({":
        return at + 1
    depth = 0
    while True:
        depth += (signature[at] in "({") - (signature[at] in ")}")
        at += 1
        if not depth:
            return at


def marshal(out: bytearray, signature: str, values: Any) -> bytearray:
    """Append `values`, one for each complete type of `signature`, to `out`, whose start is aligned to 8 bytes."""
    at = 0
    for value in values:
        end = type_end(signature, at)
        _put(out, signature[at:end], value)
        at = end
    return out


def _put(out: bytearray, kind: str, value: Any) -> None:
    _align(out, ALIGNMENT.get(kind[0], 4))
    if kind in NUMBERS:
        out += pack(f"<{NUMBERS[kind]}", value)
    elif kind in ("s", "o"):
        data = value.encode("utf-8", "surrogateescape")
        out += pack("<I", len(data)) + data + b"\0"
    elif kind == "g":
        out += pack("<B", len(value)) + value.encode("ascii") + b"\0"
    elif kind == "v":
        _put(out, "g", value[0])
        _put(out, value[0], value[1])
    elif kind[0] == "a":
        _put_array(out, kind[1:], value)
    else:
        marshal(out, kind[1:-1], value)


def _put_array(out: bytearray, kind: str, values: Any) -> None:
    """Its size in bytes without the padding before the first element."""
    at = len(out)
    out += b"\0\0\0\0"
    _align(out, ALIGNMENT.get(kind[0], 4))
    start = len(out)
    if kind == "y":
        out += bytes(values)
    else:
        for value in values:
            _put(out, kind, value)
    out[at : at + 4] = pack("<I", len(out) - start)


def _align(out: bytearray, size: int) -> None:
    out += bytes(-len(out) % size)


def unmarshal(data: bytes, signature: str, at: int = 0, order: str = "<") -> tuple[list[Any], int]:
    """The values of `signature` and where they end; a variant is a pair (signature, value), an array a list.

    Raises ValueError when they do not fit into `data`.
    """
    values, place = [], 0
    while place < len(signature):
        end = type_end(signature, place)
        value, at = _get(data, signature[place:end], at, order)
        values.append(value)
        place = end
    return values, at


def _get(data: bytes, kind: str, at: int, order: str) -> tuple[Any, int]:
    at += -at % ALIGNMENT.get(kind[0], 4)
    try:
        if kind in NUMBERS:
            (value,) = unpack_from(order + NUMBERS[kind], data, at)
            return bool(value) if kind == "b" else value, at + ALIGNMENT.get(kind, 4)
        if kind in ("s", "o", "g"):
            (size,) = unpack_from(order + ("B" if kind == "g" else "I"), data, at)
            at += 1 if kind == "g" else 4
            return data[at : at + size].decode("utf-8", "surrogateescape"), at + size + 1
        if kind == "v":
            inner, at = _get(data, "g", at, order)
            value, at = _get(data, inner, at, order)
            return (inner, value), at
        if kind[0] == "a":
            return _get_array(data, kind[1:], at, order)
    except Exception as error:
        if type(error).__name__ != "error":  # struct.error, whose module would have to be imported
            raise
        raise ValueError("a message of D-Bus is cut") from error
    return unmarshal(data, kind[1:-1], at, order)


def _get_array(data: bytes, kind: str, at: int, order: str) -> tuple[list[Any], int]:
    (size,) = unpack_from(f"{order}I", data, at)
    at += 4
    at += -at % ALIGNMENT.get(kind[0], 4)
    end, values = at + size, []
    if end > len(data):
        raise ValueError("a message of D-Bus is cut")
    while at < end:
        value, at = _get(data, kind, at, order)
        values.append(value)
    return values, at


# -- messages

class Message:
    """One that has come. `fields` by number; `body` is what its signature says."""

    def __init__(self, kind: int, fields: dict[int, Any], body: list[Any]) -> None:
        self.kind, self.fields, self.body = kind, fields, body


def call_bytes(serial: int, fields: tuple[tuple[int, str, str], ...], signature: str, body: tuple[Any, ...]) -> bytes:
    """A method call. `fields` are (number, signature, value); empty values are left out."""
    content = marshal(bytearray(), signature, body)
    listed = [(number, (kind, value)) for number, kind, value in (*fields, (SIGNATURE, "g", signature)) if value]
    head = marshal(bytearray(), "yyyyuua(yv)", (ord("l"), CALL, 0, 1, len(content), serial, listed))
    _align(head, 8)
    return bytes(head + content)


def message_size(data: bytes) -> int:
    """The whole size of the message whose first 16 bytes are in `data`. Raises ValueError."""
    order = "<" if data[:1] == b"l" else ">"
    body, _, fields = unpack_from(f"{order}III", data, 4)
    size = 16 + fields + -fields % 8 + body
    if data[:1] not in (b"l", b"B") or size > MAX_MESSAGE:
        raise ValueError("what came is no message of D-Bus")
    return int(size)


def parse_message(data: bytes) -> Message:
    """A whole message. Raises ValueError."""
    order = "<" if data[:1] == b"l" else ">"
    head, at = unmarshal(data, "yyyyuua(yv)", 0, order)
    fields = {number: value for number, (_, value) in head[6]}
    at += -at % 8
    body, _ = unmarshal(data[at:], fields.get(SIGNATURE, ""), 0, order)
    return Message(head[1], fields, body)


# -- a connection

class Bus:
    """A connection to a bus. Nothing is sent before the first `wait`; a context manager."""

    def __init__(self, address: str) -> None:
        from _socket import AF_UNIX, SOCK_STREAM, socket

        self.socket = socket(AF_UNIX, SOCK_STREAM)
        self.socket.connect(socket_path(address))
        uid = "".join(f"{ord(digit):02x}" for digit in str(geteuid()))
        self.out = b"\0AUTH EXTERNAL " + uid.encode() + b"\r\nBEGIN\r\n"
        self.data = b""
        self.serial = 0
        self.greeted = False
        self.signals: list[Message] = []
        self.replies: dict[int, Message] = {}
        self.ignored = {self.send("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello")}

    def __enter__(self) -> Bus:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, destination: str, path: str, interface: str, member: str, signature: str = "",
             *body: Any) -> int:  # fmt: skip
        """Put a call into the next write; its number for `reply`."""
        self.serial += 1
        fields = ((PATH, "o", path), (INTERFACE, "s", interface), (MEMBER, "s", member), (DESTINATION, "s", destination))
        self.out += call_bytes(self.serial, fields, signature, body)
        return self.serial

    def reply(self, serial: int) -> Message:
        """The answer to that call, an error too. Raises HostError when none comes in time."""
        while serial not in self.replies:
            if not self._receive(CALL_TIMEOUT_MS):
                raise HostError("systemd does not answer: timed out", hint=HINT)
        return self.replies.pop(serial)

    def signal(self, timeout_ms: int) -> Message | None:
        """The next signal, None when there is none in time."""
        while not self.signals:
            if not self._receive(timeout_ms):
                return None
        return self.signals.pop(0)

    def _receive(self, timeout_ms: int) -> bool:
        """Take in one message; False when the time is over."""
        if self.out:
            self.socket.sendall(self.out)
            self.out = b""
        while True:
            message = self._take()
            if message is not None:
                self._sort(message)
                return True
            if not wait.until(self.socket.fileno(), timeout_ms):
                return False
            chunk = self.socket.recv(65536)
            if not chunk:
                raise HostError("systemd does not answer: the bus has hung up", hint=HINT)
            self.data += chunk

    def _take(self) -> Message | None:
        """A whole message out of what has come, after the line that ends the authentication."""
        if not self.greeted:
            line, end, rest = self.data.partition(b"\r\n")
            if not end:
                return None
            if not line.startswith(b"OK "):
                raise HostError("systemd's bus refuses this user", value=line.decode("ascii", "replace"), hint=HINT)
            self.greeted, self.data = True, rest
        if len(self.data) < 16 or len(self.data) < (size := message_size(self.data)):
            return None
        data, self.data = self.data[:size], self.data[size:]
        return parse_message(data)

    def _sort(self, message: Message) -> None:
        if message.kind == SIGNAL:
            self.signals.append(message)
        elif message.fields.get(REPLY_SERIAL) not in self.ignored:
            self.replies[message.fields.get(REPLY_SERIAL, 0)] = message


def socket_path(address: str) -> str:
    """Where to connect for an address of a bus, of which the first of kind `unix` counts. Raises ValueError."""
    for part in address.split(";"):
        kind, _, pairs = part.partition(":")
        values = dict(pair.split("=", 1) for pair in pairs.split(",") if "=" in pair)
        if kind == "unix" and "path" in values:
            return _unescape(values["path"])
        if kind == "unix" and "abstract" in values:
            return "\0" + _unescape(values["abstract"])
    raise ValueError(f"no socket in the address {address}")


def _unescape(text: str) -> str:
    head, *rest = text.split("%")
    return head + "".join(chr(int(part[:2], 16)) + part[2:] for part in rest)
