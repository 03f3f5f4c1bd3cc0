"""Unpacked layers: staged under a name of their own, moved into place, named by a row; and how a tree goes.

A layer's directory has a random name (its row's `place`) that is never used twice: committers of one ChainID cannot
meet, the row decides who won, and removing a directory cannot hit a new one. The name is short, so that a mount of
many layers fits a page of options.
"""

from __future__ import annotations

import os
import secrets
import stat
from typing import TYPE_CHECKING

from pyruntime.errors import StoreError, UnpackError
from pyruntime.image.core import Layer, disk_errors

if TYPE_CHECKING:
    import sqlite3

    from pyruntime.image.content import Lease
    from pyruntime.image.core import Core

DIFF = "diff"


def stage(core: Core, lease: Lease) -> str:
    """An empty directory to unpack a layer into: its path, named diff, below staging/.

    It is claimed before it is made: a sweep looks first at the directories and then at the claims.
    """
    place = secrets.token_hex(6)
    with core.database.write(durable=False) as rows:
        rows.execute("INSERT INTO claims VALUES(?, 'place', ?)", (lease.id, place))
    path = core.staging(place)
    with disk_errors("staging a layer"):
        os.mkdir(path, 0o700)
        os.mkdir(f"{path}/{DIFF}", 0o755)
    return f"{path}/{DIFF}"


def place_of(core: Core, path: str) -> str:
    """The name of a staged layer. Raises StoreError for a path that stage did not give."""
    place, _, diff = path.removeprefix(core.staging("")).partition("/")
    if diff != DIFF or f"{core.staging(place)}/{DIFF}" != path:
        raise StoreError("a layer to commit is not a staged one", value=path)
    return place


def move_in(core: Core, place: str) -> None:
    """staging/PLACE becomes layers/PLACE; still claimed, no row yet."""
    with disk_errors("placing a layer"):
        os.rename(core.staging(place), core.layer_folder(place))


def find(core: Core, chain_id: str, lease: Lease | None) -> Layer | None:
    """The unpacked layer; with a lease it and those below stay."""
    query = "SELECT chain, diff, coalesce(parent, ''), place, size FROM layers WHERE chain = ?"
    if lease is None:
        found = core.database.read(query, (chain_id,))
    else:
        with core.database.write(durable=False) as rows:
            found = rows.execute(query, (chain_id,)).fetchall()
            if found:
                rows.execute("INSERT OR IGNORE INTO claims VALUES(?, 'layer', ?)", (lease.id, chain_id))
    if not found:
        return None
    chain, diff, parent, place, size = found[0]
    return Layer(chain, diff, parent, f"{core.layer_folder(place)}/{DIFF}", size)


def forget_unused(rows: sqlite3.Connection, chain_id: str | None) -> list[tuple[str, str, int]]:
    """Removes the rows of the layer and of those below it that nothing uses any more; (ChainID, place, size), top first.

    Inside a write, after drop_dead_leases.
    """
    gone: list[tuple[str, str, int]] = []
    while chain_id:
        found = rows.execute(
            "SELECT place, size, parent FROM layers WHERE chain = :x"
            " AND NOT EXISTS(SELECT 1 FROM images WHERE top = :x) AND NOT EXISTS(SELECT 1 FROM layers WHERE parent = :x)"
            " AND NOT EXISTS(SELECT 1 FROM holds WHERE top = :x)"
            " AND NOT EXISTS(SELECT 1 FROM claims WHERE kind = 'layer' AND name = :x)", {"x": chain_id}).fetchone()
        if not found:
            break
        rows.execute("DELETE FROM layers WHERE chain = ?", (chain_id,))
        gone.append((chain_id, found[0], found[1]))
        chain_id = found[2]
    return gone


def forget_all_unused(rows: sqlite3.Connection) -> list[tuple[str, str, int]]:
    """forget_unused of every layer that has none above it."""
    gone: list[tuple[str, str, int]] = []
    tops = rows.execute("SELECT chain FROM layers AS l WHERE NOT EXISTS(SELECT 1 FROM layers WHERE parent = l.chain)")
    for (chain,) in tops.fetchall():
        gone += forget_unused(rows, chain)
    return gone


