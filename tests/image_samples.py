"""Small images made by hand, for tests of archives: layers by tarfile, documents by json."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

from pyruntime.image.archive import Archived
from pyruntime.image.archive_blobs import FolderBlobs
from pyruntime.image.archive_contents import TarContents
from pyruntime.image.config import parse_config
from pyruntime.image.media import parse_manifest
from pyruntime.image.reference import parse_reference

CREATED = "2026-01-02T03:04:05Z"
OCI = "application/vnd.oci.image"


def sha(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def layer(files: dict[str, bytes | str]) -> bytes:
    """A layer tar: bytes are files, text symlinks, a name with / at its end a directory."""
    return archive(list(files.items()))


def archive(members: list[tuple[str, Any]]) -> bytes:
    """A tar; (name, ("hard", target)) is a hard link."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.mode = 0o755 if name.endswith("/") else 0o644
            if isinstance(content, tuple):
                info.type, info.linkname = tarfile.LNKTYPE, content[1]
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
            elif name.endswith("/"):
                info.type = tarfile.DIRTYPE
            else:
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return out.getvalue()


def config(diff_ids: list[str], inner: dict[str, Any] | None = None, **outer: Any) -> bytes:
    history = [{"created": CREATED, "created_by": f"step {i}"} for i in range(len(diff_ids))]
    return json.dumps({"created": CREATED, "architecture": "amd64", "os": "linux", "config": inner or {"Cmd": ["/bin/sh"]},
                       "rootfs": {"type": "layers", "diff_ids": diff_ids}, "history": history} | outer).encode()  # fmt: skip


def put(blobs: FolderBlobs, data: bytes) -> dict[str, Any]:
    return {"digest": blobs.add(iter((data,)), len(data)), "size": len(data)}


def make_image(blobs: FolderBlobs, layers: list[bytes], *names: str, pack: str = "gzip", **outer: Any) -> Archived:
    """An image in `blobs`, its layers in gzip, zstd or plain ("")."""
    from backports import zstd

    packers = {"gzip": lambda data: gzip.compress(data, mtime=0), "zstd": zstd.compress, "": bytes}
    described = []
    for data in layers:
        suffix = f"+{pack}" if pack else ""
        described.append({"mediaType": f"{OCI}.layer.v1.tar{suffix}"} | put(blobs, packers[pack](data)))
    raw_config = config([sha(data) for data in layers], **outer)
    manifest = json.dumps({
        "schemaVersion": 2, "mediaType": f"{OCI}.manifest.v1+json",
        "config": {"mediaType": f"{OCI}.config.v1+json"} | put(blobs, raw_config), "layers": described,
    }, indent=3).encode()  # fmt: skip
    put(blobs, manifest)
    return Archived(parse_manifest(manifest), parse_config(raw_config), tuple(parse_reference(name) for name in names))


def contents(data: bytes, folder: Path) -> TarContents:
    """A read archive, its content in a folder that is not cleaned."""
    folder.mkdir(exist_ok=True)
    source = io.BytesIO(data)
    return TarContents(source.read, FolderBlobs(str(folder)))


def members(data: bytes) -> dict[str, bytes]:
    """The files of a tar by name."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}
