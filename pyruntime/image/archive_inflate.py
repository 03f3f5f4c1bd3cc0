"""The outer compression of an archive, recognised by its first bytes and taken off while reading.

gzip, bzip2, xz and zstd, also several members or frames in a row. Output comes in bounded pieces whatever the input
claims, and ends with an error past a limit.
"""

from __future__ import annotations

from typing import cast

from pyruntime.errors import InvalidImage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Read = Callable[[int], bytes]

CHUNK_BYTES = 1 << 20
LIMIT_BYTES = 1 << 40
XZ_MEMORY_BYTES = 256 << 20  # a dictionary of `xz -9` takes 65 MiB
_MAGIC = ((b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ\x00", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"))


def sniff(head: bytes) -> str:
    """gzip, bzip2, xz, zstd, or "" for anything else; six bytes are enough."""
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if len(head) >= 4 and 0x50 <= head[0] <= 0x5F and head[1:4] == b"\x2a\x4d\x18":  # a skippable frame
        return "zstd"
    return ""


def inflating(read: Read, *, limit_bytes: int = LIMIT_BYTES) -> Read:
    """A reader of what `read` gives, without its compression; of plain bytes it gives them as they are.

    Raises InvalidImage for damaged or cut input and past `limit_bytes` of output.
    """
    head, whole = peek(read)
    kind = sniff(head)
    return _Inflater(whole, kind, limit_bytes).read if kind else whole


def peek(read: Read) -> tuple[bytes, Read]:
    """(the first bytes, enough for `sniff`; a reader that gives all of it, those included)."""
    head = _at_least(read, 6)
    return head, _Pushed(read, head).read


class _Pushed:
    """A reader with bytes put back in front."""

    def __init__(self, read: Read, head: bytes) -> None:
        self._read, self._head = read, head

    def read(self, size: int) -> bytes:
        if self._head:
            data, self._head = self._head[:size], self._head[size:]
            return data
        return self._read(size)


class _Inflater:
    """One member after the other; what follows the last one may only be zeros."""

    def __init__(self, source: Read, kind: str, limit_bytes: int) -> None:
        self._source, self._kind, self._limit = source, kind, limit_bytes
        self._left = limit_bytes
        self._pending = b""
        self._make, self._errors = _library(kind)
        self._member: Any = None
        self._ended = False

    def read(self, size: int) -> bytes:
        while not self._ended:
            try:
                data = self._more(size)
            except self._errors as error:
                raise self._bad(str(error)) from None
            if data:
                self._left -= len(data)
                if self._left < 0:
                    raise self._bad(f"more than {self._limit} bytes when unpacked")
                return data
        return b""

    def _more(self, size: int) -> bytes:
        if self._member is None and not self._begin():
            return b""
        exhausted = False
        if not self._pending and getattr(self._member, "needs_input", True):
            self._pending = self._source(CHUNK_BYTES)
            exhausted = not self._pending
        given, self._pending = self._pending, b""
        data = self._member.decompress(given, size)
        if self._member.eof:
            self._pending, self._member = self._member.unused_data, None
        elif exhausted and not data:
            raise self._bad("cut short")
        elif self._kind == "gzip":
            self._pending = self._member.unconsumed_tail
        return bytes(data)

    def _begin(self) -> bool:
        """A new member, when there is one."""
        self._pending = (self._pending or self._source(CHUNK_BYTES)).lstrip(b"\0")
        if not self._pending:
            probe = self._source(CHUNK_BYTES)
            self._pending = probe.lstrip(b"\0")
            self._ended = not probe
            if not self._pending:
                return False
        if len(self._pending) < 6:
            self._pending += _at_least(self._source, 6 - len(self._pending))
        if sniff(self._pending) != self._kind:
            raise self._bad("something else follows its end")
        self._member = self._make()
        return True

    def _bad(self, what: str) -> InvalidImage:
        return InvalidImage(f"the archive's {self._kind} compression is damaged: {what}", value=self._kind,
                            hint="is the file complete?")


def _library(kind: str) -> tuple[Callable[[], Any], tuple[type[Exception], ...]]:
    """(what makes a decompressor, what it raises)."""
    if kind == "gzip":
        try:
            from isal import isal_zlib as zlib
        except ImportError:
            import zlib  # type: ignore[no-redef]
        return lambda: zlib.decompressobj(wbits=31), (cast("type[Exception]", zlib.error), ValueError)
    if kind == "bzip2":
        import bz2

        return bz2.BZ2Decompressor, (OSError, EOFError, ValueError)
    if kind == "xz":
        import lzma

        return lambda: lzma.LZMADecompressor(memlimit=XZ_MEMORY_BYTES), (lzma.LZMAError, EOFError)
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        from backports import zstd
    return zstd.ZstdDecompressor, (zstd.ZstdError, EOFError)


def _at_least(read: Read, size: int) -> bytes:
    data = b""
    while len(data) < size and (piece := read(size - len(data))):
        data += piece
    return data
