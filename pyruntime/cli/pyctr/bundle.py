"""bundle: an image of the engine as rootfs/ and config.json, unpacked here with the caller's rights.

The image comes through the API's save, so that any Docker engine will do and the engine unpacks nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyruntime.engine.body import BodyReader
from pyruntime.image.bundle import bundle_from_archive
from pyruntime.image.platform import parse_platform

if TYPE_CHECKING:
    from pyruntime.cli.pyctr.call import Call


def bundle(call: Call) -> None:
    """Makes the folder; `pyruntime run DIR/` runs it."""
    name, path = call.rest
    platform = call["platform"]
    with call.client.request("GET", "/images/get", {"names": [name], "platform": platform}) as reply:
        bundle_from_archive(BodyReader(reply.pieces()).read, path, name=name,
                            platform=parse_platform(platform) if platform else None, say=call.tell)  # fmt: skip
