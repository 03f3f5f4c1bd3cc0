"""Layers made of an overlay upper directory, and of two trees: unpacked again they give the same."""

from __future__ import annotations

import ctypes
import hashlib
import os
import random
import shutil
import socket
import subprocess

import pytest

from pyruntime.errors import ImageError
from pyruntime.image.diff import Options, tree_layer, upper_layer
from pyruntime.image.unpack import overlay_options, settle
from tests.image.trees import describe, differences, directory, file, hard_link, layer, symlink, unpack

pytestmark = [pytest.mark.system, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

LIBC = ctypes.CDLL(None, use_errno=True)

BASE = layer(directory(".", mtime=1), directory("d", mode=0o750, uid=5, mtime=9), file("d/a", b"a" * 9000), file("d/b", b"b"),
             directory("d/sub", mtime=8), file("d/sub/x", b"x"), file("top", b"t", mode=0o4755), symlink("l", "d"),
             hard_link("z", "d/b"))  # fmt: skip


class Mounted:
    """A container's view: an overlay with an upper directory."""

    def __init__(self, folder, lowers, upper="") -> None:
        self.target = folder / "view"
        self.target.mkdir(exist_ok=True)
        work = folder / "work"
        if upper:
            work.mkdir(exist_ok=True)
        (folder / "nothing").mkdir(exist_ok=True)
        lowers = [*map(str, lowers), str(folder / "nothing")]
        self.options = overlay_options(lowers, str(upper), str(work) if upper else "")

    def __enter__(self):
        if LIBC.mount(b"overlay", os.fsencode(self.target), b"overlay", 0, os.fsencode(self.options)) < 0:
            raise OSError(ctypes.get_errno(), "mounting overlay")
        return self.target

    def __exit__(self, *told) -> None:
        assert LIBC.umount2(os.fsencode(self.target), 2) == 0


def change(root) -> None:
    """What programs do in a container."""
    (root / "d" / "a").unlink()
    (root / "d" / "a").write_bytes(b"new")
    shutil.rmtree(root / "d" / "sub")
    (root / "d" / "sub").mkdir()
    (root / "d" / "sub" / "fresh").write_text("f")
    (root / "l").unlink()
    (root / "l").mkdir()
    (root / "top").chmod(0o600)
    os.setxattr(root / "top", "user.note", b"\0=raw")
    os.link(root / "top", root / "top2")
    os.mkfifo(root / "fifo")
    os.mknod(root / "null", 0o20666, os.makedev(1, 3))
    (root / ("n" * 120)).write_text("long")
    (root / "ünicode").write_bytes(b"")
    os.symlink("t" * 200, root / "far")
    os.chown(root / "far", 3_000_000, 7, follow_symlinks=False)
    (root / "gone-soon").touch()
    (root / "gone-soon").unlink()
    (root / "z").unlink()


def test_an_upper_directory_becomes_a_layer(tmp_path) -> None:
    unpack(BASE, tmp_path / "base")
    upper = tmp_path / "upper"
    upper.mkdir()
    with Mounted(tmp_path, [tmp_path / "base"], upper) as view:
        change(view)
        told = describe(view)
    data = b"".join(upper_layer(str(upper), lower_root=str(tmp_path / "base")))
    assert data == b"".join(upper_layer(str(upper), lower_root=str(tmp_path / "base")))
    above = tmp_path / "above"
    settle([(str(above), unpack(data, above))], [str(tmp_path / "base")])
    with Mounted(tmp_path, [above, tmp_path / "base"]) as view:
        again = describe(view)
    for tree in (told, again):
        tree["."].pop("mtime")
    assert differences(told, again) == []
    listed = subprocess.run(["tar", "-tf", "-"], input=data, capture_output=True, check=True).stdout.decode().splitlines()
    assert {".wh.z", "d/.wh.a"} & set(listed) == {".wh.z"}
    assert "d/sub/.wh..wh..opq" in listed
    assert not [name for name in listed if "gone-soon" in name]


def test_two_trees_become_a_layer(tmp_path) -> None:
    unpack(BASE, tmp_path / "old", mode="flat")
    unpack(BASE, tmp_path / "new", mode="flat")
    assert b"".join(tree_layer(str(tmp_path / "old"), str(tmp_path / "new"))) == bytes(1024)
    change(tmp_path / "new")
    data = b"".join(tree_layer(str(tmp_path / "old"), str(tmp_path / "new")))
    unpack(data, tmp_path / "old", mode="flat")
    told, again = describe(tmp_path / "new"), describe(tmp_path / "old")
    for tree in (told, again):
        tree["."].pop("mtime")
    assert differences(told, again) == []


def test_a_change_deep_down_brings_its_parents(tmp_path) -> None:
    unpack(BASE, tmp_path / "old", mode="flat")
    unpack(BASE, tmp_path / "new", mode="flat")
    with (tmp_path / "new" / "d" / "sub" / "x").open("ab") as opened:
        opened.write(b"y")
    data = b"".join(tree_layer(str(tmp_path / "old"), str(tmp_path / "new")))
    listed = subprocess.run(["tar", "-tf", "-"], input=data, capture_output=True, check=True).stdout.decode().split()
    assert listed == ["d/", "d/sub/", "d/sub/x"]


def test_a_whole_tree_and_what_gnu_tar_makes_of_it(tmp_path) -> None:
    unpack(BASE, tmp_path / "tree", mode="flat")
    change(tmp_path / "tree")
    data = b"".join(tree_layer("", str(tmp_path / "tree")))
    (tmp_path / "tar").mkdir()
    command = ["tar", "-C", tmp_path / "tar", "-xpf", "-", "--numeric-owner", "--xattrs", "--xattrs-include=*"]
    subprocess.run(command, check=True, input=data)
    unpack(data, tmp_path / "ours")
    want = describe(tmp_path / "tree")
    assert differences(want, describe(tmp_path / "tar")) == []
    assert differences(want, describe(tmp_path / "ours")) == []


def test_random_trees_round_trip(tmp_path) -> None:
    for seed in range(5):
        draw = random.Random(seed)
        root = tmp_path / str(seed)
        for _ in range(60):
            folder = root / "/".join(draw.choices("abc", k=draw.randrange(3)))
            folder.mkdir(parents=True, exist_ok=True)
            name = folder / ("f" + "".join(draw.choices("xyé", k=draw.choice([1, 2, 90]))))
            name.write_bytes(draw.randbytes(draw.randrange(2000)))
            os.utime(name, ns=(0, draw.choice([-1, 1, 10**9, 123456789012345678, -5 * 10**9])))
        data = b"".join(tree_layer("", str(root)))
        unpack(data, tmp_path / f"again{seed}")
        assert differences(describe(root), describe(tmp_path / f"again{seed}")) == []


def test_the_bytes_are_the_same_on_any_machine(tmp_path) -> None:
    unpack(BASE, tmp_path / "tree", mode="flat")
    data = b"".join(tree_layer("", str(tmp_path / "tree"), options=Options(clamp_s=5)))
    assert hashlib.sha256(data).hexdigest() == "25ac9e0cc9bebd3fd518208f438cbfc5e1b3d311e12c22b2fadafea0278d40f3"
    unpack(data, tmp_path / "again")
    assert {facts["mtime"] // 10**9 for facts in describe(tmp_path / "again").values()} == {1, 5}


def test_what_no_layer_can_hold(tmp_path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    (tmp_path / "t").mkdir()
    listener.bind(str(tmp_path / "t" / "socket"))
    listener.close()
    assert b"socket" not in b"".join(upper_layer(str(tmp_path / "t")))
    (tmp_path / "t" / ".wh.x").touch()
    with pytest.raises(ImageError, match="named like a whiteout"):
        b"".join(upper_layer(str(tmp_path / "t")))
    (tmp_path / "u" / "d").mkdir(parents=True)
    os.setxattr(tmp_path / "u" / "d", "trusted.overlay.redirect", b"/x")
    with pytest.raises(ImageError, match="no plain diff"):
        b"".join(upper_layer(str(tmp_path / "u")))


def test_a_link_in_the_tree_leads_nowhere(tmp_path) -> None:
    (tmp_path / "t").mkdir()
    os.symlink("/etc", tmp_path / "t" / "d")
    assert b"passwd" not in b"".join(upper_layer(str(tmp_path / "t")))