def set_aside(core: Core, places: list[str]) -> None:
    """Moves layers whose rows are gone out of layers/: what is left of them below staging/ is swept."""
    for place in places:
        try:
            os.rename(core.layer_folder(place), core.staging(place))
        except FileNotFoundError:
            pass  # another one sweeps it


def discard(core: Core, places: list[str]) -> None:
    """Removes the directories of layers whose rows are gone."""
    set_aside(core, places)
    for place in places:
        remove_tree(core.staging(place))


def remove_tree(path: str) -> None:
    """Removes the tree at `path`, however deep it is; what is gone already, or may not go, is passed over.

    What belongs to subordinate ids of a plain user goes with the rights of the user namespace that has them.
    """
    if not _remove_ours(path) and os.geteuid() != 0:
        _remove_subordinate(path)


def _remove_ours(path: str) -> bool:
    """With this process's rights; False when something stays.

    Directories that are not empty are moved up to the top, so that no path grows and no recursion is deep.
    """
    try:
        top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except PermissionError:
        return False
    stays: set[str] = set()
    try:
        while entries := [name for name in os.listdir(top) if name not in stays]:
            stays |= {name for name in entries if not _remove_entry(top, name)}
        os.rmdir(path)
    except OSError:
        return False  # the next sweep tries again
    finally:
        os.close(top)
    return True


def _remove_subordinate(path: str) -> None:
    """By the unpacking helper, confined to the tree, in a namespace with the maps that unpacking has there."""
    from pyruntime.image.unpack import clear_in_namespace
    from pyruntime.image.unpack_maps import rootless_maps

    try:
        maps = rootless_maps()
        if maps is None or len(maps.uids) + len(maps.gids) == 2:
            return  # one id, ours: it had no more rights
        clear_in_namespace(path, maps)
        os.rmdir(path)
    except (OSError, UnpackError):
        pass  # the next sweep tries again


def _remove_entry(top: int, name: str) -> bool:
    """Something went; False when the entry stays."""
    try:
        os.unlink(name, dir_fd=top)
    except IsADirectoryError:
        pass
    except OSError as error:
        if not stat.S_ISDIR(os.stat(name, dir_fd=top, follow_symlinks=False).st_mode):
            return isinstance(error, FileNotFoundError)
    else:
        return True
    try:
        os.rmdir(name, dir_fd=top)
    except OSError:
        return _empty_folder(top, name)
    return True


def _empty_folder(top: int, name: str) -> bool:
    """Unlinks what the directory holds and moves its directories up; True when it got smaller."""
    folder = _open_folder(top, name)
    if folder < 0:
        return False
    done = False
    try:
        for inner in os.listdir(folder):
            try:
                os.unlink(inner, dir_fd=folder)
                done = True
            except OSError:
                done |= _lift(folder, inner, top)
    finally:
        os.close(folder)
    try:
        os.rmdir(name, dir_fd=top)
    except OSError:
        return done
    return True


def _lift(folder: int, name: str, top: int) -> bool:
    """Moves the directory up to the top under a new name."""
    try:
        os.rename(name, secrets.token_hex(8), src_dir_fd=folder, dst_dir_fd=top)
    except PermissionError:
        inner = _open_folder(folder, name)  # ".." of a directory changes: it must be writable
        if inner < 0:
            return False
        os.close(inner)
        try:
            os.rename(name, secrets.token_hex(8), src_dir_fd=folder, dst_dir_fd=top)
        except OSError:
            return False
    except OSError:
        return False
    return True


def _open_folder(parent: int, name: str) -> int:
    """The directory, made writable for its owner; -1 when it may not be opened."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        if os.geteuid() != 0 and stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            os.chmod(name, 0o700, dir_fd=parent)
        return os.open(name, flags, dir_fd=parent)
    except OSError:
        return -1
