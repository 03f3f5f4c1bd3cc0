"""Root file systems of real systems, for tests of images: busybox alone, and Debian made by mmdebstrap, each made once.

They are tars below .cache/images, in the form of a layer: owners as numbers, no device nodes, sorted. A test asks with
`busybox_tar()` or `debian_tar("nodejs")`; what cannot be made on this machine is a skip that says why.
"""

from __future__ import annotations

import fcntl
import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "images"
BUSYBOX = ("/bin/busybox", "/usr/bin/busybox")
APPLETS = "sh ls cat echo id env pwd stat readlink true false sleep test mkdir touch ps mount hostname sed grep".split()
SUITE = os.environ.get("SUITE", "bookworm")
PASSWD = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:web:/srv:/bin/sh\n"
GROUP = "root:x:0:\nwww:x:33:\nextra:x:77:web\n"


@contextmanager
def made_once(name: str) -> Iterator[tuple[Path, bool]]:
    """(path, whether it is there) of a file of the cache; one process at a time makes it, at path + `.part`."""
    CACHE.mkdir(parents=True, exist_ok=True)
    path = CACHE / name
    with open(CACHE / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield path, path.exists()
        part = path.with_name(f"{name}.part")
        if part.exists():
            part.rename(path)


def busybox_tar() -> Path:
    """A root file system of busybox-static with users, a setuid program, links and a folder of another owner."""
    busybox = next((path for path in BUSYBOX if Path(path).exists()), None)
    if busybox is None:
        pytest.skip("needs busybox (Debian: busybox-static)")
    with made_once("busybox.tar") as (path, there):
        if not there:
            with tarfile.open(f"{path}.part", "w", format=tarfile.PAX_FORMAT) as tar:
                _fill_busybox(tar, busybox)
    return path


def _fill_busybox(tar: tarfile.TarFile, busybox: str) -> None:
    def add(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", *, mode: int = 0o644, owner: int = 0, link: str = "") -> None:
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.uid, info.gid, info.linkname = kind, mode, owner, owner, link
        info.size, info.mtime = len(data), 1_700_000_000
        tar.addfile(info, io.BytesIO(data))

    for name in (".", "bin", "dev", "etc", "proc", "root", "srv", "sys", "tmp", "usr", "usr/bin", "var"):
        add(name, tarfile.DIRTYPE, mode={"tmp": 0o1777, "root": 0o700}.get(name, 0o755), owner=33 if name == "srv" else 0)
    add("bin/busybox", data=Path(busybox).read_bytes(), mode=0o755)
    for name in APPLETS:
        add(f"bin/{name}", tarfile.SYMTYPE, mode=0o777, link="busybox")
    add("usr/bin/busybox", tarfile.LNKTYPE, mode=0o755, link="bin/busybox")
    add("usr/bin/raise", data=b"#!/bin/sh\n", mode=0o4755)
    add("etc/passwd", data=PASSWD.encode())
    add("etc/group", data=GROUP.encode())
    add("srv/page", data=b"hello\n", mode=0o640, owner=33)


def debian_tar(*packages: str, variant: str = "minbase") -> Path:
    """Debian with these packages. Takes minutes when it is made; slow tests ask for more than the plain one."""
    if shutil.which("mmdebstrap") is None:
        pytest.skip("needs mmdebstrap")
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with made_once(f"debian-{'-'.join((variant, *packages))}.tar") as (path, there):
        if not there:
            include = [f"--include={','.join(packages)}"] if packages else []
            made = subprocess.run(
                ["mmdebstrap", "--quiet", "--format=tar", f"--variant={variant}", *include,
                 "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*",
                 "--dpkgopt=path-exclude=/usr/share/locale/*", SUITE, f"{path}.part"],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1500, check=False)  # fmt: skip
            if made.returncode != 0:
                Path(f"{path}.part").unlink(missing_ok=True)
                pytest.skip(f"needs Debian's packages: {made.stderr.strip().splitlines()[-1:]}")
    return path


def layer_tar(tree: Path) -> bytes:
    """A small folder as a layer, by GNU tar."""
    return subprocess.run(["tar", "-C", str(tree), "--numeric-owner", "--sort=name", "--xattrs", "-cf", "-", "."],
                          stdout=subprocess.PIPE, check=True).stdout  # fmt: skip
