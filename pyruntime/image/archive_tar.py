"""Tar archives of images, read and written as streams: the few kinds of entries that they hold, nothing on disk.

For the archives of save and load alone; what is inside of a layer is unpacked elsewhere. Every length is checked before
anything is read into memory. Formats: ustar with its prefix, GNU long names and base-256 sizes, PAX path, linkpath and
size (POSIX.1-2001, pax).
"""

from __future__ import annotations

from pyruntime.errors import InvalidImage
from pyruntime.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Read = Callable[[int], bytes]  # up to n bytes, b"" at the end
    Write = Callable[[bytes], object]

BLOCK = 512
NAME_BYTES = 100  # of a header's name
CHUNK_BYTES = 1 << 20
NAME_MAX_BYTES = 4096
HEADER_MAX_BYTES = 1 << 20  # of one PAX or long-name record
ENTRIES_MAX = 100_000
SIZE_MAX = (1 << 63) - 1
_ZERO = bytes(BLOCK)
_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL = b"L", b"K", b"x", b"g"
_KINDS = {b"1": "hardlink", b"2": "symlink", b"5": "directory", b"3": "other", b"4": "other", b"6": "other"}


class Entry(Record):
    """`kind`: file, directory, symlink, hardlink or other. `name` and `target` as they stand there."""

    name: str
    kind: str
    size: int = 0
    target: str = ""


