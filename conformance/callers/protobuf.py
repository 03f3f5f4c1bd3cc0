"""Protocol buffers' wire format for messages that are described by tables. Pure.

A schema maps a field's name to (number, kind). A kind is `str`, `bytes`, `int` (any of the varint types, int64 and
below), `bool`, another schema, a list of one kind (repeated) or `MAP` (map<string, string>). What a message has and its
schema lacks is skipped; what it lacks is zero, empty or {}.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

Schema = dict[str, tuple[int, Any]]
MAP = [{"key": (1, str), "value": (2, str)}]
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


def encode(schema: Schema, values: dict[str, Any]) -> bytes:
    """The bytes of a message. Raises KeyError for a name that the schema lacks."""
    out = bytearray()
    for name, value in values.items():
        number, kind = schema[name]
        if kind is MAP:
            entries = [{"key": key, "value": text} for key, text in value.items()]
        else:
            entries = value if isinstance(kind, list) else [value]
        for entry in entries:
            out += _field(number, kind[0] if isinstance(kind, list) else kind, entry)
    return bytes(out)


def decode(schema: Schema, data: bytes) -> dict[str, Any]:
    """The values of a message, by name; every name of the schema is there."""
    found: dict[str, Any] = {name: _zero(kind) for name, (_, kind) in schema.items()}
    names = {number: name for name, (number, _) in schema.items()}
    for number, raw in _fields(data):
        if (name := names.get(number)) is None:
            continue
        kind = schema[name][1]
        if kind is MAP:
            entry = decode(MAP[0], raw)
            found[name][entry["key"]] = entry["value"]
        elif isinstance(kind, list):
            found[name].append(_value(kind[0], raw))
        else:
            found[name] = _value(kind, raw)
    return found


def _zero(kind: Any) -> Any:
    if kind is MAP or isinstance(kind, dict):
        return {}
    return [] if isinstance(kind, list) else kind()


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # a negative int64 is its two's complement
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, kind: Any, value: Any) -> bytes:
    if kind is int or kind is bool:
        return _varint(number << 3 | VARINT) + _varint(int(value))
    content = encode(kind, value) if isinstance(kind, dict) else value.encode() if kind is str else value
    return _varint(number << 3 | LENGTH) + _varint(len(content)) + content


def _value(kind: Any, raw: Any) -> Any:
    if isinstance(kind, dict):
        return decode(kind, raw)
    if kind is str:
        return raw.decode(errors="replace")
    if kind is int:
        return raw - (1 << 64) if raw >> 63 else raw
    return kind(raw)


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def take(size: int) -> bytes:
        nonlocal at
        at += size
        return data[at - size : at]

    while at < len(data):
        key = number()
        kind = key & 7
        if kind == VARINT:
            yield key >> 3, number()
        elif kind == LENGTH:
            yield key >> 3, take(number())
        else:
            yield key >> 3, int.from_bytes(take({FIXED64: 8, FIXED32: 4}[kind]), "little")
