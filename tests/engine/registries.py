"""A docker-registry on loopback with images made by hand, and what the tests know about them."""

from __future__ import annotations

import json
from typing import Any

from pyruntime.image.registry import HostConfig, RegistryClient
from tests import small_images
from tests.registry_stand import Registry, push_made


def publish(registry: Registry, path: str, tag: str, made: small_images.Made, credentials: Any = None, *, index: bytes = b"") -> str:
    """Uploads an image as `path:tag`, below an index when one is given; its reference."""
    client = RegistryClient(HostConfig(certs_folders=()), credentials)
    name = f"{registry.host}/{path}"
    push_made(client, name, made, made.digest if index else tag)
    if index:
        client.put_manifest(name, tag, index, json.loads(index)["mediaType"])
    client.close()
    return f"{name}:{tag}"


def small(seed: str, *, layers: int = 2, size: int = 2000, **more: Any) -> small_images.Made:
    """An image of a few files, different for each seed."""
    return small_images.image([{"etc/": b"", f"etc/{seed}{number}": f"{seed}{number}".encode() * (size // len(seed))} for number in range(layers)], **more)
