"""Layers of a tree that changes, unpacked by umoci and by us, mounted and flat: all are the tree itself."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from pyruntime.image.diff import tree_layer
from tests.image.test_unpack_whiteouts import Stack
from tests.image.trees import describe, differences

pytestmark = [pytest.mark.system, pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
              pytest.mark.skipif(shutil.which("umoci") is None, reason="needs umoci")]  # fmt: skip

NAMES = ["a", "b", "c", "long" * 40, "ünicode"]


def put(layout: Path, data: bytes, kind: str) -> dict[str, object]:
    """A blob of a layout; its descriptor."""
    name = hashlib.sha256(data).hexdigest()
    (layout / "blobs/sha256").mkdir(parents=True, exist_ok=True)
    (layout / "blobs/sha256" / name).write_bytes(data)
    return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{name}", "size": len(data)}


def layout(folder: Path, tars: list[bytes]) -> Path:
    """An OCI layout with one image, tag `t`."""
    config = {"architecture": "amd64", "os": "linux", "config": {},
              "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(tar).hexdigest() for tar in tars]}}  # fmt: skip
    layers = [put(folder, gzip.compress(tar, 1), "layer.v1.tar+gzip") for tar in tars]
    manifest = {"schemaVersion": 2, "config": put(folder, json.dumps(config).encode(), "config.v1+json"), "layers": layers}
    top = put(folder, json.dumps(manifest).encode(), "manifest.v1+json")
    top["annotations"] = {"org.opencontainers.image.ref.name": "t"}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return folder


def mutate(root: Path, draw: random.Random) -> None:
    """Some files, folders and links come, change their kind and go."""
    for _ in range(40):
        folder = root / "/".join(draw.choices(NAMES, k=draw.randrange(3)))
        if folder.is_symlink() or not folder.is_dir():
            continue
        if folder.resolve() != folder:
            continue
        path = folder / draw.choice(NAMES)
        there = os.path.lexists(path)
        if there and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif there:
            path.unlink()
        if not there or draw.random() < 0.6:
            make(path, root, draw)


def make(path: Path, root: Path, draw: random.Random) -> None:
    kind = draw.randrange(5)
    if kind < 2:
        path.mkdir()
    elif kind == 2:
        path.write_bytes(draw.randbytes(draw.randrange(3000)))
        os.setxattr(path, "user.note", draw.randbytes(4))
        os.chown(path, draw.randrange(3), draw.choice([0, 3_000_000]))
        path.chmod(draw.choice([0o644, 0o4755, 0o600]))
    elif kind == 3:
        os.symlink(draw.choice(["a", "../b", "/c", "nowhere"]), path)
    else:
        os.mkfifo(path)
    if kind != 3:
        os.utime(path, ns=(0, draw.randrange(10**18)))


@pytest.mark.parametrize("seed", range(4))
def test_umoci_and_we_make_the_same_tree(tmp_path, seed) -> None:
    draw = random.Random(seed)
    tree, before = tmp_path / "tree", tmp_path / "before"
    tree.mkdir()
    before.mkdir()
    tars = []
    for _ in range(4):
        mutate(tree, draw)
        os.utime(tree, ns=(0, 10**18))
        tars.append(b"".join(tree_layer(str(before), str(tree))))
        shutil.rmtree(before)
        subprocess.run(["cp", "-a", tree, before], check=True)
        time.sleep(0.01)
    made = layout(tmp_path / "layout", tars)
    subprocess.run(["umoci", "unpack", "--image", f"{made}:t", str(tmp_path / "umoci")], check=True, capture_output=True)
    stack = Stack(tmp_path, *tars)
    want = describe(tree)
    for name, found in (("umoci", describe(tmp_path / "umoci/rootfs")), ("flat", describe(tmp_path / "flat")),
                        ("mounted", stack.merged())):  # fmt: skip
        for told in (want, found):
            told["."].pop("mtime", None)
        assert differences(want, found) == [], name
