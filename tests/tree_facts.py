"""What two trees on disk are, path by path, to compare what two programs have unpacked."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Any

Tree = dict[str, dict[str, Any]]


def describe(root: str | Path) -> Tree:
    """Every path below `root`, "." itself: mode, owner, time, xattrs, content or target or device, hard links."""
    seen: dict[tuple[int, int], str] = {}
    found = {".": facts(str(root), ".", seen)}
    for folder, folders, files in os.walk(root):
        folders.sort()
        for name in sorted(folders + files):
            path = os.path.join(folder, name)
            relative = os.path.relpath(path, root)
            found[relative] = facts(path, relative, seen)
    linked = {first for path, told in found.items() if (first := told.get("same as", path)) != path}
    for path, told in found.items():  # a link whose other names are elsewhere is a file of its own
        if told.get("same as") == path and path not in linked:
            del told["same as"]
    return found


def facts(path: str, relative: str, seen: dict[tuple[int, int], str]) -> dict[str, Any]:
    status = os.lstat(path)
    told: dict[str, Any] = {"mode": oct(status.st_mode), "owner": (status.st_uid, status.st_gid), "mtime": status.st_mtime_ns}
    told["xattrs"] = {name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)}
    if stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            told["content"] = (status.st_size, hashlib.file_digest(file, "sha256").hexdigest())
    elif stat.S_ISLNK(status.st_mode):
        told["target"] = os.readlink(path)
    elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        told["device"] = (os.major(status.st_rdev), os.minor(status.st_rdev))
    if not stat.S_ISDIR(status.st_mode) and status.st_nlink > 1:
        told["same as"] = seen.setdefault((status.st_dev, status.st_ino), relative)
    return told


def differences(one: Tree, other: Tree) -> list[str]:
    """A line for each difference, at most thirty."""
    lines = [f"only left: {path}" for path in one.keys() - other.keys()]
    lines += [f"only right: {path}" for path in other.keys() - one.keys()]
    for path in one.keys() & other.keys():
        keys = one[path].keys() | other[path].keys()
        lines += [f"{path}: {key} {one[path].get(key)} != {other[path].get(key)}" for key in keys if one[path].get(key) != other[path].get(key)]
    return sorted(lines)[:30]
