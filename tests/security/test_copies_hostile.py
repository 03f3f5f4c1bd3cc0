"""What copies out of files that others made, against links, races and endless files: the host is not read or touched."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pyruntime.errors import ImageError
from pyruntime.image.diff import upper_layer
from pyruntime.image.layers import remove_tree
from tests.security.exchange import exchanging
from tests.system.test_security import RACE_S
from tests.tree_facts import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.system.bundle import Bundle
    from tests.system.runtime import Runtime

    MakeBundle = Callable[..., Bundle]

pytestmark = [pytest.mark.system, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
SECRET = "root:x:0:0:tiger"
LOOK = "find /vol -type f -exec cat {} + ; find /mnt -type f -exec cat {} + ; cat /vol/file /mnt/* /mnt/*/* ; true"


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder of the host with a secret; it has to stay what it was."""
    folder = tmp_path / "outside"
    (folder / "deep").mkdir(parents=True)
    for name in ("file", "deep/file"):
        (folder / name).write_text(SECRET)
    before = describe(folder)
    yield folder
    assert describe(folder) == before


def copied_up(*options: str) -> dict[str, Any]:
    return {"destination": "/vol", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", *options]}


def rounds(seen: Sequence[str] = ("nothing is waited for",)) -> Iterator[None]:
    """For PYRUNTIME_RACE_SECONDS, once at least, and until something is in `seen` of what comes true now and then."""
    end = time.monotonic() + RACE_S
    while True:
        yield
        if time.monotonic() > end and seen:
            return


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_copy_up_of_names_that_are_exchanged(runtime: Runtime, make_bundle: MakeBundle, outside: Path, kind: str) -> None:
    """S60, CVE-2018-15664: what tmpcopyup copies is exchanged for a link to the host while it is looked at."""
    bundle = make_bundle(LOOK).add_mounts(copied_up())
    bundle.file("vol/real/file" if kind == "folder" else "vol/real", "inside")
    (bundle.rootfs / "vol/link").symlink_to(outside if kind == "folder" else outside / "file")
    codes: set[int] = set()
    copied: list[str] = []
    with exchanging(bundle.rootfs / "vol", "real", "link"):
        for _ in rounds(copied):
            result = runtime.run(bundle)
            assert SECRET not in result.out
            codes.add(result.code)
            copied += re.findall("inside", result.out)
    assert codes <= {0, 1}


def test_copy_up_of_everything_but_files(runtime: Runtime, make_bundle: MakeBundle, outside: Path) -> None:
    """S60: links stay links, a FIFO is not waited for, a socket is left out, a mount below is not entered."""
    bundle = make_bundle(f"readlink /vol/up; cat /vol/up/file; {LOOK}; echo; ls /vol")
    bundle.file("vol/file", "inside")
    bundle.replace("vol/up", "../" * 20 + str(outside)[1:])
    bundle.replace("vol/self", "/proc/1/root/etc")
    os.mkfifo(bundle.rootfs / "vol/fifo")
    (bundle.rootfs / "vol/inner").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(bundle.rootfs / "vol/socket"))
        bundle.add_mounts({"destination": "/vol/inner", "source": str(outside), "options": ["bind"]}, copied_up())
        result = runtime.run(bundle)
    assert result.code == 0, result
    assert SECRET not in result.out
    assert "inside" in result.out
    assert {"fifo", "self", "up"} <= set(result.out.split())
    assert not {"socket", "inner"} & set(result.out.split())


def test_copy_up_of_a_file_without_end(runtime: Runtime, make_bundle: MakeBundle) -> None:
    """S60, R10: a sparse file of a terabyte fills the mount that it was given and no more; create says so in a line."""
    bundle = make_bundle("true").add_mounts(copied_up("size=1m"))
    with bundle.file("vol/file", "").open("r+b") as file:
        file.truncate(1 << 40)
    result = runtime.run(bundle)
    assert (result.code, result.field) == (1, "/mounts/3/options"), result
    assert "no space left" in result.message.lower()


@pytest.mark.parametrize("live", [False, True])
def test_copied_link_that_is_exchanged(
    runtime: Runtime, make_bundle: MakeBundle, outside: Path, tmp_path: Path, *, live: bool
) -> None:
    """S60, S24: the source of copy-symlink is a folder when it is looked at, and a link to the host when it is opened."""
    shared = tmp_path / "shared"
    (shared / "one").mkdir(parents=True)
    (shared / "one/file").write_text("inside")
    (shared / "other").symlink_to(outside)
    mount = {"destination": "/mnt/x", "source": str(shared / "one"), "options": ["bind", "copy-symlink"]}
    listed = tmp_path / "mounts.json"
    listed.write_text(json.dumps([mount]))
    bundle = make_bundle("sleep 600" if live else LOOK)
    if not live:
        bundle.add_mounts(mount)
    with exchanging(shared, "one", "other"):
        for _ in rounds():
            if live:
                with runtime.container(bundle) as container:
                    runtime("mounts", "add", container.id, listed)
                    seen = container.look(LOOK)
            else:
                seen = runtime.run(bundle).out
            assert SECRET not in seen


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_upper_directory_that_is_exchanged(outside: Path, tmp_path: Path, kind: str) -> None:
    """S60, S61, CVE-2024-1753: a commit or export reads no link that was a file or a folder a moment ago."""
    upper = tmp_path / "upper"
    real = upper / "real"
    (real if kind == "folder" else upper).mkdir(parents=True)
    (real / "file" if kind == "folder" else real).write_text("inside")
    (upper / "link").symlink_to(outside if kind == "folder" else outside / "file")
    whole: list[str] = []
    with exchanging(upper, "real", "link"):
        for _ in rounds(whole):
            try:
                data = b"".join(upper_layer(str(upper)))
            except ImageError:
                continue
            whole.append("a layer")
            assert SECRET.encode() not in data
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                assert {name.rpartition("/")[2] for name in tar.getnames()} <= {"real", "link", "file"}


def test_removal_of_a_tree_that_is_exchanged(outside: Path, tmp_path: Path) -> None:
    """S60, S61, CVE-2024-23652: a folder that becomes a link while its tree is removed takes nothing of the host along."""
    for number, _ in enumerate(rounds()):
        tree = tmp_path / f"tree{number}"
        for name in ("a", "a/b", "a/b/c"):
            (tree / name / "real").mkdir(parents=True)
            (tree / name / "real/file").write_text("inside")
            (tree / name / "link").symlink_to(outside)
        with exchanging(tree / "a/b", "real", "link"):
            remove_tree(str(tree))
        remove_tree(str(tree))
        assert not tree.exists()
        assert (outside / "deep/file").read_text() == SECRET
