"""One pull by the library into the store at argv[1] of argv[2]; prints how long the store's sync took, in seconds."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pyruntime.image import appearing
from pyruntime.image.pull import pull
from pyruntime.image.reference import parse_reference
from pyruntime.image.registry.client import RegistryClient
from pyruntime.image.store import Store

SYNC = appearing.syncfs
SPENT = [0.0]


def timed(fd: int) -> None:
    """The sync, with its time taken."""
    began = time.monotonic()
    SYNC(fd)
    SPENT[0] += time.monotonic() - began


appearing.syncfs = timed
with Store(sys.argv[1]) as store:
    client = RegistryClient()
    pull(store, client, parse_reference(sys.argv[2]))
    client.close()
print(SPENT[0])
