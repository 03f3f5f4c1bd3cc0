"""Who a container's process is: `user[:group]` of an image, looked up in the image's own passwd and group files.

Names are facts of the root file system, never of the host (S53). The files are opened inside the root, read as bytes
and may hold anything.
"""

from __future__ import annotations

from pyruntime.errors import InvalidImage, UsageError
from pyruntime.image.inroot import read_in_root
from pyruntime.record import Record

MAX_ID = (1 << 31) - 1
MAX_FILE_BYTES = 16 << 20


class User(Record):
    """The numbers that `process.user` of config.json takes.

    `additional_gids` holds the primary one first: a group may have fewer rights than others, so it is never dropped.
    """

    uid: int
    gid: int
    additional_gids: tuple[int, ...] = ()
    home: str = ""  # "" where passwd has no entry


class _Account(Record):
    name: str
    uid: int
    gid: int
    home: str


class _Group(Record):
    name: str
    gid: int
    members: tuple[str, ...]


def resolve_user(root_fd: int, text: str, extra_groups: tuple[str, ...] = ()) -> User:
    """The user that `text` names (contract 6, User) in the root file system `root_fd`; "" is uid 0.

    Forms: user, uid, user:group, uid:gid, uid:group, user:gid. Without a group the account's own and its supplementary
    groups apply, with one they do not. A number needs no entry, its gid is then 0. `extra_groups` are names or numbers
    that are added. Raises UsageError for an unknown name or a number out of range, InvalidImage for
    files that cannot be read or are absurdly large.
    """
    user_text, _, group_text = text.partition(":")
    accounts = _accounts(root_fd)
    groups = _groups(root_fd)
    uid = _number(user_text or "0")
    account = next((a for a in accounts if a.name == user_text or a.uid == uid), None)
    if account is None and uid is None:
        raise UsageError(f"unable to find user {user_text}: no matching entries in passwd file", field="user", value=text,
                         hint="name a user of the image's /etc/passwd, or give a number")
    if account is None:
        account = _Account("", _in_range(uid or 0, text), 0, "")
    gid = account.gid
    more: tuple[int, ...] = ()
    if group_text:
        gid = _group(groups, group_text, text)
    elif account.name:
        more = tuple(g.gid for g in groups if account.name in g.members)
    added = tuple(_group(groups, name, name) for name in extra_groups)
    return User(account.uid, gid, tuple(dict.fromkeys((gid, *more, *added))), account.home)


def _group(groups: tuple[_Group, ...], wanted: str, text: str) -> int:
    """The gid that a name or number stands for."""
    number = _number(wanted)
    found = next((g.gid for g in groups if g.name == wanted or g.gid == number), None)
    if found is not None:
        return found
    if number is None:
        raise UsageError(f"unable to find group {wanted}: no matching entries in group file", field="user", value=text,
                         hint="name a group of the image's /etc/group, or give a number")
    return _in_range(number, text)


def _in_range(number: int, text: str) -> int:
    if number > MAX_ID:
        raise UsageError(f"uids and gids must be in range 0-{MAX_ID}", field="user", value=text)
    return number


def _accounts(root_fd: int) -> tuple[_Account, ...]:
    return tuple(
        _Account(fields[0], uid, min(_number(fields[3]) or 0, MAX_ID), fields[5] if len(fields) > 5 else "")
        for fields in _lines(root_fd, "etc/passwd")
        if len(fields) >= 4 and (uid := _number(fields[2])) is not None and uid <= MAX_ID
    )


def _groups(root_fd: int) -> tuple[_Group, ...]:
    return tuple(
        _Group(fields[0], gid, tuple(name for name in fields[3].split(",") if name) if len(fields) > 3 else ())
        for fields in _lines(root_fd, "etc/group")
        if len(fields) >= 3 and (gid := _number(fields[2])) is not None and gid <= MAX_ID
    )


def _lines(root_fd: int, path: str) -> list[list[str]]:
    """The fields of each line; bytes that are no UTF-8 stand for themselves (surrogateescape)."""
    try:
        data = read_in_root(root_fd, path, MAX_FILE_BYTES) or b""
    except OSError as error:
        raise InvalidImage(f"/{path} of the image cannot be read: {error.strerror}", value=f"/{path}") from None
    lines = (line.strip() for line in data.decode("utf-8", "surrogateescape").split("\n"))
    return [line.split(":") for line in lines if line and not line.startswith("#")]


def _number(text: str) -> int | None:
    """A decimal number of at most ten digits, None for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else None
