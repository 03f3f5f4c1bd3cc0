"""A sample image for the image benchmark: files of this machine's /usr, as an OCI layout in one layer and in several."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import stat
import subprocess
import tarfile
from pathlib import Path
from typing import Any

KINDS = "application/vnd.oci.image."
LEVEL = 6
PACKS = ("gzip", "zstd")


def pick(files: int, size: int) -> list[Path]:
    """About so many files and bytes of /usr, their folders included, in one order on every run."""
    found, bytes_left = [], size
    for folder, folders, names in os.walk("/usr"):
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            status = path.lstat()
            room = bytes_left / max(1, files - len(found)) * 40  # so that neither runs out long before the other
            if not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)) or status.st_size > room:
                continue
            found.append(path)
            bytes_left -= status.st_size
            if len(found) >= files or bytes_left <= 0:
                return found
    return found


def tar_of(paths: list[Path]) -> bytes:
    """A layer of them, folders before what is in them."""
    made, folders = io.BytesIO(), set[Path]()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in paths:
            for folder in reversed(path.parents):
                if folder not in folders and folder != Path("/"):
                    folders.add(folder)
                    archive.add(folder, recursive=False)
            archive.add(path, recursive=False)
    return made.getvalue()


def put(layout: Path, data: bytes, kind: str) -> dict[str, Any]:
    """A blob of the layout; its descriptor."""
    name = hashlib.sha256(data).hexdigest()
    (layout / "blobs/sha256").mkdir(parents=True, exist_ok=True)
    (layout / "blobs/sha256" / name).write_bytes(data)
    return {"mediaType": KINDS + kind, "digest": f"sha256:{name}", "size": len(data)}


def packed(tar: bytes, pack: str) -> bytes:
    """`tar` by gzip's level 6 or zstd's own 3."""
    if pack == "gzip":
        return gzip.compress(tar, LEVEL, mtime=0)
    return subprocess.run(["zstd", "-q", "-c"], input=tar, stdout=subprocess.PIPE, check=True).stdout


def make(layout: Path, paths: list[Path], layers: int, pack: str) -> dict[str, int]:
    """Writes the layout, tag `t`; bytes of the tars and of the blobs, and entries."""
    share = -(-len(paths) // layers)
    tars = [tar_of(paths[at : at + share]) for at in range(0, len(paths), share)]
    blobs = [packed(tar, pack) for tar in tars]
    config = {"architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine], "os": "linux", "config": {},
              "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(tar).hexdigest() for tar in tars]}}  # fmt: skip
    manifest = {"schemaVersion": 2, "mediaType": KINDS + "manifest.v1+json",
                "config": put(layout, json.dumps(config).encode(), "config.v1+json"),
                "layers": [put(layout, blob, f"layer.v1.tar+{pack}") for blob in blobs]}  # fmt: skip
    top = put(layout, json.dumps(manifest).encode(), "manifest.v1+json")
    top["annotations"] = {"org.opencontainers.image.ref.name": "t"}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return {"tar": sum(map(len, tars)), "blobs": sum(map(len, blobs)), "files": len(paths)}
