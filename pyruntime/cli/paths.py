"""Path arithmetic without os.path: what the command line needs before a verb runs."""

from __future__ import annotations

import posix


def clean(path: str) -> str:
    """`path` with empty, `.` and `..` parts resolved by text alone, as Go's path.Clean; "" is "."."""
    rooted = path.startswith("/")
    parts: list[str] = []
    for part in path.split("/"):
        if part in ("", "."):
            continue
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part != ".." or not rooted:
            parts.append(part)
    return ("/" if rooted else "") + "/".join(parts) or "."


def absolute(path: str, base: str = "") -> str:
    """`path` made absolute against `base` (the current directory when "") and cleaned."""
    if not path.startswith("/"):
        path = f"{base or posix.getcwd()}/{path}"
    return clean(path)