class TarReader:
    """Iterate over it for the entries; `chunks` gives the content of the one that was last given."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._left = 0  # of the entry's content
        self._padding = 0
        self._count = 0

    def __iter__(self) -> Iterator[Entry]:
        more: dict[str, str] = {}
        while (block := self._header()) is not None:
            self._count += 1
            if self._count > ENTRIES_MAX:
                raise _bad(f"has more than {ENTRIES_MAX} entries")
            kind, size = block[156:157], _number(block[124:136])
            if kind in (_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL):
                self._begin(size)
                more |= self._extension(kind, size)
                continue
            entry = _entry(block, kind, size, more)
            more = {}
            self._begin(entry.size)
            yield entry
            self._skip()
        self._drain()

    def chunks(self) -> Iterator[bytes]:
        """The content, in pieces of at most CHUNK_BYTES."""
        while self._left:
            data = self._read(min(self._left, CHUNK_BYTES))
            if not data:
                raise _bad("is cut short inside of an entry")
            self._left -= len(data)
            yield data

    def _begin(self, size: int) -> None:
        self._left, self._padding = size, -size % BLOCK

    def _skip(self) -> None:
        for _ in self.chunks():
            pass
        if self._padding:
            self._exactly(self._padding)
            self._padding = 0

    def _drain(self) -> None:
        """Reads what stands after the end, so that whoever writes the stream is not cut off."""
        while self._read(CHUNK_BYTES):
            pass

    def _exactly(self, size: int) -> bytes:
        pieces = []
        while size:
            piece = self._read(size)
            if not piece:
                raise _bad("is cut short")
            size -= len(piece)
            pieces.append(piece)
        return b"".join(pieces)

    def _header(self) -> bytes | None:
        """The next header, None at the end: a block of zeros, or no block."""
        first = self._read(BLOCK)
        if not first:
            if not self._count:
                raise _bad("is empty")
            return None
        block = first + self._exactly(BLOCK - len(first)) if len(first) < BLOCK else first
        if block == _ZERO:
            return None
        summed = block[:148] + b" " * 8 + block[156:]
        unsigned = sum(summed)
        signed = unsigned - 256 * sum(byte > 127 for byte in summed)  # as some old writers counted
        if _number(block[148:156]) not in (unsigned, signed):
            raise _bad("is no tar archive, or damaged: the checksum of a header is wrong")
        return block

    def _extension(self, kind: bytes, size: int) -> dict[str, str]:
        """What a header says about the next one."""
        if size > HEADER_MAX_BYTES:
            raise _bad(f"has a header of {size} bytes")
        data = b"".join(self.chunks())
        self._skip()
        if kind == _PAX_GLOBAL:
            return {}
        if kind == _PAX:
            return _pax_records(data)
        return {"path" if kind == _LONG_NAME else "linkpath": _text(data)}


def _entry(block: bytes, kind: bytes, size: int, more: dict[str, str]) -> Entry:
    name = _text(block[:100])
    if block[257:263] == b"ustar\0" and (prefix := _text(block[345:500])):
        name = f"{prefix}/{name}"
    name = more.get("path", name)
    target = more.get("linkpath", _text(block[157:257]))
    if "size" in more:
        if not more["size"].isascii() or not more["size"].isdigit():
            raise _bad(f"has an entry of size {more['size']!r}")
        size = int(more["size"][:20])
    for text in (name, target):
        if len(text.encode("utf-8", "surrogateescape")) > NAME_MAX_BYTES:
            raise _bad("has a name that is too long")
    if not 0 <= size <= SIZE_MAX:
        raise _bad(f"has an entry of size {size}")
    plain = kind in (b"0", b"\0", b"7")
    if not (plain or kind in _KINDS) or any(key.startswith("GNU.sparse") for key in more):
        raise _bad(f"has an entry of an unknown kind: {kind!r}", value=name)
    if plain:
        return Entry(name, "directory" if name.endswith("/") else "file", size)
    return Entry(name, _KINDS[kind], 0 if kind in (b"1", b"2") else size, target)


def _pax_records(data: bytes) -> dict[str, str]:
    """`length key=value newline`, one after the other; the length counts itself."""
    found: dict[str, str] = {}
    at, end = 0, len(data.rstrip(b"\0"))
    while at < end:
        digits, space, _ = data[at : at + 24].partition(b" ")
        if not space or not digits.isdigit() or not len(digits) + 3 <= (length := int(digits)) <= len(data) - at:
            raise _bad("has a PAX record of a wrong length")
        record = data[at + len(digits) + 1 : at + length]
        key, equals, value = record[:-1].partition(b"=")
        if not equals or record[-1:] != b"\n":
            raise _bad("has a PAX record that is not `key=value`")
        found[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        at += length
    return found


def _number(field: bytes) -> int:
    """An octal text, or base 256 with the top bit set (GNU)."""
    if field[0] & 0x80:
        return int.from_bytes(bytes((field[0] & 0x7F,)) + field[1:], "big") if field[0] != 0xFF else -1
    text = field.split(b"\0", 1)[0].strip()
    if text and not all(48 <= digit < 56 for digit in text):
        raise _bad("is no tar archive, or damaged: a number of a header cannot be read")
    return int(text or b"0", 8)


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _bad(what: str, *, value: str = "") -> InvalidImage:
    return InvalidImage(f"the archive {what}", value=value, hint="was it written to its end, by save or by an image tool?")


class TarWriter:
    """Entries one after the other to `write`. No time, no owner: what is written depends on the content alone."""

    def __init__(self, write: Write) -> None:
        self._write = write

    def directory(self, name: str) -> None:
        """A directory, mode 0755."""
        self._write(_make_header(name.rstrip("/") + "/", b"5", 0, 0o755))

    def file(self, name: str, data: bytes) -> None:
        """A small file, mode 0644."""
        self.stream(name, len(data), iter((data,)))

    def stream(self, name: str, size: int, pieces: Iterator[bytes]) -> None:
        """A file of `size` bytes. Raises InvalidImage when the pieces come to another size."""
        self._write(_make_header(name, b"0", size, 0o644))
        written = 0
        for piece in pieces:
            written += len(piece)
            if written > size:
                break
            self._write(piece)
        if written != size:
            raise InvalidImage(f"{name} has another size than {size} bytes", value=name)
        self._write(bytes(-size % BLOCK))

    def close(self) -> None:
        """The end of the archive."""
        self._write(_ZERO * 2)


def _make_header(name: str, kind: bytes, size: int, mode: int) -> bytes:
    """A ustar header, after a PAX header for a name of over 100 bytes. A size of 8 GiB and more is in base 256."""
    encoded = name.encode()
    if len(encoded) > NAME_BYTES:  # content named by sha512
        record = b" path=%s\n" % encoded
        record = b"%d%s" % (len(record) + 3, record)
        long_name = _make_header("PaxHeader", b"x", len(record), 0o644) + record + bytes(-len(record) % BLOCK)
        return long_name + _make_header(name[:NAME_BYTES], kind, size, mode)
    length = b"%011o\0" % size if size < 1 << 33 else b"\x80" + size.to_bytes(11, "big")
    numbers = b"%07o\x000000000\x000000000\0" % mode + length + b"00000000000\0"
    block = (encoded.ljust(NAME_BYTES, b"\0") + numbers + b" " * 8 + kind).ljust(257, b"\0") + b"ustar\x0000"
    block = block.ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]
