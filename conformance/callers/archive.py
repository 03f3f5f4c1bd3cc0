"""An image of busybox as `docker save` writes it, made from Debian's busybox-static; every engine loads that form."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

IMAGE = "localhost/busybox:1"
FOLDERS = {"bin": 0o755, "dev": 0o755, "etc": 0o755, "home": 0o755, "proc": 0o755, "root": 0o700, "sys": 0o755,
           "tmp": 0o1777, "var": 0o755}  # fmt: skip
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home:/bin/sh\n",
    "etc/group": "root:x:0:\nuser:x:1000:\nextra:x:2000:user\n",
}
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def make_archive(busybox: str, name: str = IMAGE, command: tuple[str, ...] = ("sh",)) -> bytes:
    """The archive of an image with that name; its program is `command`."""
    layer = _layer(busybox)
    digest = hashlib.sha256(layer).hexdigest()
    machine = os.uname().machine
    config = {
        "architecture": ARCHITECTURES.get(machine, machine),
        "os": "linux",
        "created": "2026-01-01T00:00:00Z",
        "config": {"Env": ["PATH=/bin"], "Cmd": list(command)},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "history": [{"created_by": "busybox", "created": "2026-01-01T00:00:00Z"}],
    }
    text = json.dumps(config).encode()
    file = f"{hashlib.sha256(text).hexdigest()}.json"
    manifest = json.dumps([{"Config": file, "RepoTags": [name], "Layers": [f"{digest}/layer.tar"]}]).encode()
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        _add(tar, file, text)
        _add(tar, digest, kind=tarfile.DIRTYPE, mode=0o755)
        _add(tar, f"{digest}/layer.tar", layer)
        _add(tar, "manifest.json", manifest)
    return whole.getvalue()


def _layer(busybox: str) -> bytes:
    names = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        for name, mode in FOLDERS.items():
            _add(tar, name, kind=tarfile.DIRTYPE, mode=mode)
        _add(tar, "bin/busybox", Path(busybox).read_bytes(), mode=0o755)
        for name in names:
            if name != "busybox":
                _add(tar, f"bin/{name}", kind=tarfile.SYMTYPE, target="busybox", mode=0o777)
        for name, content in FILES.items():
            _add(tar, name, content.encode())
    return whole.getvalue()


def _add(
    tar: tarfile.TarFile, name: str, content: bytes = b"", *, kind: bytes = tarfile.REGTYPE, mode: int = 0o644, target: str = ""
) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.size, entry.linkname = kind, mode, len(content), target
    tar.addfile(entry, io.BytesIO(content))
