"""Images whose content is named by sha512: loaded, saved, pulled, pushed; known by the sha256 of their config."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from typing import Any

import pytest

from pyruntime.image.archive_load import load_archive
from pyruntime.image.archive_store import save_from_store
from pyruntime.image.pull import pull
from pyruntime.image.push import push
from pyruntime.image.reference import parse_reference
from pyruntime.image.registry import RegistryClient
from pyruntime.image.store import Store
from tests import small_images
from tests.image.made import tar_of
from tests.registry_stand import Registry, put

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def sha512(data: bytes) -> str:
    return f"sha512:{hashlib.sha512(data).hexdigest()}"


def described(media_type: str, data: bytes, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": sha512(data), "size": len(data), **more}


def made() -> tuple[bytes, dict[str, bytes], str]:
    """(manifest, content by digest, the image's ID)."""
    layer, diff_id = small_images.layer({"etc/": b"", "etc/file": b"content"})
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [diff_id]}}).encode()
    manifest = json.dumps({"schemaVersion": 2, "mediaType": small_images.MANIFEST, "config": described(small_images.CONFIG, config),
                           "layers": [described(small_images.LAYER, layer)]}).encode()
    return manifest, {sha512(data): data for data in (manifest, config, layer)}, small_images.digest_of(config)


def layout(manifest: bytes, content: dict[str, bytes]) -> bytes:
    """An OCI layout as a tar."""
    name = {"org.opencontainers.image.ref.name": "registry.test/long:1"}
    index = {"schemaVersion": 2, "manifests": [described(small_images.MANIFEST, manifest, annotations=name)]}
    files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": json.dumps(index).encode(),
             **{f"blobs/{digest.replace(':', '/')}": data for digest, data in content.items()}}
    return tar_of(files)


def test_load_and_save(store: Store, tmp_path):
    manifest, content, image_id = made()
    (loaded,) = load_archive(store, io.BytesIO(layout(manifest, content)).read)
    assert (loaded.image.id, loaded.lines) == (image_id, ("Loaded image: registry.test/long:1",))
    saved = io.BytesIO()
    save_from_store(store, ["registry.test/long:1"], saved.write)
    with tarfile.open(fileobj=io.BytesIO(saved.getvalue())) as tar:
        config, layer = (described["digest"].replace(":", "/") for described in
                         (json.loads(manifest)["config"], *json.loads(manifest)["layers"]))
        assert {f"blobs/{config}", f"blobs/{layer}"} <= set(tar.getnames())
        assert tar.extractfile(f"blobs/{config}").read() == content[config.replace("/", ":")]
    assert store.verify() == []
    with Store(str(tmp_path / "again")) as again:
        (second,) = load_archive(again, io.BytesIO(saved.getvalue()).read)
        assert second.image.id == image_id
        assert again.verify() == []
    store.remove("registry.test/long:1")
    assert store.images() == []


def test_push_and_pull(plain: Registry, store: Store, client: RegistryClient, tmp_path):
    manifest, content, image_id = made()
    name = f"{plain.host}/long/name"
    for data in content.values():
        if data != manifest:
            put(client, name, data)  # a registry may know content by another digest as well
    load_archive(store, io.BytesIO(layout(manifest, content)).read)
    reference = parse_reference(f"{name}:1")
    store.tag("registry.test/long:1", reference)
    pushed = push(store, client, reference)
    assert pushed.digest == small_images.digest_of(manifest)
    with Store(str(tmp_path / "pulled")) as pulled:
        assert pull(pulled, client, reference).id == image_id
        assert pull(pulled, client, reference).id == image_id
        assert pulled.verify() == []
