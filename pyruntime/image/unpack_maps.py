"""Whose ids unpacked files get: this process's, or those of a user namespace that the helper enters first.

root, no maps            ids as in the layer
root of a namespace      the same, as far as the namespace has them
any user, with maps      a namespace of the helper's; written by us as root, else by newuidmap and newgidmap (uidmap)
plain user, no maps      a namespace with one id, ours: owners are squashed, with a warning
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess

from pyruntime.errors import UnpackError
from pyruntime.record import Record

ROOTLESS, ONE_ID = 1, 2  # flags of unpack_new


class IdMaps(Record):
    """Rows of (id inside, id outside, count), as in /proc/PID/uid_map."""

    uids: tuple[tuple[int, int, int], ...]
    gids: tuple[tuple[int, int, int], ...]


class UserNamespace:
    """The one that a layer is unpacked in; `fresh`: the helper makes it, with `maps`."""

    def __init__(self, maps: IdMaps | None, *, flags: int) -> None:
        self.maps, self.flags = maps, flags
        self.fresh = maps is not None

    def prepare(self, target_fd: int) -> None:
        """Hands the target to the namespace's root, where we may. Raises OSError."""
        if self.maps is not None and os.geteuid() == 0:
            os.fchown(target_fd, _outside(self.maps.uids), _outside(self.maps.gids))

    def write_maps(self, pid: int) -> None:
        """Raises OSError or UnpackError."""
        if self.maps is None:
            return
        if os.geteuid() == 0 or _is_own(self.maps):
            if os.geteuid() != 0:
                _write(pid, "setgroups", "deny")
            _write(pid, "uid_map", _lines(self.maps.uids))
            _write(pid, "gid_map", _lines(self.maps.gids))
            return
        for program, rows in (("newuidmap", self.maps.uids), ("newgidmap", self.maps.gids)):
            _run(program, pid, rows)


def _outside(rows: tuple[tuple[int, int, int], ...]) -> int:
    for inside, outside, count in rows:
        if inside == 0 and count > 0:
            return outside
    raise UnpackError("id maps have no row for id 0", hint="the unpacking helper runs as the namespace's root")


def _is_own(maps: IdMaps) -> bool:
    return maps.uids == ((0, os.geteuid(), 1),) and maps.gids == ((0, os.getegid(), 1),)


def _lines(rows: tuple[tuple[int, int, int], ...]) -> str:
    return "".join(f"{inside} {outside} {count}\n" for inside, outside, count in rows)


def _write(pid: int, name: str, text: str) -> None:
    fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _run(program: str, pid: int, rows: tuple[tuple[int, int, int], ...]) -> None:
    words = [program, str(pid), *(str(number) for row in rows for number in row)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise UnpackError(f"{program} is not installed", hint="install uidmap, or unpack with one id") from None
    if done.returncode:
        raise UnpackError(f"{program}: {done.stderr.strip()}", hint="see /etc/subuid and /etc/subgid")


def namespace_for(maps: IdMaps | None) -> UserNamespace:
    """The namespace to unpack in, for maps asked for or this process's own standing."""
    if maps is not None:
        single = sum(row[2] for row in maps.uids) == 1 or sum(row[2] for row in maps.gids) == 1
        return UserNamespace(maps, flags=ROOTLESS | (ONE_ID if single else 0))
    if os.geteuid() != 0:
        own = IdMaps(((0, os.geteuid(), 1),), ((0, os.getegid(), 1),))
        return UserNamespace(own, flags=ROOTLESS | ONE_ID)
    with open("/proc/self/uid_map", encoding="ascii") as file:
        rows = [[int(word) for word in line.split()] for line in file]
    if rows == [[0, 0, 2**32 - 1]]:
        return UserNamespace(None, flags=0)
    return UserNamespace(None, flags=ROOTLESS | (ONE_ID if sum(row[2] for row in rows) == 1 else 0))


def rootless_maps() -> IdMaps | None:
    """The ids of a plain user's containers: 0 is the user, from 1 on those granted; None for root.

    One id each where none are granted or newuidmap is not installed.
    """
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        return None
    uids, gids = ((0, uid, 1),), ((0, gid, 1),)
    if any(shutil.which(name) is None for name in ("newuidmap", "newgidmap")):
        return IdMaps(uids, gids)
    more_uids, more_gids = granted("/etc/subuid", uid), granted("/etc/subgid", uid)
    if not more_uids or not more_gids:
        return IdMaps(uids, gids)
    return IdMaps(uids + _following(more_uids), gids + _following(more_gids))


def granted(path: str, uid: int) -> list[tuple[int, int]]:
    """(first id, count) of each range that a file of subuid(5) grants the user, by name or number."""
    import pwd

    names = {str(uid)}
    with contextlib.suppress(KeyError):
        names.add(pwd.getpwuid(uid).pw_name)
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            rows = [line.strip().split(":") for line in file]
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.EACCES}:
            return []
        raise
    return [(int(row[1]), int(row[2])) for row in rows
            if len(row) == 3 and row[0] in names and row[1].isdigit() and row[2].isdigit() and int(row[2])]


def _following(ranges: list[tuple[int, int]]) -> tuple[tuple[int, int, int], ...]:
    rows, at = [], 1
    for first, count in ranges:
        rows.append((at, first, count))
        at += count
    return tuple(rows)
