"""What a tree on disk is, for comparison with another program's; and a stand to unpack in."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
from pathlib import Path
from typing import Any

from pyruntime.image.unpack import LayerResult, LayerUnpack, Limits


def describe(root: str | Path, *, skip_times: frozenset[str] = frozenset()) -> dict[str, dict[str, Any]]:
    """Every path below `root` ("." is itself) with all that a layer can say about it."""
    seen: dict[tuple[int, int], str] = {}
    found = {}
    for folder, folders, files in os.walk(root):
        folders.sort()
        for name in [".", *sorted(folders + files)] if folder == str(root) else sorted(folders + files):
            path = os.path.join(folder, name)
            relative = os.path.normpath(os.path.relpath(path, root))
            found[relative] = facts(path, relative, seen)
            if relative in skip_times:
                del found[relative]["mtime"]
    return found


def facts(path: str, relative: str, seen: dict[tuple[int, int], str]) -> dict[str, Any]:
    """Type, mode, owner, time, xattrs, and what the type has beside."""
    status = os.lstat(path)
    kind = stat.S_IFMT(status.st_mode)
    told: dict[str, Any] = {"mode": oct(status.st_mode), "owner": (status.st_uid, status.st_gid),
                            "mtime": status.st_mtime_ns}  # fmt: skip
    told["xattrs"] = {name: os.getxattr(path, name, follow_symlinks=False)
                      for name in os.listxattr(path, follow_symlinks=False)}  # fmt: skip
    if kind == stat.S_IFREG:
        told["content"] = (status.st_size, hashlib.sha256(Path(path).read_bytes()).hexdigest())
    elif kind == stat.S_IFLNK:
        told["target"] = os.readlink(path)
    elif kind in {stat.S_IFCHR, stat.S_IFBLK}:
        told["device"] = (os.major(status.st_rdev), os.minor(status.st_rdev))
    if kind != stat.S_IFDIR and status.st_nlink > 1:
        told["same_as"] = seen.setdefault((status.st_dev, status.st_ino), relative)
    return told


def differences(one: dict[str, dict[str, Any]], other: dict[str, dict[str, Any]]) -> list[str]:
    """A line per difference, the first fifty."""
    lines = [f"only left: {path}" for path in one if path not in other]
    lines += [f"only right: {path}" for path in other if path not in one]
    for path in one.keys() & other.keys():
        lines += [f"{path}: {key} {one[path].get(key)} != {other[path].get(key)}"
                  for key in one[path].keys() & other[path].keys() | one[path].keys() ^ other[path].keys()
                  if one[path].get(key) != other[path].get(key) and not (key == "mtime" and key not in one[path].keys() & other[path].keys())]  # fmt: skip
    return sorted(lines)[:50]


def unpack(data: bytes, target: str | Path, *, mode: str = "overlay", limits: Limits | None = None,
           **more: Any) -> LayerResult:  # fmt: skip
    """A layer into a directory, made when missing, by the real helper."""
    os.makedirs(target, exist_ok=True)
    with LayerUnpack(str(target), mode=mode, limits=limits or Limits(), **more) as layer:
        layer.write(data)
        return layer.finish()


class Entry(tarfile.TarInfo):
    """A TarInfo from keywords."""

    def __init__(self, name: str, kind: bytes = tarfile.REGTYPE, *, data: bytes = b"", **more: Any) -> None:
        super().__init__(name)
        self.type = kind
        self.data = data
        self.size = len(data)
        self.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
        self.mtime = 1_500_000_000
        for key, value in more.items():
            setattr(self, key, value)


def directory(name: str, **more: Any) -> Entry:
    return Entry(name, tarfile.DIRTYPE, **more)


def symlink(name: str, target: str, **more: Any) -> Entry:
    return Entry(name, tarfile.SYMTYPE, linkname=target, **more)


def hard_link(name: str, target: str, **more: Any) -> Entry:
    return Entry(name, tarfile.LNKTYPE, linkname=target, **more)


def file(name: str, data: bytes = b"", **more: Any) -> Entry:
    return Entry(name, data=data, **more)


def layer(*entries: Entry, form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of the entries as they are, also where tarfile would say no."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=form) as archive:
        for entry in entries:
            archive.addfile(entry, io.BytesIO(entry.data))
    return made.getvalue()


def header(name: bytes = b"f", *, kind: bytes = b"0", size: int | bytes = 0, link: bytes = b"", mode: bytes = b"0000644\0",
           uid: bytes = b"0000000\0", gid: bytes = b"0000000\0", mtime: bytes = b"00000000000\0",
           magic: bytes = b"ustar\00000", rest: bytes = b"") -> bytes:  # fmt: skip
    """One raw header block with a right checksum; `rest` begins at offset 265 (uname)."""
    told = size if isinstance(size, bytes) else b"%011o\0" % size
    block = name.ljust(100, b"\0") + mode + uid + gid + told + mtime + b" " * 8 + kind + link.ljust(100, b"\0") + magic + rest
    block = block.ljust(512, b"\0")
    assert len(block) == 512
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def padded(data: bytes) -> bytes:
    """Data in whole blocks."""
    return data + bytes(-len(data) % 512)


def pax(records: dict[bytes, bytes], *, kind: bytes = b"x") -> bytes:
    """A PAX header with its records."""
    return raw_pax(b"".join(record(key, value) for key, value in records.items()), kind=kind)


def record(key: bytes, value: bytes) -> bytes:
    """LENGTH KEY=VALUE."""
    body = b" " + key + b"=" + value + b"\n"
    length = len(body) + len(str(len(body)))
    if len(str(length)) + len(body) != length:
        length += 1
    return str(length).encode() + body


def raw_pax(body: bytes, *, kind: bytes = b"x") -> bytes:
    """A PAX header with this body."""
    return header(b"pax", kind=kind, size=len(body)) + padded(body)


END = bytes(1024)
