"""bundle: an image of the engine as rootfs/ and config.json, unpacked here with the caller's rights.

The image comes through the API's save, so that any Docker engine will do and the engine unpacks nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyruntime.engine.body import BodyReader
from pyruntime.image.bundle import BundleOptions, bundle_from_archive
from pyruntime.image.platform import parse_platform
from pyruntime.image.runtime_config import RuntimeOptions

if TYPE_CHECKING:
    from pyruntime.cli.pyctr.call import Call


def bundle(call: Call) -> None:
    """Makes the folder; `pyruntime run DIR/` runs it."""
    name, path, *command = call.rest
    platform = call["platform"]
    options = BundleOptions(runtime=RuntimeOptions(args=tuple(command) or None, terminal=call["tty"]))
    with call.client.request("GET", "/images/get", {"names": [name], "platform": platform}) as reply:
        bundle_from_archive(BodyReader(reply.pieces()).read, path, name=name, options=options,
                            platform=parse_platform(platform) if platform else None, say=call.tell)  # fmt: skip
