"""Headers of tar entries: ustar, and PAX records only for what it cannot say. Pure, deterministic."""

from __future__ import annotations

from base64 import b64encode

BLOCK = 512
NAME, PREFIX = 100, 155


def record(key: bytes, value: bytes) -> bytes:
    """One PAX record, `LENGTH KEY=VALUE` and a newline; the length counts itself."""
    body = b" " + key + b"=" + value + b"\n"
    length = len(body)
    while length != len(body) + len(b"%d" % length):
        length = len(body) + len(b"%d" % length)
    return b"%d" % length + body


def _octal(number: int, size: int) -> bytes:
    return b"%0*o\0" % (size - 1, number)


def _fits(number: int, size: int) -> bool:
    beyond: int = 8 ** (size - 1)
    return 0 <= number < beyond


def _block(name: bytes, kind: bytes, prefix: bytes = b"", link: bytes = b"", *, mode: int = 0o644, size: int = 0,
           owner: tuple[int, int] = (0, 0), mtime: int = 0, device: tuple[int, int] = (0, 0)) -> bytes:  # fmt: skip
    start = name.ljust(NAME, b"\0") + _octal(mode, 8) + _octal(owner[0], 8) + _octal(owner[1], 8)
    start += _octal(size, 12) + _octal(mtime, 12)
    rest = kind + link.ljust(NAME, b"\0") + b"ustar\00000" + bytes(64) + _octal(device[0], 8) + _octal(device[1], 8)
    rest += prefix.ljust(PREFIX, b"\0") + bytes(12)
    total = sum(start) + 8 * ord(" ") + sum(rest)
    return start + b"%06o\0 " % total + rest


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """(prefix, name) as ustar has them; None when it has no room or the name is not ASCII."""
    if not name.isascii():
        return None
    if len(name) <= NAME:
        return b"", name
    at = name.rfind(b"/", 0, min(PREFIX, len(name) - 2) + 1)
    if at <= 0 or len(name) - at - 1 > NAME:
        return None
    return name[:at], name[at + 1 :]


def _time(mtime_ns: int) -> bytes:
    """Seconds with a fraction, as PAX has them."""
    seconds, fraction = divmod(abs(mtime_ns), 10**9)
    text = f"{'-' if mtime_ns < 0 else ''}{seconds}"
    return (text + (f".{fraction:09}".rstrip("0") if fraction else "")).encode()


def entry_header(name: bytes, kind: bytes, *, mode: int = 0o644, size: int = 0, owner: tuple[int, int] = (0, 0),
                 mtime_ns: int = 0, link: bytes = b"", device: tuple[int, int] = (0, 0),
                 xattrs: dict[str, bytes] | None = None) -> bytes:  # fmt: skip
    """The block or blocks before an entry's data. `kind` is tar's type letter."""
    records: dict[bytes, bytes] = {}
    split = _split(name)
    if split is None:
        records[b"path"] = name
        split = b"", name[:NAME]
    if len(link) > NAME or not link.isascii():
        records[b"linkpath"] = link
        link = link[:NAME]
    for key, number, room in ((b"size", size, 12), (b"uid", owner[0], 8), (b"gid", owner[1], 8)):
        if not _fits(number, room):
            records[key] = b"%d" % number
    seconds = mtime_ns // 10**9
    if mtime_ns % 10**9 or not _fits(seconds, 12):
        records[b"mtime"] = _time(mtime_ns)
    for attribute, value in sorted((xattrs or {}).items()):
        key = attribute.encode("utf-8", "surrogateescape")
        if b"=" in key or b"%" in key:  # a key ends at the first =; libarchive's form quotes it
            records[b"LIBARCHIVE.xattr." + key.replace(b"%", b"%25").replace(b"=", b"%3D")] = b64encode(value).rstrip(b"=")
        else:
            records[b"SCHILY.xattr." + key] = value
    block = _block(split[1], kind, split[0], link, mode=mode, size=size if _fits(size, 12) else 0, device=device,
                   owner=(owner[0] if _fits(owner[0], 8) else 0, owner[1] if _fits(owner[1], 8) else 0),
                   mtime=seconds if _fits(seconds, 12) else 0)  # fmt: skip
    if not records:
        return block
    body = b"".join(record(key, records[key]) for key in sorted(records))
    short = b"PaxHeaders/" + name.rstrip(b"/").rpartition(b"/")[2][:80]
    return _block(short, b"x", size=len(body)) + body + bytes(-len(body) % BLOCK) + block
