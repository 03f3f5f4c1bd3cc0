"""version."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyruntime.cli.pyctr.call import Call


def version(call: Call) -> None:
    """Both versions."""
    print(json.dumps(call.client.get("/version")))


def info(call: Call) -> None:
    """The engine."""
    print(json.dumps(call.client.get("/info")))


def events(call: Call) -> None:
    """The events."""
    with call.client.request("GET", "/events") as reply:
        for value in reply.objects():
            print(json.dumps(value), flush=True)
