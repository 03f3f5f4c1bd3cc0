"""The init lane as bytes for container-init, and back. The layout is drawn in opcodes.py. Pure."""

from __future__ import annotations

try:
    from _struct import Struct
except ImportError:  # an interpreter that keeps the C half elsewhere
    from struct import Struct

from pyruntime.plan.layout import LAYOUT_HASH
from pyruntime.plan.opcodes import HEADER_SIZE, MAGIC, MAX_ARGS, OPS, RETRY, STEP_SIZE
from pyruntime.plan.step import Deferred, Plan, Step
from pyruntime.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

HEADER = Struct("<IIQIIIIIIII")
STEP = Struct("<HBBBBBB6q")
U32 = Struct("<I")

KINDS = {name: (number, tuple(kind for _, kind in args)) for name, (number, args) in OPS.items()}
SIGN_BIT, MODULUS = 1 << 63, 1 << 64


class Pool:
    """Strings, blobs and vectors, each value once. Offsets count from the start of the plan."""

    def __init__(self, start: int) -> None:
        self.data = bytearray()
        self.start = start
        self.seen: dict[object, int] = {}

    def text(self, value: str) -> int:
        """Offset of `value` ending in NUL. Raises ValueError for a NUL inside."""
        offset = self.seen.get(value)
        if offset is None:
            raw = value.encode("utf-8", "surrogateescape")
            if b"\0" in raw:
                raise ValueError(f"NUL in {value!r}")
            offset = self.seen[value] = self.start + len(self.data)
            self.data += raw
            self.data.append(0)
        return offset

    def blob(self, value: bytes) -> int:
        """Offset of the length and the bytes."""
        offset = self.seen.get(value)
        if offset is None:
            offset = self.seen[value] = self._align()
            self.data += U32.pack(len(value))
            self.data += value
        return offset

    def vector(self, value: tuple[str, ...]) -> int:
        """Offset of the count and the offsets of its texts."""
        offset = self.seen.get(value)
        if offset is None:
            items = [self.text(item) for item in value]
            offset = self.seen[value] = self._align()
            self.data += Struct(f"<{len(items) + 1}I").pack(len(items), *items)
        return offset

    def _align(self) -> int:
        self.data += bytes(-len(self.data) % 8)
        return self.start + len(self.data)


def encode(plan: Plan, *, blobs: Mapping[str, bytes]) -> bytes:
    """The init lane of `plan`; `blobs` are the values of its Deferred arguments. Raises ValueError, KeyError."""
    flat: list[tuple[Step, int, int]] = []  # step, alternatives byte, on_errno
    for step in plan.init_steps():
        flat.append((step, len(step.alternatives), 0))
        flat += [(other, RETRY if other.retry else 0, other.on_errno) for other in step.alternatives]
    pool = Pool(HEADER_SIZE + len(flat) * STEP_SIZE)
    convert: dict[str, Callable[[Any], int]] = {"str": pool.text, "blob": pool.blob, "strv": pool.vector}
    records = [_pack(step, alternatives, on_errno, convert, blobs) for step, alternatives, on_errno in flat]
    header = HEADER.pack(
        MAGIC,
        HEADER_SIZE,
        LAYOUT_HASH,
        len(flat),
        HEADER_SIZE,
        pool.start,
        len(pool.data),
        plan.slots,
        plan.fd_base,
        0,
        0,
    )
    return b"".join((header, *records, pool.data))


def _pack(step: Step, alternatives: int, on_errno: int, convert: Mapping[str, Callable[[Any], int]],
          blobs: Mapping[str, bytes]) -> bytes:  # fmt: skip
    number, kinds = KINDS[step.op]
    args = step.args
    if len(args) != len(kinds):
        raise ValueError(f"{step.op} takes {len(kinds)} arguments, {len(args)} given")
    values = [0] * MAX_ARGS
    for index, kind in enumerate(kinds):
        value: Any = args[index]
        if kind in ("int", "slot"):
            values[index] = value if value < SIGN_BIT else value - MODULUS
        elif value is not None and value != "":  # offset 0 says: not given
            if isinstance(value, Deferred):
                value = blobs[value.kind]
            values[index] = convert[kind](value)
    tolerate = step.tolerate + (0,) * (4 - len(step.tolerate))
    return STEP.pack(number, alternatives, on_errno, *tolerate, *values)


class Decoded(Record):
    """What `encode` made, read back: the init lane with alternatives in place, origins lost."""

    steps: tuple[Step, ...]
    slots: int
    fd_base: int


def decode(data: bytes) -> Decoded:
    """The plan in `data`; for tests and for looking at plans. Raises ValueError for another layout."""
    magic, size, layout, count, steps_offset, _, _, slots, fd_base, _, _ = HEADER.unpack_from(data)
    if magic != MAGIC or size != HEADER_SIZE or layout != LAYOUT_HASH:
        raise ValueError("not a plan of this layout")
    names = {number: name for name, (number, _) in KINDS.items()}
    flat: list[tuple[Step, int]] = []
    for index in range(count):
        number, alternatives, on_errno, *rest = STEP.unpack_from(data, steps_offset + index * STEP_SIZE)
        name = names[number]
        args = tuple(
            _read(data, kind, value) for kind, value in zip(KINDS[name][1], rest[4:], strict=False)
        )  # unused ones are 0
        tolerate = tuple(errno for errno in rest[:4] if errno)
        flat.append((Step(name, args, "", tolerate, (), on_errno, bool(alternatives & RETRY)), alternatives & ~RETRY))
    steps, index = [], 0
    while index < len(flat):
        step, alternatives = flat[index]
        others = tuple(other for other, _ in flat[index + 1 : index + 1 + alternatives])
        steps.append(step.replace(alternatives=others))
        index += 1 + alternatives
    return Decoded(tuple(steps), slots, fd_base)


def _read(data: bytes, kind: str, value: int) -> int | str | bytes | tuple[str, ...]:
    if kind in ("int", "slot"):
        return value
    if kind == "str":
        return _text(data, value) if value else ""
    if not value:
        return b"" if kind == "blob" else ()
    (count,) = U32.unpack_from(data, value)
    if kind == "blob":
        return data[value + 4 : value + 4 + count]
    return tuple(_text(data, offset) for offset in Struct(f"<{count}I").unpack_from(data, value + 4))


def _text(data: bytes, offset: int) -> str:
    return data[offset : data.index(b"\0", offset)].decode("utf-8", "surrogateescape")
