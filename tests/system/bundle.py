"""Bundles for tests: one base config of busybox; a test changes one thing and looks from inside."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

MOUNTS = [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755"]},
    {
        "destination": "/dev/pts",
        "type": "devpts",
        "source": "devpts",
        "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
    },
]
NAMESPACES = ("pid", "mount", "ipc", "uts")
FOLDERS = ("bin", "dev", "etc", "proc", "root", "sys", "tmp", "var")

BASE: dict[str, Any] = {
    "ociVersion": "1.3.0",
    "root": {"path": "rootfs"},
    "process": {
        "args": ["true"],
        "cwd": "/",
        "env": ["PATH=/bin"],
        "user": {"uid": 0, "gid": 0},
    },
    "mounts": MOUNTS,
    "linux": {"namespaces": [{"type": name} for name in NAMESPACES]},
}


def namespaces(*names: str, **paths: str) -> list[dict[str, str]]:
    """The base namespaces and these, new; or by path, which replaces the base's entry of that type."""
    kept = [name for name in (*NAMESPACES, *names) if name not in paths]
    return [{"type": name} for name in kept] + [{"type": name, "path": path} for name, path in paths.items()]


def make_rootfs(path: Path, busybox: str) -> Path:
    """busybox under all its names, the usual folders, and a passwd file with root and one user."""
    for folder in FOLDERS:
        (path / folder).mkdir(parents=True)
    (path / "tmp").chmod(0o1777)
    shutil.copy(busybox, path / "bin/busybox")
    names = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for name in names:
        if name != "busybox":
            (path / "bin" / name).symlink_to("busybox")
    (path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n")
    (path / "etc/group").write_text("root:x:0:\nuser:x:1000:\n")
    return path


class Bundle:
    """A folder with config.json and rootfs. `config` may be changed and saved again."""

    def __init__(self, path: Path, program: str | list[str], changes: dict[str, Any]) -> None:
        self.path, self.rootfs = path, path / "rootfs"
        self.config = copy.deepcopy(BASE)
        self.config["process"]["args"] = program if isinstance(program, list) else ["sh", "-c", program]
        self.change(changes)

    def change(self, changes: dict[str, Any]) -> Bundle:
        """Set values by dotted keys ("process.user.uid"); DELETE takes a key away. Saves."""
        for key, value in changes.items():
            *parents, last = key.split(".")
            place = self.config
            for parent in parents:
                place = place.setdefault(parent, {})
            if value is DELETE:
                place.pop(last, None)
            else:
                place[last] = copy.deepcopy(value)
        self.save()
        return self

    def save(self) -> None:
        """Write config.json."""
        (self.path / "config.json").write_text(json.dumps(self.config, indent=1))

    def add_mounts(self, *mounts: dict[str, Any]) -> Bundle:
        """Append to the base's mounts. Saves."""
        self.config["mounts"] += list(mounts)
        self.save()
        return self

    def file(self, name: str, content: str | bytes = "", mode: int = 0o644) -> Path:
        """A file in the rootfs, its folders made."""
        path = self.rootfs / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)
        return path

    def replace(self, name: str, target: str) -> None:
        """A symlink in the rootfs in place of what is there."""
        path = self.rootfs / name.lstrip("/")
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(target, path)


class _Delete:
    def __deepcopy__(self, memo: object) -> _Delete:
        return self


DELETE = _Delete()
