"""Images made of a seed, for tests of the store: real documents and digests, layers of a few files."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import tarfile

from pyruntime.image import media
from pyruntime.image.digest import chain_ids, digest_of
from pyruntime.image.reference import parse_reference
from pyruntime.image.store import Image, Lease, NewLayer, Store


class Made:
    """One image: `layers` are (tar, gzipped tar, files)."""

    def __init__(self, name: str, seeds: list[int], *, created: str = "2026-01-01T00:00:00Z", labels: dict | None = None,
                 size: int = 2000) -> None:
        self.reference = parse_reference(name)
        self.layers = [make_layer(seed, size) for seed in seeds]
        self.diff_ids = [digest_of(tar) for tar, _, _ in self.layers]
        self.chains = chain_ids(self.diff_ids)
        self.config = json.dumps({
            "os": "linux", "architecture": "amd64", "created": created, "rootfs": {"type": "layers", "diff_ids": self.diff_ids},
            "config": {"Labels": labels or {"seeds": str(seeds)}},
        }).encode()
        self.id = digest_of(self.config)
        entries = [{"mediaType": media.OCI_LAYER_GZIP, "digest": digest_of(blob), "size": len(blob)} for _, blob, _ in self.layers]
        self.manifest = json.dumps({
            "schemaVersion": 2, "mediaType": media.DOCKER_MANIFEST,
            "config": {"mediaType": media.OCI_CONFIG, "digest": self.id, "size": len(self.config)}, "layers": entries,
        }).encode()

    @property
    def blobs(self) -> dict[str, bytes]:
        """All content by digest, the manifest last."""
        found = {digest_of(blob): blob for _, blob, _ in self.layers}
        return found | {self.id: self.config, digest_of(self.manifest): self.manifest}

    def add(self, store: Store, *, target: bool = True, parent: str = "") -> Image:
        """Does what a pull does: content piece by piece, layers where they are missing, then the image."""
        with store.lease() as lease:
            for digest, data in self.blobs.items():
                with store.ingest(digest, len(data), lease) as ingest:
                    if ingest.complete:
                        continue
                    for at in range(ingest.offset, len(data), 512):
                        ingest.write(data[at : at + 512])
                    ingest.commit()
            manifest = digest_of(self.manifest)
            return store.commit_image(lease, self.reference, manifest, self.unpack(store, lease),
                                      target_digest=manifest if target else "", parent=parent)

    def unpack(self, store: Store, lease: Lease) -> list[NewLayer]:
        """The layers, unpacked where the store lacks them."""
        found = []
        for chain, diff_id, (tar, _, files) in zip(self.chains, self.diff_ids, self.layers):
            path = None
            if store.layer(chain, lease) is None:
                path = store.stage_layer(lease)
                for name, data in files.items():
                    os.makedirs(os.path.dirname(f"{path}/{name}"), exist_ok=True)
                    with open(f"{path}/{name}", "wb") as file:
                        file.write(data)
            found.append(NewLayer(chain, diff_id, path, len(tar)))
        return found


def tar_of(files: dict[str, bytes]) -> bytes:
    """A plain tar with these files, in their order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def make_layer(seed: int, size: int) -> tuple[bytes, bytes, dict[str, bytes]]:
    """A layer's tar, the same gzipped, and its files."""
    rng = random.Random(seed)
    files = {f"d{seed}/f{number}": rng.randbytes(size) for number in range(3)}
    tar = tar_of(files)
    return tar, gzip.compress(tar, 1, mtime=0), files


def tree(root: str) -> list[str]:
    """All files and directories below the root but the database's own, sorted."""
    found = []
    for folder, folders, files in os.walk(root):
        found += [os.path.relpath(os.path.join(folder, name), root) for name in [*folders, *files]]
    return sorted(name for name in found if not name.startswith("db.sqlite"))
