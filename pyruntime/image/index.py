"""The rows of the store: one SQLite database, WAL, shared by many threads and processes.

Two kinds of writes. What a user is told, or what comes before files go, is `durable` (synchronous=FULL); what only
helps a running transfer (claims, blobs nobody names yet) is not, and is undone at the next boot: a blob whose row
says `synced = 0` counts only while the kernel that wrote it runs.

The engine keeps tables of its own in the same database and may join a write of its own with ours: `write` nests.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pyruntime.errors import StoreError
from pyruntime.image.locks import boot_id, start_time

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMAT = 1
BUSY_TIMEOUT_S = 60.0
SCHEMA = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE blobs(digest TEXT PRIMARY KEY, size INTEGER NOT NULL, added INTEGER NOT NULL,
    synced INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE layers(chain TEXT PRIMARY KEY, diff TEXT NOT NULL, parent TEXT REFERENCES layers(chain),
    size INTEGER NOT NULL, place TEXT NOT NULL UNIQUE) WITHOUT ROWID;
CREATE INDEX layers_parent ON layers(parent);
CREATE TABLE images(id TEXT PRIMARY KEY, created TEXT NOT NULL, size INTEGER NOT NULL, top TEXT REFERENCES layers(chain),
    parent TEXT NOT NULL, tagged INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX images_top ON images(top);
CREATE INDEX images_parent ON images(parent);
CREATE TABLE image_blobs(image TEXT NOT NULL REFERENCES images(id) ON DELETE CASCADE,
    blob TEXT NOT NULL REFERENCES blobs(digest), kind TEXT NOT NULL, PRIMARY KEY(image, blob, kind)) WITHOUT ROWID;
CREATE INDEX image_blobs_blob ON image_blobs(blob);
CREATE TABLE refs(name TEXT NOT NULL, tag TEXT NOT NULL, digest TEXT NOT NULL,
    image TEXT NOT NULL REFERENCES images(id) ON DELETE CASCADE, PRIMARY KEY(name, tag, digest)) WITHOUT ROWID;
CREATE INDEX refs_image ON refs(image);
CREATE TABLE leases(id INTEGER PRIMARY KEY AUTOINCREMENT, pid INTEGER NOT NULL, started INTEGER NOT NULL,
    boot TEXT NOT NULL, since INTEGER NOT NULL);
CREATE TABLE claims(lease INTEGER NOT NULL REFERENCES leases(id) ON DELETE CASCADE, kind TEXT NOT NULL,
    name TEXT NOT NULL, PRIMARY KEY(lease, kind, name)) WITHOUT ROWID;
CREATE INDEX claims_name ON claims(kind, name);
CREATE TABLE holds(holder TEXT PRIMARY KEY, image TEXT NOT NULL, top TEXT REFERENCES layers(chain)) WITHOUT ROWID;
CREATE INDEX holds_image ON holds(image);
CREATE INDEX holds_top ON holds(top);
"""


class Database:
    """See the module docstring. One connection behind one lock: reads are short, SQLite has one writer anyway."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.boot = boot_id()
        self._lock = threading.RLock()
        self._depth = 0
        self._durable = False
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        with _translated(path):
            self._connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        try:
            with _translated(path):
                self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        """Settings of the connection; tables, when there are none. The caller keeps other openers out."""
        run = self._connection.execute
        run("PRAGMA journal_mode=WAL")
        run("PRAGMA foreign_keys=ON")
        version = run("PRAGMA user_version").fetchone()[0]
        if version not in {0, FORMAT}:
            raise StoreError(f"the store has format {version}, this version reads {FORMAT}", value=self.path,
                             hint="a later version wrote it: use that one, or another root")
        if version == 0:
            with self.write():
                for statement in SCHEMA.split(";\n"):
                    run(statement)
                run(f"PRAGMA user_version={FORMAT}")

    def close(self) -> None:
        """Closes the connection; a second call does nothing."""
        with self._lock, _translated(self.path):
            self._connection.close()

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction, rolled back when an exception leaves the block. A nested one is part of the outer.

        A durable write inside one that is not is a mistake of the caller: ValueError. Raises StoreError.
        """
        with self._lock:
            if self._depth:
                if durable and not self._durable:
                    raise ValueError("a durable write inside one that is not")
                yield self._connection
                return
            with _translated(self.path):
                self._connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
                self._connection.execute("BEGIN IMMEDIATE")
                self._depth, self._durable = 1, durable
                try:
                    yield self._connection
                    self._connection.execute("COMMIT")
                except BaseException:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    raise
                finally:
                    self._depth = 0

    def read(self, query: str, values: tuple[Any, ...] | dict[str, Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of one query. Raises StoreError."""
        with self._lock, _translated(self.path):
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """Several queries that see one state."""
        with self._lock:
            if self._depth:
                yield self._connection
                return
            with _translated(self.path):
                self._connection.execute("BEGIN")
                try:
                    yield self._connection
                finally:
                    self._connection.execute("ROLLBACK")

    def drop_dead_leases(self, connection: sqlite3.Connection) -> None:
        """Ends the leases whose process is gone; inside a write. What is claimed after it is claimed by the living."""
        for number, pid, started, boot in connection.execute("SELECT id, pid, started, boot FROM leases").fetchall():
            if boot != self.boot or start_time(pid) != started:
                connection.execute("DELETE FROM leases WHERE id = ?", (number,))


@contextmanager
def _translated(path: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(f"the store's database: {error}", value=path,
                         hint="is the disk full, or the file damaged? `PRAGMA integrity_check` tells") from error
