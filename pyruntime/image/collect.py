"""What no row and no living lease names goes: at every opening, quickly, and never what another process works on.

The order makes it safe beside writers: directories are listed first, rows and claims are read after. A writer claims
before it makes a directory and adds the row before it gives the claim up, so a listed directory that is still wanted
is named by one of the two. Blobs are looked at again under the lock of their digest.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from pyruntime.image import layers
from pyruntime.image.content import remove_blobs, unlink_if_there
from pyruntime.image.core import disk_errors
from pyruntime.image.locks import lock_file
from pyruntime.image.room import is_low

if TYPE_CHECKING:
    from pyruntime.image.core import Core

ALGORITHMS = ("sha256", "sha512")


def sweep(core: Core) -> list[str]:
    """Brings the root in order; the caller has its lock, so there is one sweep at a time.

    Returns the trees below staging/ that nothing names any more, for layers.remove_tree: that may take its time.
    """
    _forget_other_boots(core)
    listed = {name: os.listdir(f"{core.root}/{name}") for name in ("staging", "layers", "ingest")}
    blobs = [f"{algorithm}:{name}" for algorithm in ALGORITHMS for name in os.listdir(f"{core.root}/blobs/{algorithm}")]
    with disk_errors("sweeping the store"):
        trees = _sweep_places(core, listed["staging"], listed["layers"])
        _sweep_blobs(core, blobs)
        _sweep_ingest(core, listed["ingest"])
    collect(core)
    return trees


def _forget_other_boots(core: Core) -> None:
    """Content that was not on stable storage when the machine went down does not count."""
    boot = core.database.boot
    if core.database.read("SELECT 1 FROM meta WHERE key = 'boot' AND value = ?", (boot,)):
        return
    with core.database.write() as rows:
        rows.execute("DELETE FROM leases WHERE boot <> ?", (boot,))
        rows.execute("DELETE FROM blobs WHERE synced = 0")
        rows.execute("INSERT OR REPLACE INTO meta VALUES('boot', ?)", (boot,))


def named_places(core: Core) -> set[str]:
    """The directories that a row or a lease names."""
    return {row[0] for row in core.database.read(
        "SELECT place FROM layers UNION SELECT name FROM claims WHERE kind = 'place'")}


def _sweep_places(core: Core, staged: list[str], placed: list[str]) -> list[str]:
    with core.database.write(durable=False) as rows:
        core.database.drop_dead_leases(rows)
    named = named_places(core)
    loose = [place for place in placed if place not in named]
    layers.set_aside(core, loose)
    return [core.staging(place) for place in [*loose, *staged] if place not in named]


def _sweep_blobs(core: Core, digests: list[str]) -> None:
    known = {row[0] for row in core.database.read("SELECT digest FROM blobs")}
    for digest in digests:
        if digest in known:
            continue
        lock = lock_file(core.part_file(digest), wait=False)
        if lock is None:
            continue
        try:
            if not core.database.read("SELECT 1 FROM blobs WHERE digest = ?", (digest,)):
                unlink_if_there(core.blob_file(digest))  # a remover may have been quicker
            if os.fstat(lock).st_size == 0:
                os.unlink(core.part_file(digest))
        finally:
            os.close(lock)


def _sweep_ingest(core: Core, names: list[str]) -> None:
    """Nameless blobs of dead writers, parts of what is complete, and parts that nobody went on with."""
    known = {row[0] for row in core.database.read("SELECT digest FROM blobs")}
    keep_s = 0.0 if is_low(core.root) else core.keep_s
    for name in names:
        path = f"{core.root}/ingest/{name}"
        try:
            found = os.stat(path)
        except FileNotFoundError:
            continue
        old = time.time() - found.st_mtime > keep_s
        complete = name.replace("-", ":", 1) in known
        if not (old or complete or found.st_size == 0 or name.startswith("new-")):
            continue
        lock = lock_file(path, wait=False)
        if lock is not None:
            os.unlink(path)
            os.close(lock)


def collect(core: Core) -> int:
    """Removes layers that nothing uses, and content that nothing has used for keep_s; bytes freed. Usually one query.

    On a full disk unused content is not kept at all.
    """
    keep_s = 0.0 if is_low(core.root) else core.keep_s
    before = time.time_ns() - int(keep_s * 1e9)
    with core.database.snapshot() as rows:
        loose = rows.execute(
            "SELECT EXISTS(SELECT 1 FROM layers AS l WHERE NOT EXISTS(SELECT 1 FROM layers WHERE parent = l.chain)"
            " AND NOT EXISTS(SELECT 1 FROM images WHERE top = l.chain)"
            " AND NOT EXISTS(SELECT 1 FROM holds WHERE top = l.chain))").fetchone()[0]
        old = [row[0] for row in rows.execute(
            "SELECT digest FROM blobs AS b WHERE added < ? AND NOT EXISTS(SELECT 1 FROM image_blobs WHERE blob = b.digest)"
            " AND NOT EXISTS(SELECT 1 FROM claims WHERE kind = 'blob' AND name = b.digest)", (before,))]
    if not loose and not old:
        return 0
    with core.database.write() as rows:
        core.database.drop_dead_leases(rows)
        gone = layers.forget_all_unused(rows)
    freed = remove_blobs(core, old)
    layers.discard(core, [place for _, place, _ in gone])
    return freed + sum(size for _, _, size in gone)
