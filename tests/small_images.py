"""Small images made of bytes in memory, for registries: layers by tarfile, config and manifest by hand."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import NamedTuple

BUSYBOX = next((path for path in ("/bin/busybox", "/usr/bin/busybox") if Path(path).exists()), "")
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def digest_of(data: bytes) -> str:
    """sha256, by hashlib alone."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Made(NamedTuple):
    """An image: its manifest's bytes and type, and everything else by digest."""

    manifest: bytes
    media_type: str
    blobs: dict[str, bytes]
    config: bytes
    layers: tuple[str, ...]
    diff_ids: tuple[str, ...]

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)

    @property
    def config_digest(self) -> str:
        return digest_of(self.config)


def layer(files: dict[str, bytes | str], *, level: int = 1) -> tuple[bytes, str]:
    """(gzip blob, DiffID) of a layer; text is a symlink's target, a name with `/` at the end a directory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name.rstrip("/"))
            entry.mode = 0o755
            if name.endswith("/"):
                entry.type = tarfile.DIRTYPE
                tar.addfile(entry)
            elif isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                tar.addfile(entry)
            else:
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    plain = buffer.getvalue()
    return gzip.compress(plain, level, mtime=0), digest_of(plain)


def image(layers: list[dict[str, bytes | str]], *, architecture: str = "amd64", docker: bool = False,
          config: dict[str, object] | None = None, level: int = 1) -> Made:
    """An image of these layers, base first."""
    made = [layer(files, level=level) for files in layers]
    document = {"architecture": architecture, "os": "linux", "created": "2024-01-02T03:04:05Z",
                "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"], **(config or {})},
                "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id in made]},
                "history": [{"created": "2024-01-02T03:04:05Z", "created_by": f"layer {i}"} for i in range(len(made))]}
    raw = json.dumps(document).encode()
    kinds = (DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER) if docker else (MANIFEST, CONFIG, LAYER)
    manifest = {"schemaVersion": 2, "mediaType": kinds[0],
                "config": {"mediaType": kinds[1], "digest": digest_of(raw), "size": len(raw)},
                "layers": [{"mediaType": kinds[2], "digest": digest_of(blob), "size": len(blob)} for blob, _ in made]}
    blobs = {digest_of(blob): blob for blob, _ in made} | {digest_of(raw): raw}
    # indented: bytes that a re-encoding would not give
    return Made(json.dumps(manifest, indent=3).encode(), kinds[0], blobs, raw, tuple(digest_of(blob) for blob, _ in made),
                tuple(diff_id for _, diff_id in made))


def index(entries: list[tuple[Made, dict[str, str]]]) -> bytes:
    """An index of images with their platforms."""
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
        {"mediaType": made.media_type, "digest": made.digest, "size": len(made.manifest), "platform": platform}
        for made, platform in entries]}, indent=1).encode()


def busybox_layer() -> dict[str, bytes | str]:
    """A root file system that runs: busybox with a few names."""
    names = ("sh", "cat", "ls", "echo", "true", "sleep", "id", "stat", "find", "sha256sum")
    return {"bin/": b"", "etc/": b"", "tmp/": b"", "bin/busybox": Path(BUSYBOX).read_bytes(),
            **{f"bin/{name}": "busybox" for name in names}, "etc/passwd": b"root:x:0:0:root:/:/bin/sh\n"}
