"""The Engine: what a daemon has one of. Opened under the lock of its data root, closed with the process."""

from __future__ import annotations

import fcntl
import os
import uuid
from typing import TYPE_CHECKING

from pyruntime.engine.events import Events
from pyruntime.image.store import Store
from pyruntime.image.transfers import Transfers

if TYPE_CHECKING:
    from pyruntime.engine.journal import Journal
    from pyruntime.engine.settings import Settings

LOCK = "pyctrd.lock"
IDENTITY = "engine-id"
CHANGEABLE = ("insecure_registries", "registry_mirrors", "max_concurrent_downloads", "max_concurrent_uploads", "labels",
              "http_proxy", "https_proxy", "no_proxy")  # fmt: skip


class Engine:
    """Store, events, settings and journal of one daemon. Safe in threads."""

    def __init__(self, settings: Settings, journal: Journal) -> None:
        self.settings = settings
        self.journal = journal
        self.events = Events()
        self.id = _identity(settings.data_root)
        self.store = Store.open(settings.data_root)
        self.transfers = Transfers()

    def reload(self, settings: Settings) -> None:
        """Takes over what may change while the daemon runs, for requests from now on."""
        self.settings = self.settings.replace(**{name: getattr(settings, name) for name in CHANGEABLE})
        self.events.emit("daemon", "reload", self.id, {"name": os.uname().nodename})

    def close(self) -> None:
        """At the daemon's end."""
        self.store.close()


def lock_root(path: str) -> int | None:
    """The lock on a data root, made if need be: a descriptor to keep, None when another daemon has it. Raises OSError."""
    os.makedirs(path, mode=0o700, exist_ok=True)
    fd = os.open(f"{path}/{LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except OSError:
        os.close(fd)
        raise
    return fd


def _identity(root: str) -> str:
    """The engine's ID: made once for a data root."""
    path = f"{root}/{IDENTITY}"
    try:
        with open(path, encoding="ascii") as file:
            return str(uuid.UUID(file.read().strip()))
    except (FileNotFoundError, ValueError):
        pass
    made = str(uuid.uuid4())
    with open(f"{path}.tmp", "w", encoding="ascii") as file:
        file.write(f"{made}\n")
        file.flush()
        os.fsync(file.fileno())
    os.rename(f"{path}.tmp", path)
    return made
