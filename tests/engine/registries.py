"""A docker-registry on loopback with images made by hand, and what the tests know about them."""

from __future__ import annotations

import json
import tempfile
from typing import Any

from pyruntime.image.digest import digest_of
from pyruntime.image.registry import HostConfig, RegistryClient
from tests import small_images
from tests.registry_stand import Registry


def publish(registry: Registry, path: str, tag: str, made: small_images.Made, credentials: Any = None, *, index: bytes = b"") -> str:
    """Uploads an image as `path:tag`, below an index when one is given; its reference."""
    client = RegistryClient(HostConfig(certs_folders=()), credentials)
    name = f"{registry.host}/{path}"
    for data in made.blobs.values():
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.flush()
            client.upload_blob(name, digest_of(data), file.fileno(), len(data))
    client.put_manifest(name, made.digest if index else tag, made.manifest, made.media_type)
    if index:
        client.put_manifest(name, tag, index, json.loads(index)["mediaType"])
    client.close()
    return f"{name}:{tag}"


def small(seed: str, *, layers: int = 2, size: int = 2000, **more: Any) -> small_images.Made:
    """An image of a few files, different for each seed."""
    return small_images.image([{"etc/": b"", f"etc/{seed}{number}": f"{seed}{number}".encode() * (size // len(seed))} for number in range(layers)], **more)
